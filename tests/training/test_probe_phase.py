"""The probe phase as a run carries it out: what it says, what it writes, and splits with holes in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.data.imageset import DataBundle
from finetune.errors import StrategyError
from finetune.events import Listener
from finetune.strategy.plan import ProbePhase
from finetune.training.execute import execute


class Ears(Listener):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def on_message(self, text: str) -> None:
        self.said.append(text)


def run(tiny: Any, folder: Path, bundle: DataBundle, *phases: Any) -> tuple[Any, Ears, dict[str, Any]]:
    ears = Ears()
    plan = tiny.plan(*phases).model_copy(update={"init": "pretrained"})
    network = execute(plan, tiny.backbone(), bundle, tiny.recipe(), folder, ears)
    facts = json.loads((folder / "training.json").read_text(), parse_constant=pytest.fail)
    return network, ears, facts["phases"]["0"]


def heads(ears: Ears) -> list[str]:
    return [line for line in ears.said if line.startswith("Head: ")]


def test_the_rule_and_the_table_are_told_and_kept(tiny: Any, tmp_path: Path) -> None:
    phase = ProbePhase(candidates=((4,), (3,)))
    network, ears, facts = run(tiny, tmp_path / "few", tiny.bundle(9, 3), phase)
    (line,) = heads(ears)
    assert "median of 3 images a class" in line
    assert "\n" not in line
    assert {row["solver"] for row in facts["candidates"]} == {"centroid", "lda", "ridge", "logistic"}
    assert len(facts["candidates"]) == 8
    assert facts["rule"] in line
    assert tuple(facts["taps"]) == network.head_taps
    _, ears, facts = run(tiny, tmp_path / "more", tiny.bundle(99, 3), phase)
    (line,) = heads(ears)
    assert line.startswith("Head: logistic on stage")
    assert "median of 33 images a class to fit it on: 5 are enough" in line
    assert facts["solver"] == "logistic"


def test_validation_without_some_classes(tiny: Any, tmp_path: Path) -> None:
    whole = tiny.bundle(12, 12)
    for name, kept in (("one class", [0, 3, 6]), ("two classes", [0, 1, 3]), ("none", [])):
        bundle = DataBundle(whole.train, whole.val.subset(kept), whole.test)
        for fit_on in ("train", "train+val"):
            phase = ProbePhase(candidates=((4,),), fit_on=fit_on)  # type: ignore[arg-type]
            network, _, facts = run(tiny, tmp_path / f"{name} {fit_on}", bundle, phase)
            assert np.isfinite(network.head.weight.detach().numpy()).all()
            assert facts["trained_parameters"] == network.head.weight.numel() + 3
    bundle = DataBundle(whole.train, whole.val.subset([0, 3]), whole.test)
    phases = (ProbePhase(candidates=((4,),)), tiny.phase(epochs=1))
    network, _, _ = run(tiny, tmp_path / "tuned", bundle, *phases)
    assert np.isfinite(network.head.weight.detach().numpy()).all()


def test_two_images(tiny: Any, tmp_path: Path) -> None:
    whole = tiny.bundle(4, 3)  # labels 0 1 2 0
    bundle = DataBundle(whole.train.subset([0, 1]), whole.val.subset([]), whole.test)
    network, ears, facts = run(tiny, tmp_path / "two", bundle, ProbePhase(candidates=((4,), (3,))))
    assert facts["solver"] == "centroid"
    assert facts["held_out"]["log_loss"] is None
    assert heads(ears) == [
        "Head: centroid on stage 4 (with one image a class none can be held out: the simplest)."
    ]
    assert np.isfinite(network.head.weight.detach().numpy()).all()
    alike = DataBundle(whole.train.subset([0, 3]), whole.val.subset([]), whole.test)
    with pytest.raises(
        StrategyError, match="training split must be images of at least 2 classes. Got 2 of one"
    ):
        run(tiny, tmp_path / "alike", alike, ProbePhase(candidates=((4,),)))
