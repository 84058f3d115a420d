"""One cell: train an arm on a data set at a size with a seed, and say how well it does.

``size`` is the number of labelled images a class that training and validation have *together*: `data.limit_per_class`
as a user sets it. Validation takes its 15% of them, at least one of each class, so at 2 images a class one trains and
one validates; where a data set brings a validation split of its own beside a test set, it is cut to ``size`` too.
The test set is never cut. Every row says how many of each there were. An arm whose plan does not end with a training
on both together gets one, under the same condition as the library's own, so that no arm has more images than another.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.regret.arms import AUTO, RACE, Arm, refitted, scaled, trains_again
from benchmarks.regret.cases import Case, size_name
from benchmarks.regret.identity import commit, digest_of, machine, network_name
from benchmarks.regret.order import Cell
from benchmarks.regret.validation import held_out, probe_held_out
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.strategy.plan import GradientPhase, Plan
from finetune.version import __version__

if TYPE_CHECKING:
    from finetune.api import Run
    from finetune.data.imageset import DataBundle
    from finetune.data.load import ReadFolder
    from finetune.strategy.context import Context
    from finetune.zoo.backbone import Backbone

_NEVER = 10**6
"""Steps between checkpoints: a killed row is measured again from its start, so none is of use."""


class Clock(Listener):
    """Seconds between the network being ready and the decision."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.decided: float | None = None

    def on_backbone(self, facts: dict[str, Any]) -> None:
        self.began = time.perf_counter()

    def on_decision(self, decision: Any) -> None:
        if self.began is not None:
            self.decided = time.perf_counter() - self.began


