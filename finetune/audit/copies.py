"""Images that are there more than once: the same bytes, or the same picture saved again or at another size."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
import torch

from finetune.audit.thumbnails import SIDE
from finetune.data.splits import connected
from finetune.features.knn import nearest

SURE = 0.003
"""Thumbnails with a correlation above 1 minus this are the same picture, whatever else resembles them."""

LIKELY = 0.015
"""Up to here they are where nothing else comes near: see ``STANDS_OUT``."""

STANDS_OUT = 0.2
"""A likely copy is at most this share as far as the seventh nearest image. So frames of one film, all of which
resemble each other, are no copies, and two almost equal digits among a thousand are none either."""

AT_MOST = 100_000
"""Images; every pair is compared, and beyond this that takes minutes to hours."""

_CROWD = 7
_COARSE = 16
_CANDIDATES = 16  # nearest images of each that are looked at; larger groups of copies hang together by chains


def same_bytes(prints: Sequence[Hashable]) -> list[list[int]]:
    """Groups of two and more with equal digests (or numbers), each in order, by first member.

    >>> same_bytes(["a", "b", "a", "c", "b", "a"])
    [[0, 2, 5], [1, 4]]
    """
    places: dict[Hashable, list[int]] = {}
    for index, print_ in enumerate(prints):
        places.setdefault(print_, []).append(index)
    return [found for found in places.values() if len(found) > 1]


def apart(groups: Iterable[Sequence[int]], of: Callable[[int], Hashable]) -> tuple[tuple[int, ...], ...]:
    """Those groups whose members differ in what ``of`` says of them: their split, their label.

    >>> apart([[0, 2], [1, 3]], "abac".__getitem__)
    ((1, 3),)
    """
    return tuple(tuple(group) for group in groups if len({of(i) for i in group}) > 1)


def same_picture(thumbs: np.ndarray, prints: Sequence[Hashable], skip: np.ndarray) -> list[list[int]]:
    """Groups of two and more that show one picture; copies of the same bytes are among them.

    thumbs: (N, 32, 32, 3) uint8; prints: N digests of the bytes; skip: (N,) bool, images that are never copies
    (blank ones, which are all alike). Pairs are found by the correlation of 16 x 16 pixels, and confirmed by that of
    32 x 32 and by like brightness and contrast.
    """
    exact = same_bytes(prints)
    firsts = {index: group[0] for group in exact for index in group}
    # One of each set of equal files: a crowd of equal files must not hide what else resembles them.
    alone = np.array([i for i in range(len(thumbs)) if firsts.get(i, i) == i and not skip[i]], dtype=np.int64)
    pairs = [(group[0], other) for group in exact for other in group[1:]]
    if 2 <= len(alone) <= AT_MOST:
        pairs += [(int(alone[a]), int(alone[b])) for a, b in _alike(thumbs[alone])]
    return same_bytes(connected(len(thumbs), pairs).tolist())


def _alike(thumbs: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of the same picture among thumbnails of different files."""
    n = len(thumbs)
    step = SIDE // _COARSE
    coarse = thumbs.reshape(n, _COARSE, step, _COARSE, step, 3).mean(axis=(2, 4), dtype=np.float32)
    flat = torch.from_numpy(_centred(coarse.reshape(n, -1)))
    k = min(_CANDIDATES, n - 1)
    found = []
    for rows, near, index in nearest(flat, k):
        far = 1 - near
        crowd = far[:, min(_CROWD, k) - 1 : min(_CROWD, k)] if k >= _CROWD else torch.ones(len(rows), 1)
        taken = (far < SURE) | ((far < LIKELY) & (far < STANDS_OUT * crowd))
        for row, column in taken.nonzero().tolist():
            a, b = int(rows[row]), int(index[row, column])
            found.append((min(a, b), max(a, b)))
    return [pair for pair in sorted(set(found)) if _confirmed(thumbs[pair[0]], thumbs[pair[1]])]


def _centred(rows: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and length 1: their products are correlations. Rows without contrast become 0."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    out: np.ndarray = np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-6).astype(np.float32)
    return out


def _confirmed(a: np.ndarray, b: np.ndarray) -> bool:
    x, y = a.reshape(-1).astype(np.float32), b.reshape(-1).astype(np.float32)
    correlation = float((_centred(x[None]) * _centred(y[None])).sum())
    darker = abs(float(x.mean() - y.mean()))
    contrast = float(x.std()) / max(float(y.std()), 1e-6)
    return correlation > 1 - 2 * LIKELY and darker < 12 and 0.8 < contrast < 1.25
