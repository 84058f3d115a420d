"""The choice of number format and layout."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finetune.errors import ConfigError
from finetune.training import precision
from finetune.training.engine import Engine
from finetune.training.precision import Precision, choose_precision, likely_dtype

CPU = torch.device("cpu")


def choose(model: nn.Module, batch: Tensor, **options: Any) -> Precision:
    settings: dict[str, Any] = {"wanted": "auto", "channels_last": "auto", "images": 10**9, **options}
    return choose_precision(model, lambda m, x: m(x), batch, device=CPU, **settings)


def test_measuring_changes_nothing(tiny: Any) -> None:
    model = tiny.backbone().train()
    model.freeze_norms(False)
    before, batch = copy.deepcopy(model.state_dict()), torch.randn(8, 3, 32, 32)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    chosen = choose(model, batch)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert chosen.reason.startswith("measured in ")
    assert {"fp32 channels_last", "fp32 contiguous"} <= set(chosen.images_per_second)


def test_the_fastest_is_taken_and_near_ties_go_to_the_first(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {("fp32", True): 1.0, ("fp32", False): 1.2, ("bf16", True): 0.99, ("bf16", False): 2.0}
    monkeypatch.setattr(precision, "_formats", lambda _: ["fp32", "bf16"])
    monkeypatch.setattr(precision, "_time_step", lambda m, f, b, d, p: seconds[p.dtype, p.channels_last])
    monkeypatch.setattr(precision, "remember", lambda *_: None)
    model, batch = tiny.backbone(), torch.randn(4, 3, 32, 32)
    near = choose(model, batch)
    assert (near.dtype, near.channels_last) == ("fp32", True)
    seconds["bf16", True] = 0.5
    fast = choose(model, batch)
    assert (fast.dtype, fast.channels_last) == ("bf16", True)
    assert fast.images_per_second["bf16 channels_last"] == pytest.approx(8)
    assert str(fast).startswith("bf16, channels_last (measured in ")


def test_short_training_is_not_delayed_by_measuring(tiny: Any) -> None:
    chosen = choose(tiny.backbone(), torch.randn(4, 3, 32, 32), images=12)
    assert chosen == Precision("fp32", True, "training is too short to measure others", {})


def test_a_shorter_training_tries_fewer(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_formats", lambda _: ["fp32", "bf16"])
    seen: list[int] = []

    def timed(model: nn.Module, forward: Any, batch: Tensor, *_: Any) -> float:
        seen.append(len(batch))
        return 1.0

    monkeypatch.setattr(precision, "_time_step", timed)
    model, batch = tiny.backbone(), torch.randn(32, 3, 32, 32)
    for images, expected in ((3840, [16] * 4), (1920, [16] * 2), (960, [8] * 2), (959, [])):
        seen.clear()
        choose(model, batch, images=images)
        assert seen == expected


def test_a_second_run_takes_over_what_the_first_measured(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny.backbone(), torch.randn(8, 3, 32, 32)
    first = choose(model, batch)
    seconds = {True: 1.0, False: 1e-9}
    monkeypatch.setattr(precision, "_time_step", lambda m, f, b, d, p: seconds[p.channels_last])
    second = choose(model, batch)
    assert second.images_per_second == first.images_per_second
    assert (second.dtype, second.channels_last) == (first.dtype, first.channels_last)
    assert second.reason.startswith("measured in an earlier run, images/s: fp32 ")
    # another batch, or another part of the network that trains, is measured anew
    assert choose(model, batch[:4]).images_per_second["fp32 contiguous"] == pytest.approx(4e9)
    next(model.parameters()).requires_grad_(False)
    assert choose(model, batch).images_per_second["fp32 contiguous"] == pytest.approx(8e9)


@pytest.mark.parametrize("damage", [b"", b"not a safetensors file"])
def test_damaged_memory_is_measured_again(tiny: Any, private_cache: Path, damage: bytes) -> None:
    model, batch = tiny.backbone(), torch.randn(8, 3, 32, 32)
    choose(model, batch)
    (shard,) = (private_cache / "formats").rglob("*.safetensors")
    shard.write_bytes(damage)
    assert choose(model, batch).reason.startswith("measured in ")
    (shard,) = (private_cache / "formats").rglob("*.safetensors")
    assert choose(model, batch).reason.startswith("measured in an earlier run")


def test_a_cache_that_cannot_be_written_is_done_without(tiny: Any, private_cache: Path) -> None:
    (private_cache / "formats").write_text("a file where the folder should be")
    assert choose(tiny.backbone(), torch.randn(8, 3, 32, 32)).reason.startswith("measured in ")


def test_a_recipe_that_says_both_measures_nothing(tiny: Any) -> None:
    chosen = choose(tiny.backbone(), torch.randn(4, 3, 32, 32), wanted="bf16", channels_last=False)
    assert chosen == Precision("bf16", False, "by the recipe", {})


def test_fp16_on_a_cpu_is_refused(tiny: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"train\.precision must be auto, bf16 or fp32 on a CPU\. Got 'fp16'"
    ):
        choose(tiny.backbone(), torch.randn(4, 3, 32, 32), wanted="fp16")


@pytest.mark.parametrize(
    ("formats", "wanted", "expected"),
    [
        (["fp32"], "auto", torch.float32),
        (["fp32", "bf16"], "auto", torch.bfloat16),
        (["fp32", "bf16"], "fp32", torch.float32),
        (["fp32"], "bf16", torch.bfloat16),
    ],
)
def test_what_training_will_likely_compute_in(
    monkeypatch: pytest.MonkeyPatch, formats: list[str], wanted: str, expected: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "_formats", lambda _: formats)
    assert likely_dtype(wanted, CPU) == expected


def test_engines_of_different_precision_in_one_process() -> None:
    layer, x = nn.Linear(4, 2), torch.randn(3, 4)
    for dtype, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        engine = Engine(CPU, Precision(dtype, False))  # type: ignore[arg-type]
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        engine.prepare(optimizer)
        with engine.autocast():
            y = layer(x)
        assert y.dtype == expected
        engine.backward(y.float().sum())
        before = layer.weight.detach().clone()
        engine.step(clip=1e-3)
        assert 0 < (layer.weight - before).norm() <= 1e-3 * 0.1 * 1.01
        assert layer.weight.grad is None
