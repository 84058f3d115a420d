"""The sentences and tables between the question and the answer: data, backbone, decision, plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from finetune.cli import screen

if TYPE_CHECKING:
    from rich.console import RenderableType

    from finetune.data.profile import Profile
    from finetune.strategy.cost import Cost
    from finetune.strategy.decision import Decision
    from finetune.strategy.explanation import Explanation
    from finetune.strategy.measure import Evidence
    from finetune.strategy.plan import Plan
    from finetune.zoo.card import ModelCard

_AFFORDABLE = 5.0  # G MACs an image: what a laptop still finetunes in an afternoon


def data_lines(profile: Profile) -> list[str]:
    """What was found, in four lines at most, and what the user should know about it."""
    what, each = _learned(profile)
    width, height = profile.widths[1], profile.heights[1]
    total = sum(profile.splits.values())
    lines = [
        f"{profile.source or 'images'}: {total:,} images, {what}, "
        f"typically {width} x {height} px{', grey' if profile.grey else ''}",
        ", ".join(f"{n:,} {_SPLIT[split]}" for split, n in profile.splits.items()) + f"; {each}",
    ]
    if profile.quarantined:
        images = "image" if profile.quarantined == 1 else "images"
        lines.append(f"{profile.quarantined} unreadable {images} set aside, listed in quarantine.csv")
    return [*lines, *profile.notes]


def _learned(profile: Profile) -> tuple[str, str]:
    """What there is to learn, and how much of it the training images show."""
    if profile.span is not None:
        low, mean, high = (f"{number:.4g}" for number in profile.span)
        return f"the number {profile.classes[0]!r}", f"from {low} to {high} in training, {mean} on average"
    low_count, high_count = min(profile.counts), max(profile.counts)
    each = f"{low_count}" if low_count == high_count else f"{low_count} to {high_count}"
    labels = profile.task == "multi-label"
    nouns = ("any number of {} labels each", "a label") if labels else ("{} classes", "a class")
    return nouns[0].format(profile.num_classes), f"{each} training images {nouns[1]}"


_SPLIT = {"train": "to train", "val": "to validate", "test": "to test"}


def backbone_lines(facts: dict[str, Any]) -> list[str]:
    """The network at hand, and what a bigger one would bring."""
    card: ModelCard = facts["card"]
    arch = "" if card.arch == facts["name"] else f" ({card.arch})"
    threads = (
        f", {facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"
        if facts["device"] == "cpu"
        else ""
    )
    lines = [
        f"{facts['name']}{arch}: {screen.count(facts['parameters'])} parameters, {facts['image_size']} px, "
        f"on {facts['device']}{threads}"
    ]
    if not facts["pretrained"]:
        lines.append("random weights (pretrained=false)")
    elif card.source_dataset != "unknown":
        reached = "" if card.accuracy is None else f", {card.accuracy:.1f}% top-1 there"
        lines.append(f"pretrained on {card.source_dataset}{reached}; licence {card.licence}")
    if card.source == "bundled" and facts["pretrained"]:
        lines += bigger(card)
    return lines


def bigger(card: ModelCard) -> list[str]:
    """What the best affordable card of the zoo would bring; empty where there is none."""
    from finetune.zoo.zoo import load_zoo

    others = [
        c
        for c in load_zoo().values()
        if c.source != "bundled" and c.accuracy is not None and c.macs is not None and c.macs <= _AFFORDABLE
    ]
    if not others:
        return []
    best = max(others, key=lambda c: (c.accuracy or 0, -(c.macs or 0)))
    cost = f"{best.macs:.1f} G multiply-adds an image"
    if card.macs:
        cost = f"about {(best.macs or 0) / card.macs:.0f} times the compute"
    return [
        f"A bigger one sees more: --backbone {best.name} was trained on {best.source_dataset} and has "
        f"{best.accuracy:.1f}% top-1, at {cost} (finetune zoo ls)"
    ]


def show_plan(plan: Plan) -> None:
    """A row a phase."""
    if plan.why:
        screen.say(plan.why)
        screen.say()
    rows = [tuple(row.values()) for row in plan.rows()]
    screen.show(screen.table(tuple(plan.rows()[0]), rows, shrink=(0, 1, 2)))


def show_decision(decision: Decision, stage_names: Sequence[str] = ()) -> None:
    """The table with the chosen cell marked, the numbers behind it, each stage, each strategy, the runner-up."""
    if decision.cell is None:
        screen.say(f"Amount of data: {decision.amount}.")
    else:
        screen.show(two_by_two(decision.cell))
        screen.say()
    for reason in decision.reasons:
        screen.bullet(reason)
    if decision.evidence is not None:
        screen.say()
        if not decision.evidence.blind:
            _show_stages(decision.evidence, stage_names)
            screen.say()
        _show_strategies(decision)
    if decision.cell is not None:
        second = f"; runner-up {decision.runner_up}" if decision.runner_up else ""
        screen.say()
        screen.say(f"Chosen: {decision.chosen}{second}.", style="bold")


def _show_stages(evidence: Evidence, names: Sequence[str]) -> None:
    """What a linear head gets out of each stage, and out of several joined."""
    found = [
        (f"{i} {name}", score) for i, (name, score) in enumerate(zip(names, evidence.stages, strict=False))
    ]
    if len(found) > 1:
        found.append(("several joined", evidence.concat))
    measure = evidence.measure
    rows = [(name, figure_text(measure, *evidence.shown(score))) for name, score in found]
    screen.show(screen.table(("stage", f"{_MEASURES[measure]} of a linear head"), rows, right=(1,)))


def _show_strategies(decision: Decision) -> None:
    """Every strategy with what can be expected of it; the chosen one is marked."""
    from finetune.strategy import STRATEGIES
    from finetune.strategy.explanation import UNKNOWN

    marks = {decision.chosen: "➤ ", decision.runner_up: "· "}
    rows = []
    for entry in STRATEGIES:
        if entry.name == "auto":
            continue
        known = decision.expected.get(entry.name)
        text = decision.unfit.get(entry.name, UNKNOWN)
        if known is not None:
            text = figure_text(decision.measure, *known)
        style = "bold green" if entry.name == decision.chosen else ""
        rows.append((Text(marks.get(entry.name, "  ") + entry.name, style=style), entry.summary, text))
    expected = f"expected {_MEASURES[decision.measure]}"
    screen.show(screen.table(("  strategy", "what it does", expected), rows, shrink=1))


_MEASURES = {"accuracy": "accuracy", "mean_ap": "precision above chance", "r2": "R2"}


def figure_text(measure: str, value: float, se: float) -> str:
    """
    >>> figure_text("accuracy", 0.8349, 0.0123), figure_text("r2", 0.8349, 0.0123)
    ('83.5% +- 1.2', '0.83 +- 0.01')
    """
    return f"{value:.2f} +- {se:.2f}" if measure == "r2" else accuracy_text(value, se)


def accuracy_text(value: float, se: float) -> str:
    """
    >>> accuracy_text(0.8349, 0.0123)
    '83.5% +- 1.2'
    """
    return f"{100 * value:.1f}% +- {100 * se:.1f}"


def show_explanation(found: Explanation) -> None:
    """What the plan's numbers come from, which augmentations stay out, how long it will take."""
    from finetune.strategy.outlook import unknown

    for sentence in filter(None, (found.first_head(), *found.rates())):
        screen.bullet(sentence)
    for sentence in augmentation_lines(found):
        screen.bullet(sentence)
    if found.decision.evidence is not None and (said := unknown(found.decision.evidence)):
        screen.bullet(said)
    if found.cost is not None:
        screen.bullet(cost_line(found.cost))


