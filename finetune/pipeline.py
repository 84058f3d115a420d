"""One run from recipe to result: data, backbone, decision, plan, training, test, files."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune import advice, process_group, ranks, runtime
from finetune.advice import Setup
from finetune.errors import FinetuneError, Interrupted, RunError
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.strategy.plan import Plan
from finetune.training.deadline import Deadline, fitted, late_line
from finetune.training.interrupt import sigterm_raises

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
        began: float | None = None,
        seconds: float | None = None,
    ) -> None:
        """``began``: the ``time.monotonic()`` from which the run's seconds count, default: now. ``seconds``: the time
        for it, default: ``train.time``."""
        self.recipe, self.folder, self.given, self.given_plan = recipe, folder, data, plan
        self.listener, self.figures = listener, figures
        self.created = False
        self.obeyed = False
        """Whether the plan was given instead of decided."""
        self.began = time.monotonic() if began is None else began
        self.earlier = 0.0
        """Seconds spent by attempts before this one."""
        limit = recipe.train.time if seconds is None else seconds
        # A plan that was given says itself how long its phases train.
        self.deadline = None if limit is None or plan is not None else Deadline(limit, self.began)

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
                if self.deadline is not None:
                    self.deadline.go_on(self.earlier)
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
        if not ranks.alone():
            advice.require_alike(setup)
            self.listener.on_message(runtime.processes_line(setup.device, setup.threads))

        def prepare() -> None:
            if create:
                self.folder.create(self.recipe, setup.given[1] if setup.given else None)
                self.created = True
                self.folder.record_images(setup.bundle)
                self._glance(setup.bundle)
                self.folder.write_json("env.json", runtime.environment(setup.device))
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
        for line in found.messages(self.recipe.data.path):
            self.listener.on_message(line)

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
            found = self._race(found, setup, self._budget(self.recipe.budget))
        found, dropped = self._in_time(found)
        title = "What this run does. A plan may be edited and given to finetune run --plan FILE."
        self._explain(found)
        if dropped is not None:
            self.listener.on_message(dropped)
        self.folder.write_text("plan.yaml", found.plan.annotated_yaml(title, setup.backbone.stage_names))
        return found.plan

    def _budget(self, asked: float) -> float:
        """Seconds for a race: of a run that has a time at most half of what is left of it."""
        if self.deadline is None or asked <= (left := max(0.0, self.deadline.left()) / 2):
            return asked
        self.listener.on_message(
            f"The race gets {left:.0f} s, half of what train.time leaves, instead of {asked:g} s."
        )
        return left

    def _in_time(self, found: Explanation) -> tuple[Explanation, str | None]:
        """The explanation of what fits into train.time, and a word on what does not."""
        if self.deadline is None or found.cost is None:
            return found, None
        fit_on = self.recipe.probe.fit_on
        plan, cost, said = fitted(found.plan, found.cost, self.deadline, self.figures, fit_on)
        return replace(found, plan=plan, cost=cost), said

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
        from finetune.training.execute import carried_out, execute
        from finetune.zoo.model_folder import save_backbone

        bundle = setup.bundle
        backbone = starting_backbone(plan, self.recipe, bundle, setup.backbone)
        if self.obeyed:
            self.deadline = None
        backbone = execute(
            plan,
            backbone,
            bundle,
            self.recipe,
            self.folder.path,
            self.listener,
            resume,
            deadline=self.deadline,
        )
        backbone.eval()
        plan = ranks.on_main(lambda: carried_out(plan, self.folder.read_json("training.json")))

        def save() -> None:
            save_backbone(backbone, self.folder.model, classes=bundle.classes)
            facts = self.folder.read_json("training.json")["phases"].get(str(len(plan.phases) - 1), {})
            if cycles := facts.get("snapshots"):
                folders = [f"snapshots/{number}" for number in range(1, cycles + 1)]
                self.folder.write_members("snapshots", [{"model": f, "weight": 1 / cycles} for f in folders])

        ranks.on_main(save)
        self._test(setup, plan, backbone)

    def _test(self, setup: Setup, plan: Plan, backbone: Backbone) -> None:
        from finetune.result import answers_of, write_result

        answers = answers_of(self.recipe, self.folder, setup, plan, backbone, self.listener)

        def write() -> None:
            result = write_result(
                self.recipe, self.folder, setup, plan, backbone, answers, listener=self.listener,
                obeyed=self.obeyed, figures=self.figures, elapsed=self._elapsed,
            )  # fmt: skip
            if self.deadline is not None and (said := late_line(plan, self.deadline)) is not None:
                self.listener.on_message(said)
            self.listener.on_result(result)

        ranks.on_main(write)

    def _elapsed(self) -> float:
        # The deadline knows of attempts that were killed too.
        return (
            self.deadline.spent()
            if self.deadline is not None
            else self.earlier + time.monotonic() - self.began
        )

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
