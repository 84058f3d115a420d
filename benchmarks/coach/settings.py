"""Which curves are made: a fault, a severity and a setting each, in five parts that share no severity.

Thresholds of the coach were chosen on ``tune``. ``judge``, ``final`` and ``verdict`` were each to be the verdict; what
they showed changed the rules, so they count as looked at, and the verdict is about ``fresh``, twice as many curves,
judged after the last change. In the last two parts a fault has to do harm: a setting that ends as well as the same
one without its fault, by validation accuracy, is drawn anew.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

FAULTS = (
    "lr too high", "lr too low", "diverged", "bad initialisation", "overfitting", "underfitting",
    "wrong direction", "validation too small", "plateau", "label noise",
)  # fmt: skip
PARTS = ("tune", "judge", "final", "verdict", "fresh")
LATER = ("final", "verdict", "fresh")
"""Parts whose settings are what the first two taught: some faults cannot be seen in some settings."""
HARMFUL_IN = ("verdict", "fresh")
"""Parts in which a fault has to do harm."""
PER_FAULT = 5
"""Curves of each fault in each part ..."""
HEALTHY = 24
"""... and healthy curves ..."""
TIMES = {"fresh": 2}
"""... so many times."""


@dataclass(frozen=True)
class Setting:
    """Everything that a curve follows from."""

    name: str
    part: str
    fault: str
    """One of FAULTS, or healthy."""
    loop: str = "plain"
    """plain: thirty lines of torch; own: finetune.training.execute with timm's test_resnet."""
    data: str = "digits"
    """digits (scikit-learn, 8x8) or gratings (12x12, six orientations, made here)."""
    net: str = "mlp"
    """mlp, cnn or bn (a cnn with batch norm); of the own loop test_resnet, or frozen: its head alone is trained."""
    width: int = 64
    optimizer: str = "sgd"
    lr: float = 0.03
    schedule: str = "cosine"
    warmup: float = 0.1
    batch: int = 32
    n_train: int = 600
    n_val: int = 300
    epochs: int = 20
    log_every: int = 10
    smoothing: float = 0.0
    clip: float | None = None
    decay: float = 1e-4
    jitter: float = 0.0
    """Standard deviation of noise added to the training images anew in each epoch: augmentation."""
    scale: float = 1.0
    """Factor on the initial weights."""
    sign: int = 1
    """-1 climbs the loss."""
    noise: float = 0.0
    """Share of the training labels that are redrawn."""
    noisy_val: bool = False
    """Whether the validation labels are redrawn alike."""
    seed: int = 0
    draw: int = 0
    """How many settings were drawn before it for the same place and did no harm."""


LEVELS: dict[str, dict[str, tuple[Any, ...]]] = {
    "tune": {
        "batch": (16, 64), "n": (300, 600), "width": (48, 128), "warmup": (0.0, 0.1), "log": (5, 10),
        "high": (30, 100), "low": (1 / 100, 1 / 500), "nan": (3e3, 1e5), "big": (4, 8), "small": (0.1, 0.2),
        "few": (50, 100), "tiny": (2, 4), "val": (12, 25), "noise": (0.2, 0.4),
        "stuck sgd": (5, 10), "stuck adamw": (10, 20),
    },
    "judge": {
        "batch": (24, 48), "n": (350, 700), "width": (32, 96), "warmup": (0.05, 0.2), "log": (4, 8),
        "high": (50, 200), "low": (1 / 50, 1 / 300), "nan": (1e4, 3e4), "big": (5, 10), "small": (0.13, 0.16),
        "few": (40, 80), "tiny": (3, 5), "val": (16, 30), "noise": (0.3, 0.35),
        "stuck sgd": (7, 8.5), "stuck adamw": (14, 17),
    },
    "final": {
        "batch": (20, 40), "n": (320, 650), "width": (40, 80), "warmup": (0.02, 0.15), "log": (3, 6),
        "high": (40, 150), "low": (1 / 70, 1 / 400), "nan": (2e4, 5e4), "big": (4.5, 9), "small": (0.12, 0.14),
        "few": (45, 90), "tiny": (2, 3), "val": (14, 28), "noise": (0.25, 0.38),
        "stuck sgd": (9, 10.5), "stuck adamw": (25, 30),
    },
    "verdict": {
        "batch": (18, 36), "n": (330, 620), "width": (44, 72), "warmup": (0.03, 0.12), "log": (7, 9),
        "high": (60, 120), "low": (1 / 60, 1 / 250), "nan": (7e3, 8e4), "big": (5.5, 7), "small": (0.11, 0.15),
        "few": (55, 70), "tiny": (3, 4), "val": (18, 26), "noise": (0.28, 0.36),
        "stuck sgd": (6, 8), "stuck adamw": (16, 22),
    },
    "fresh": {
        "batch": (22, 44), "n": (340, 640), "width": (56, 88), "warmup": (0.01, 0.08), "log": (11, 12),
        "high": (70, 90), "low": (1 / 80, 1 / 200), "nan": (5e3, 4e4), "big": (6, 8.5), "small": (0.125, 0.155),
        "few": (60, 75), "tiny": (2, 5), "val": (15, 22), "noise": (0.22, 0.33),
        "stuck sgd": (6.5, 9.5), "stuck adamw": (12, 19),
    },
}  # fmt: skip
RATES = {"sgd": 0.03, "adamw": 2e-3}
"""Good learning rates of the small networks."""
OWN_RATES = {"sgd": 0.05, "adamw": 2e-3}
"""Good learning rates of test_resnet from random weights."""


