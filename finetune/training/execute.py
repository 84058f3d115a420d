"""Carry out a plan: phase after phase, from the start or from where an earlier attempt stopped."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetune import ranks
from finetune.data.threads import worker_count
from finetune.errors import RunError
from finetune.events import Listener
from finetune.files import remove_leftovers
from finetune.recipe import Recipe
from finetune.runtime import choose_device, choose_threads, configure_threads, seed_everything
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.training.blend import blend, blended_line
from finetune.training.checkpoint import Best, Checkpoints
from finetune.training.coaching import Coaching, facts_of
from finetune.training.desk import Desk
from finetune.training.dropping import dropping
from finetune.training.engine import Engine
from finetune.training.feed import Feed
from finetune.training.interrupt import StopRequest
from finetune.training.job import Job
from finetune.training.loop import fit
from finetune.training.metrics_log import MetricsLog
from finetune.training.micro_batch import settle, shrinking
from finetune.training.model_state import load_model_state, model_state, trained_tensors
from finetune.training.norms import moving, reestimate
from finetune.training.opening import checked, rates_found
from finetune.training.optim import describe_groups, param_groups, summary_lines
from finetune.training.precision import Precision, choose_precision
from finetune.training.probing import Probing, images_of
from finetune.training.record import Record
from finetune.training.refusals import refuse_impossible
from finetune.training.sharded import (
    gathered,
    precision_of,
    refuse_with_shard,
    sharded_copy,
    sharding,
    whole,
)
from finetune.zoo.adapters import attach, freeze_all_but_adapters, merge, targets
from finetune.zoo.heads import Bottleneck

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
) -> Backbone:
    """Run every phase of ``plan`` on ``backbone`` (changed in place) and return it, in eval mode.

    With ``rehearse`` a gradient phase is set up as always and then given to it, with its training images, instead
    of being trained.

    Writes ``metrics.jsonl``, ``metrics.csv``, ``checkpoints/`` and ``training.json`` (what was chosen and
    trained, phase by phase) below ``run_dir``. With ``resume`` it goes on from the last checkpoint, or begins
    where there is none; on a CPU the final weights are those of an uninterrupted run, bit for bit. Raises
    Interrupted after Ctrl-C or SIGTERM, TrainingError where training diverges, RunError where the disk is
    full or the checkpoint belongs to another plan.
    """
    work = _Work(plan, backbone, bundle, recipe, Path(run_dir), listener or Listener(), rehearse)
    return work.run(resume)


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
    ) -> None:
        self.plan, self.backbone, self.bundle, self.recipe = plan, backbone, bundle, recipe
        self.folder, self.listener, self.rehearse = folder, listener, rehearse
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
        self.sharded = sharding(self.recipe)
        if self.sharded:
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
        configure_threads(self.record.once("threads", lambda: choose_threads(self.recipe.threads)))
        self.adapted: tuple[str, ...] = ()
        if saved:
            phase = self.plan.phases[saved[0]["phase"]] if "optimizer" in saved[0] else None
            if isinstance(phase, GradientPhase) and phase.trains == "lora":
                self._adapt(phase)  # the state was saved with them in place
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
            self.desk = Desk(
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
            )
            for index in range(first, len(self.plan.phases)):
                phase = self.plan.phases[index]
                self.listener.on_phase(phase, index)
                state = saved if saved and index == first and "optimizer" in saved[0] else None
                started = time.perf_counter()
                facts = self.record.phase(index)
                facts.update(name=phase.name, kind=phase.kind)
                if isinstance(phase, ProbePhase):
                    self.probing.carry_out(self._as_before(index, phase), facts)
                else:
                    self._train(index, phase, facts, state)
                facts["seconds"] = facts.get("seconds", 0.0) + time.perf_counter() - started
                self.record.save()
                self.checkpoints.save(
                    {
                        "phase": index + 1,
                        "model": model_state(self.backbone),
                        "plan": plan_digest,
                        "metrics": log.sizes(),
                    },
                    None,
                )
        self.backbone.freeze_below(0)
        return self.backbone.eval()

    def _train(
        self,
        index: int,
        phase: GradientPhase,
        facts: dict[str, Any],
        saved: tuple[dict[str, Any], Best | None] | None,
    ) -> None:
        """Train by gradient steps."""
        if phase.blend == "earlier" and self._alphas(index, phase) == (0.0,):
            self.listener.on_message("Validation chose the head alone before: nothing to train.")
            facts.update(best={"epoch": 0}, blend={"alpha": 0.0, "points": []})
            return
        backbone, seed = self.backbone, self.recipe.seed
        solved = saved is None and not self._put_head(phase) and index > 0
        backbone.freeze_below(phase.train_from)
        if phase.trains == "norms-biases":
            backbone.freeze_kernels()
        elif phase.trains == "lora":
            self._adapt(phase)
        # Batch statistics of a single image are no statistics, and accumulation does not enlarge the batch.
        backbone.freeze_norms(phase.batch_norm == "frozen" or phase.batch_size == 1)
        ranks.spread_tensors(list(backbone.state_dict().values()))
        self._say_shares(phase)
        feed = Feed(
            backbone,
            images_of(phase, self.bundle),
            phase,
            seed=seed + 7919 * index,
            threads=worker_count(self.recipe.data.workers),
            device=self.device,
            lockstep=self.sharded,
        )
        if solved:
            feed.objective.enter(backbone)
        if self.sharded:
            backbone = feed.backbone = sharded_copy(backbone, self.device)
        precision = Precision(
            **self.record.once(f"precision of phase {index}", lambda: self._precision(feed, phase).to_dict())
        )
        facts["precision"] = str(precision)
        self.listener.on_message(f"Training in {precision}.")
        if precision.channels_last:
            backbone.to(memory_format=torch.channels_last)
        engine = Engine(self.device, precision)
        engine.averagers = ranks.world() if self.sharded else 1
        with engine.autocast():
            said = feed.prepare(precision)
        if said:
            self.listener.on_message(said)
        if phase.find_lr and not self.rehearse:
            job = Job(index, phase, backbone, feed, engine, self.desk)
            settle(job)
            phase = rates_found(job, self.record, self.listener.on_message)
        groups = describe_groups(param_groups(backbone, phase))
        told = facts_of(index, phase, images_of(phase, self.bundle), self.recipe)
        facts.update(
            coach=told.to_dict(), groups=groups, trained_parameters=sum(g["parameters"] for g in groups)
        )
        self.record.save()
        for line in summary_lines(groups):
            self.listener.on_message(line)
        seed_everything(seed + index)
        if self.desk.coach is not None and not self.rehearse:
            self.desk.coach.begin(index, told)
        start = self._start(index, phase, backbone, fresh=saved is None)
        job = Job(index, phase, backbone, feed, engine, self.desk)
        settle(job)
        if norms := job.united.norms_line():
            self.listener.on_message(norms)
        if self.rehearse:
            self.rehearse(job, images_of(phase, self.bundle).train)
            return
        if self.sharded and self.recipe.train.preflight:
            self.listener.on_message(
                "No preflight: with train.shard no process has the whole network to try."
            )
        elif not saved and self.recipe.train.preflight:
            checked(job, images_of(phase, self.bundle).train, self.record, self.listener.on_message)
        self._pace(job, facts)
        if saved:
            job.load_state_dict(*saved)
            self.listener.on_message(f"Going on at epoch {job.progress.epoch + 1} step {job.progress.step}.")
        with dropping(backbone, phase, self.listener.on_message):
            fit(job)
        facts["epochs"] = job.progress.epoch
        if job.watch.reason is not None:
            facts["stopped"] = job.watch.reason
        if phase.snapshots is not None:
            facts["snapshots"] = job.average.steps
        if phase.swa is not None and (layers := moving(backbone)):
            threads = worker_count(self.recipe.data.workers)
            images = images_of(phase, self.bundle).train
            ranks.on_main(lambda: reestimate(backbone, images, self.device, threads, seed, layers))
            ranks.spread_tensors(list(backbone.buffers()))
            self.listener.on_message(
                "Batch norms of the averaged network re-estimated on the training images."
            )
        if job.best is not None:
            best = job.best
            facts["best"] = {"epoch": best.epoch, f"val_{job.score}": best.accuracy, "val_loss": best.loss}
        if self.adapted:
            merge(backbone, self.adapted)
            self.adapted = ()
        if start:
            alpha, rows = blend(job, start, self._alphas(index, phase))
            facts["blend"] = {"alpha": alpha, "points": rows}
            self.listener.on_message(blended_line(alpha, rows))
            self.checkpoints.drop_start(index)
        if self.sharded:
            backbone = gathered(backbone, self.backbone, self.device)
        feed.objective.leave(backbone)

    def _as_before(self, index: int, phase: ProbePhase) -> ProbePhase:
        """A head that is fitted again takes the stages that the first one took, and averages where that one did: what
        was chosen for it counts."""
        first = next((i for i, p in enumerate(self.plan.phases[:index]) if isinstance(p, ProbePhase)), None)
        found = {} if first is None else self.record.phase(first)
        taps = found.get("taps")
        if not phase.restart or len(phase.candidates) == 1 or not taps or found.get("solver") == "average":
            return phase
        return phase.model_copy(update={"candidates": (tuple(taps),), "combine": "pick"})

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
            self.listener.on_message(job.pace.line(job.progress.step))

        job.pace.chosen = chosen

    def _adapt(self, phase: GradientPhase) -> None:
        """Put the phase's adapters in, once, and freeze everything else in the network's body."""
        if not self.adapted:
            self.adapted = attach(self.backbone, phase.lora_rank, phase.train_from, self.recipe.seed)
        freeze_all_but_adapters(self.backbone)

    def _start(self, index: int, phase: GradientPhase, backbone: Backbone, fresh: bool) -> dict[str, Tensor]:
        """The tensors that the phase trains, as they were before its first step; none where nothing asks."""
        if not phase.blend:
            return {}
        if not fresh:
            return self.checkpoints.load_start(index)
        trained = targets(backbone, self.adapted) if self.adapted else trained_tensors(backbone)
        tensors = {name: whole(tensor).detach().to("cpu", copy=True) for name, tensor in trained.items()}
        self.checkpoints.save_start(index, tensors)
        return tensors

    def _alphas(self, index: int, phase: GradientPhase) -> tuple[float, ...]:
        if phase.blend != "earlier":
            return phase.blend
        chosen = [facts["blend"]["alpha"] for i in range(index)
                  if "blend" in (facts := self.record.phase(i))]  # fmt: skip
        return (chosen[-1] if chosen else 1.0,)

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
