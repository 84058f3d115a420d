"""One run from recipe to result: data, backbone, decision, plan, training, test, files."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from finetune import runtime
from finetune.errors import ConfigError, FinetuneError, Interrupted, RunError, must
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.strategy import STRATEGIES
from finetune.strategy.plan import Plan
from finetune.version import __version__

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle
    from finetune.strategy.context import Context
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
        self.obeyed: tuple[Plan, str] | None = None
        """A plan that was given instead of decided, and its text."""
        self.began = time.monotonic()
        self.earlier = 0.0
        """Seconds spent by attempts before this one."""

    def start(self) -> None:
        """A new run. Where it fails before training there is nothing to keep, and the folder goes again."""
        with self._interruptible():
            try:
                bundle, backbone = self._prepare()
                plan = self._obey(bundle, backbone) if self.obeyed else self._decide(bundle, backbone)
            except FinetuneError as error:
                if self.created and not isinstance(error, Interrupted):
                    self.folder.discard()
                raise
            self._finish(bundle, backbone, plan, resume=False)

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
            if (self.folder.path / "timing.json").is_file():
                self.earlier = float(self.folder.read_json("timing.json").get("seconds", 0.0))
            bundle, backbone = self._prepare(create=False)
            saved = self.folder.path / "plan.yaml"
            if saved.is_file():
                plan = Plan.from_yaml(saved.read_text(encoding="utf-8"), str(saved))
                if not (self.folder.path / "decision.json").is_file():
                    self._say_given(
                        bundle, backbone, plan
                    )  # only a given plan lies there before it is explained
                self.listener.on_plan(plan)
            else:
                plan = self._decide(bundle, backbone)
            self._finish(bundle, backbone, plan, resume=True)

    # --- the steps ------------------------------------------------------------------------------------

    def _prepare(self, create: bool = True) -> tuple[DataBundle, Backbone]:
        recipe = self.recipe
        STRATEGIES.entry(recipe.strategy)
        if self.given is None and recipe.data.path is None:
            raise ConfigError(
                must("data.path", "a folder with one sub-folder per class", None, "Use --data DIR.")
            )
        from finetune.zoo.create import create_backbone
        from finetune.zoo.zoo import card

        card(recipe.backbone)  # a typo shows before the images are read
        if self.given_plan is not None:
            self._read_plan(self.given_plan)
        self.device = runtime.choose_device(recipe.device)
        self.threads = runtime.choose_threads(recipe.threads)
        runtime.configure_threads(self.threads)
        runtime.seed_everything(recipe.seed)
        bundle = self._data()
        backbone = create_backbone(
            recipe.backbone,
            pretrained=recipe.pretrained,
            num_classes=len(bundle.classes),
            image_size=recipe.data.image_size,
            seed=recipe.seed,
        )
        self.listener.on_backbone(_facts(backbone, self.device, self.threads))
        if create:
            self.folder.create(recipe, self.obeyed[1] if self.obeyed else None)
            self.created = True
            self.folder.record_images(bundle)
            self.folder.write_json("env.json", runtime.environment(self.device))
        else:
            self.folder.require_same_images(bundle)
        return bundle, backbone.to(self.device)

    def _data(self) -> DataBundle:
        from finetune.data.load import load_data
        from finetune.data.profile import profile

        bundle = self.given if self.given is not None else load_data(self.recipe.data, self.recipe.seed)
        self.listener.on_data(profile(bundle))
        return bundle

    def _read_plan(self, given: PlanLike) -> None:
        """The given plan, checked against an empty network: before the images, and before any download."""
        from finetune.training.plan_file import decided_by_plan, read_plan
        from finetune.zoo.create import create_backbone

        recipe = self.recipe
        empty = create_backbone(recipe.backbone, pretrained=False, image_size=recipe.data.image_size)
        self.obeyed = read_plan(given, empty.num_stages, recipe.backbone)
        unused = decided_by_plan(recipe)
        if unused:
            self.listener.on_message(f"The plan decides, not the recipe: {', '.join(unused)}.")

    def _obey(self, bundle: DataBundle, backbone: Backbone) -> Plan:
        """The given plan; plan.yaml was written with the folder."""
        assert self.obeyed is not None
        plan, _ = self.obeyed
        self._say_given(bundle, backbone, plan)
        self.listener.on_plan(plan)
        return plan

    def _say_given(self, bundle: DataBundle, backbone: Backbone, plan: Plan) -> None:
        from finetune.strategy.decision import given

        said = ("The plan was given: nothing was measured or decided.",)
        decision = replace(given(self._context(bundle, backbone), plan.strategy), reasons=said)
        self.folder.write_json("decision.json", decision.to_dict())
        self.listener.on_decision(decision)

    def _context(self, bundle: DataBundle, backbone: Backbone) -> Context:
        from finetune.strategy.context import Context
        from finetune.strategy.evidence import gather

        return Context.of(
            self.recipe,
            bundle.train.labels,
            len(bundle.classes),
            backbone,
            lambda: gather(self.recipe, bundle, backbone, self.listener),
            len(bundle.val),
        )

    def _decide(self, bundle: DataBundle, backbone: Backbone) -> Plan:
        from finetune.strategy.auto import choose
        from finetune.strategy.decision import informed

        ctx = self._context(bundle, backbone)
        plan, decision = choose(ctx)
        if decision.evidence is None and _worth_measuring(plan):
            decision = informed(decision, ctx)
        self.folder.write_json("decision.json", decision.to_dict())
        self.listener.on_decision(decision)
        self.folder.write_text("plan.yaml", plan.to_yaml())
        self.listener.on_plan(plan)
        return plan

    def _finish(self, bundle: DataBundle, backbone: Backbone, plan: Plan, *, resume: bool) -> None:
        from finetune.training.execute import execute
        from finetune.zoo.create import create_backbone, save_backbone

        if plan.init == "random" and self.recipe.pretrained:
            backbone = create_backbone(
                self.recipe.backbone,
                pretrained=False,
                num_classes=len(bundle.classes),
                image_size=self.recipe.data.image_size,
                seed=self.recipe.seed,
            ).to(self.device)
        backbone = execute(plan, backbone, bundle, self.recipe, self.folder.path, self.listener, resume)
        backbone.eval()
        save_backbone(backbone, self.folder.model, classes=bundle.classes)
        self._test(bundle, backbone, plan)

    def _test(self, bundle: DataBundle, backbone: Backbone, plan: Plan) -> None:
        from finetune.evaluation.metrics import score
        from finetune.evaluation.predict import predict_images
        from finetune.evaluation.table import write_predictions

        untouched = plan.init == "pretrained" and all(phase.kind == "probe" for phase in plan.phases)
        probabilities = predict_images(
            backbone,
            bundle.test,
            cache=untouched and self.recipe.probe.cache,
            threads=self.recipe.data.workers,
            listener=self.listener,
        )
        scores = score(bundle.test.labels, probabilities, bundle.classes)
        names = [bundle.test.name(i) for i in range(len(bundle.test))]
        write_predictions(
            self.folder.path / "predictions.csv", names, probabilities, bundle.classes, bundle.test.labels
        )
        if self.figures:
            from finetune.report.run_figures import draw_figures

            draw_figures(self.folder.path, scores, backbone.stage_names)
        result = {
            "strategy": self.recipe.strategy,
            "chosen": plan.strategy,
            "backbone": self.recipe.backbone,
            "data": bundle.source,
            "classes": list(bundle.classes),
            "test": scores.to_dict(),
            "train_n": len(bundle.train),
            "val_n": len(bundle.val),
            "quarantined": len(bundle.quarantined),
            "kept": self.folder.kept(),
            "seconds": round(self._elapsed(), 3),
            "trained_parameters": trained_parameters(backbone, plan),
            "parameters": sum(p.numel() for p in backbone.parameters()),
            "image_size": backbone.preprocessing.size,
            "seed": self.recipe.seed,
            "device": str(self.device),
            "finetune": __version__,
        }
        self.folder.write_json("result.json", result)
        self.listener.on_result(result)

    def _elapsed(self) -> float:
        return self.earlier + time.monotonic() - self.began

    # --- stopping -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM at any point become Interrupted with what to type next."""
        try:
            with _sigterm_raises():
                yield
        except (KeyboardInterrupt, Interrupted) as stop:
            if not self.created:
                raise Interrupted(
                    "Stopped before anything was written. Run the same command again."
                ) from None
            with contextlib.suppress(FinetuneError):
                self.folder.write_json("timing.json", {"seconds": self._elapsed()})
            if isinstance(stop, Interrupted):
                raise
            raise Interrupted(f"Stopped. Go on with: {self.folder.go_on}") from None


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


def _facts(backbone: Backbone, device: Any, threads: int) -> dict[str, Any]:
    return {
        "name": backbone.name,
        "card": backbone.card,
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "image_size": backbone.preprocessing.size,
        "stages": list(backbone.stage_names),
        "device": str(device),
        "threads": threads,
    }


def _worth_measuring(plan: Plan) -> bool:
    """Whether a given strategy costs more than the seconds of measuring."""
    one_stage = all(phase.kind == "probe" and len(phase.candidates) == 1 for phase in plan.phases)
    return plan.init == "pretrained" and not one_stage


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
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
