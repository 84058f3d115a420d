"""Weight files: bundled, local, from the hub's cache or a server; verified; never unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from finetune.errors import ZooError
from finetune.zoo import weights
from finetune.zoo.card import ModelCard
from finetune.zoo.create import create_backbone
from finetune.zoo.model_folder import load_backbone, save_backbone
from finetune.zoo.zoo import card


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Weights of timm's test_resnet with five classes, as plain safetensors."""
    torch.manual_seed(3)
    file = tmp_path / "small.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=5).state_dict(), file)
    return file


def test_embedded() -> None:
    backbone = create_backbone("embedded").eval()
    assert backbone.num_classes == card("embedded").source_classes
    again = create_backbone("embedded").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone(x), again(x))
    assert "state_dict" not in backbone.model.pretrained_cfg


def test_local_file_with_a_card_beside_it(small: Path) -> None:
    small.with_suffix(".yaml").write_text(
        "arch: test_resnet\nsource_classes: 5\nsize: 64\nmean: [0.5, 0.5, 0.5]\nstd: [0.5, 0.5, 0.5]\n"
    )
    for name in (str(small), f"local:{small}"):
        backbone = create_backbone(name)
        assert backbone.num_classes == 5
        assert backbone.preprocessing.mean == (0.5, 0.5, 0.5)
        assert torch.equal(backbone.model.conv1[0].weight, weights.read_weights(small)["conv1.0.weight"])


def test_local_file_with_a_card_in_a_zoo_file(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = tmp_path / "my-zoo.yaml"
    zoo.write_text(
        f"mine: {{source: local, arch: test_resnet, source_classes: 5, weights: {small.name}, size: 96}}\n"
    )
    monkeypatch.setenv("FINETUNE_ZOO", str(zoo))
    assert create_backbone("mine").preprocessing.size == 96
    assert create_backbone(str(small)).preprocessing.size == 96


def test_local_file_that_says_itself(small: Path) -> None:
    state = weights.read_weights(small)
    save_file(
        state,
        small,
        {"architecture": "test_resnet", "num_classes": "5", "mean": "[0.1, 0.2, 0.3]", "other": "x"},
    )
    found = card(str(small))
    assert (found.arch, found.source_classes, found.mean) == ("test_resnet", 5, (0.1, 0.2, 0.3))


def test_local_file_that_says_nothing(tmp_path: Path, small: Path) -> None:
    file = tmp_path / "mobilenetv2_100_mine.safetensors"
    small.rename(file)
    with pytest.raises(ZooError, match=r"does not say which architecture(.|\n)*arch: mobilenetv2_100\n"):
        card(str(file))


def test_weights_of_another_architecture(small: Path) -> None:
    small.with_suffix(".yaml").write_text("arch: resnet18\nsource_classes: 5\n")
    with pytest.raises(ZooError, match="do not fit resnet18"):
        create_backbone(str(small))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("arch: resnet999\n", "an architecture of timm. Got 'resnet999'"),
        ("arch: test_resnet\nargs: {colour: red}\n", "cannot be built"),
        (
            "arch: test_resnet\nsource_classes: 5\nstages: [layer9]\n",
            "modules that run in the forward pass. Got 'layer9'",
        ),
        ("arch: test_resnet\nsource_classes: 5\nsha256: " + "a" * 64 + "\n", "a file with sha256 aaaa"),
    ],
)
def test_wrong_cards(small: Path, fields: str, message: str) -> None:
    small.with_suffix(".yaml").write_text(fields)
    with pytest.raises(ZooError, match=message):
        create_backbone(str(small))


def test_stages_of_the_card(small: Path) -> None:
    small.with_suffix(".yaml").write_text("arch: test_resnet\nsource_classes: 5\nstages: [layer2, layer4]\n")
    assert create_backbone(str(small)).stage_names == ("layer2", "layer4")


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"an existing weight file. Got .*none.safetensors"):
        card(str(tmp_path / "none.safetensors"))
    with pytest.raises(ZooError, match=r"one with config.json and model.safetensors"):
        card(str(tmp_path))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x00" * 40)
    with pytest.raises(ZooError, match="cannot be read as"):
        card(str(broken))
    with pytest.raises(ZooError, match="cannot be read as a weight file"):
        weights.read_weights(broken)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (trap,))

    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ZooError, match="holds Python code beside weights"):
        weights.read_weights(tmp_path / "evil.pth")
    assert not trap.exists()
    torch.save({"state_dict": {"module.a": torch.ones(2).half()}}, tmp_path / "good.pth")
    assert weights.read_weights(tmp_path / "good.pth")["a"].dtype == torch.float32
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ZooError, match=r"a file of named tensors. Got list"):
        weights.read_weights(tmp_path / "list.pth")


