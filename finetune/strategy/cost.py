"""What a plan will cost, from a few timed batches: seconds an image, times images, times epochs. A rough figure."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune.data import AUGMENTATIONS
from finetune.data.imageset import ImageSet, Joined
from finetune.data.threads import worker_count
from finetune.data.transforms import evaluate_pixels
from finetune.features.cache import FeatureCache, network_key
from finetune.recipe import Recipe
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle
    from finetune.zoo.backbone import Backbone

_SECONDS = 0.1  # of measuring, after a first batch that does not count ...
_LEAST, _CALLS = 3, 8  # ... and how many calls of it at least and at most
_IMAGES = {"cpu": 8}  # a batch's; elsewhere the phase's own, up to:
_MOST = 64


@dataclass(frozen=True)
class Cost:
    """Seconds; what cannot be timed beforehand (solving the head, checkpoints, figures) is left out."""

    phases: tuple[float, ...]
    """One figure a phase of the plan."""
    test: float
    forward: float
    """Seconds an image through the network, without gradients."""
    step: float | None
    """Seconds a training image, forward and backward, of the phase that trains most; None without one."""
    epochs: tuple[float, ...] = ()
    """Seconds of an epoch of each phase; 0 for heads."""

    @property
    def seconds(self) -> float:
        """Of the whole run from here on."""
        return sum(self.phases) + self.test

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"total": self.seconds, "phases": list(self.phases), "test": self.test,
                "forward_per_image": self.forward, "step_per_image": self.step}  # fmt: skip


def estimate(
    plan: Plan, backbone: Backbone, bundle: DataBundle, recipe: Recipe, dtype: torch.dtype = torch.float32
) -> Cost:
    """Time a few batches of training images on ``backbone``, which is left as it was, and multiply.

    ``dtype``: the number format that training is likely to compute in; what is not trained computes in fp32. Images
    whose features are cached cost nothing in a probe phase. Raises DataError for an image that can no longer be
    decoded.
    """
    workers = worker_count(recipe.data.workers)
    clock = _Clock(backbone, bundle.train, workers, dtype)
    forward = clock.forward()
    pass_over = forward + clock.decode
    n, held = len(bundle.train), len(bundle.val)
    seconds, steps, epochs, seen = [], [], [], 0
    for phase in plan.phases:
        if isinstance(phase, ProbePhase):
            images = bundle.train if phase.fit_on == "train" else Joined(bundle.train, bundle.val)
            new = 0 if seen >= len(images) else _uncached(backbone, images, recipe.probe.cache)
            seen = max(seen, len(images))
            seconds.append(new * pass_over)
            epochs.append(0.0)
            continue
        step = clock.step(phase)
        steps.append(step)
        trains = n + held if phase.fit_on == "train+val" else n
        judged = 0 if phase.fit_on == "train+val" else held
        each = clock.together(step, clock.augment(phase)) * trains + forward * judged
        epochs.append(each)
        whole = phase.epochs * each
        seconds.append((trains + judged) * clock.decode + min(whole, phase.time or whole))
    test = len(bundle.test) * pass_over
    return Cost(tuple(seconds), test, forward, max(steps, default=None), tuple(epochs))


class _Clock:
    """Times parts of the work on the same few training images."""

    def __init__(self, backbone: Backbone, images: ImageSet, workers: int, dtype: torch.dtype) -> None:
        self.backbone, self.workers, self.dtype = backbone, workers, dtype
        self.device = next(backbone.parameters()).device
        self.chosen = np.linspace(0, len(images) - 1, min(len(images), _MOST)).astype(int)
        began = time.perf_counter()
        self.images = [images.load(int(i)) for i in self.chosen[:8]]
        pixels = [evaluate_pixels(image, backbone.preprocessing) for image in self.images]
        self.decode = (time.perf_counter() - began) / len(pixels) / workers
        """Seconds to decode and resize an image, all workers at it."""
        batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        self.batch = backbone.preprocessing.normalise(batch.to(self.device))

    def together(self, compute: float, prepare: float) -> float:
        """Seconds an image where threads prepare what the network computes on: on a CPU they share it."""
        return compute + prepare if self.device.type == "cpu" else max(compute, prepare)

    def forward(self) -> float:
        """Seconds an image through the frozen network."""
        x = self._sized(_MOST)
        was = self.backbone.training
        self.backbone.eval()
        with torch.inference_mode():
            took = self._time(lambda: self.backbone(x))
        self.backbone.train(was)
        return took / len(x)

    def step(self, phase: GradientPhase) -> float:
        """Seconds a training image forward and backward, on a copy: the weights and their state stay."""
        x = self._sized(phase.batch_size)
        model = copy.deepcopy(self.backbone)
        model.freeze_below(phase.train_from)
        model.freeze_norms(phase.batch_norm == "frozen" or len(x) == 1)
        model.train()
        labels = torch.zeros(len(x), dtype=torch.int64, device=self.device)

        def once() -> None:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                outputs = model(x)
            torch.nn.functional.cross_entropy(outputs.float(), labels).backward()  # type: ignore[no-untyped-call]

        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # dropout draws
            return self._time(once) / len(x)

    def augment(self, phase: GradientPhase) -> float:
        """Seconds to augment an image that is in memory, all workers at it; on the device it is next to nothing."""
        if phase.on_device:
            return 0.0
        made = AUGMENTATIONS.get(phase.policy)(self.backbone.preprocessing)
        originals = [made.original(image) for image in self.images]
        rng = np.random.default_rng(0)
        took = self._time(lambda: [made.pixels(image, rng) for image in originals])
        return took / len(originals) / self.workers

    def _sized(self, batch_size: int) -> torch.Tensor:
        """The images, repeated to a batch of the size that is timed."""
        wanted = max(2, min(_IMAGES.get(self.device.type, _MOST), batch_size))
        return self.batch.repeat(-(-wanted // len(self.batch)), 1, 1, 1)[:wanted]

    def _time(self, work: Callable[[], object]) -> float:
        """Seconds of one call: the median of as many as fit into the time for measuring."""
        took: list[float] = []
        began = time.perf_counter()
        while len(took) < _LEAST or (time.perf_counter() - began < _SECONDS and len(took) < _CALLS):
            if not took:
                work()  # the first call allocates and chooses kernels
                began = time.perf_counter()
            self._wait()
            started = time.perf_counter()
            work()
            self._wait()
            took.append(time.perf_counter() - started)
        return float(np.median(took))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def _uncached(backbone: Backbone, images: ImageSet, disk: bool) -> int:
    """Images whose features were never computed."""
    store = FeatureCache(network_key(backbone), disk, lambda text: None)
    digests = [images.fingerprint(i) for i in range(len(images))]
    store.find(digests)
    return sum(digest not in store for digest in digests)
