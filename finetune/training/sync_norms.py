"""Batch norms of several processes that see the whole batch: as in a single process, not each its share.

torch's own SyncBatchNorm runs on GPUs only and replaces layers; this one runs on any device, and takes the place of
the function that all of torch's and timm's batch norms call, for as long as a training step lasts.

Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, over the processes as in Peng et al. 2018,
https://arxiv.org/abs/1711.07240. Moments of shares are united by the formula of Chan, Golub & LeVeque 1979.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from finetune import ranks


class SyncedNorms(TorchFunctionMode):
    """Inside the block batch norms that train take mean and variance over the batches of all processes.

    Every process must run the same layers equally often there, forwards and backwards; an empty batch (0, C, ...)
    will do.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        call = batch_norm if func is F.batch_norm else func
        return call(*args, **(kwargs or {}))


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """``torch.nn.functional.batch_norm`` of (B, C, ...), in training over the B of all processes.

    Raises ValueError where they have one value a channel together.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    out, mean, m2, count = _Normalise.apply(input, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((m2 / (count - 1)).to(running_var.dtype), momentum)
    normalised: Tensor = out
    return normalised


class _Normalise(torch.autograd.Function):
    """(B, C, ...), (C,), (C,) -> the normalised batch; and mean, squares around it and count of all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, m2, count = _united(x)
        if int(count) < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got {tuple(x.shape)}")
        inverse = torch.rsqrt(m2 / count + eps)
        centred = (x.float() - _wide(mean, x)) * _wide(inverse, x)
        out = centred if weight is None else centred * _wide(weight.float(), x)
        if bias is not None:
            out = out + _wide(bias.float(), x)
        ctx.save_for_backward(centred, weight, inverse, count)
        ctx.kind = x.dtype
        ctx.mark_non_differentiable(mean, m2, count)
        return out.to(x.dtype), mean, m2, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        centred, weight, inverse, count = ctx.saved_tensors
        grad = grad.float()
        dims = _but_channels(grad)
        mine = torch.stack([grad.sum(dims), (grad * centred).sum(dims)])  # (2, C), which bias and weight get
        both = mine.clone()
        ranks.add_up([both])
        total, along = (both / count).unbind()
        scale = inverse if weight is None else inverse * weight.float()
        dx = (grad - _wide(total, grad) - centred * _wide(along, grad)) * _wide(scale, grad)
        of_weight = mine[1].to(weight.dtype) if weight is not None and ctx.needs_input_grad[1] else None
        of_bias = mine[0] if ctx.needs_input_grad[2] else None
        return dx.to(ctx.kind), of_weight, of_bias, None


def _united(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), sum of squares around it (C,) and count () over all processes, float32."""
    values, dims = x.float(), _but_channels(x)
    count = x.numel() // x.shape[1] if x.shape[1] else 0
    mean = values.mean(dims) if count else values.new_zeros(x.shape[1])
    m2 = (values - _wide(mean, x)).square().sum(dims)
    all_ = ranks.stacked(torch.cat([mean, m2, mean.new_tensor([float(count)])]))  # (processes, 2 C + 1)
    means, squares = all_[:, :-1].chunk(2, dim=1)
    counts = all_[:, -1:]
    total = counts.sum()
    mean = (means * counts).sum(0) / total
    return mean, (squares + counts * (means - mean).square()).sum(0), total


def _but_channels(x: Tensor) -> list[int]:
    return [d for d in range(x.ndim) if d != 1]


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...)."""
    return values.view(1, -1, *[1] * (like.ndim - 2))
