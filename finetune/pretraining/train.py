"""The pretraining loop: progressive sizes, averaged weights, and a state that survives being killed."""

from __future__ import annotations

import functools
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.errors import ConfigError, Interrupted, TrainingError, did_you_mean, must
from finetune.events import Listener
from finetune.files import disk_error, remove_leftovers
from finetune.pretraining.images import StoredImages, crop_and_flip, evaluation_batches, generator_for, order
from finetune.pretraining.recipe import PretrainRecipe
from finetune.training.checkpoint import read_state, write_state
from finetune.training.ema import Average
from finetune.training.engine import Engine
from finetune.training.interrupt import StopRequest
from finetune.training.metrics_log import cut_back
from finetune.training.muon import Muon, is_hidden_matrix
from finetune.training.optim import decays
from finetune.training.precision import choose_precision

FORMAT = 2
_SHOW_SECONDS = 20


def build(recipe: PretrainRecipe, num_classes: int) -> nn.Module:
    """The timm architecture with random weights. Raises ConfigError for an unknown one."""
    import timm

    if not timm.is_model(recipe.arch):
        raise ConfigError(
            f"arch: timm has no {recipe.arch!r}.{did_you_mean(recipe.arch, timm.list_models())}"
        )
    torch.manual_seed(recipe.seed)
    model: nn.Module = timm.create_model(recipe.arch, num_classes=num_classes, **recipe.args)
    return model.to(memory_format=torch.channels_last)


