"""A demo data set without a download: scikit-learn's handwritten digits as an image folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.errors import ConfigError, RunError, missing_extra, must
from finetune.files import disk_error

SIDE = 32
"""Side of the written images, pixels; the originals have 8, too few to look at."""


def write_demo_data(out: str | Path) -> Path:
    """Write 1,797 grey PNGs to ``out/<digit>/``; returns ``out``.

    The folder appears whole or not at all.

    Raises:
        ConfigError: scikit-learn is not installed.
        RunError: ``out`` exists and is not empty, or cannot be written.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigError(missing_extra("The demo data set", "scikit-learn", "demo")) from None

    target = Path(out).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        got = f"{str(out)!r}, which exists,"
        raise RunError(must("--out", "a new or empty folder", got, "Choose another."))
    digits = load_digits()
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            folder = temporary / str(int(label))
            folder.mkdir(exist_ok=True)
            grey = np.rint(pixels * (255.0 / 16.0)).astype(np.uint8)
            image = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            image.save(folder / f"digit_{number:04d}.png")
        if target.exists():
            target.rmdir()
        temporary.chmod(0o755)
        temporary.replace(target)
    except OSError as error:
        raise disk_error(error, target) from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
    return target