def settings() -> list[Setting]:
    """The first draw of all curves, in a fixed order."""
    found = []
    for part in PARTS:
        for fault in FAULTS:
            found += [drawn(part, fault, i)[0] for i in range(PER_FAULT * TIMES.get(part, 1))]
        found += [drawn(part, "healthy", i)[0] for i in range(HEALTHY * TIMES.get(part, 1))]
    return found


HARMFUL = (
    "lr too high",
    "lr too low",
    "bad initialisation",
    "overfitting",
    "underfitting",
    "plateau",
    "label noise",
)
"""Faults that cost validation accuracy where they are any; the others break a training, or its measurement."""


def drawn(part: str, fault: str, i: int, draw: int = 0) -> tuple[Setting, Setting]:
    """Setting ``i`` of a fault, and the same without it; ``draw`` counts those that were passed over."""
    text = f"{part} {fault} {i}" + (f" {draw}" if draw else "")
    plain = _plain(part, fault, i, random.Random(zlib.crc32(text.encode())))
    whole = replace(_healthy(plain, LEVELS[part], i), name=f"{plain.name}, without", fault="healthy")
    return replace(_FAULTY[fault](plain, LEVELS[part], i), draw=draw), whole


def _plain(part: str, fault: str, i: int, rng: random.Random) -> Setting:
    level = LEVELS[part]
    pick: Callable[[str], Any] = lambda key: level[key][(i + rng.randrange(2)) % 2]  # noqa: E731
    optimizer = ("sgd", "adamw")[i % 2]
    plain = Setting(
        name=f"{part}/{fault}/{i}", part=part, fault=fault, optimizer=optimizer, lr=RATES[optimizer],
        data=rng.choice(("digits", "gratings")), net=rng.choice(("mlp", "cnn", "bn")), width=pick("width"),
        schedule=rng.choice(("cosine", "cosine", "constant")), warmup=pick("warmup"), batch=pick("batch"),
        n_train=pick("n"), epochs=rng.choice((10, 16)), log_every=pick("log"), seed=rng.randrange(10_000),
        smoothing=rng.choice((0.0, 0.0, 0.1)), clip=1.0, jitter=rng.choice((0.0, 0.3)),
        decay=rng.choice((1e-4, 1e-2)),
    )  # fmt: skip
    if plain.data == "gratings" and plain.net == "mlp":  # the phase is random: a hard task for it
        plain = replace(plain, net="cnn")
    if i in _OWN.get(fault, ()):
        plain = replace(
            plain, loop="own", net="test_resnet", lr=OWN_RATES[optimizer], clip=1.0, batch=max(16, plain.batch // 2),
            n_train=min(plain.n_train, 500), n_val=200, epochs=6, log_every=max(2, plain.log_every // 2),
            jitter=0.0, width=0, decay=1e-4,
        )  # fmt: skip
    return plain


_OWN = {
    "healthy": range(0, 24, 6), "lr too high": (4,), "lr too low": (4,), "overfitting": (4,), "label noise": (4,),
    "validation too small": (4,), "underfitting": (4,),
}  # fmt: skip
"""Which of a fault's curves come from this project's loop."""


def _high(s: Setting, level: Any, i: int) -> Setting:
    # Adam's steps have a bounded length and cosine mends much: a rate that costs nothing in the end is no fault.
    factor = level["high"][i % 4 // 2] * (4 if s.optimizer == "adamw" else 1)
    s = replace(s, lr=s.lr * factor, smoothing=0.0)
    return s if s.loop == "own" else replace(s, net="mlp" if i % 2 else "cnn", data="digits", clip=None)


def _low(s: Setting, level: Any, i: int) -> Setting:
    return replace(s, lr=s.lr * level["low"][i % 4 // 2] * (0.2 if s.loop == "own" else 1))


def _diverged(s: Setting, level: Any, i: int) -> Setting:
    return replace(
        s, optimizer="sgd", lr=RATES["sgd"] * level["nan"][i % 2], clip=None, net="mlp", data="digits"
    )


def _init(s: Setting, level: Any, i: int) -> Setting:
    s = replace(s, net="mlp", data="digits")
    if i % 5 < 3:
        return replace(s, scale=level["big"][i % 4 // 2])
    # Tiny weights: the flat start ends after a while where there are enough steps. Adam undoes them in a few, as the
    # first two parts showed: no fault is left to be seen.
    if s.part in LATER:
        s = replace(s, optimizer="sgd", lr=RATES["sgd"], epochs=16)
    small = level["small"][i % 2] * (0.1 if s.optimizer == "adamw" else 1.0)
    return replace(s, scale=small, n_train=600, batch=16)


def _over(s: Setting, level: Any, i: int) -> Setting:
    few = level["few"][i % 4 // 2]
    return replace(s, n_train=few, batch=8, epochs=10 if s.loop == "own" else 40, jitter=0.0, decay=0.0,
                   smoothing=0.0, log_every=4)  # fmt: skip


def _under(s: Setting, level: Any, i: int) -> Setting:
    if s.loop == "own" and s.part in LATER:  # a head on random features is too slow to show anything
        s = replace(s, loop="plain", lr=RATES[s.optimizer])
    if s.loop == "own":
        return replace(s, net="frozen", data="digits", lr=30 * s.lr)  # random features are small
    if i % 2:  # too short
        return replace(s, epochs=2, lr=s.lr / 2, net="mlp", data="digits", n_train=900, log_every=2)
    return replace(s, net="mlp", data="digits", width=level["tiny"][i // 2 % 2], n_train=600, epochs=16,
                   batch=min(s.batch, 24))  # fmt: skip


def _wrong(s: Setting, level: Any, i: int) -> Setting:
    return replace(s, sign=-1, smoothing=0.0)


def _val(s: Setting, level: Any, i: int) -> Setting:
    return replace(s, n_val=level["val"][i % 4 // 2])


def _plateau(s: Setting, level: Any, i: int) -> Setting:
    # Few images a step and a rate of several times the good one: too high to settle, not to learn.
    factor = level[f"stuck {s.optimizer}"][i % 4 // 2]
    return replace(s, schedule="constant", lr=s.lr * factor, batch=12, jitter=0.5, epochs=16, n_train=300,
                   net="mlp", data="digits")  # fmt: skip


def _noise(s: Setting, level: Any, i: int) -> Setting:
    return replace(
        s, noise=level["noise"][i % 4 // 2], noisy_val=i % 3 == 0, epochs=8 if s.loop == "own" else 30,
        n_train=300, batch=max(24, s.batch), jitter=0.0, decay=1e-4, smoothing=0.0,
        width=max(s.width, 96) if s.width else 0,
    )  # fmt: skip


def _healthy(s: Setting, level: Any, i: int) -> Setting:
    if s.loop == "own":
        return replace(s, data="digits", n_train=500, schedule="cosine")
    # Enough images for the task: with half of them these networks overfit, and the coach is right to say so.
    enough = {"tune": 900, "judge": 1000, "final": 950, "verdict": 980, "fresh": 960}[s.part]
    return replace(s, n_train=enough, batch=max(32, s.batch))


_FAULTY: dict[str, Callable[[Setting, Any, int], Setting]] = {
    "lr too high": _high, "lr too low": _low, "diverged": _diverged, "bad initialisation": _init,
    "overfitting": _over, "underfitting": _under, "wrong direction": _wrong, "validation too small": _val,
    "plateau": _plateau, "label noise": _noise, "healthy": _healthy,
}  # fmt: skip
