"""Trains one small network as a Setting says and returns the rows that metrics.jsonl would hold."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.coach.settings import Setting
from finetune.data.imageset import DataBundle, ImageSet
from finetune.training.movement import Movement
from finetune.training.objectives import Classes
from finetune.training.schedule import constant, cosine, warmup_steps

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Data:
    """Images in (N, 1, S, S) float32 of about unit variance, and labels."""

    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor
    classes: int


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images.astype(np.float32) / 16, found.target.astype(np.int64)


def _gratings(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Six orientations at any phase under noise."""
    y = rng.integers(0, 6, n)
    angle, phase = y * np.pi / 6, rng.uniform(0, 2 * np.pi, n)
    v, u = np.mgrid[:12, :12]
    wave = np.sin(np.cos(angle)[:, None, None] * u + np.sin(angle)[:, None, None] * v + phase[:, None, None])
    return (0.5 + 0.2 * wave + rng.normal(0, 0.18, wave.shape)).clip(0, 1).astype(np.float32), y


def make_data(s: Setting) -> Data:
    """The images of a setting, its share of labels redrawn."""
    rng = np.random.default_rng(s.seed)
    images, labels = _digits() if s.data == "digits" else _gratings(s.n_train + s.n_val, rng)
    order = rng.permutation(len(images))[: s.n_train + s.n_val]
    x, y, classes = images[order], labels[order].copy(), int(labels.max()) + 1
    redrawn = rng.random(len(y)) < s.noise
    if not s.noisy_val:
        redrawn[s.n_train :] = False
    y[redrawn] = (y[redrawn] + rng.integers(1, classes, redrawn.sum())) % classes
    x = torch.from_numpy((x - 0.4) / 0.35)[:, None]
    y = torch.from_numpy(y.astype(np.int64))
    return Data(x[: s.n_train], y[: s.n_train], x[s.n_train :], y[s.n_train :], classes)