class Pretraining:
    """A run that can be stopped anywhere: the order, crops and learning rate of every step are functions of
    the recipe and the step number, so that a resumed run takes the steps an uninterrupted one would have."""

    def __init__(
        self,
        recipe: PretrainRecipe,
        train: StoredImages,
        val: StoredImages,
        device: torch.device,
        listener: Listener | None = None,
    ) -> None:
        self.recipe, self.train_set, self.val_set, self.device = recipe, train, val, device
        self.listener = listener or Listener()
        if len(train) < recipe.batch_size:
            got = f"{recipe.batch_size} with {len(train)} images"
            raise ConfigError(must("batch_size", "at most the number of training images", got))
        self.model = build(recipe, len(train.classes)).to(device)
        self.average = Average(self.model.state_dict(), recipe.ema)
        self.optimizer = _optimizer(recipe, self.model)
        # Drawing a permutation of the whole set for the few images of one step would be waste.
        self._order = functools.lru_cache(maxsize=1)(lambda epoch: order(len(train), epoch, recipe.seed))
        self.step = 0
        self.seconds = 0.0
        self.mean = torch.tensor(recipe.mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(recipe.std, device=device).view(1, 3, 1, 1) * 255
        self.state_file = Path(recipe.out) / "state.pt"
        self.metrics_file = Path(recipe.out) / "metrics.jsonl"

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train_set) // self.recipe.batch_size

    @property
    def steps(self) -> int:
        return max(1, round(self.recipe.epochs * self.steps_per_epoch))

    def fit(self) -> None:
        """Train to the last step, saving every ``checkpoint_seconds``.

        Raises TrainingError where the loss is no longer a number, and Interrupted, after saving, on Ctrl-C
        or SIGTERM.
        """
        engine = self._engine()
        saved = shown = began = time.monotonic()
        before = self.seconds
        images, correct, total_loss = 0, 0.0, 0.0
        with StopRequest(self.recipe.out) as stop:
            stop.immediate = False
            while self.step < self.steps:
                loss, right = self._train_step(self.step, engine)
                self.step += 1
                now = time.monotonic()
                self.seconds = before + now - began
                batch = self.recipe.batch_size
                images, correct, total_loss = images + batch, correct + right, total_loss + loss * batch
                last = self.step == self.steps or stop.requested
                saving = now - saved > self.recipe.checkpoint_seconds or last
                # Rows come before the state that remembers how many there are: none is doubled or missing.
                if now - shown > _SHOW_SECONDS or saving:
                    self._log(images, correct, total_loss, now - shown)
                    shown, images, correct, total_loss = now, 0, 0.0, 0.0
                if self.step % self.steps_per_epoch == 0:
                    self._log_epoch()
                if saving:
                    self.save()
                    saved = now
                if stop.requested:
                    raise Interrupted(
                        f"Stopped at step {self.step:,} of {self.steps:,}; state saved. "
                        "The same command goes on from there."
                    )

    def _train_step(self, step: int, engine: Engine) -> tuple[float, float]:
        recipe = self.recipe
        epoch, position = divmod(step, self.steps_per_epoch)
        progress = step / self.steps
        index = self._order(epoch)[position * recipe.batch_size :][: recipe.batch_size]
        size, generator = recipe.size_at(progress), generator_for(recipe.seed, epoch, position)
        images = self.normalise(self.train_set.gather(index).to(self.device).float())
        images = crop_and_flip(images, size, recipe.min_scale, generator)  # (B, 3, size, size)
        labels = self.train_set.labels[index].to(self.device)
        self.model.train()
        with engine.autocast():
            logits = self.model(images)  # (B, K)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss is {value} at step {step}. The learning rate {recipe.lr} is probably "
                f"too high: delete {self.state_file} and try lr={recipe.lr / 2:g}."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr_at(progress) * group["scale"]
        engine.backward(loss)
        engine.step(recipe.clip_grad)
        self.average.update()
        return value, (logits.argmax(1) == labels).sum().item()

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 255] to the units the network sees."""
        return (images - self.mean) / self.std

    @torch.inference_mode()
    def accuracy(self, size: int) -> float:
        """Top-1 of the present weights on val at this size (pixels); use it inside ``average.applied()``."""
        self.model.eval()
        right = seen = 0
        for images, labels in evaluation_batches(self.val_set, size):
            images = self.normalise(images.to(self.device)).contiguous(memory_format=torch.channels_last)
            right += int((self.model(images).argmax(1).cpu() == labels).sum())
            seen += len(labels)
        return right / seen

    def save(self) -> None:
        """Write the state atomically: a killed writer leaves the previous one."""
        state = {
            "format": FORMAT,
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps_per_epoch": self.steps_per_epoch,
            "arch": self.recipe.arch,
            "optimizer_name": self.recipe.optimizer,
            "metrics": self._rows_on_disk(),
        }
        write_state(self.state_file, state)

    def restore(self) -> bool:
        """Go on from the saved state, if there is one; metrics.jsonl is cut back to the rows of that time.

        Raises ConfigError where it belongs to another recipe, RunError where it is damaged.
        """
        remove_leftovers(self.state_file.parent)
        if not self.state_file.exists():
            cut_back(self.metrics_file, 0)
            return False
        state = read_state(self.state_file)
        mine = {"format": FORMAT, "arch": self.recipe.arch, "optimizer_name": self.recipe.optimizer,
                "steps_per_epoch": self.steps_per_epoch}  # fmt: skip
        differ = [key for key, value in mine.items() if state.get(key) != value]
        if differ:
            raise ConfigError(
                f"{self.state_file} belongs to another recipe or version ({', '.join(differ)} differ). "
                "Choose another out= or delete it."
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        if "metrics" in state:  # earlier versions did not count
            cut_back(self.metrics_file, state["metrics"])
        return True

    def _engine(self) -> Engine:
        recipe = self.recipe
        batch = torch.randn(min(32, recipe.batch_size), 3, *[recipe.size_at(1.0)] * 2, device=self.device)
        left = (self.steps - self.step) * recipe.batch_size
        precision = choose_precision(self.model, lambda model, x: model(x), batch, device=self.device,
                                     wanted=recipe.precision, channels_last=True, images=left)  # fmt: skip
        self.listener.on_message(f"Training in {precision}.")
        engine = Engine(self.device, precision)
        engine.prepare(self.optimizer)
        return engine

    def _log(self, images: int, correct: float, total_loss: float, seconds: float) -> None:
        left = (self.steps - self.step) * self.recipe.batch_size * seconds / max(images, 1)
        row = {
            "step": self.step,
            "steps": self.steps,
            "epoch": round(self.step / self.steps_per_epoch, 3),
            "epochs": self.recipe.epochs,
            "loss": total_loss / images,
            "accuracy": correct / images,
            "lr": self.optimizer.param_groups[0]["lr"],
            "size": self.recipe.size_at((self.step - 1) / self.steps),
            "images_per_second": images / seconds,
            "eta_seconds": left,
        }
        self._write(row)
        self.listener.on_step(row)

    def _log_epoch(self) -> None:
        row: dict[str, Any] = {
            "epoch": self.step // self.steps_per_epoch,
            "step": self.step,
            "seconds": self.seconds,
        }
        size = self.recipe.size_at((self.step - 1) / self.steps)
        with self.average.applied():
            row["val_size"], row["val_accuracy"] = size, self.accuracy(size)
        self._write(row)
        self.listener.on_epoch(row)

    def _write(self, row: dict[str, Any]) -> None:
        try:
            with self.metrics_file.open("a") as log:
                log.write(json.dumps(row) + "\n")
        except OSError as error:
            raise disk_error(error, self.metrics_file) from error

    def _rows_on_disk(self) -> int:
        """Bytes of metrics.jsonl, on disk for certain."""
        try:
            with self.metrics_file.open("ab") as log:
                os.fsync(log.fileno())
                return log.tell()
        except OSError as error:
            raise disk_error(error, self.metrics_file) from error


def _optimizer(recipe: PretrainRecipe, model: nn.Module) -> torch.optim.Optimizer:
    named = list(model.named_parameters())
    head = next(n for n, m in model.named_modules() if m is model.get_classifier())  # type: ignore[operator]
    hidden = [p for n, p in named if recipe.optimizer == "muon" and is_hidden_matrix(n, p, head)]
    taken = {id(p) for p in hidden}
    rest = [(n, p) for n, p in named if id(p) not in taken]
    scale = recipe.rest_lr / recipe.lr if recipe.optimizer == "muon" else 1.0
    decay = recipe.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in rest if decays(n, p)], "weight_decay": decay, "scale": scale},
        {"params": [p for n, p in rest if not decays(n, p)], "weight_decay": 0.0, "scale": scale},
    ]
    if recipe.optimizer == "muon":
        groups.append({"params": hidden, "weight_decay": recipe.muon_decay, "scale": 1.0, "orthogonal": True})
        return Muon(groups, lr=recipe.lr)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)
