from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from finetune.errors import ConfigError, DataError, Interrupted, RunError, TrainingError
from finetune.features.source import SourceStatistics
from finetune.pretraining import train
from finetune.pretraining.finish import pretrain
from finetune.pretraining.images import crop_and_flip, order, store
from finetune.pretraining.recipe import PretrainRecipe
from finetune.pretraining.train import Pretraining
from finetune.training.engine import Engine


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three classes of 20 + 4 images, told apart by colour."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 20), ("val", 4)):
        for label, name in enumerate(["blue", "green", "red"]):
            folder = tmp_path / "source" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 120, (20, 24, 3), dtype=np.uint8)
                pixels[..., 2 - label] += 120
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "source"


def recipe_for(source: Path, out: Path, **changes: object) -> PretrainRecipe:
    settings = {"name": "tiny", "data": str(source), "out": str(out), "arch": "test_resnet", "store_size": 32,
                "sizes": ((0, 32), (0.5, 48)), "test_sizes": (32, 48), "epochs": 4, "batch_size": 10, "lr": 0.05,
                "precision": "fp32", "ema": 0.9, "threads": 1, **changes}  # fmt: skip
    return PretrainRecipe.model_validate(settings)


def build(recipe: PretrainRecipe) -> Pretraining:
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    train = store(Path(recipe.data) / "train", out / "cache", recipe.store_size)
    val = store(Path(recipe.data) / "val", out / "cache", recipe.store_size, train.classes)
    return Pretraining(recipe, train, val, torch.device("cpu"))


def test_pretrain_learns_and_leaves_a_card_that_the_zoo_reads(source: Path, tmp_path: Path) -> None:
    result = pretrain(recipe_for(source, tmp_path / "out", epochs=10))
    assert max(result["accuracy"].values()) > 0.8  # chance is 0.33
    card = yaml.safe_load((tmp_path / "out" / "zoo.yaml").read_text())["tiny"]
    assert card["size"] == result["size"]
    assert card["source_classes"] == 3

    from finetune.zoo.card import ModelCard

    assert ModelCard(name="tiny", **card).preprocessing.size == result["size"]
    statistics = SourceStatistics.load(tmp_path / "out" / "tiny.stats.safetensors")
    assert len(statistics.stages) >= 4
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in rows if "val_accuracy" in r] == list(range(1, 11))


def test_weights_load_into_plain_timm(source: Path, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import load_file

    recipe = recipe_for(source, tmp_path / "out", epochs=1)
    pretrain(recipe)
    model = timm.create_model("test_resnet", num_classes=3)
    state = load_file(tmp_path / "out" / "tiny.safetensors")
    assert not model.load_state_dict(state, strict=False).unexpected_keys


def test_a_resumed_run_equals_an_uninterrupted_one(source: Path, tmp_path: Path) -> None:
    whole = build(recipe_for(source, tmp_path / "whole"))
    whole.fit()
    stopped = build(recipe_for(source, tmp_path / "parts"))
    take = stopped._train_step

    def stop_in_the_second_epoch(step: int, engine: Engine) -> tuple[float, float]:
        if step == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(step, engine)

    stopped._train_step = stop_in_the_second_epoch  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="Stopped at step 9 of 24; state saved. The same command goes on"):
        stopped.fit()
    resumed = build(recipe_for(source, tmp_path / "parts"))
    assert resumed.restore()
    resumed.fit()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
        assert torch.equal(
            whole.average.state_dict()["mean"][name], resumed.average.state_dict()["mean"][name]
        ), name


