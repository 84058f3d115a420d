"""Carry out a phase that trains by gradient steps: the network made ready, the loop, what is kept of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetune import ranks
from finetune.data.threads import worker_count
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.runtime import seed_everything
from finetune.strategy.plan import GradientPhase
from finetune.training.blend import blend, blended_line
from finetune.training.checkpoint import Best
from finetune.training.coaching import facts_of
from finetune.training.desk import Desk
from finetune.training.dropping import dropping
from finetune.training.engine import Engine
from finetune.training.feed import Feed
from finetune.training.job import Job
from finetune.training.loop import fit
from finetune.training.micro_batch import settle, shrinking
from finetune.training.model_state import trained_tensors
from finetune.training.norms import moving, reestimate
from finetune.training.opening import checked, rates_found
from finetune.training.optim import describe_groups, param_groups, summary_lines
from finetune.training.precision import Precision, choose_precision
from finetune.training.probing import images_of
from finetune.training.record import Record
from finetune.training.sharded import gathered, precision_of, sharded_copy, whole
from finetune.zoo.adapters import attach, freeze_all_but_adapters, merge, targets
from finetune.zoo.heads import Bottleneck

if TYPE_CHECKING:
    from finetune.coach.finding import Facts
    from finetune.data.imageset import DataBundle, ImageSet
    from finetune.zoo.backbone import Backbone


@dataclass
class Tuning:
    """Trains the gradient phases of a plan on one network, which is changed in place."""

    backbone: Backbone
    bundle: DataBundle
    recipe: Recipe
    device: torch.device
    listener: Listener
    record: Record
    sharded: bool
    """Whether weights, gradients and optimizer state are divided between processes."""
    rehearse: Callable[[Job, ImageSet], None] | None = None
    """Is given a phase that is set up, with its training images, instead of its being trained."""
    grant: Callable[[int, float], float] | None = None
    """Seconds for the phase of that number, which has had so many; None: the plan says."""
    adapted: tuple[str, ...] = ()
    """Modules with adapters in place."""

    def carry_out(
        self, desk: Desk, index: int, phase: GradientPhase, facts: dict[str, Any],
        saved: tuple[dict[str, Any], Best | None] | None,
    ) -> None:  # fmt: skip
        """Train, from the start or from a ``saved`` state; ``facts`` is told what was chosen and trained."""
        if phase.blend == "earlier" and self._alphas(index, phase) == (0.0,):
            self.listener.on_message("Validation chose the head alone before: nothing to train.")
            facts.update(best={"epoch": 0}, blend={"alpha": 0.0, "points": []})
            return
        solved = saved is None and not self._put_head(phase) and index > 0
        self._freeze(phase)
        feed = self._feed(index, phase, solved)
        engine = self._engine(index, phase, feed, facts)
        if phase.find_lr and not self.rehearse:
            phase = rates_found(
                self._job(desk, index, phase, feed, engine), self.record, self.listener.on_message
            )
        told = self._describe(index, phase, feed.backbone, facts)
        seed_everything(self.recipe.seed + index)
        if desk.coach is not None and not self.rehearse:
            desk.coach.begin(index, told)
        start = self._start(desk, index, phase, feed.backbone, fresh=saved is None)
        if self.grant is not None:
            elapsed = float(saved[0]["pace"]["seconds"]) if saved else 0.0
            facts["time"] = ranks.on_main(functools.partial(self.grant, index, elapsed))
            phase = phase.model_copy(update={"time": facts["time"]})
        job = self._job(desk, index, phase, feed, engine)
        if norms := job.united.norms_line():
            self.listener.on_message(norms)
        if self.rehearse:
            self.rehearse(job, images_of(phase, self.bundle).train)
            return
        if not saved:
            self._check(job)
        self._pace(job, facts)
        if saved:
            job.load_state_dict(*saved)
            self.listener.on_message(f"Going on at epoch {job.progress.epoch + 1} step {job.progress.step}.")
        with dropping(feed.backbone, phase, self.listener.on_message):
            fit(job)
        self._note(job, facts)
        self._finish(job, start, facts)

    def adapt(self, phase: GradientPhase) -> None:
        """Put the phase's adapters in, once, and freeze everything else in the network's body."""
        if not self.adapted:
            self.adapted = attach(self.backbone, phase.lora_rank, phase.train_from, self.recipe.seed)
        freeze_all_but_adapters(self.backbone)

    # --- before -----------------------------------------------------------------------------------------

    def _put_head(self, phase: GradientPhase) -> bool:
        """A new head where the phase asks for another kind than the network has; whether it did."""
        wanted, classes = phase.head == "bottleneck", len(self.bundle.classes)
        if wanted and not isinstance(self.backbone.head, Bottleneck):
            self.backbone.set_bottleneck(phase.bottleneck, classes, self.recipe.seed)
        elif not wanted and isinstance(self.backbone.head, Bottleneck):
            self.backbone.reset_head(classes, self.recipe.seed)
        else:
            return False
        return True

    def _freeze(self, phase: GradientPhase) -> None:
        """What the phase leaves alone; all processes get the main one's weights."""
        self.backbone.freeze_below(phase.train_from)
        if phase.trains == "norms-biases":
            self.backbone.freeze_kernels()
        elif phase.trains == "lora":
            self.adapt(phase)
        # Batch statistics of a single image are no statistics, and accumulation does not enlarge the batch.
        self.backbone.freeze_norms(phase.batch_norm == "frozen" or phase.batch_size == 1)
        ranks.spread_tensors(list(self.backbone.state_dict().values()))

    def _feed(self, index: int, phase: GradientPhase, solved: bool) -> Feed:
        """The images, before the network or, where it is sharded, before this process's part of a copy."""
        self._say_shares(phase)
        feed = Feed(
            self.backbone,
            images_of(phase, self.bundle),
            phase,
            seed=self.recipe.seed + 7919 * index,
            threads=worker_count(self.recipe.data.workers),
            device=self.device,
            lockstep=self.sharded,
        )
        if solved:
            feed.objective.enter(self.backbone)
        if self.sharded:
            feed.backbone = sharded_copy(self.backbone, self.device)
        return feed

    def _say_shares(self, phase: GradientPhase) -> None:
        """What several processes make of the phase's batches."""
        if ranks.alone():
            return
        if self.sharded:
            self.listener.on_message(
                f"Weights, gradients and optimizer state are divided between {ranks.world()} processes (train.shard)."
            )
        least = phase.batch_size // ranks.world()
        if least < 2:
            self.listener.on_message(
                f"Batches of {phase.batch_size} images leave some of the {ranks.world()} processes without work: take "
                f"train.batch_size={2 * ranks.world()} or more."
            )

    def _engine(self, index: int, phase: GradientPhase, feed: Feed, facts: dict[str, Any]) -> Engine:
        """The phase's arithmetic, in the precision chosen when it first began."""
        precision = Precision(
            **self.record.once(f"precision of phase {index}", lambda: self._precision(feed, phase).to_dict())
        )
        facts["precision"] = str(precision)
        self.listener.on_message(f"Training in {precision}.")
        if precision.channels_last:
            feed.backbone.to(memory_format=torch.channels_last)
        engine = Engine(self.device, precision)
        engine.averagers = ranks.world() if self.sharded else 1
        with engine.autocast():
            said = feed.prepare(precision)
        if said:
            self.listener.on_message(said)
        return engine

    def _precision(self, feed: Feed, phase: GradientPhase) -> Precision:
        train = self.recipe.train
        if self.sharded:
            return precision_of(self.recipe, self.device)
        choose = functools.partial(
            choose_precision,
            self.backbone,
            lambda model, x: model(x),
            device=self.device,
            wanted=train.precision,
            channels_last=train.channels_last,
            images=phase.epochs * feed.images,
        )
        return shrinking(feed.sample(), lambda batch: choose(batch=batch))

    def _job(self, desk: Desk, index: int, phase: GradientPhase, feed: Feed, engine: Engine) -> Job:
        job = Job(index, phase, feed.backbone, feed, engine, desk)
        settle(job)
        return job

    def _describe(self, index: int, phase: GradientPhase, backbone: Backbone, facts: dict[str, Any]) -> Facts:
        """Write down and say which parameters the phase trains, and how; what the coach is told about it."""
        groups = describe_groups(param_groups(backbone, phase))
        told = facts_of(index, phase, images_of(phase, self.bundle), self.recipe)
        facts.update(
            coach=told.to_dict(), groups=groups, trained_parameters=sum(g["parameters"] for g in groups)
        )
        self.record.save()
        for line in summary_lines(groups):
            self.listener.on_message(line)
        return told

    def _start(
        self, desk: Desk, index: int, phase: GradientPhase, backbone: Backbone, fresh: bool
    ) -> dict[str, Tensor]:
        """The tensors that the phase trains, as they were before its first step; none where nothing asks."""
        if not phase.blend:
            return {}
        if not fresh:
            return desk.checkpoints.load_start(index)
        trained = targets(backbone, self.adapted) if self.adapted else trained_tensors(backbone)
        tensors = {name: whole(tensor).detach().to("cpu", copy=True) for name, tensor in trained.items()}
        desk.checkpoints.save_start(index, tensors)
        return tensors

    def _check(self, job: Job) -> None:
        """The preflight, unless the recipe skips it."""
        if not self.recipe.train.preflight:
            return
        if self.sharded:
            self.listener.on_message(
                "No preflight: with train.shard no process has the whole network to try."
            )
            return
        checked(job, images_of(job.phase, self.bundle).train, self.record, self.listener.on_message)

    def _pace(self, job: Job, facts: dict[str, Any]) -> None:
        """The number of steps: what an earlier attempt chose comes back, what is chosen now is written down."""
        if job.phase.patience == "earlier":
            earlier = (self.record.phase(i) for i in range(job.index))
            took = [phase["epochs"] for phase in earlier if "epochs" in phase]
            job.most_epochs = took[-1] if took else None
        if job.phase.time is None:
            return
        job.pace.cuts = facts.setdefault("steps", [])

        def chosen() -> None:
            self.record.save()
            news = job.pace.news(job.progress.step, self.recipe.train.time)
            if news is not None:
                self.listener.on_message(news)

        job.pace.chosen = chosen

    # --- after ------------------------------------------------------------------------------------------

    def _note(self, job: Job, facts: dict[str, Any]) -> None:
        """Write down how the training ended."""
        facts["epochs"] = job.progress.epoch
        if job.watch.reason is not None:
            facts["stopped"] = job.watch.reason
        if job.phase.snapshots is not None:
            facts["snapshots"] = job.average.steps
        if job.best is not None:
            best = job.best
            facts["best"] = {"epoch": best.epoch, f"val_{job.score}": best.accuracy, "val_loss": best.loss}

    def _finish(self, job: Job, start: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """From the weights that the loop kept to the network that the next phase, or the user, gets."""
        phase, backbone = job.phase, job.backbone
        if phase.swa is not None and (layers := moving(backbone)):
            threads = worker_count(self.recipe.data.workers)
            images = images_of(phase, self.bundle).train
            ranks.on_main(
                lambda: reestimate(backbone, images, self.device, threads, self.recipe.seed, layers)
            )
            ranks.spread_tensors(list(backbone.buffers()))
            self.listener.on_message(
                "Batch norms of the averaged network re-estimated on the training images."
            )
        if self.adapted:
            merge(backbone, self.adapted)
            self.adapted = ()
        if start:
            alpha, rows = blend(job, start, self._alphas(job.index, phase))
            facts["blend"] = {"alpha": alpha, "points": rows}
            self.listener.on_message(blended_line(alpha, rows))
            job.desk.checkpoints.drop_start(job.index)
        if self.sharded:
            backbone = gathered(backbone, self.backbone, self.device)
        job.feed.objective.leave(backbone)

    def _alphas(self, index: int, phase: GradientPhase) -> tuple[float, ...]:
        if phase.blend != "earlier":
            return phase.blend
        chosen = [facts["blend"]["alpha"] for i in range(index)
                  if "blend" in (facts := self.record.phase(i))]  # fmt: skip
        return (chosen[-1] if chosen else 1.0,)
