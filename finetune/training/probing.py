"""Carry out a phase that solves a head: features of the frozen network, the head, and which norms' statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetune import ranks
from finetune.data.threads import worker_count
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.strategy.plan import GradientPhase, ProbePhase
from finetune.training.model_state import load_model_state, model_state
from finetune.training.norms import norms_line, reestimate, restore, statistics
from finetune.training.rollback import copied

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle
    from finetune.features.probe_result import ProbeResult
    from finetune.zoo.backbone import Backbone


@dataclass(frozen=True)
class Probing:
    """Solves the heads of a plan's probe phases on one network, which is changed in place."""

    backbone: Backbone
    bundle: DataBundle
    recipe: Recipe
    device: torch.device
    listener: Listener
    pristine: dict[str, Tensor]
    """The pretrained weights, for phases that restart from them."""

    def carry_out(self, phase: ProbePhase, facts: dict[str, Any]) -> None:
        """All processes compute the features; the main one solves the head and hands it on. ``facts`` is told what
        was chosen."""
        if ranks.alone():
            return self._solve_best(phase, facts)
        if phase.restart:
            self.backbone.model.load_state_dict(self.pristine)
        if phase.norms != "target":
            from finetune.features.extract import extract_together

            extract_together(self.backbone, images_of(phase, self.bundle).train, **self._extraction())
        # On the CPU: another process would put tensors of a GPU onto this one's.
        state = ranks.on_main(lambda: self._solved_state(phase, facts))
        if not ranks.main():
            load_model_state(self.backbone, state)
        return None

    def _solved_state(self, phase: ProbePhase, facts: dict[str, Any]) -> dict[str, Any]:
        """A copy of the network with its solved head."""
        self._solve_best(phase, facts)
        state: dict[str, Any] = copied(model_state(self.backbone))
        return state

    def _solve_best(self, phase: ProbePhase, facts: dict[str, Any]) -> None:
        """Solve the head on cached features, with the norms' statistics that the phase names."""
        if phase.restart:
            self.backbone.model.load_state_dict(self.pristine)
        self.backbone.eval()
        result = self._solve(phase) if phase.norms != "target" else None
        if phase.norms != "source":
            source, images = statistics(self.backbone), images_of(phase, self.bundle).train
            threads = worker_count(self.recipe.data.workers)
            if reestimate(self.backbone, images, self.device, threads, self.recipe.seed):
                again = self._solve(phase)
                better = result is None or again.chosen.log_loss < result.chosen.log_loss
                if result is not None:
                    losses = {"source": result.chosen.log_loss, "target": again.chosen.log_loss}
                    told = {name: loss if math.isfinite(loss) else None for name, loss in losses.items()}
                    facts["norms"] = {"chosen": "target" if better else "source", "log_loss": told}
                    self.listener.on_message(norms_line(losses))
                if better:
                    result = again
                else:
                    restore(self.backbone, source)
        if result is None:  # a network without running statistics
            result = self._solve(phase)
        self.backbone.set_head(torch.from_numpy(result.weight), torch.from_numpy(result.bias), result.taps)
        facts.update(
            trained_parameters=result.weight.size + result.bias.size,
            **result.to_dict(),
        )
        self.listener.on_message(result.story())

    def _solve(self, phase: ProbePhase) -> ProbeResult:
        from finetune.features.extract import extract
        from finetune.features.outputs import fit_task_probe

        features = extract(self.backbone, images_of(phase, self.bundle).train, **self._extraction())
        return fit_task_probe(
            self.bundle.task, phase, features.taps, features.labels, features.targets, len(self.bundle.classes),
            self.recipe.seed,
        )  # fmt: skip

    def _extraction(self) -> dict[str, Any]:
        return {
            "batch_size": 64, "device": self.device, "cache": self.recipe.probe.cache,
            "threads": self.recipe.data.workers, "message": self.listener.on_message,
            "progress": lambda done, total: self.listener.on_progress("computing features", done, total),
        }  # fmt: skip


def as_before(phase: ProbePhase, first: dict[str, Any]) -> ProbePhase:
    """A head that is fitted again takes the stages that the plan's first one took, and averages where that one did:
    what was chosen for it counts. ``first``: the facts about that head's phase, none where there is none."""
    taps = first.get("taps")
    if not phase.restart or len(phase.candidates) == 1 or not taps or first.get("solver") == "average":
        return phase
    return phase.model_copy(update={"candidates": (tuple(taps),), "combine": "pick"})


def images_of(phase: ProbePhase | GradientPhase, bundle: DataBundle) -> DataBundle:
    """The images as the phase divides them: with ``train+val`` nothing is left to validate on."""
    if phase.fit_on == "train":
        return bundle
    from finetune.data.imageset import Joined

    return replace(bundle, train=Joined(bundle.train, bundle.val), val=bundle.val.subset([]))
