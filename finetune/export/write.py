"""Export a trained network: choose the format, write, verify; a failed export leaves nothing behind."""

from __future__ import annotations

import shutil
from pathlib import Path

from finetune.errors import ExportError, must
from finetune.export import EXPORTS
from finetune.files import disk_error
from finetune.zoo.backbone import Backbone


def export(backbone: Backbone, classes: tuple[str, ...], out: Path, format: str = "safetensors") -> Path:
    """Write ``backbone`` to the new or empty folder ``out`` and verify it. Raises FinetuneError."""
    kind = EXPORTS.get(format)()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "one with files in it" if out.is_dir() else "a file"
        raise ExportError(
            must(f"The export folder {str(out)!r}", "a new or empty folder", what, "Choose another --out.")
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, out) from error
    try:
        kind.write(backbone, classes, out)
        kind.verify(backbone, out)
    except BaseException:  # whatever it was, half an export is none
        shutil.rmtree(out, ignore_errors=True)
        raise
    return out


def how_to_read(out: Path, format: str) -> str:
    """The line of code that reads an export."""
    return EXPORTS.get(format)().how(out)
