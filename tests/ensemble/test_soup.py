"""Soups: the mean of weights against torch, norms, and networks that have no common middle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from finetune.api import open_run
from finetune.cli.app import cli
from finetune.ensemble.build import ensemble, soup
from finetune.ensemble.candidates import own_images, read_candidates
from finetune.ensemble.soup import Pot, mean_state
from finetune.errors import RunError
from finetune.training.norms import norms_of
from finetune.zoo.model_folder import load_backbone, save_backbone

Make = Callable[..., Path]


def test_mean_of_states() -> None:
    states = [{"w": torch.full((2,), float(i)), "n": torch.tensor(i)} for i in (1, 2, 6)]
    mean = mean_state(states)
    assert mean["w"].tolist() == [3, 3]
    assert mean["n"] == 1


def test_a_uniform_soup_is_an_ordinary_run(trained: Make, picture_folder: Path, tmp_path: Path) -> None:
    runs = [trained(0), trained(1), trained(2)]
    result = CliRunner().invoke(
        cli, ["ensemble", *map(str, runs), "--soup", "uniform", "--out", str(tmp_path / "s")]
    )
    assert result.exit_code == 0, result.output
    found = open_run(tmp_path / "s")
    ours = found.backbone.state_dict()
    states = [load_backbone(run / "model").state_dict() for run in runs]
    for name, tensor in ours.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, sum(s[name] for s in states) / 3, rtol=1e-5, atol=1e-6)  # type: ignore[operator]
    assert found.folder.members() == []
    assert found.predict([picture_folder / "disc" / "00.png"])[0].label == "disc"
    assert (found.export(tmp_path / "exported") / "model.safetensors").is_file()
    told = json.loads((found.path / "soup.json").read_text())
    assert [m["taken"] for m in told["members"]] == [True] * 3
    assert "same statistics" in told["norms"]
    # and so it may go on as a member
    ensemble([found.path, runs[0]], out=tmp_path / "e")


def test_greedy_never_falls_below_the_best_on_validation(trained: Make, tmp_path: Path) -> None:
    runs = [trained(2, lr=0.5, head_lr=5.0, clip_grad=None, safety_net=False), trained(0), trained(1)]
    found = soup(runs, "greedy", out=tmp_path / "s")
    candidates = read_candidates(runs)
    val = own_images(candidates).val
    right = [float(np.mean(c.run.probabilities(val).argmax(1) == val.labels)) for c in candidates]
    mine = float(np.mean(found.probabilities(val).argmax(1) == val.labels))
    assert mine >= max(right)
    taken = [m["taken"] for m in json.loads((found.path / "soup.json").read_text())["members"]]
    assert taken[int(np.argmax(right))]


def test_statistics_that_differ_are_estimated_anew(trained: Make, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(trained(1), tmp_path / "moved"))
    network = load_backbone(moved / "model")
    layer = norms_of(network)[-1]
    layer.running_mean += 3.0  # type: ignore[operator]
    save_backbone(network, moved / "model", classes=("across", "disc", "down"))
    candidates = read_candidates([trained(0), moved])
    pot = Pot(candidates)
    assert "statistics of 1 layers differ and are averaged" in pot.norms
    averaged = norms_of(pot.mix([0, 1]))[-1].running_mean.clone()  # type: ignore[union-attr]
    pot.train = own_images(candidates).train
    assert "re-estimated on the training images" in pot.norms
    mixed = pot.mix([0, 1])
    estimated = norms_of(mixed)[-1].running_mean
    inputs: list[torch.Tensor] = []
    handle = norms_of(mixed)[-1].register_forward_hook(lambda m, args, out: inputs.append(args[0]))
    from finetune.data.batches import eval_tensor

    pixels = eval_tensor(pot.train, mixed.preprocessing)
    with torch.no_grad():
        mixed.embed(mixed.preprocessing.normalise(pixels))
    handle.remove()
    torch.testing.assert_close(estimated, inputs[0].mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(averaged, estimated, atol=0.5)  # type: ignore[arg-type]


def test_networks_without_a_common_middle(trained: Make, tmp_path: Path) -> None:
    one, other = trained(0), Path(shutil.copytree(trained(1), tmp_path / "other"))
    config = other / "model" / "config.json"
    tree = json.loads(config.read_text())
    config.write_text(json.dumps({**tree, "architecture": "resnet18"}))
    with pytest.raises(
        RunError, match=r"The architecture of run '.*other' must be that of .* Got resnet18 instead"
    ):
        soup([one, other], out=tmp_path / "s")
    config.write_text(json.dumps({**tree, "finetune": {**tree["finetune"], "image_size": 64}}))
    with pytest.raises(
        RunError, match=r"The image size of run .* \(32\) .*Got 64 instead\. Average the answers"
    ):
        soup([one, other], out=tmp_path / "s")
    config.write_text(json.dumps(tree))
    plan = (other / "plan.yaml").read_text()
    (other / "plan.yaml").write_text(plan.replace("init: pretrained", "init: random"))
    with pytest.raises(RunError, match="must be one that began with pretrained weights, as all others"):
        soup([one, other], out=tmp_path / "s")
    assert not (tmp_path / "s").exists()
