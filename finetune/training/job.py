"""A Job: one gradient phase with everything it needs, and what happens around its steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from finetune import ranks
from finetune.compiler import without_compiler
from finetune.errors import Interrupted
from finetune.strategy.plan import GradientPhase
from finetune.training import SCHEDULES
from finetune.training.averaged_schedule import averaged_schedule
from finetune.training.averaging import average_of
from finetune.training.checkpoint import Best, rng_state, set_rng_state
from finetune.training.desk import Desk, Progress, Scores
from finetune.training.engine import Engine
from finetune.training.feed import Feed
from finetune.training.meter import Meter
from finetune.training.micro_batch import MicroBatches
from finetune.training.model_state import load_tensors, model_state, trained_tensors
from finetune.training.movement import Movement
from finetune.training.optim import build_optimizer, param_groups, set_lr
from finetune.training.pace import Pace
from finetune.training.penalties import Penalty
from finetune.training.reporting import Reporter
from finetune.training.rollback import Guard, diverged, note_events, require_health
from finetune.training.saving import Saver
from finetune.training.schedule import Plateau, Schedule, warmup_steps
from finetune.training.sharded import shared_out, whole
from finetune.training.stopping import Watch
from finetune.training.united import United

if TYPE_CHECKING:
    from finetune.zoo.backbone import Backbone


class Job:
    """State and bookkeeping of one gradient phase; the loop itself is in loop.py."""

    def __init__(
        self, index: int, phase: GradientPhase, backbone: Backbone, feed: Feed, engine: Engine, desk: Desk
    ) -> None:
        self.index, self.phase, self.backbone, self.feed, self.engine = index, phase, backbone, feed, engine
        self.desk = desk
        self.progress, self.best = Progress(), None  # type: tuple[Progress, Best | None]
        groups = param_groups(backbone, phase)
        self.optimizer = build_optimizer(groups, phase)
        engine.prepare(self.optimizer)
        self.average = average_of(
            phase, backbone, trained_tensors(backbone), desk.checkpoints.folder.parent, feed.classes,
            feed.objective.leave,
        )  # fmt: skip
        self.criterion = feed.objective.criterion(phase, feed.train_labels, feed.classes).to(engine.device)
        self.penalty = Penalty(groups, phase, desk.reference)
        self.meter, self.score = Meter(engine.device, feed.objective), feed.objective.score
        self.movement = Movement(p for group in groups for p in group["params"])
        self.micro = MicroBatches(self)
        self.united = United(self)
        self.guard = Guard(desk.rollbacks, feed.objective.chance)
        self.reporter, self.saver = Reporter(self), Saver(self)
        self.last_step: tuple[int, int, int] | None = None
        """Epoch, first micro-batch and number of micro-batches of the last finished step."""
        per_epoch = -(-len(feed) // phase.accumulate)
        planned = phase.epochs * per_epoch
        points = 0 if phase.blend == "earlier" else len(phase.blend)
        self.pace = Pace(planned, per_epoch, phase.time, reserve=1 + points)
        self.watch = Watch(phase, self.score)
        self.most_epochs: int | None = None
        """Stop after so many epochs, because an earlier phase did."""
        usual: Schedule = SCHEDULES.get(phase.schedule)(
            planned, warmup_steps(phase.warmup, planned), **phase.schedule_args
        )
        self._factor = averaged_schedule(phase, usual, phase.epochs, per_epoch, phase.warmup)

    @property
    def steps(self) -> int:
        """Optimizer steps of the phase, as far as is known now."""
        return self.pace.steps(self.progress.step)

    @property
    def epochs(self) -> int:
        """Epochs of the phase, as far as is known now; the last may be a part of one."""
        return min(self.pace.epochs(self.progress.step), self.most_epochs or self.phase.epochs)

    @property
    def over(self) -> bool:
        """Whether, between two epochs, no further one is due."""
        return self.progress.epoch >= self.epochs or self.watch.reason is not None

    @property
    def last_factor(self) -> float:
        """Of the last finished step: its learning rates as a factor on the phase's peaks."""
        return self._factor(self.pace.position(max(0, self.progress.step - 1))) * self.guard.lr_scale

    # --- called by the loop -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Score a head that was fitted by an earlier phase: training must beat it to be kept."""
        from finetune.training.loop import evaluate

        self.reporter.begin()
        if self.index > 0 and self.progress == Progress() and self.best is None:
            scores = evaluate(self)
            if not self.phase.blend:  # which has the earlier head among its points
                self.keep_best(scores, 0)
            if scores is not None:
                self.reporter.fitted_head(scores)
        if self.guard.good is None:
            self.guard.keep(self)
        self.meter.resume_clock()
        self.pace.resume_clock()

    def schedule_lr(self) -> None:
        """Set every group's learning rate for the coming step."""
        place = self.pace.position(self.progress.step)
        set_lr(self.optimizer, self._factor(place) * self.guard.lr_scale, place / self.pace.planned)

    def move(self) -> None:
        """Move the weights along their gradients, which are clipped before and cleared after."""
        with self.movement.measured((self.progress.step + 1) % self.desk.log_every == 0):
            self.engine.step(self.phase.clip_grad)

    def after_step(self, batches: int, images: int, loss: Tensor) -> None:
        """Count, look for trouble, log, save and stop where due."""
        self.guard.watch(loss, images)
        self.last_step = (self.progress.epoch, self.progress.batch, batches)
        self.progress.batch += batches
        self.progress.step += 1
        self._choose_pace(self.pace.after_step)
        step = self.progress.step
        logging = step % self.desk.log_every == 0
        showing, saving, stopping = ranks.any_of(self.reporter.due, self.saver.due, self.desk.stop.requested)
        if (
            logging or showing or step == 1 or self.engine.device.type == "cpu"
        ):  # elsewhere looking means waiting
            require_health(self)
        if step == 1:
            self.reporter.first_step()
        if logging or showing:
            self.reporter.step(logging)
        self.guard.keep(self, within=True)
        if saving:
            self.saver.save()
        if stopping or ranks.alone():
            self.check_stop(stopping)

    def keep_best(self, scores: Scores | None, epoch: int) -> None:
        """Remember the present weights if they are the best; the latest where the phase keeps those.

        Raises TrainingError where the validation loss is no number.
        """
        if scores is not None and not math.isfinite(scores.loss):
            raise diverged(self, "The validation loss is not a finite number")
        loss, accuracy = (scores.loss, scores.accuracy) if scores else (0.0, 0.0)
        latest = scores is None or self.phase.keep == "last"
        if self.best is None or latest or self.best.beaten_by(accuracy, loss):
            live = trained_tensors(self.backbone)
            tensors = {n: whole(t).detach().to("cpu", copy=True) for n, t in live.items()}
            self.best = Best(self.index, epoch, accuracy, loss, tensors)

    def close_epoch(self) -> None:
        """An epoch's last step is done: the average may take the weights in."""
        step = (
            self.progress.step
        )  # the place in the planned schedule counts: a shortened one has fewer epochs
        place = (self.pace.position(step - 1) + 1) / self.pace.per_epoch
        self.average.close_epoch(self.progress.epoch + 1, place)

    def end_epoch(self, scores: Scores | None) -> None:
        """Log the epoch and make the next one current."""
        self.meter.pause_clock()
        require_health(self)
        self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
        row = self.reporter.epoch(scores)
        self._after_scores(scores, row)
        self.reporter.tell_epoch(row)
        self.guard.keep(self)
        self.saver.end_epoch()
        self.meter.resume_clock()

    def _after_scores(self, scores: Scores | None, row: dict[str, Any]) -> None:
        """What the epoch's scores decide: the plateau's factor, stopping early, how many steps fit in the time."""
        watched = self.watch.observe(self.progress.epoch, scores, row)
        if isinstance(self._factor, Plateau):
            self._factor.observe(watched)
        self._choose_pace(self.pace.after_epoch)
        if self.watch.reason is not None and self.progress.epoch < self.epochs:
            self.desk.listener.on_message(
                f"Stopped after epoch {self.progress.epoch} of {self.epochs}: {self.watch.reason}."
            )

    def _choose_pace(self, look: Callable[[int], None]) -> None:
        """How many steps fit in the time is the main process's choice."""
        if ranks.main():
            look(self.progress.step)
        if self.phase.time is not None:
            self.pace.cuts[:] = ranks.spread(self.pace.cuts)

    def finish(self) -> None:
        """Put the best weights into the model."""
        if self.best is not None:
            load_tensors(self.backbone, self.best.tensors)
        self.backbone.eval()

    def check_stop(self, agreed: bool = False) -> None:
        """Raises Interrupted where a signal asked for it; of several processes where all have agreed to stop."""
        if agreed or (ranks.alone() and self.desk.stop.requested):
            self.desk.stop.stop(f"at epoch {self.progress.epoch + 1} step {self.progress.step}")

    @contextlib.contextmanager
    def saved_when_stopped(self) -> Iterator[None]:
        """Inside the block a signal waits for the end of the step; then the state is saved."""
        self.desk.stop.immediate = False
        try:
            self.check_stop(*ranks.any_of(self.desk.stop.requested))
            yield
        except Interrupted:
            self.saver.save()
            raise
        finally:
            self.desk.stop.immediate = True

    # --- state ------------------------------------------------------------------------------------------

    def moving_state(self) -> dict[str, Any]:
        """What state_dict holds, without the weights that the phase leaves alone; nothing is copied."""
        return {**self.state_dict(on_disk=False), "model": whole(trained_tensors(self.backbone))}

    @without_compiler()
    def state_dict(self, on_disk: bool = True) -> dict[str, Any]:
        """Everything that the coming steps depend on."""
        return {
            "phase": self.index,
            "progress": asdict(self.progress),
            "model": whole(model_state(self.backbone)),
            "optimizer": whole(self.optimizer.state_dict()),
            "average": self.average.state_dict(),
            "engine": self.engine.state_dict(),
            "meter": self.meter.state_dict(),
            "guard": self.guard.state_dict(),
            "micro_batch": self.micro.size,
            "pace": self.pace.state_dict(),
            "spent": self.desk.spent,
            "watch": self.watch.state_dict(),
            "schedule": self._factor.state_dict() if isinstance(self._factor, Plateau) else {},
            "rng": rng_state(),
            "metrics": self.desk.log.sizes(on_disk),
            "plan": self.desk.plan,
        }

    @without_compiler()
    def load_state_dict(self, state: dict[str, Any], best: Best | None) -> None:
        """Go on from a saved state; the model's own weights were loaded before."""
        self.progress = Progress(**state["progress"])
        self.best = best
        self.optimizer.load_state_dict(shared_out(self.optimizer, state["optimizer"]))
        self.average.load_state_dict(state["average"])
        self.engine.load_state_dict(state["engine"])
        self.meter.load_state_dict(state["meter"])
        self.guard.load_state_dict(state["guard"])
        self.guard.good = state.get("good")
        self.micro.limit(state["micro_batch"])
        note_events(self)
        self.pace.load_state_dict(state["pace"])
        self.watch.load_state_dict(state["watch"])
        if isinstance(self._factor, Plateau):
            self._factor.load_state_dict(state["schedule"])
        set_rng_state(state["rng"])
