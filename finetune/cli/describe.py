"""The sentences and tables between the question and the answer: data, backbone, decision, plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.cli import screen

if TYPE_CHECKING:
    from finetune.data.profile import Profile
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
        f"{profile.source or 'images'}: {total:,} images, {profile.num_classes} classes, typically {width} x {height} px"
        + (", grey" if profile.grey else ""),
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
