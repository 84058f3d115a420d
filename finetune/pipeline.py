"""One run from recipe to result: data, backbone, decision, plan, training, test, files."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from types import FrameType
from typing import TYPE_CHECKING, Any

from finetune import advice, process_group, ranks, runtime
from finetune.advice import Setup
from finetune.errors import FinetuneError, Interrupted, RunError
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.strategy.plan import Plan
from finetune.version import __version__

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle
    from finetune.strategy.explanation import Explanation
    from finetune.training.plan_file import PlanLike
    from finetune.zoo.backbone import Backbone


class Pipeline:
    """Carries out one recipe in one run folder."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        data: DataBundle | None,
        listener: Listener,
        figures: bool,
        plan: PlanLike | None = None,
    ) -> None:
        self.recipe, self.folder, self.given, self.given_plan = recipe, folder, data, plan
        self.listener, self.figures = listener, figures
        self.created = False
        self.obeyed = False
        """Whether the plan was given instead of decided."""
        self.began = time.monotonic()
        self.earlier = 0.0
        """Seconds spent by attempts before this one."""

    def start(self) -> None:
        """A new run. Where it fails before training there is nothing to keep, and the folder goes again."""
        from finetune.training.refusals import refuse_impossible

        with self._interruptible():
            try:
                setup = self._prepare()
                plan = self._decide_together(setup)
                refuse_impossible(plan, setup.bundle.classes, setup.bundle.task)
            except FinetuneError as error:
                if self.created and not isinstance(error, Interrupted):
                    self.folder.discard()
                raise
            with self._tracked(resume=False):
                self._finish(setup, plan, resume=False)

    def go_on(self) -> None:
        """A stopped run: the same recipe gives the same data; the plan is read back, never made anew."""
        self.created = True
        if self.given is None and self.recipe.data.path is None:
            raise RunError(
                f"Run {self.folder.path} was made from images in memory, which its folder does not keep. "
                f"Go on from Python: finetune.resume({str(self.folder.path)!r}, data=bundle), with the bundle "
                "that finetune.data.load.from_datasets makes of the same data set, recipe.data and seed."
            )
        with self._interruptible():
            if ranks.main() and (self.folder.path / "timing.json").is_file():
                self.earlier = float(self.folder.read_json("timing.json").get("seconds", 0.0))
            setup = self._prepare(create=False)
            plan = ranks.on_main(lambda: self._plan_again(setup))
            with self._tracked(resume=True):
                self._finish(setup, plan, resume=True)

    def _plan_again(self, setup: Setup) -> Plan:
        """The plan that the run began with."""
        saved = self.folder.path / "plan.yaml"
        if not saved.is_file():
            return self._decide(setup)
        plan = Plan.from_yaml(saved.read_text(encoding="utf-8"), str(saved))
        if not (self.folder.path / "decision.json").is_file():
            # Only a given plan lies there before it is explained.
            return self._explain(advice.obey(plan, self.recipe, setup, self.listener))
        with contextlib.suppress(RunError):  # a damaged explanation stops no training
            self.obeyed = self.folder.read_json("decision.json").get("plan_given") is True
        self.listener.on_plan(plan)
        return plan

    # --- the steps ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _tracked(self, resume: bool) -> Iterator[None]:
        """Inside the block the trackers listen too."""
        if not ranks.main():
            yield
            return
        from finetune.training.trackers.told import tracked

        outer = self.listener
        try:
            with tracked(self.recipe, self.folder.path, outer, resume) as self.listener:
                yield
        finally:
            self.listener = outer

    def _prepare(self, create: bool = True) -> Setup:
        from finetune.training.trackers.told import require_trackers

        require_trackers(self.recipe.train.trackers)
        setup = ranks.each(lambda: advice.set_up(self.recipe, self.given, self.listener, self.given_plan))
        self.device = setup.device
        if not ranks.alone():
            advice.require_alike(setup)
            self.listener.on_message(runtime.processes_line(setup.device, setup.threads))

        def prepare() -> None:
            if create:
                self.folder.create(self.recipe, setup.given[1] if setup.given else None)
                self.created = True
                self.folder.record_images(setup.bundle)
                self._glance(setup.bundle)
                self.folder.write_json("env.json", runtime.environment(self.device))
            else:
                self.folder.require_same_images(setup.bundle)
            if note := os.environ.get(process_group.NOTE):
                Path(note).write_text(self.folder.go_on, encoding="utf-8")

        ranks.on_main(prepare)
        return setup

    def _glance(self, bundle: DataBundle) -> None:
        """Copies that leak or contradict each other, told before anything is learned from them."""
        from finetune.audit.glance import glance

        found = glance(bundle)
        self.folder.write_json("data_check.json", found.to_dict())
        for line in found.lines():
            self.listener.on_message(f"Data check: {line}")
        if found.found and self.recipe.data.path is not None:
            command = f"finetune data check {shlex.quote(self.recipe.data.path)}"
            self.listener.on_message(
                f"{command} looks closer: pictures saved again, wrong labels, strangers; --fix writes a cleaned list."
            )

    def _decide_together(self, setup: Setup) -> Plan:
        """All processes compute the features; the main one decides, for all."""
        if setup.given is None and not ranks.alone():
            advice.look_together(self.recipe, setup, self.listener)
        return ranks.on_main(lambda: self._decide(setup))

    def _decide(self, setup: Setup) -> Plan:
        if setup.given is not None:
            return self._explain(advice.obey(setup.given[0], self.recipe, setup, self.listener))
        found = advice.decide(self.recipe, setup, self.listener)
        if self.recipe.budget is not None:
            found = self._race(found, setup, self.recipe.budget)
        title = "What this run does. A plan may be edited and given to finetune run --plan FILE."
        self._explain(found)
        self.folder.write_text("plan.yaml", found.plan.annotated_yaml(title, setup.backbone.stage_names))
        return found.plan

    def _race(self, found: Explanation, setup: Setup, budget: float) -> Explanation:
        """Let the decision's plan run against its neighbours', and take the winner's."""
        from finetune.race import Entrant, race_is_possible, raced, run_race

        decision = race_is_possible(found.decision, self.recipe.strategy, len(setup.bundle.val))
        if decision is not None:
            return replace(found, decision=decision)
        costed = advice.entrants(found, self.recipe, setup, self.listener)
        field = [Entrant(plan, sum(cost.phases)) for plan, cost in costed]
        laps = run_race(field, setup, self.recipe, self.folder.path / "race", budget, self.listener)
        decision = raced(found.decision, laps, budget)
        plan, cost = next(pair for pair in costed if pair[0].strategy == decision.chosen)
        return replace(found, plan=plan, decision=decision, cost=cost)

    def _explain(self, found: Explanation) -> Plan:
        self.obeyed = found.given
        self.folder.write_json("decision.json", found.to_dict())
        self.listener.on_decision(found.decision)
        self.listener.on_plan(found.plan)
        self.listener.on_explanation(found)
        return found.plan

    def _finish(self, setup: Setup, plan: Plan, *, resume: bool) -> None:
        from finetune.training.execute import execute
        from finetune.zoo.create import save_backbone

        bundle = setup.bundle
        backbone = starting_backbone(plan, self.recipe, bundle, setup.backbone)
        backbone = execute(plan, backbone, bundle, self.recipe, self.folder.path, self.listener, resume)
        backbone.eval()

        def save() -> None:
            save_backbone(backbone, self.folder.model, classes=bundle.classes)
            facts = self.folder.read_json("training.json")["phases"].get(str(len(plan.phases) - 1), {})
            if cycles := facts.get("snapshots"):
                folders = [f"snapshots/{number}" for number in range(1, cycles + 1)]
                self.folder.write_members("snapshots", [{"model": f, "weight": 1 / cycles} for f in folders])

        ranks.on_main(save)
        self._test(bundle, backbone, plan)

    def _test(self, bundle: DataBundle, backbone: Backbone, plan: Plan) -> None:
        from finetune.evaluation.ensembles import load_members, mean_probabilities
        from finetune.evaluation.predict import predict_together
        from finetune.evaluation.scores import score_images

        untouched = plan.init == "pretrained" and all(phase.kind == "probe" for phase in plan.phases)
        told: dict[str, Any] = {"threads": self.recipe.data.workers, "listener": self.listener}
        members: dict[str, Any] = {}
        if listed := ranks.on_main(self.folder.members):
            networks = ranks.each(lambda: load_members(listed, self.device))
            parts = predict_together(networks, bundle.test, **told)
            probabilities = mean_probabilities(parts, [weight for _, weight in listed])
            each = [score_images(bundle.test, part, bundle.classes) for part in parts]
            members = {"members": [getattr(one, bundle.task.metric) for one in each]}
        else:
            cache = untouched and self.recipe.probe.cache
            (probabilities,) = predict_together(backbone, bundle.test, cache=cache, **told)
        ranks.on_main(lambda: self._result(bundle, backbone, plan, probabilities, members))

    def _result(
        self, bundle: DataBundle, backbone: Backbone, plan: Plan, probabilities: Any, members: dict[str, Any]
    ) -> None:
        from finetune.evaluation.scores import score_images
        from finetune.evaluation.table import write_answers
        from finetune.export.safetensors import writable

        scores = score_images(bundle.test, probabilities, bundle.classes)
        write_answers(self.folder.path / "predictions.csv", bundle.test, probabilities, bundle.classes)
        if self.figures:
            from finetune.report.run_figures import draw_figures

            name = PurePath(bundle.source).name or "this data set"
            draw_figures(self.folder.path, scores, backbone.stage_names, name, self.recipe.backbone)
        result = {
            "strategy": "given" if self.obeyed else self.recipe.strategy,
            "chosen": plan.strategy,
            "backbone": self.recipe.backbone,
            "data": bundle.source,
            "classes": list(bundle.classes),
            "test": {**scores.to_dict(), **members},
            "train_n": len(bundle.train),
            "val_n": len(bundle.val),
            "quarantined": len(bundle.quarantined),
            "kept": self.folder.kept(),
            "coach": self._coached(),
            "seconds": round(self._elapsed(), 3),
            "trained_parameters": trained_parameters(backbone, plan),
            "parameters": sum(p.numel() for p in backbone.parameters()),
            "image_size": backbone.preprocessing.size,
            "plain": backbone.is_plain,
            "exports": writable(backbone),
            "seed": self.recipe.seed,
            "device": str(self.device),
            "finetune": __version__,
        }
        self.folder.write_json("result.json", result)
        self.listener.on_result(result)

    def _coached(self) -> list[dict[str, Any]] | None:
        """What the coach found in the curves; None where nothing was trained by steps or it was turned off."""
        if not (self.folder.path / "coach.json").is_file():
            return None
        found: list[dict[str, Any]] | None = self.folder.read_json("coach.json").get("findings")
        return found

    def _elapsed(self) -> float:
        return self.earlier + time.monotonic() - self.began

    # --- stopping -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM at any point become Interrupted with what to type next."""
        try:
            with sigterm_raises():
                yield
        except (KeyboardInterrupt, Interrupted) as stop:
            if not self.created and ranks.main():
                raise Interrupted(
                    "Stopped before anything was written. Run the same command again."
                ) from None
            if ranks.main():
                with contextlib.suppress(FinetuneError):
                    self.folder.write_json("timing.json", {"seconds": self._elapsed()})
            if isinstance(stop, Interrupted):
                raise
            raise Interrupted(f"Stopped. Go on with: {self.folder.go_on}") from None


def starting_backbone(plan: Plan, recipe: Recipe, bundle: DataBundle, pretrained: Backbone) -> Backbone:
    """The network that a plan begins with: the given one, or one of random weights on the same device."""
    if plan.init != "random" or not recipe.pretrained:
        return pretrained
    made = advice.network(recipe.model_copy(update={"pretrained": False}), bundle)
    if pretrained.own_statistics:
        made.with_statistics(pretrained.preprocessing)
    return made.to(next(pretrained.parameters()).device)


def trained_parameters(backbone: Backbone, plan: Plan) -> int:
    """Numbers that any phase of the plan changed: those of the trained stages and of the head."""
    moved = {name for name, _ in backbone.head_parameters()}
    for phase in plan.phases:
        if phase.kind == "gradient":
            moved |= {
                name
                for stage in range(phase.train_from, backbone.num_stages)
                for name, parameter in backbone.stage_parameters(stage)
                if phase.trains == "all" or parameter.ndim <= 1
            }
    return sum(parameter.numel() for name, parameter in backbone.named_parameters() if name in moved)


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM as KeyboardInterrupt; outside the main thread Python allows no handlers and nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
