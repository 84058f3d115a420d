"""Carry out a plan: phase after phase, from the start or from where an earlier attempt stopped."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from finetune import ranks
from finetune.errors import RunError
from finetune.events import Listener
from finetune.files import remove_leftovers
from finetune.recipe import Recipe
from finetune.runtime import choose_device, choose_threads, configure_threads
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.training.checkpoint import Checkpoints
from finetune.training.coaching import Coaching
from finetune.training.deadline import Deadline, Needs, dropped_line
from finetune.training.desk import Desk
from finetune.training.interrupt import StopRequest
from finetune.training.job import Job
from finetune.training.metrics_log import MetricsLog
from finetune.training.model_state import load_model_state, model_state
from finetune.training.probing import Probing, as_before
from finetune.training.record import Record
from finetune.training.refusals import refuse_impossible
from finetune.training.sharded import (
    refuse_with_shard,
    sharding,
)
from finetune.training.tuning import Tuning

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle, ImageSet
    from finetune.zoo.backbone import Backbone


def execute(
    plan: Plan,
    backbone: Backbone,
    bundle: DataBundle,
    recipe: Recipe,
    run_dir: str | Path,
    listener: Listener | None = None,
    resume: bool = False,
    rehearse: Callable[[Job, ImageSet], None] | None = None,
    deadline: Deadline | None = None,
) -> Backbone:
    """Run every phase of ``plan`` on ``backbone`` (changed in place) and return it, in eval mode.

    With ``rehearse`` a gradient phase is set up as always and then given to it, with its training images, instead
    of being trained. With a ``deadline`` it says how long each of them takes, whatever the plan says, and the last
    phases are left out where there is no time for them (``carried_out``).

    Writes ``metrics.jsonl``, ``metrics.csv``, ``checkpoints/`` and ``training.json`` (what was chosen and
    trained, phase by phase) below ``run_dir``. With ``resume`` it goes on from the last checkpoint, or begins
    where there is none; on a CPU the final weights are those of an uninterrupted run, bit for bit. Raises
    Interrupted after Ctrl-C or SIGTERM, TrainingError where training diverges, RunError where the disk is
    full or the checkpoint belongs to another plan.
    """
    work = _Work(plan, backbone, bundle, recipe, Path(run_dir), listener or Listener(), rehearse, deadline)
    return work.run(resume)


def carried_out(plan: Plan, record: dict[str, Any]) -> Plan:
    """The plan without the phases that there was no time for; ``record``: training.json."""
    kept = int(record.get("carried_out", len(plan.phases)))
    return plan if kept >= len(plan.phases) else plan.model_copy(update={"phases": plan.phases[:kept]})


class _Work:
    def __init__(
        self,
        plan: Plan,
        backbone: Backbone,
        bundle: DataBundle,
        recipe: Recipe,
        folder: Path,
        listener: Listener,
        rehearse: Callable[[Job, ImageSet], None] | None,
        deadline: Deadline | None,
    ) -> None:
        self.plan, self.backbone, self.bundle, self.recipe = plan, backbone, bundle, recipe
        self.folder, self.listener, self.rehearse = folder, listener, rehearse
        self.deadline = deadline
        self.device = choose_device(recipe.device)
        self.checkpoints = Checkpoints(folder / "checkpoints")

    def run(self, resume: bool) -> Backbone:
        plan_digest = hashlib.sha256(self.plan.model_dump_json().encode()).hexdigest()
        if ranks.main():
            remove_leftovers(self.folder)
        saved = self.checkpoints.load() if resume else None
        if saved and saved[0]["plan"] != plan_digest:
            raise RunError(
                f"The checkpoint in {self.folder} belongs to another plan: plan.yaml was changed "
                "since. Restore it, or start a new run."
            )
        refuse_impossible(self.plan, self.bundle.classes, self.bundle.task)
        sharded = sharding(self.recipe)
        if sharded:
            refuse_with_shard(self.plan, self.recipe)
        elif self.recipe.train.shard:
            self.listener.on_message(
                "train.shard divides nothing in a single process. finetune run --processes N, torchrun or accelerate "
                "launch start several; a notebook is one."
            )
        self.record = Record(self.folder / "training.json", keep=resume)
        if any(
            isinstance(phase, GradientPhase) and phase.head == "fractional-pool" for phase in self.plan.phases
        ):
            self.backbone.pool_fractionally()
        restarts = any(isinstance(phase, ProbePhase) and phase.restart for phase in self.plan.phases)
        returns = any(isinstance(phase, GradientPhase) and phase.l2_sp for phase in self.plan.phases)
        self.pristine: dict[str, Tensor] = {}
        if restarts or returns:
            self.pristine = {
                name: t.detach().cpu().clone() for name, t in self.backbone.model.state_dict().items()
            }
        self.probing = Probing(
            self.backbone, self.bundle, self.recipe, self.device, self.listener, self.pristine
        )
        if self.deadline is not None:
            self._count_on(self.deadline, float(saved[0].get("spent", 0.0)) if saved else 0.0)
        configure_threads(self.record.once("threads", lambda: choose_threads(self.recipe.threads)))
        self.tuning = Tuning(
            self.backbone,
            self.bundle,
            self.recipe,
            self.device,
            self.listener,
            self.record,
            sharded,
            self.rehearse,
            self._grant if self.deadline is not None else None,
        )
        if saved:
            phase = self.plan.phases[saved[0]["phase"]] if "optimizer" in saved[0] else None
            if isinstance(phase, GradientPhase) and phase.trains == "lora":
                self.tuning.adapt(phase)  # the state was saved with them in place
            load_model_state(self.backbone, saved[0]["model"])
        elif isinstance(self.plan.phases[0], GradientPhase):  # a probe brings its own head
            self.checkpoints.clear()
            self.backbone.reset_head(len(self.bundle.classes), self.recipe.seed)
        else:
            self.checkpoints.clear()
        self.backbone.to(self.device)
        first = saved[0]["phase"] if saved else 0
        with (
            StopRequest(str(self.folder)) as stop,
            MetricsLog(
                self.folder,
                saved[0]["metrics"] if saved else None,
                self.listener.on_row,
                self.bundle.task.score,
            ) as log,
            Coaching(self.folder, self.listener, self.recipe.train.coach and ranks.main()) as coach,
        ):
            desk = Desk(
                log,
                self.checkpoints,
                stop,
                self.listener,
                self.recipe.train.log_every,
                self.recipe.train.save_every,
                plan_digest,
                self.record,
                self.recipe.train.rollbacks,
                self.recipe.train.sync_norms,
                {f"model.{name}": tensor for name, tensor in self.pristine.items()} if returns else {},
                coach,
                self.deadline,
            )
            for index in range(first, len(self.plan.phases)):
                phase = self.plan.phases[index]
                state = saved if saved and index == first and "optimizer" in saved[0] else None
                if state is None and not ranks.on_main(lambda index=index: self._in_time(index)):  # type: ignore[misc]
                    break
                self.listener.on_phase(phase, index)
                started = time.perf_counter()
                facts = self.record.phase(index)
                facts.update(name=phase.name, kind=phase.kind)
                if isinstance(phase, ProbePhase):
                    self.probing.carry_out(as_before(phase, self._first_head(index)), facts)
                else:
                    self.tuning.carry_out(desk, index, phase, facts, state)
                facts["seconds"] = facts.get("seconds", 0.0) + time.perf_counter() - started
                self.record.save()
                self.checkpoints.save(
                    {
                        "phase": index + 1,
                        "model": model_state(self.backbone),
                        "plan": plan_digest,
                        "metrics": log.sizes(),
                        "spent": desk.spent,
                    },
                    None,
                )
        self.backbone.freeze_below(0)
        return self.backbone.eval()

    # --- time ---------------------------------------------------------------------------------------------

    def _count_on(self, deadline: Deadline, spent: float) -> None:
        """Estimates and seconds of an earlier attempt count."""
        if deadline.needs is not None:
            self.record.tree["needs"] = deadline.needs.to_dict()
        elif "needs" in self.record.tree:
            deadline.needs = Needs.from_dict(self.record.tree["needs"])
        deadline.go_on(spent)

    def _in_time(self, index: int) -> bool:
        """Whether a phase is begun; where it is the first that is not, that is said and written down."""
        if self.deadline is None or self.rehearse is not None:
            return True
        tree = self.record.tree
        if "carried_out" not in tree:
            kept = self.deadline.fitting(self.plan, index)
            if not self.deadline.fits_again(self.plan, index, self._took("gradient"), self._took("probe")):
                kept = index
            if kept == len(self.plan.phases):
                return True
            tree["carried_out"] = kept
            self.record.save()
            self.listener.on_message(dropped_line(self.plan, kept, self.deadline.seconds))
        return index < int(tree["carried_out"])

    def _grant(self, index: int, elapsed: float) -> float:
        """Seconds for a gradient phase that has had ``elapsed``."""
        assert self.deadline is not None
        plan, before = carried_out(self.plan, self.record.tree), self.record.phase(index).get("time")
        return self.deadline.grant(plan, index, before, elapsed, self._took("probe"))

    def _took(self, kind: str) -> float:
        """Seconds of the longest phase of a kind so far."""
        done = (facts for facts in self.record.tree["phases"].values() if facts.get("kind") == kind)
        return max((float(facts.get("seconds", 0.0)) for facts in done), default=0.0)

    # --- heads --------------------------------------------------------------------------------------------

    def _first_head(self, index: int) -> dict[str, Any]:
        """The facts about the first head that was solved before a phase; none where there is none."""
        before = (i for i, phase in enumerate(self.plan.phases[:index]) if isinstance(phase, ProbePhase))
        found = next(before, None)
        return {} if found is None else self.record.phase(found)
