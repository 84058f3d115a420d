"""Batch norms over processes, against torch's own on the whole batch; the shares of two are played by stand-ins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from finetune import ranks
from finetune.training.sync_norms import SyncedNorms, batch_norm

Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def arguments(shape: tuple[int, ...]) -> Arguments:
    make = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(shape, generator=make) + 2
    weight, bias = torch.rand(shape[1], generator=make) + 0.5, torch.randn(shape[1], generator=make)
    return x, torch.zeros(shape[1]), torch.ones(shape[1]), weight, bias


def run(norm: Callable[..., Tensor], given: Arguments) -> list[Tensor]:
    """Output, running statistics, gradients."""
    x, mean, var, weight, bias = (tensor.clone() for tensor in given)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    out = norm(x, mean, var, weight, bias, True, 0.3, 1e-3)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return [out.detach(), mean, var, *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("shape", [(6, 4), (5, 3, 7), (4, 5, 3, 2), (2, 3, 2, 2, 2)])
def test_alone_it_is_torchs_own(shape: tuple[int, ...]) -> None:
    given = arguments(shape)
    for ours, theirs in zip(run(batch_norm, given), run(nn.functional.batch_norm, given), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("mine", [3, 1, 0])
def test_a_share_of_a_batch_gets_what_it_gets_in_the_whole(
    mine: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output and gradients of the first rows; what the other process says is computed here from its rows."""
    x, mean, var, weight, bias = arguments((8, 4, 3, 3))
    whole = run(nn.functional.batch_norm, (x, mean, var, weight, bias))
    other = x[mine:].transpose(0, 1).reshape(4, -1)
    said = torch.cat(
        [other.mean(1), other.var(1, correction=0) * other.shape[1], torch.tensor([other.shape[1]])]
    )
    signs = torch.linspace(-1, 1, x.numel()).view_as(x)
    united = x.transpose(0, 1).reshape(4, -1).mean(1).view(1, 4, 1, 1)
    along = (signs * weight.view(1, 4, 1, 1))[mine:], (x - united)[mine:]
    scale = (x.transpose(0, 1).reshape(4, -1).var(1, correction=0) + 1e-3).rsqrt().view(1, 4, 1, 1)
    # The layer's own gradient, before the weight: sums of grad and of grad * xhat over the other rows.
    sums = torch.stack([signs[mine:].sum((0, 2, 3)), (signs[mine:] * along[1] * scale).sum((0, 2, 3))])
    monkeypatch.setattr(ranks, "stacked", lambda tensor: torch.stack([tensor, said]))
    monkeypatch.setattr(ranks, "add_up", lambda tensors: tensors[0].add_(sums))

    def first_rows(*args: object) -> Tensor:
        part = x[:mine].clone().requires_grad_()
        out = batch_norm(part, *args[1:])  # type: ignore[arg-type]
        out.backward(signs[:mine])
        torch.testing.assert_close(part.grad, whole[3][:mine], atol=2e-5, rtol=1e-4)
        return out.detach().requires_grad_()

    found = first_rows(None, mean, var, weight, bias, True, 0.3, 1e-3)
    torch.testing.assert_close(found.detach(), whole[0][:mine], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mean, whole[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(var, whole[2], atol=1e-5, rtol=1e-5)


def test_layers_are_reached_and_frozen_ones_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.layers import BatchNormAct2d

    calls: list[int] = []
    monkeypatch.setattr(ranks, "stacked", lambda tensor: calls.append(1) or tensor[None])
    frozen = nn.BatchNorm2d(3).eval()
    network = nn.Sequential(frozen, nn.BatchNorm2d(3), BatchNormAct2d(3), nn.BatchNorm2d(3, affine=False))
    with SyncedNorms():
        network(torch.randn(2, 3, 4, 4))
    assert len(calls) == 3
    network(torch.randn(2, 3, 4, 4))
    assert len(calls) == 3


def test_half_precision_keeps_its_type() -> None:
    x, mean, var, weight, bias = arguments((4, 3, 5, 5))
    out = batch_norm(x.bfloat16(), mean, var, weight, bias, True)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(
        out.float(), batch_norm(x, mean, var, weight, bias, True), atol=0.03, rtol=0.01
    )


def test_one_value_a_channel_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        batch_norm(torch.ones(1, 3), None, None, training=True)