def test_saved_folder_as_a_backbone(tmp_path: Path) -> None:
    """The model of a run is the pretrained backbone of the next."""
    first = create_backbone("test_resnet", pretrained=False, num_classes=4, image_size=64)
    folder = save_backbone(first, tmp_path / "model")
    again = create_backbone(str(folder), num_classes=2)
    assert again.preprocessing == first.preprocessing
    assert again.num_classes == 2
    assert torch.equal(again.model.conv1[0].weight, first.model.conv1[0].weight)
    assert load_backbone(folder).num_classes == 4
    first.set_head(torch.randn(3, first.widths[1] + first.feature_width), torch.zeros(3), (1, 4))
    body = create_backbone(str(save_backbone(first, tmp_path / "several")), num_classes=2)
    assert torch.equal(body.embed(torch.ones(1, 3, 64, 64)), again.embed(torch.ones(1, 3, 64, 64)))
    with pytest.raises(ZooError, match="one that finetune wrote"):
        load_backbone(tmp_path)


def test_seed_and_global_state() -> None:
    torch.manual_seed(9)
    state = torch.get_rng_state()
    one = create_backbone("test_resnet", pretrained=False, num_classes=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    two = create_backbone("test_resnet", pretrained=False, num_classes=3, seed=1)
    other = create_backbone("test_resnet", pretrained=False, num_classes=3, seed=2)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert not torch.equal(one.head.weight, other.head.weight)


def test_fixed_input_is_built_for_the_size() -> None:
    backbone = create_backbone("test_vit", pretrained=False, num_classes=2, image_size=96)
    assert backbone.built_size == backbone.preprocessing.size == 96
    assert backbone(torch.randn(1, 3, 96, 96)).shape == (1, 2)
    with pytest.raises(ZooError, match="test_vit"):
        create_backbone("test_vit", pretrained=False, num_classes=2, image_size=97)


def test_torchvision_weights_in_the_cache(private_cache: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    (private_cache / "weights").mkdir(parents=True)
    torch.save(model.state_dict(), private_cache / "weights" / "resnet18-f37072fd.pth")
    backbone = create_backbone("torchvision:resnet18")
    assert torch.equal(backbone.model.conv1.weight, model.conv1.weight)
    assert backbone.num_classes == 1000
    folder = save_backbone(backbone, private_cache / "model")
    again = create_backbone(str(folder))
    assert again.card.built_by == "torchvision"
    assert torch.equal(again.head.weight, model.fc.weight)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf-hub:bert", "hf-hub:OWNER/NAME"),
        ("test_vit3", "cannot be downloaded"),
        ("botnet50ts_256", "no pretrained weights"),
    ],
)
def test_names_without_weights(name: str, message: str) -> None:
    with pytest.raises(ZooError, match=message):
        create_backbone(name)


def test_weights_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ZooError, match="weights of x cannot be downloaded: NotADirectoryError"):
        create_backbone(ModelCard(name="x", source="torchvision", arch="alexnet"))


def test_torchvision_tag() -> None:
    wrong = ModelCard(name="x", source="torchvision", arch="alexnet", weights="V9")
    with pytest.raises(ZooError, match=r"one of IMAGENET1K_V1, DEFAULT. Got V9"):
        create_backbone(wrong)


def test_card_of_a_zoo_file_with_arguments_and_frozen_norms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights made elsewhere: other padding, another epsilon, statistics that must not move."""
    arguments = {"pad_type": "same", "bn_eps": 0.001}
    plain = timm.create_model("mobilenetv2_035", num_classes=7, **arguments).eval()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    file = tmp_path / "mobilenet.safetensors"
    save_file(plain.state_dict(), file)
    (tmp_path / "zoo.yaml").write_text(
        "mobilenet-mine:\n  source: local\n  arch: mobilenetv2_035\n"
        "  args: {pad_type: same, bn_eps: 0.001}\n"
        f"  weights: {file}\n  source_classes: 7\n  mean: [0.5, 0.5, 0.5]\n  std: [0.5, 0.5, 0.5]\n"
        "  freeze_norms: true\n"
    )
    monkeypatch.chdir(tmp_path)
    backbone = create_backbone(str(file)).eval()
    assert backbone.name == "mobilenet-mine"
    assert backbone.num_classes == 7
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(backbone(x), plain(x), atol=1e-5)
        assert torch.allclose(backbone(x), backbone.fold()(x), rtol=1e-3, atol=1e-3)
    before = {n: b.clone() for n, b in backbone.named_buffers()}
    backbone.train()(x)
    assert all(torch.equal(b, before[n]) for n, b in backbone.named_buffers())
