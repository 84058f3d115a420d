"""The pretraining loop: progressive sizes, averaged weights, and a state that survives being killed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.errors import ConfigError, TrainingError, did_you_mean
from finetune.events import Listener
from finetune.files import atomic_path
from finetune.pretraining.images import StoredImages, crop_and_flip, evaluation_batches, generator_for, order
from finetune.pretraining.recipe import PretrainRecipe

STATE_VERSION = 1


def build(recipe: PretrainRecipe, num_classes: int) -> nn.Module:
    """The timm architecture with random weights. Raises ConfigError for an unknown one."""
    import timm

    if not timm.is_model(recipe.arch):
        raise ConfigError(f"arch: timm has no {recipe.arch!r}.{did_you_mean(recipe.arch, timm.list_models())}")
    torch.manual_seed(recipe.seed)
    model: nn.Module = timm.create_model(recipe.arch, num_classes=num_classes, **recipe.args)
    return model.to(memory_format=torch.channels_last)


class Pretraining:
    """A run that can be stopped anywhere: the order, crops and learning rate of every step are functions of
    the recipe and the step number, so that a resumed run takes the steps an uninterrupted one would have."""

    def __init__(self, recipe: PretrainRecipe, train: StoredImages, val: StoredImages, device: torch.device,
                 listener: Listener | None = None) -> None:
        self.recipe, self.train_set, self.val_set, self.device = recipe, train, val, device
        self.listener = listener or Listener()
        self.model = build(recipe, len(train.classes)).to(device)
        self.average = build(recipe, len(train.classes)).to(device).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = _optimizer(recipe, self.model)
        self.step = 0
        self.seconds = 0.0
        self.mean = torch.tensor(recipe.mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(recipe.std, device=device).view(1, 3, 1, 1) * 255
        self.autocast = False
        self.state_file = Path(recipe.out) / "state.pt"

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train_set) // self.recipe.batch_size

    @property
    def steps(self) -> int:
        return max(1, round(self.recipe.epochs * self.steps_per_epoch))

    def fit(self) -> None:
        """Train to the last step, saving every ``checkpoint_seconds``. Raises TrainingError on NaN."""
        self.autocast = self._choose_bf16()
        saved = began = time.monotonic()
        before = self.seconds
        shown, images, correct, total_loss = began, 0, 0.0, 0.0
        while self.step < self.steps:
            loss, right = self._train_step(self.step)
            self.step += 1
            now = time.monotonic()
            self.seconds = before + now - began
            images, correct, total_loss = images + self.recipe.batch_size, correct + right, total_loss + loss * self.recipe.batch_size
            if now - shown > 20 or self.step == self.steps:
                self._log(images, correct, total_loss, now - shown)
                shown, images, correct, total_loss = now, 0, 0.0, 0.0
            if now - saved > self.recipe.checkpoint_seconds or self.step == self.steps:
                self.save()
                saved = now
            if self.step % self.steps_per_epoch == 0:
                self._log_epoch()

    def _train_step(self, step: int) -> tuple[float, float]:
        recipe = self.recipe
        epoch, position = divmod(step, self.steps_per_epoch)
        progress = step / self.steps
        index = order(len(self.train_set), epoch, recipe.seed)[position * recipe.batch_size:][: recipe.batch_size]
        size, generator = recipe.size_at(progress), generator_for(recipe.seed, epoch, position)
        images = self.normalise(self.train_set.gather(index).to(self.device).float())
        images = crop_and_flip(images, size, recipe.min_scale, generator)  # (B, 3, size, size)
        labels = self.train_set.labels[index].to(self.device)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits = self.model(images)  # (B, K)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        if not torch.isfinite(loss):
            raise TrainingError(f"The loss is {loss.item()} at step {step}. The learning rate {recipe.lr} is probably "
                                f"too high: delete {self.state_file} and try lr={recipe.lr / 2:g}.")
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr_at(progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad)
        self.optimizer.step()
        self._update_average()
        return loss.item(), (logits.argmax(1) == labels).sum().item()

    @torch.no_grad()
    def _update_average(self) -> None:
        # Young averages forget faster, or the random start would linger in them.
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 255] to the units the network sees."""
        return (images - self.mean) / self.std

    @torch.inference_mode()
    def accuracy(self, size: int, limit: int | None = None) -> float:
        """Top-1 of the averaged weights on val at this size (pixels)."""
        self.average.eval()
        right = seen = 0
        for images, labels in evaluation_batches(self.val_set, size):
            if limit is not None and seen >= limit:
                break
            logits = self.average(self.normalise(images.to(self.device)).contiguous(memory_format=torch.channels_last))
            right += int((logits.argmax(1).cpu() == labels).sum())
            seen += len(labels)
        return right / seen

    def save(self) -> None:
        """Write the state atomically: a killed writer leaves the previous one."""
        state = {"version": STATE_VERSION, "step": self.step, "seconds": self.seconds, "model": self.model.state_dict(),
                 "average": self.average.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "steps_per_epoch": self.steps_per_epoch, "arch": self.recipe.arch}
        with atomic_path(self.state_file) as temporary:
            torch.save(state, temporary)

    def restore(self) -> bool:
        """Go on from the saved state, if there is one. Raises ConfigError where it belongs to another recipe."""
        if not self.state_file.exists():
            return False
        state = torch.load(self.state_file, map_location=self.device, weights_only=True)
        if state["arch"] != self.recipe.arch or state["steps_per_epoch"] != self.steps_per_epoch:
            raise ConfigError(f"{self.state_file} belongs to another recipe (arch, data or batch size differ). "
                              "Choose another out= or delete it.")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True

    def _choose_bf16(self) -> bool:
        if self.recipe.precision != "auto":
            return self.recipe.precision == "bf16"
        return measured_bf16(self.model, self.recipe, self.device)

    def _log(self, images: int, correct: float, total_loss: float, seconds: float) -> None:
        left = (self.steps - self.step) * self.recipe.batch_size * seconds / max(images, 1)
        row = {"step": self.step, "steps": self.steps, "epoch": round(self.step / self.steps_per_epoch, 3),
               "epochs": self.recipe.epochs, "loss": total_loss / images, "accuracy": correct / images,
               "lr": self.optimizer.param_groups[0]["lr"], "size": self.recipe.size_at((self.step - 1) / self.steps),
               "images_per_second": images / seconds, "eta_seconds": left}
        self._write(row)
        self.listener.on_step(row)

    def _log_epoch(self) -> None:
        row: dict[str, Any] = {"epoch": self.step // self.steps_per_epoch, "step": self.step, "seconds": self.seconds}
        size = self.recipe.size_at((self.step - 1) / self.steps)
        row["val_size"], row["val_accuracy"] = size, self.accuracy(size, limit=2500)
        self._write(row)
        self.listener.on_epoch(row)

    def _write(self, row: dict[str, Any]) -> None:
        with (Path(self.recipe.out) / "metrics.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")


def measured_bf16(model: nn.Module, recipe: PretrainRecipe, device: torch.device) -> bool:
    """Whether a training step is faster in bf16 here: CPUs without the instructions are far slower."""
    size, n = recipe.size_at(1.0), min(32, recipe.batch_size)
    images = torch.randn(n, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    timings = {}
    for enabled in (False, True):
        for _ in range(3):
            begun = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                model(images).float().logsumexp(1).sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            timings[enabled] = min(timings.get(enabled, float("inf")), time.perf_counter() - begun)
    model.zero_grad(set_to_none=True)
    model.load_state_dict(state)
    return timings[True] < timings[False]


def _optimizer(recipe: PretrainRecipe, model: nn.Module) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)
