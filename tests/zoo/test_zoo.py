"""Names to cards: the curated zoo, zoo files of the user, libraries, and every way to mistype."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finetune.errors import ZooError
from finetune.zoo.card import ModelCard
from finetune.zoo.zoo import card, details, load_zoo, read_zoo, rows


def test_the_shipped_zoo() -> None:
    zoo = load_zoo()
    assert len(zoo) > 20
    assert {
        "embedded",
        "alexnet",
        "vgg16",
        "googlenet",
        "inception_v3",
        "resnet18",
        "resnet50",
        "densenet121",
    } <= set(zoo)
    for name, found in zoo.items():
        assert found.name == name
        assert found.licence != "unknown"
        assert found.source_dataset != "unknown"
        assert found.parameters
        assert found.macs
        assert found.summary
        assert found.preprocessing.size == found.size
        assert found.paper or found.source == "bundled"


@pytest.mark.parametrize("name", [n for n, c in load_zoo().items() if c.source == "timm"])
def test_cards_agree_with_timm(name: str) -> None:
    import timm

    found = load_zoo()[name]
    config = timm.get_pretrained_cfg(f"{found.arch}.{found.weights}", allow_unregistered=False)
    assert config is not None
    assert config.hf_hub_id
    assert (found.mean, found.std) == (tuple(config.mean), tuple(config.std))
    assert found.interpolation == config.interpolation
    assert found.source_classes == config.num_classes
    assert found.licence.lower() == config.license
    assert found.crop_pct == config.crop_pct


@pytest.mark.parametrize("name", [n for n, c in load_zoo().items() if c.source == "torchvision"])
def test_cards_agree_with_torchvision(name: str) -> None:
    from torchvision.models import get_model_weights

    found = load_zoo()[name]
    weights = get_model_weights(found.arch)[str(found.weights)]
    preset = weights.transforms()
    assert (found.size, found.mean, found.std) == (preset.crop_size[0], tuple(preset.mean), tuple(preset.std))
    assert found.preprocessing.scale_size == preset.resize_size[0]
    assert found.accuracy == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from finetune.zoo.zoo import rows, details, card; rows(); details(card('embedded'));"
        "print([m for m in ('torch', 'timm', 'torchvision') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_rows_and_details() -> None:
    assert [r["name"] for r in rows()] == list(load_zoo())
    text = dict(details(card("resnet18")))
    assert text["published top-1"] == "69.76 % at 224 px"
    assert text["licence"] == "BSD-3-Clause"
    assert dict(details(ModelCard(name="x", arch="y")))["published top-1"] == "not published"


def test_names_of_timm_and_torchvision() -> None:
    assert card("resnet26").source == "timm"
    tagged = card("vit_tiny_patch16_224.augreg_in21k")
    assert (tagged.weights, tagged.source_classes, tagged.mean) == ("augreg_in21k", 21843, (0.5, 0.5, 0.5))
    assert tagged.source_optimizer == "adamw"
    assert tagged.source_dataset == "imagenet-21k"
    assert card("torchvision:resnet18").weights == "IMAGENET1K_V1"
    assert card("mobilenet_v2").source == "torchvision"  # timm calls it mobilenetv2_100
    assert card("timm:resnet18").source == "timm"


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("embeded", "embedded"),
        ("resnet81", "resnet18"),
        ("mobilenet_v22", "mobilenet_v2"),
        ("torchvision:alexnt", "alexnet"),
        ("timm:resnet18.tv_in1", "resnet18.tv_in1k"),
        ("resnet18.tv_in1", "resnet18.tv_in1k"),
    ],
)
def test_a_typo_offers_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(ZooError, match=f'Unknown backbone .*Did you mean .*"{near}"'):
        card(wrong)


def test_a_users_zoo_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zoo.yaml").write_text(
        "mine: {arch: resnet18, source: local, weights: w/a.safetensors, size: 64}\n"
    )
    other = tmp_path / "other.yaml"
    other.write_text("mine: {arch: resnet26}\nresnet18: {arch: resnet18, summary: ours}\n")
    monkeypatch.chdir(tmp_path)
    assert card("mine").weights == str(tmp_path / "w" / "a.safetensors")
    monkeypatch.setenv("FINETUNE_ZOO", str(other))
    assert card("mine").arch == "resnet26"
    assert card("resnet18").summary == "ours"
    assert load_zoo([tmp_path / "zoo.yaml"])["mine"].arch == "resnet18"


def test_every_problem_of_a_zoo_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "zoo.yaml"
    file.write_text("a: {arch: x, interpolatoin: bicubic, source_lr: fast}\nb: 3\nc: {size: 64}\n")
    with pytest.raises(ZooError) as raised:
        read_zoo(file)
    message = str(raised.value)
    assert 'interpolatoin: unknown field. Did you mean "interpolation"?' in message
    assert "source_lr: must be a valid number" in message
    assert "b must be a mapping of card fields. Got 3 instead." in message
    assert "card 'c': arch: missing" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: }", "line 2 is not valid YAML"),
        ("- 1", "must be a mapping of names to cards. Got list"),
        (None, "cannot be read"),
    ],
)
def test_unreadable_zoo_files(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "zoo.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ZooError, match=message):
        read_zoo(file)


def test_an_empty_zoo_file_is_no_problem(tmp_path: Path) -> None:
    file = tmp_path / "zoo.yaml"
    file.write_text("# nothing yet\n")
    assert read_zoo(file) == {}
