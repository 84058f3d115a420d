"""The sentences and tables between the question and the answer: data, backbone, decision, plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.cli import screen

if TYPE_CHECKING:
    from rich.console import RenderableType

    from finetune.data.profile import Profile
    from finetune.strategy.decision import Decision
    from finetune.strategy.plan import Plan
    from finetune.zoo.card import ModelCard

_AFFORDABLE = 5.0  # G MACs an image: what a laptop still finetunes in an afternoon


def data_lines(profile: Profile) -> list[str]:
    """What was found, in four lines at most, and what the user should know about it."""
    low, high = min(profile.counts), max(profile.counts)
    each = f"{low}" if low == high else f"{low} to {high}"
    width, height = profile.widths[1], profile.heights[1]
    total = sum(profile.splits.values())
    lines = [
        f"{profile.source or 'images'}: {total:,} images, {profile.num_classes} classes, "
        f"typically {width} x {height} px{', grey' if profile.grey else ''}",
        ", ".join(f"{n:,} {_SPLIT[split]}" for split, n in profile.splits.items())
        + f"; {each} training images a class",
    ]
    if profile.quarantined:
        images = "image" if profile.quarantined == 1 else "images"
        lines.append(f"{profile.quarantined} unreadable {images} set aside, listed in quarantine.csv")
    return [*lines, *profile.notes]


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
    if card.source_dataset != "unknown":
        reached = "" if card.accuracy is None else f", {card.accuracy:.1f}% top-1 there"
        lines.append(f"pretrained on {card.source_dataset}{reached}; licence {card.licence}")
    if card.source == "bundled":
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
    screen.show(screen.table(tuple(plan.rows()[0]), rows, shrink=2))


def show_decision(decision: Decision) -> None:
    """The table with the chosen cell marked, the numbers behind it, the runner-up."""
    if decision.cell is None:
        screen.say(f"Amount of data: {decision.amount}.")
    else:
        screen.show(two_by_two(decision.cell))
        screen.say()
    for reason in decision.reasons:
        screen.bullet(reason)
    if decision.cell is not None:
        second = f"; runner-up {decision.runner_up}" if decision.runner_up else ""
        screen.say()
        screen.say(f"Chosen: {decision.chosen}{second}.", style="bold")


def two_by_two(cell: tuple[str, str]) -> RenderableType:
    """The courses' table; the chosen cell is marked by an arrow, so that it shows without colours too."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

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