@dataclass
class Bench:
    """What all cells of a run share: backbone, recipe, and the data set read last."""

    backbone_name: str
    overrides: Sequence[str] = ()
    code: str = __version__
    arms: Mapping[str, Arm] = field(default_factory=dict)
    _read: tuple[Path, ReadFolder] | None = None
    _bundle: tuple[tuple[Any, ...], DataBundle] | None = None

    @cached_property
    def recipe(self) -> Recipe:
        """Of every cell, but for data, size, seed and strategy. Raises ConfigError."""
        return Recipe.from_mapping({"backbone": self.backbone_name}).override(*self.overrides)

    @cached_property
    def backbone(self) -> Backbone:
        """The pretrained network, never trained here. Raises ZooError."""
        from finetune import runtime
        from finetune.zoo.create import create_backbone

        runtime.configure_threads(runtime.choose_threads(self.recipe.threads))
        made = create_backbone(self.backbone_name, pretrained=True, image_size=self.recipe.data.image_size)
        return made.to(runtime.choose_device(self.recipe.device)).eval()

    @cached_property
    def network(self) -> str:
        """The backbone's column."""
        return network_name(self.backbone)

    @cached_property
    def recipe_digest(self) -> str:
        """The recipe's column."""
        return digest_of(self.recipe)

    @cached_property
    def here(self) -> dict[str, str]:
        """The columns about the machine and the checkout."""
        return {"commit": commit(), "machine": machine(next(self.backbone.parameters()).device)}

    def key(self, cell: Cell) -> dict[str, str]:
        """The columns that name a row."""
        return {
            "data": cell.case.name, "size": size_name(cell.size), "seed": str(cell.seed), "backbone": self.network,
            "arm": cell.arm, "lr": cell.lr, "recipe": self.recipe_digest, "code": self.code,
        }  # fmt: skip

    def facts(self) -> dict[str, str]:
        """The columns about where and when."""
        return {**self.here, "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d")}

    # --- the cell ---------------------------------------------------------------------------------------

    def cell_recipe(self, cell: Cell, strategy: str = AUTO) -> Recipe:
        """The recipe of one row."""
        data = self.recipe.data.model_dump(exclude_unset=True)
        keys = {
            "group_by": cell.case.group_by,
            **data,
            "path": str(cell.case.path),
            "limit_per_class": cell.size,
        }
        train = {"save_every": _NEVER, **self.recipe.train.model_dump(exclude_unset=True)}
        return self.recipe.override(data=keys, train=train, seed=cell.seed, strategy=strategy)

    def bundle(self, cell: Cell) -> DataBundle:
        """The cell's images; a data set is decoded once as long as its cells follow each other."""
        key = (cell.case.path, cell.size, cell.seed)
        if self._bundle is None or self._bundle[0] != key:
            recipe = self.cell_recipe(cell)
            made = self.reading(cell.case, recipe).split(recipe.data, cell.seed)
            self._bundle = (key, made)
            self.warm(made)
        return self._bundle[1]

    def reading(self, case: Case, recipe: Recipe) -> ReadFolder:
        """The opened files of a data set."""
        from finetune.data.load import read_folder

        if self._read is None or self._read[0] != case.path:
            self._read = None  # the old one's pixels go before the new one's come
            self._read = (case.path, read_folder(recipe.data))
        return self._read[1]

    def warm(self, bundle: DataBundle) -> None:
        """Every image through the frozen network once, cached: no clock of any arm has to pay for it."""
        from finetune.data.imageset import Joined

        self._features(Joined(Joined(bundle.train, bundle.val), bundle.test))

    def _features(self, images: Any) -> Any:
        from finetune.features.extract import extract

        return extract(
            self.backbone,
            images,
            device=next(self.backbone.parameters()).device,
            cache=self.recipe.probe.cache,
            threads=self.recipe.data.workers,
            message=lambda text: None,
        )

    def measure(self, cell: Cell) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The row of a cell, and for `auto` the evidence. Raises whatever the run raises."""
        bundle = self.bundle(cell)
        folder = Path(tempfile.mkdtemp(prefix="regret-"))
        try:
            decides = cell.arm == AUTO or cell.arm.startswith(RACE)
            measured = self._auto(cell, bundle, folder) if decides else self._arm(cell, bundle, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        row, record = measured
        sizes = {"train_n": len(bundle.train), "val_n": len(bundle.val), "classes": len(bundle.classes)}
        return {**self.key(cell), **self.facts(), **sizes, "status": "ok", **row}, record

    def _arm(self, cell: Cell, bundle: DataBundle, folder: Path) -> tuple[dict[str, Any], None]:
        recipe = self.cell_recipe(cell)
        ctx = self.context(recipe, bundle)
        plan = scaled(self.arms[cell.arm].make(ctx), cell.lr)
        first = self._run(recipe, bundle, plan, folder / "first")
        row = {**_figures(first), **self._validation(plan, first, bundle, recipe)}
        gradients = any(isinstance(phase, GradientPhase) for phase in plan.phases)
        if gradients and not trains_again(plan) and _refits(ctx):
            second = self._run(recipe, bundle, refitted(plan), folder / "second")
            seconds = row["seconds"] + second.result["seconds"]
            row = {**row, **_figures(second), "seconds": round(seconds, 2)}
        row["plan"] = hashlib.sha256(plan.model_copy(update={"why": ""}).to_yaml().encode()).hexdigest()[:8]
        return row, None

    def _auto(self, cell: Cell, bundle: DataBundle, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        from finetune.api import run

        recipe, clock = self.cell_recipe(cell), Clock()
        if cell.arm != AUTO:
            recipe = recipe.override(budget=cell.arm.removeprefix(RACE))
        done = run(recipe.override(out=str(folder / "auto")), data=bundle, listener=clock, figures=False)
        plan = Plan.from_yaml((done.path / "plan.yaml").read_text(encoding="utf-8"))
        decision = done.decision
        record = {"decision": decision, **self.scorers(bundle, recipe), "plan": plan.model_dump(mode="json")}
        expected = decision.get("evidence", {}).get("expected", {})
        row = {
            **_figures(done),
            **self._validation(plan, done, bundle, recipe),
            "decide_seconds": None if clock.decided is None else round(clock.decided, 2),
            "chosen": decision["chosen"],
            "amount": decision["amount"],
            "similarity": decision["similarity"],
            "expected": json.dumps({k: round(v["accuracy"], 4) for k, v in expected.items()})
            if expected
            else "",
        }
        return row, record

    def context(self, recipe: Recipe, bundle: DataBundle) -> Context:
        """What the arms' plans are made from."""
        from finetune.strategy.context import Context
        from finetune.strategy.evidence import gather

        return Context.of(
            recipe,
            bundle.train.labels,
            len(bundle.classes),
            self.backbone,
            lambda: gather(recipe, bundle, self.backbone, Listener()),
            len(bundle.val),
        )

    def _run(self, recipe: Recipe, bundle: DataBundle, plan: Plan, out: Path) -> Run:
        from finetune.api import run

        return run(recipe.override(out=str(out)), data=bundle, plan=plan, figures=False)

    def scorers(self, bundle: DataBundle, recipe: Recipe) -> dict[str, Any]:
        """Transferability scores of the training images, for the rivals that go by a single one."""
        from benchmarks.regret.logme import logme
        from finetune.strategy.measure import sample_indices

        images = bundle.train.subset(sample_indices(bundle.train.labels, seed=recipe.seed))
        found = self._features(images)
        values = [logme(tap, found.labels, len(bundle.classes)) for tap in found.taps]
        return {"logme": values[-1], "logme_stages": values}

    def _validation(self, plan: Plan, done: Run, bundle: DataBundle, recipe: Recipe) -> dict[str, Any]:
        """What a user would have seen of the plan before the test: held-out accuracy and log-loss."""
        if any(isinstance(phase, GradientPhase) for phase in plan.phases):
            return held_out(json.loads((done.path / "training.json").read_text(encoding="utf-8")), plan)
        if not len(bundle.val):
            return {}
        train, val = self._features(bundle.train), self._features(bundle.val)
        return probe_held_out(plan, train, val, len(bundle.classes), recipe.seed)


def _figures(done: Run) -> dict[str, Any]:
    result = done.result
    return {
        "accuracy": round(result["test"]["accuracy"], 5),
        "test_n": result["test"]["n"],
        "seconds": round(result["seconds"], 2),
        "image_size": result["image_size"],
        "trained_parameters": result["trained_parameters"],
        "chosen": result["chosen"],
    }


def _refits(ctx: Context) -> bool:
    from finetune.strategy.tuned import refits

    return refits(ctx)
