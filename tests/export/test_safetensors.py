"""The exported folder is read by plain timm or torchvision and gives the same answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from finetune.errors import ConfigError, ExportError, RunError
from finetune.export import EXPORTS
from finetune.export.safetensors import SafetensorsExport
from finetune.export.write import export, how_to_read
from finetune.zoo.card import ModelCard
from finetune.zoo.create import config_of, create_backbone

CLASSES = ("ant", "bee", "wasp")


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "resnet10t"]
)
def test_plain_timm_reads_it(name: str, tmp_path: Path) -> None:
    backbone = create_backbone(name, pretrained=False, num_classes=3).eval()
    out = export(backbone, CLASSES, tmp_path / "my export")
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors"]
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    prep = backbone.preprocessing
    x = torch.randn(2, 3, prep.size, prep.size)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), backbone(x), rtol=1e-4, atol=1e-5)
    data = timm.data.resolve_model_data_config(model)
    assert data["input_size"] == [3, prep.size, prep.size] or data["input_size"] == (3, prep.size, prep.size)
    assert tuple(data["mean"]) == prep.mean
    assert data["interpolation"] == prep.interpolation
    assert data["crop_pct"] == prep.crop_pct
    assert json.loads((out / "config.json").read_text())["label_names"] == list(CLASSES)
    assert how_to_read(out, "safetensors") == f'timm.create_model("local-dir:{out}", pretrained=True)'


def test_another_image_size_is_kept(tmp_path: Path) -> None:
    backbone = create_backbone("test_vit", pretrained=False, num_classes=3, image_size=96).eval()
    out = export(backbone, CLASSES, tmp_path / "x")
    model = timm.create_model(f"local-dir:{out}", pretrained=True)
    assert tuple(timm.data.resolve_model_data_config(model)["input_size"]) == (3, 96, 96)


def test_torchvision_reads_it(tmp_path: Path) -> None:
    backbone = create_backbone("torchvision:mobilenet_v3_small", pretrained=False, num_classes=3).eval()
    out = export(backbone, CLASSES, tmp_path / "x")
    assert "torchvision.models.get_model" in how_to_read(out, "safetensors")


def test_local_weights_of_a_torchvision_architecture(tmp_path: Path) -> None:
    card = ModelCard(name="mine", source="local", library="torchvision", arch="mobilenet_v3_small", size=64)
    backbone = create_backbone(card, pretrained=False, num_classes=3).eval()
    out = export(backbone, CLASSES, tmp_path / "x")
    assert "torchvision.models.get_model" in how_to_read(out, "safetensors")


def test_torchvision_network_of_fixed_input(tmp_path: Path) -> None:
    """torchvision knows no ``img_size``: what timm needs for a ViT must not be written for it."""
    backbone = create_backbone("torchvision:vit_b_32", pretrained=False, num_classes=3).eval()
    assert backbone.built_size == 224
    assert "img_size" not in config_of(backbone)["model_args"]


def test_any_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = create_backbone("test_resnet", pretrained=False, num_classes=3)

    def broken(kind: SafetensorsExport, out: Path) -> torch.nn.Module:
        raise RuntimeError("the other library's own words")

    monkeypatch.setattr(SafetensorsExport, "load", broken)
    with pytest.raises(RuntimeError, match="own words"):
        export(backbone, CLASSES, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_several_stages_have_no_place(tmp_path: Path) -> None:
    backbone = create_backbone("test_resnet", pretrained=False, num_classes=3)
    taps = (1, backbone.num_stages - 1)
    backbone.set_head(torch.zeros(3, sum(backbone.widths[t] for t in taps)), torch.zeros(3), taps)
    with pytest.raises(
        ExportError, match=r"must be on the last stage alone.* or train with probe\.stages=last"
    ):
        export(backbone, CLASSES, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_other_answers_are_an_error(tmp_path: Path) -> None:
    backbone = create_backbone("test_resnet", pretrained=False, num_classes=3)
    kind = SafetensorsExport()
    kind.write(backbone, CLASSES, tmp_path)
    with torch.no_grad():
        backbone.head.bias.add_(torch.tensor([0.0, 0.5, 0.0]))
    with pytest.raises(
        ExportError, match=r"answers must equal the checkpoint's within 0\.0001\. Got a difference"
    ):
        kind.verify(backbone, tmp_path)


def test_taken_folder_and_unknown_format(tmp_path: Path) -> None:
    backbone = create_backbone("test_resnet", pretrained=False, num_classes=3)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match=r"must be a new or empty folder\. Got one with files in it"):
        export(backbone, CLASSES, tmp_path)
    with pytest.raises(ExportError, match="Got a file instead"):
        export(backbone, CLASSES, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(
        ConfigError, match=r'export must be one of safetensors. Got .* Did you mean "safetensors"'
    ):
        export(backbone, CLASSES, tmp_path / "new", "safetensor")


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    backbone = create_backbone("test_resnet", pretrained=False, num_classes=3)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="The disk is full"):
        export(backbone, CLASSES, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_every_format_is_listed() -> None:
    assert "safetensors" in EXPORTS.names()