def make_net(s: Setting, data: Data) -> nn.Module:
    """A small network; ``scale`` multiplies every weight."""
    side, w, k = data.x.shape[-1], s.width, data.classes
    if s.net == "mlp":
        net = nn.Sequential(nn.Flatten(), nn.Linear(side * side, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU(),
                            nn.Linear(w, k))  # fmt: skip
    else:
        c = max(8, w // 6)
        norm = nn.BatchNorm2d if s.net == "bn" else (lambda channels: nn.Identity())
        net = nn.Sequential(
            nn.Conv2d(1, c, 3, padding=1), norm(c), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(c, 2 * c, 3, padding=1),
            norm(2 * c), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * c * (side // 4) ** 2, k),
        )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter *= s.scale
    return net


def train(s: Setting) -> tuple[Rows, dict[str, Any]]:
    """The rows of a curve, and the facts that the coach is told."""
    data = make_data(s)
    rows = list(_own(s, data) if s.loop == "own" else _plain(s, data))
    facts = {
        "classes": data.classes, "train_n": s.n_train, "val_n": s.n_val, "label_smoothing": s.smoothing, "lr": s.lr,
        "schedule": s.schedule, "warmup": s.warmup, "optimizer": s.optimizer,
        "augment": "light" if s.jitter else "none", "distorted": s.jitter > 0,
        "batch": s.batch, "epochs": s.epochs, "val_fraction": round(s.n_val / (s.n_val + s.n_train), 3),
    }  # fmt: skip
    return rows, facts


def _plain(s: Setting, data: Data) -> Iterator[dict[str, Any]]:
    torch.manual_seed(s.seed)
    net = make_net(s, data)
    kind = torch.optim.SGD if s.optimizer == "sgd" else torch.optim.AdamW
    options: dict[str, Any] = {"momentum": 0.9, "nesterov": True} if s.optimizer == "sgd" else {}
    optimizer = kind(net.parameters(), lr=s.lr, weight_decay=s.decay, **options)
    batches = math.ceil(s.n_train / s.batch)
    steps = batches * s.epochs
    factor = (cosine if s.schedule == "cosine" else constant)(steps, warmup_steps(s.warmup, steps))
    movement, objective = Movement(net.parameters()), Classes(data.classes)
    criterion, step = nn.CrossEntropyLoss(label_smoothing=s.smoothing), 0
    for epoch in range(1, s.epochs + 1):
        net.train()
        interval, whole, against = [0.0] * 3, [0.0] * 3, 0.0
        for chosen in torch.randperm(s.n_train).split(s.batch):
            if len(chosen) < 2:
                continue
            lr = s.lr * factor(step)
            for group in optimizer.param_groups:
                group["lr"] = lr
            x, y = data.x[chosen], data.y[chosen]
            if s.jitter:
                x = x + s.jitter * torch.randn_like(x)
            logits = net(x)
            loss = criterion(logits, y)
            optimizer.zero_grad()
            (s.sign * loss).backward()
            if s.clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), s.clip)
            step += 1
            with movement.measured(step % s.log_every == 0):
                optimizer.step()
            right = float((logits.argmax(1) == y).sum())
            against += float(objective.contradicted(logits.detach(), y).sum())
            interval = _sum(interval, [loss.item() * len(y), right, float(len(y))])
            place = {"epoch": epoch, "epochs": s.epochs, "step": step, "steps": steps, "lr": lr}
            if step == 1:
                yield {"kind": "first", **place, "loss": loss.item(), "accuracy": right / len(y)}
            if not math.isfinite(loss.item()):
                yield {"kind": "diverged", **place, "loss": None, "accuracy": interval[1] / interval[2]}
                return
            if step % s.log_every == 0:
                yield {
                    "kind": "step",
                    **place,
                    "loss": interval[0] / interval[2],
                    "accuracy": interval[1] / interval[2],
                    "update": movement.read(),
                }
                whole, interval = _sum(whole, interval), [0.0] * 3
        whole = _sum(whole, interval)
        net.eval()
        with torch.no_grad():
            logits = net(data.val_x)
        val_loss = nn.functional.cross_entropy(logits, data.val_y).item()
        if not math.isfinite(val_loss):
            yield {"kind": "diverged", **place, "loss": None, "accuracy": whole[1] / whole[2]}
            return
        yield {
            "kind": "epoch", **place, "loss": whole[0] / whole[2], "accuracy": whole[1] / whole[2],
            "val_loss": val_loss, "val_accuracy": (logits.argmax(1) == data.val_y).float().mean().item(),
            "contradicted": against / whole[2],
        }  # fmt: skip


def _sum(one: list[float], other: list[float]) -> list[float]:
    return [a + b for a, b in zip(one, other, strict=True)]


class _Images(ImageSet):
    """Arrays as an image set of 24 px RGB."""

    def __init__(self, x: Tensor, y: Tensor, classes: int) -> None:
        self.classes, self.labels = tuple(str(k) for k in range(classes)), y.numpy()
        self._pixels = ((x[:, 0] * 0.35 + 0.4) * 255).clamp(0, 255).to(torch.uint8).numpy()

    def load(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index]).resize((24, 24), Image.Resampling.BILINEAR).convert("RGB")

    def name(self, index: int) -> str:
        return str(index)

    def fingerprint(self, index: int) -> bytes:
        return self._pixels[index].tobytes()


def _own(s: Setting, data: Data) -> Rows:
    from finetune.recipe import Recipe
    from finetune.strategy.plan import GradientPhase, Plan
    from finetune.training.execute import execute
    from finetune.training.metrics_log import read_metrics
    from finetune.zoo.create import create_backbone

    backbone = create_backbone(
        "test_resnet", pretrained=False, num_classes=data.classes, image_size=24, seed=s.seed
    )
    first = backbone.num_stages if s.net == "frozen" else 0
    phase = GradientPhase(
        train_from=first, epochs=s.epochs, lr=s.lr, head_lr=s.lr, batch_size=s.batch, optimizer=s.optimizer,
        schedule=s.schedule, warmup=s.warmup, label_smoothing=s.smoothing, clip_grad=s.clip, augment="none",
        batch_norm="train", weight_decay=s.decay,
    )  # fmt: skip
    train = {"precision": "fp32", "channels_last": False, "log_every": s.log_every}
    keys = {"train": train, "threads": 1, "device": "cpu", "data": {"workers": 1}, "seed": s.seed}
    images, val = _Images(data.x, data.y, data.classes), _Images(data.val_x, data.val_y, data.classes)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(strategy="scratch", init="random", phases=(phase,))
        execute(plan, backbone, DataBundle(images, val, val), Recipe.from_mapping(keys), Path(folder))
        return read_metrics(Path(folder))
