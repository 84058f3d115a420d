"""The exported folder is read by plain timm or torchvision and gives the same answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from finetune.errors import ConfigError, ExportError, RunError
from finetune.export import EXPORTS
from finetune.export.safetensors import SafetensorsExport
from finetune.export.write import export, how_to_read
from finetune.zoo.backbone import Backbone
from finetune.zoo.card import ModelCard
from finetune.zoo.create import create_backbone
from finetune.zoo.model_folder import config_of, load_backbone

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


def several(name: str, taps: tuple[int, ...] = (1, -1), classes: int = 3) -> Backbone:
    """A network with a random head on some stages, counted from the end where negative."""
    size = 64 if "vit" not in name and "deit" not in name else None
    backbone = create_backbone(name, pretrained=False, num_classes=classes, image_size=size).eval()
    chosen = tuple(t % backbone.num_stages for t in taps)
    width = sum(backbone.widths[t] for t in chosen)
    generator = torch.Generator().manual_seed(0)
    backbone.set_head(
        torch.randn(classes, width, generator=generator), torch.randn(classes, generator=generator), chosen
    )
    return backbone


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "deit_tiny_distilled_patch16_224",
     "torchvision:resnet18", "torchvision:mobilenet_v3_small"],
)  # fmt: skip
def test_heads_on_several_stages_are_read_without_finetune(name: str, tmp_path: Path) -> None:
    backbone = several(name, (0, 1, -1))
    out = export(backbone, CLASSES, tmp_path / "x")
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.py", "model.safetensors"]
    assert json.loads((out / "config.json").read_text())["label_names"] == list(CLASSES)
    size = backbone.preprocessing.size
    x = torch.randn(2, 3, size, size)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys; sys.modules['finetune'] = None; import torch; from model import load; net = load();"
        f"x = torch.load({str(tmp_path / 'x.pt')!r}, weights_only=True);"
        f"torch.save(net(x).detach(), {str(tmp_path / 'y.pt')!r})"
    )
    subprocess.run([sys.executable, "-c", code], cwd=out, check=True, capture_output=True)
    with torch.inference_mode():
        expected = backbone(x)
    torch.testing.assert_close(
        torch.load(tmp_path / "y.pt", weights_only=True), expected, rtol=1e-4, atol=1e-4
    )
    assert "from model import load" in how_to_read(out, "safetensors")


def test_heads_on_several_stages_come_back_to_finetune(tmp_path: Path) -> None:
    backbone = several("test_resnet")
    out = export(backbone, CLASSES, tmp_path / "x")
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(load_backbone(out)(x), backbone(x))


def test_a_head_on_one_earlier_stage(tmp_path: Path) -> None:
    backbone = several("test_resnet", (1,))
    export(backbone, CLASSES, tmp_path / "x")  # verifies the answers


def test_several_stages_with_norms_that_no_library_builds_are_refused(tmp_path: Path) -> None:
    backbone = several("test_resnet")
    backbone.use_group_norms()
    with pytest.raises(ExportError, match="norm_layers=group"):
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
