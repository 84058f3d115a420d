"""The small door to accelerate: autocast, loss scaling, backward and clipping on any device."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from finetune import ranks
from finetune.compiler import without_compiler
from finetune.training.precision import Precision

if TYPE_CHECKING:
    from accelerate import Accelerator

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class Engine:
    """One phase's arithmetic: made anew for each phase, because phases may differ in precision."""

    def __init__(self, device: torch.device, precision: Precision) -> None:
        self.device, self.precision = device, precision
        self._accelerator = _accelerator(device, _MIXED[precision.dtype])
        self._optimizer: Any = None
        self._parameters: list[nn.Parameter] = []
        self.averagers = 1
        """Processes over which ``backward`` itself takes the mean of the gradients, instead of leaving them."""

    def prepare(self, optimizer: torch.optim.Optimizer) -> None:
        """Take charge of the optimizer's steps."""
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._optimizer = optimizer
        if self._accelerator.scaler is not None:  # whose steps may be left out
            self._optimizer = self._accelerator.prepare_optimizer(optimizer, device_placement=False)

    def autocast(self) -> AbstractContextManager[None]:
        """Forward passes in the chosen format; losses come out in fp32."""
        context: AbstractContextManager[None] = self._accelerator.autocast()
        return context

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss`` (scaled in fp16)."""
        self._accelerator.backward(loss if self.averagers == 1 else loss * self.averagers)

    @property
    def loss_scale(self) -> float:
        """What ``backward`` multiplies gradients by: more than 1 in fp16 only."""
        scaler = self._accelerator.scaler
        return float(scaler.get_scale()) if scaler is not None else 1.0

    @without_compiler()
    def step(self, clip: float | None) -> None:
        """Clip the global gradient norm, move the weights, clear the gradients."""
        if clip is not None:
            self._clip(clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _clip(self, norm: float) -> None:
        if ranks.several():  # parameters may be divided over processes
            self._accelerator.clip_grad_norm_(self._parameters, norm)
            return
        # What accelerate does with whole tensors, without a second of imports for those that are divided.
        if self._accelerator.scaler is not None:
            self._accelerator.unscale_gradients(self._optimizer)
        nn.utils.clip_grad_norm_(self._parameters, norm)

    def clear(self) -> None:
        """Forget gradients, and give unused memory back to the device."""
        for parameter in self._parameters:
            parameter.grad = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def state_dict(self) -> dict[str, Any]:
        """The loss scale, where there is one."""
        scaler = self._accelerator.scaler
        return scaler.state_dict() if scaler is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a saved loss scale."""
        if self._accelerator.scaler is not None and state:
            self._accelerator.scaler.load_state_dict(state)


def _accelerator(device: torch.device, mixed: str) -> Accelerator:
    """An Accelerator on the device.

    accelerate allows one precision and device a process; the next run in this process may want another.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    state = AcceleratorState._shared_state
    changed = state and (state.get("_mixed_precision") != mixed or state["device"].type != device.type)
    partial = PartialState._shared_state
    if changed or (partial and partial["device"].type != device.type):
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu", device_placement=False)
