"""The run folder tells which weights were kept and how to go on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from finetune.cli.story import Story
from finetune.errors import RunError
from finetune.result import trained_parameters, undone
from finetune.run_folder import RunFolder, _difference, check_free
from finetune.strategy.plan import GradientPhase, Plan
from finetune.zoo.create import create_backbone

PROBE = {"name": "head first", "kind": "probe"}


def trained(epoch: int) -> dict[str, object]:
    return {"name": "last stage", "kind": "gradient", "best": {"epoch": epoch, "val_accuracy": 0.9}}


def test_the_epoch_that_was_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("training.json", {"phases": {"0": PROBE}})
    assert folder.kept() is None
    folder.write_json("training.json", {"phases": {"0": PROBE, "1": trained(3)}})
    assert folder.kept() == {"phase": "last stage", "epoch": 3}
    folder.write_json("training.json", {"phases": {"10": trained(0), "2": trained(4)}})
    assert folder.kept() == {"phase": "last stage", "epoch": 0}
    blended = {**trained(7), "blend": {"alpha": 0.5, "points": []}}
    folder.write_json("training.json", {"phases": {"0": PROBE, "1": blended}})
    assert folder.kept() == {"phase": "last stage", "epoch": 7, "blend": 0.5}


def test_a_head_that_training_did_not_beat_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"trained_parameters": 10, "parameters": 20, "seconds": 1.0}
    sentence = "Training did not beat the linear head on validation; the head is kept."
    for kept, told in (
        (None, False),
        ({"phase": "p", "epoch": 2}, False),
        ({"phase": "p", "epoch": 0}, True),
        ({"phase": "p", "epoch": 9, "blend": 0.25}, False),
        ({"phase": "p", "epoch": 9, "blend": 0.0}, True),
    ):
        Story(quiet=True).ending(tmp_path, {**result, "kept": kept})
        assert (sentence in " ".join(capsys.readouterr().out.split())) is told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (1000, "4.9 M of 4.9 M parameters trained, 22 s in all."),
        (
            1_026,
            "in its head only (1026 of 4.9 M parameters); 4.9 M were trained, 22 s in all.",
        ),
        (
            75_010,
            "differs from the one that the run began with in 75.0 k of 4.9 M parameters; 4.9 M were trained",
        ),
    ],
)
def test_what_was_trained_and_put_back_is_no_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: int, told: str
) -> None:
    result = {"trained_parameters": 4_900_000, "parameters": 4_900_000, "seconds": 22.0}
    if changed > 1000:  # an older result does not say
        result |= {"changed_parameters": changed, "head_parameters": 1026}
    Story(quiet=True).ending(tmp_path, result)
    assert told in " ".join(capsys.readouterr().out.split())


def test_phases_that_were_undone_changed_nothing(tmp_path: Path) -> None:
    folder, network = RunFolder(tmp_path), create_backbone("test_resnet", pretrained=False, num_classes=3)
    tune = GradientPhase(train_from=0, epochs=1, lr=0.1, head_lr=0.1)
    plan = Plan(strategy="test", init="pretrained", phases=(tune.model_copy(update={"train_from": 4}), tune))
    everything = sum(p.numel() for p in network.parameters())
    head, last = (
        sum(p.numel() for _, p in part) for part in (network.head_parameters(), network.stage_parameters(4))
    )
    blended = {**trained(1), "blend": {"alpha": 0.0, "points": []}}
    for first, second, changed in (
        (trained(1), trained(2), everything),
        (trained(1), trained(0), last + head),
        (trained(1), blended, last + head),
        (trained(0), blended, head),
        (trained(0), {**trained(1), "blend": {"alpha": 0.25}}, everything),
    ):
        folder.write_json("training.json", {"phases": {"0": first, "1": second}})
        assert trained_parameters(network, plan, without=undone(folder)) == changed
        assert trained_parameters(network, plan) == everything


def test_commands_can_be_pasted_into_a_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my run's"
    assert RunFolder(path).go_on.startswith("finetune resume '")
    Story().ending(path, {"trained_parameters": 1, "parameters": 2, "seconds": 1.0})
    import shlex

    line = next(x for x in capsys.readouterr().out.splitlines() if "finetune predict" in x)
    assert shlex.split(line) == ["finetune", "predict", str(path), "IMAGE..."]


def test_a_finished_run_has_its_weights(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.model.mkdir()
    folder.write_json("result.json", {})
    for name in ("config.json", "model.safetensors"):
        assert not folder.finished
        (folder.model / name).write_text(json.dumps({}))
    assert folder.finished


def test_what_differs_between_two_sets_of_images() -> None:
    a, b, c = ("a.png", "x", "train"), ("b.png", "x", "train"), ("c.png", "x", "test")
    assert _difference({a, b, c}, {a, ("b.png", "x", "test")}) == "1 of 3 missing (the first: 'c.png')"
    assert _difference({a, b}, {b, c}) == "1 of 2 missing (the first: 'a.png') and 1 new (the first: 'c.png')"
    moved = _difference({a, b}, {a, ("b.png", "y", "train")})
    assert moved == "1 with other contents, another label or another split (the first: 'b.png')"


def test_a_place_where_no_folder_can_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(
        RunError, match=r"must be where a folder can be made\. Got below '.*notes\.txt', which is a file"
    ):
        check_free(tmp_path / "notes.txt" / "runs" / "mine", "The run folder")
    sealed = tmp_path / "sealed"
    sealed.mkdir(mode=0o500)
    if not os.access(sealed, os.W_OK):  # root may write anywhere
        with pytest.raises(RunError, match="sealed', which cannot be written to instead"):
            check_free(sealed / "mine", "The run folder")
    check_free(tmp_path / "not" / "yet" / "there", "The run folder")
