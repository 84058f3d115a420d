"""Export formats: one file a format, each with verify(): the same answers as the checkpoint, or an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.registry import Registry

if TYPE_CHECKING:
    from finetune.export.base import Export

EXPORTS: Registry[type[Export]] = Registry("export")
EXPORTS.add(
    "safetensors",
    "finetune.export.safetensors:SafetensorsExport",
    'a folder for timm.create_model("local-dir:...") or torchvision',
)