def test_sigkill_in_mid_training_loses_at_most_a_checkpoint_interval(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    recipe = recipe_for(source, out, epochs=4, checkpoint_seconds=1e-6)
    code = (
        "import json, os, signal, sys\nfrom finetune.pretraining.finish import pretrain\n"
        "from finetune.pretraining.recipe import PretrainRecipe\nfrom finetune.pretraining.train import Pretraining\n"
        "take = Pretraining._train_step\n"
        "def step(self, n, engine):\n    if n == 13: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return take(self, n, engine)\n"
        "Pretraining._train_step = step\npretrain(PretrainRecipe.model_validate(json.loads(sys.argv[1])))\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, recipe.model_dump_json()], check=False, env=os.environ
    )
    assert killed.returncode == -9
    resumed = build(recipe)
    assert resumed.restore()
    assert resumed.step == 13
    assert pretrain(recipe)["steps"] == 24


class Killed(BaseException):
    """The process ends here."""


def test_rows_after_the_last_state_are_cut(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps an epoch; the state of step 7 is the last one before the kill at step 14, amid a row and a state."""
    monkeypatch.setattr(train, "_SHOW_SECONDS", 0)
    save, step = Pretraining.save, Pretraining._train_step
    monkeypatch.setattr(Pretraining, "save", lambda run: save(run) if run.step in (7, 24) else None)
    build(recipe_for(source, tmp_path / "whole")).fit()

    def until_14(run: Pretraining, n: int, engine: Engine) -> tuple[float, float]:
        if n == 14:
            raise Killed
        return step(run, n, engine)

    recipe = recipe_for(source, tmp_path / "parts", checkpoint_seconds=1e-9)
    killed = build(recipe)
    monkeypatch.setattr(killed, "_train_step", functools.partial(until_14, killed))
    with pytest.raises(Killed):
        killed.fit()
    metrics = tmp_path / "parts" / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"step": 1')
    (tmp_path / "parts" / ".state.pt.x.tmp").write_bytes(b"half a state")
    resumed = build(recipe)
    assert resumed.restore()
    resumed.fit()
    timed = {"images_per_second", "eta_seconds", "seconds"}
    ours, theirs = (
        [
            {k: v for k, v in json.loads(line).items() if k not in timed}
            for line in path.read_text().splitlines()
        ]
        for path in (metrics, tmp_path / "whole" / "metrics.jsonl")
    )
    assert ours == theirs
    assert [row["step"] for row in ours if "loss" in row] == list(range(1, 25))
    assert [row["epoch"] for row in ours if "val_accuracy" in row] == [1, 2, 3, 4]
    assert not list((tmp_path / "parts").glob(".*.tmp"))


def test_states_of_earlier_versions_keep_all_rows(source: Path, tmp_path: Path) -> None:
    run = build(recipe_for(source, tmp_path / "out"))
    run.save()
    state = torch.load(run.state_file, weights_only=True)
    del state["metrics"]
    torch.save(state, run.state_file)
    run._write({"step": 1})
    assert build(recipe_for(source, tmp_path / "out")).restore()
    assert run.metrics_file.read_text() == '{"step": 1}\n'
    run.state_file.unlink()
    assert not build(recipe_for(source, tmp_path / "out")).restore()  # a new start
    assert run.metrics_file.read_text() == ""


def test_a_state_of_another_recipe_is_refused(source: Path, tmp_path: Path) -> None:
    build(recipe_for(source, tmp_path / "out")).save()
    other = build(recipe_for(source, tmp_path / "out", batch_size=5))
    with pytest.raises(ConfigError, match="belongs to another recipe"):
        other.restore()


def test_damaged_states_and_taken_places_are_one_message(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"file could not be written"):
        pretrain(recipe_for(source, tmp_path / "file"))
    run = build(recipe_for(source, tmp_path / "out"))
    run.state_file.write_bytes(b"half a sta")
    with pytest.raises(RunError, match=r"state\.pt cannot be read"):
        run.restore()
    (tmp_path / "out" / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match=r"metrics\.jsonl could not be written"):
        run._write({"step": 1})


def test_nan_is_reported_with_the_remedy(source: Path, tmp_path: Path) -> None:
    run = build(recipe_for(source, tmp_path / "out"))
    with torch.no_grad():
        next(iter(run.model.parameters())).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"The loss is nan at step 0.*lr=0.025"):
        run.fit()


def test_unknown_architecture(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timm has no 'resnet10tt'. Did you mean"):
        build(recipe_for(source, tmp_path / "out", arch="resnet10tt"))


def test_bad_folders(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        store(tmp_path / "none", tmp_path, 32)
    (tmp_path / "one" / "class").mkdir(parents=True)
    with pytest.raises(DataError, match="at least two class folders. Got 1"):
        store(tmp_path / "one", tmp_path, 32)
    for name in ("a", "b"):
        (tmp_path / "hollow" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="class folders of .*hollow must be ones with images in them"):
        store(tmp_path / "hollow", tmp_path / "cache", 32)
    with pytest.raises(DataError, match="must hold the classes of train"):
        store(source / "val", tmp_path, 32, classes=("blue", "green"))


def test_sizes_must_ascend(source: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        f"{{name: x, data: {source}, out: o, arch: a, epochs: 1, lr: 1, sizes: [[0.5, 48]]}}"
    )
    with pytest.raises(ConfigError, match="sizes must start at 0"):
        PretrainRecipe.load(tmp_path / "r.yaml")


def test_order_is_a_permutation_that_differs_by_epoch() -> None:
    first, again, second = order(50, 0, 1), order(50, 0, 1), order(50, 1, 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert sorted(first.tolist()) == list(range(50))


def test_whole_crop_is_a_plain_resize_or_its_mirror() -> None:
    images = torch.rand(8, 3, 16, 16)
    cropped = crop_and_flip(images, 16, 1.0, torch.Generator().manual_seed(0))
    for before, after in zip(images, cropped, strict=True):
        same, mirrored = (
            torch.allclose(before, after, atol=1e-5),
            torch.allclose(before.flip(-1), after, atol=1e-5),
        )
        assert same or mirrored


def test_the_shipped_recipe_is_valid() -> None:
    recipe = PretrainRecipe.load(Path(__file__).parents[2] / "recipes" / "pretrain" / "embedded.yaml")
    assert recipe.name == "embedded"


def test_a_batch_larger_than_the_data_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size must be at most .* Got 64 with 60 images"):
        build(recipe_for(source, tmp_path / "run", batch_size=64))
