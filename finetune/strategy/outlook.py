"""What more images would bring, read off the last doubling of the images at hand; rough, and often not known."""

from __future__ import annotations

import math

from finetune.strategy.measure import Evidence

POINTS = 0.05
_MOST = 16
"""Times as many images: beyond that a curve of three points tells nothing."""


def more_images_for(evidence: Evidence, points: float = POINTS) -> int | None:
    """Further images a class for ``points`` (share) more accuracy of the linear head; rough.

    The error is taken to fall by the same factor with every doubling. None where nothing above guessing was seen,
    where more images did not help beyond the noise, and where it would take more than 16 times as many.
    """
    if evidence.guessing or len(evidence.curve) < 2:
        return None
    (few, before), (many, after) = evidence.curve[-2:]
    wanted = points / (1 - 1 / evidence.num_classes)
    error, earlier = 1 - after, 1 - before
    if not 0 < error < earlier or error - wanted <= 0 or after - before <= noise(evidence):
        return None
    doublings = math.log(error / (error - wanted)) / math.log(earlier / error) * math.log2(many / few)
    return math.ceil(evidence.median * (2**doublings - 1)) if doublings <= math.log2(_MOST) else None


def noise(evidence: Evidence) -> float:
    """Standard error of the curve's last rise, chance-normalised: binomial, each point on all measured images.

    Both are about the same images, so the rise is known somewhat better than this says.
    """
    k = evidence.num_classes
    shares = [min(1.0, max(0.0, value * (1 - 1 / k) + 1 / k)) for _, value in evidence.curve[-2:]]
    return math.hypot(*(math.sqrt(p * (1 - p) / evidence.measured) for p in shares)) / (1 - 1 / k)


def unknown(evidence: Evidence) -> str | None:
    """Why it is not known how many more images would help; None where it is, or where no accuracy is measured."""
    if evidence.measure != "accuracy" or more_images_for(evidence) is not None:
        return None
    if not evidence.blind and evidence.guessing:
        return "More images: what they would bring is not known: no stage tells the classes from guessing."
    if 1 - evidence.shown(evidence.last)[0] < POINTS:
        return "More images: the linear head has less than 5 points left to gain."
    if len(evidence.curve) < 2:
        return "More images: how many would give 5 points is not known: too few images to see a trend."
    (few, before), (many, after) = evidence.curve[-2:]
    share = 1 - 1 / evidence.num_classes
    rise, error = 100 * share * (after - before), 100 * share * noise(evidence)
    if rise <= 0:
        return (
            "More images: how many would give 5 points is not known; more hardly helped the linear head here."
        )
    gave = f"{many} instead of {few} gave the linear head {rise:.1f} points"
    if rise <= error:
        return f"More images: how many would give 5 points is not known: {gave}, within the noise (+-{error:.1f})."
    return f"More images: {gave}; 5 more would take over {_MOST} times as many as there are."