def augmentation_lines(found: Explanation) -> list[str]:
    """A sentence for each family that is left out, and one for those that were tried and stay."""
    lines = [
        f"Augmentation: no {_FAMILY[trial.family]}: {trial.why}." for trial in found.trials if trial.banned
    ]
    untried = [trial for trial in found.trials if not trial.banned and not trial.images]
    if untried:
        named = ", ".join(_FAMILY[trial.family] for trial in untried)
        lines.append(f"Augmentation: {named} stay, untried: {untried[0].why}.")
    kept = [_FAMILY[trial.family] for trial in found.trials if not trial.banned and trial.images]
    if kept:
        lines.append(
            f"Augmentation: {', '.join(kept)} stay: the labels do not mind, as far as a probe can tell."
        )
    tried = {trial.family for trial in found.trials if trial.banned}
    asked = {f for phase in found.plan.phases if phase.kind == "gradient" for f in phase.avoid} - tried
    if asked:
        lines.append(f"Augmentation: no {', '.join(_FAMILY[f] for f in sorted(asked))}, as asked.")
    return lines


_FAMILY = {
    "flip": "left-right flips",
    "crop": "random crops",
    "colour": "changes of colour",
    "rotation": "rotations",
}


def cost_line(cost: Cost) -> str:
    """The estimate, rounded so that nobody takes it for a promise."""
    step = "" if cost.step is None else f" and {_milliseconds(cost.step)} to train on it"
    return (
        f"Time: roughly {roughly(cost.seconds)} ({_milliseconds(cost.forward)} an image to look at it{step})."
    )


def roughly(seconds: float) -> str:
    """A duration to one digit or two: an estimate knows no more.

    >>> [roughly(s) for s in (0.2, 37, 141, 1700, 5000, 90_000)]
    ['1 s', '40 s', '2 min', '30 min', '1.4 h', '25 h']
    """
    if seconds < 55:
        return f"{max(1, round(seconds) if seconds < 10 else 10 * round(seconds / 10))} s"
    if seconds < 3300:
        minutes = seconds / 60
        return f"{round(minutes) if minutes < 10 else 5 * round(minutes / 5)} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 9.95 else f"{hours:.0f} h"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2g} ms"


def two_by_two(cell: tuple[str, str]) -> RenderableType:
    """The courses' table; the chosen cell is marked by an arrow, so that it shows without colours too."""
    from rich import box
    from rich.table import Table

    from finetune.strategy.table import COLUMNS, ROWS, TEXTBOOK

    found = Table(box=box.ROUNDED, show_lines=True, padding=(0, 1), header_style="none")
    found.add_column("", width=14)
    for column in COLUMNS:
        found.add_column(f"{column} data set", ratio=1)
    for row in ROWS:
        cells = []
        for column in COLUMNS:
            _, words = TEXTBOOK[row, column]
            here = (row, column) == cell
            cells.append(Text(f"➤ {words}" if here else words, style="bold green" if here else "dim"))
        found.add_row(Text(row), *cells)
    return found
