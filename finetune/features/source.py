"""Source statistics: what the pretrained network's features look like on the data it was trained on.

For each stage: the mean, the leading directions of the covariance and the variance left over; and, of images the
network has *not* trained on, the quantiles of the distance to that distribution. A new data set whose images fall
between the 5% and the 95% quantile looks to the network like its own source. That is evidence of similarity, not
proof: how pictures look does not decide whether a task separates (arXiv 2410.08194).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from finetune.errors import ZooError
from finetune.files import atomic_path

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
DIRECTIONS = 64


@dataclass(frozen=True)
class StageStatistics:
    """Of one stage with C channels."""

    mean: np.ndarray
    """(C,)"""
    directions: np.ndarray
    """(R, C) orthonormal, R <= 64: the leading eigenvectors of the covariance."""
    variances: np.ndarray
    """(R,) variance along each direction."""
    rest: float
    """Mean variance along every other direction."""
    quantiles: np.ndarray
    """(7,) of ``distance`` on unseen source images, at 1, 5, 25, 50, 75, 95 and 99 per cent."""

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Mahalanobis distance under the low-rank covariance, divided by sqrt(C): (N, C) -> (N,)."""
        centred = np.asarray(features, dtype=np.float32) - self.mean
        along = centred @ self.directions.T
        outside = np.maximum((centred**2).sum(1) - (along**2).sum(1), 0)
        squared = (along**2 / self.variances).sum(1) + outside / self.rest
        distance: np.ndarray = np.sqrt(squared / features.shape[1])
        return distance

    def share_inside(self, features: np.ndarray) -> float:
        """Share of the images (N, C) whose distance lies in the source's 5-95% band: 0.9 for the source itself."""
        distance = self.distance(features)
        return float(((distance >= self.quantiles[1]) & (distance <= self.quantiles[5])).mean())


@dataclass(frozen=True)
class SourceStatistics:
    """One StageStatistics per stage, input to head."""

    stages: tuple[StageStatistics, ...]

    @classmethod
    def measure(cls, seen: Sequence[np.ndarray], unseen: Sequence[np.ndarray]) -> SourceStatistics:
        """From the taps [(N, C_i), ...] of training images and those of held-out source images."""
        return cls(tuple(_measure(a, b) for a, b in zip(seen, unseen, strict=True)))

    def save(self, path: Path) -> None:
        """As safetensors, atomically. Raises RunError on a full disk."""
        from safetensors.torch import save

        tensors: dict[str, torch.Tensor] = {}
        for i, stage in enumerate(self.stages):
            tensors[f"{i}.mean"] = torch.from_numpy(stage.mean.astype(np.float32))
            tensors[f"{i}.directions"] = torch.from_numpy(
                np.ascontiguousarray(stage.directions, dtype=np.float32)
            )
            tensors[f"{i}.variances"] = torch.from_numpy(stage.variances.astype(np.float32))
            tensors[f"{i}.rest"] = torch.tensor([stage.rest], dtype=torch.float32)
            tensors[f"{i}.quantiles"] = torch.from_numpy(stage.quantiles.astype(np.float32))
        with atomic_path(path) as temporary:
            temporary.write_bytes(save(tensors, {"format": "finetune source statistics 1"}))

    @classmethod
    def load(cls, path: Path) -> SourceStatistics:
        """Raises ZooError where the file is not one that ``save`` wrote."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = {k: v.float().numpy() for k, v in load_file(path).items()}
            count = 1 + max(int(k.split(".")[0]) for k in tensors)
            broken = [k for k, v in tensors.items() if not np.isfinite(v).all()]
            broken += [f"{i}.rest" for i in range(count) if not tensors[f"{i}.rest"][0] > 0]
            broken += [f"{i}.variances" for i in range(count) if not (tensors[f"{i}.variances"] > 0).all()]
            if broken:
                raise ValueError(f"{broken[0]} has values that are not finite and positive")  # noqa: TRY301
            names = ("mean", "directions", "variances", "quantiles")
            return cls(
                tuple(
                    StageStatistics(
                        rest=float(tensors[f"{i}.rest"][0]), **{n: tensors[f"{i}.{n}"] for n in names}
                    )
                    for i in range(count)
                )
            )
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ZooError(
                f"{path} is not a file of source statistics: {error}. Delete it: it is only evidence."
            ) from None


def _measure(seen: np.ndarray, unseen: np.ndarray) -> StageStatistics:
    mean = seen.mean(0, dtype=np.float64)
    centred = seen - mean
    covariance = centred.T @ centred / max(len(seen) - 1, 1)  # (C, C)
    values, vectors = np.linalg.eigh(covariance)
    rank = min(DIRECTIONS, len(values) - 1, max(len(seen) - 1, 1))
    # Directions in which the source hardly varies would make every other data set look infinitely far.
    floor = max(float(values[-1]) * 1e-6, 1e-12)
    variances = np.maximum(values[::-1][:rank], floor)
    rest = max(float(values[::-1][rank:].mean()), floor)
    stage = StageStatistics(
        mean.astype(np.float32),
        vectors[:, ::-1][:, :rank].T.astype(np.float32),
        variances.astype(np.float32),
        rest,
        np.zeros(len(QUANTILES), np.float32),
    )
    quantiles = np.quantile(stage.distance(unseen), QUANTILES).astype(np.float32)
    return StageStatistics(stage.mean, stage.directions, stage.variances, rest, quantiles)
