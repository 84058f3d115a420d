"""What is said of groups that a split kept whole: how many, and what that made of the shares."""

from __future__ import annotations

from collections.abc import Sequence

_FAR = 0.05
"""Shares further than this from those asked for are told."""


def kept_whole(groups: Sequence[object] | None, sizes: Sequence[int], wanted: Sequence[float]) -> list[str]:
    """A note on the groups of the images that were divided into sets of these sizes; none without groups.

    >>> kept_whole(["a", "a", "a", "b"], (3, 1), (0.85, 0.15))
    ['2 groups are kept whole, so the shares are 75% / 25%, not 85% / 15%.']
    """
    total = sum(sizes)
    if groups is None or not total:
        return []
    shares = [size / total for size in sizes]
    said = f"{len(set(groups)):,} groups are kept whole"
    if all(abs(share - asked) <= _FAR for share, asked in zip(shares, wanted, strict=True)):
        return [f"{said}."]
    return [f"{said}, so the shares are {_percent(shares)}, not {_percent(wanted)}."]


def _percent(shares: Sequence[float]) -> str:
    return " / ".join(f"{share:.0%}" for share in shares)
