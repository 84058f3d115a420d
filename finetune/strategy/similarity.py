"""How similar the images are to what the network was pretrained on, as far as a frozen network can tell."""

from __future__ import annotations

from finetune.strategy.measure import Evidence


def similarity_of(evidence: Evidence) -> tuple[float, tuple[str, ...]]:
    """Similarity in [0, 1] and the figures behind it, in words.

    What counts is whether the task separates in the last stage as well as it could; how pictures look does
    not decide (arXiv 2410.08194). Three parts, each pulled to 1/2 by its own standard error, so that twenty
    images do not speak as loudly as two thousand:

    - headroom: share of the last stage's errors that earlier stages mend. 0 is similar, 30% is far;
    - bought: the share of the last stage's accuracy that the first stage lacks. 60% is similar, 0 is far;
    - distance (where the backbone has source statistics): 1 is the source itself, 1.5 and more is far.

    Weights .4, .2, .4 and the end points are proposals, set on the six visible data sets.
    """
    if evidence.blind:
        return _similarity_unlabelled(evidence.source_distance)
    last, se = evidence.last.value, evidence.last.se
    error, seen = max(1 - last, se), max(last, se, 1e-6)
    headroom = evidence.gain / error
    bought = evidence.affinity / seen
    parts = [
        (
            0.4,
            1 - headroom / 0.3,
            se / error / 0.3,
            f"earlier stages would mend {_share(headroom)} of its errors",
        ),
        (
            0.2,
            bought / 0.6,
            1.4 * se / seen / 0.6,
            f"{_share(bought)} of its accuracy is not in the first stage yet",
        ),
    ]
    if evidence.source_distance is not None:
        far = evidence.source_distance
        parts.append((0.4, 1 - (far - 1) / 0.5, 0.0, f"feature distance {far:.2f}x the source's own"))
    total = sum(weight for weight, *_ in parts)
    value = 0.0
    for weight, raw, noise, _ in parts:
        value += weight / total * (0.5 + (min(1.0, max(0.0, raw)) - 0.5) / (1 + (2 * noise) ** 2))
    said = tuple(words for *_, words in parts)
    if evidence.source_distance is None:
        said += ("no source statistics for this backbone: judged by the labels alone",)
    return value, said


def _similarity_unlabelled(distance: float | None) -> tuple[float, tuple[str, ...]]:
    """Where no label could be checked: the feature distance alone, pulled half way to 1/2; or 1/2."""
    said = "with one image a class nothing can be left out, so the labels tell nothing"
    if distance is None:
        return 0.5, (said,)
    raw = min(1.0, max(0.0, 1 - (distance - 1) / 0.5))
    return 0.25 + 0.5 * raw, (said, f"feature distance {distance:.2f}x the source's own")


def _share(value: float) -> str:
    return f"{100 * min(1.0, max(0.0, value)):.0f}%"
