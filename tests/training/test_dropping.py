"""Dropout, DropConnect and stochastic depth: what they do while training, and that nothing of them stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from finetune.training.dropping import dropping, residual_places


def told(made: Any, phase: Any) -> Any:
    said: list[str] = []
    return dropping(made, phase, said.append), said


def modules(made: nn.Module) -> list[tuple[str, type]]:
    return [(name, type(module)) for name, module in made.named_modules()]


def test_dropout_drops_features_of_each_image_and_scales_the_rest(tiny: Any) -> None:
    made = tiny.backbone().train()
    x = torch.ones(64, made.feature_width)
    with torch.no_grad():
        made.head.weight.copy_(torch.eye(3, made.feature_width))
        made.head.bias.zero_()
    block, _ = told(made, tiny.phase(dropout=0.25))
    with block:
        out = made.head(x)
        assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
        assert 0.1 < float((out == 0).float().mean()) < 0.4
        made.eval()
        assert torch.equal(made.head(x), F.linear(x, made.head.weight, made.head.bias))
    made.train()
    assert torch.equal(made.head(x), F.linear(x, made.head.weight, made.head.bias))


def test_drop_connect_drops_weights_the_same_for_all_images_of_a_batch(tiny: Any) -> None:
    made = tiny.backbone().train()
    x = torch.randn(5, made.feature_width)
    block, _ = told(made, tiny.phase(drop_connect=0.5))
    with block:
        torch.manual_seed(3)
        out = made.head(x)
        torch.manual_seed(3)
        masked = F.dropout(made.head.weight, 0.5)
        assert 0.3 < float((masked == 0).float().mean()) < 0.7
        torch.testing.assert_close(out, x @ masked.T + made.head.bias)
        out.sum().backward()
        assert ((made.head.weight.grad == 0) == (masked == 0)).all()
        torch.testing.assert_close(made.eval().head(x), F.linear(x, made.head.weight, made.head.bias))


@pytest.mark.parametrize(("arch", "blocks"), [("test_resnet", 4), ("test_vit", 6)])
def test_stochastic_depth_finds_the_blocks_of_timm_and_leaves_no_trace(
    tiny: Any, arch: str, blocks: int
) -> None:
    made = tiny.backbone(arch).train()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):  # timm begins with residual branches that say nothing
            nn.init.ones_(module.weight)
    before, names = modules(made), list(made.state_dict())
    places = residual_places(made.model)
    count = len({id(block) for block, _, _ in places})
    assert count >= blocks
    block, said = told(made, tiny.phase(drop_path=0.4))
    with block:
        inside = [m for m in made.modules() if type(m).__name__ == "DropPath"]
        assert len(inside) == len(places)
        rates = [m.drop_prob for m in inside]
        assert (rates[0], rates[-1]) == (0.0, 0.4)
        assert rates == sorted(rates)
        assert list(made.state_dict()) == names
        x = torch.randn(16, 3, 32, 32)
        with torch.no_grad():
            assert not torch.equal(made(x), made(x))
            made.eval()
            assert torch.equal(made(x), made(x))
        made.freeze_below(made.num_stages - 1)
        made.train()
        acting = {m.training for m in inside}
        assert acting == {True, False}  # of frozen stages no block is skipped
    assert modules(made) == before
    assert said == [
        f"Stochastic depth: {count} residual blocks, skipped with probability 0 to 0.4 from first to last."
    ]


def test_a_skipped_block_is_the_identity(tiny: Any) -> None:
    """Drop rate near 1: what goes in comes out, where the block has no other path."""
    made = tiny.backbone("test_vit").train()
    layer = made.model.blocks[-1]
    x = torch.randn(2, 5, layer.norm1.normalized_shape[0])
    block, _ = told(made, tiny.phase(drop_path=0.999999))
    with block, torch.no_grad():
        assert torch.equal(layer(x), x)
    with torch.no_grad():
        assert not torch.equal(layer(x), x)


def test_torchvision_s_own_places_get_the_rate_and_their_old_one_back() -> None:
    from torchvision.ops import StochasticDepth

    model = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), StochasticDepth(0.1, "row")) for _ in range(3)))
    from finetune.training.dropping import _restore, set_rates

    places = residual_places(model)
    assert set_rates(places, 0.5) == [0.0, 0.25, 0.5]
    assert [model[i][1].p for i in range(3)] == [0.0, 0.25, 0.5]
    _restore(places)
    assert [model[i][1].p for i in range(3)] == [0.1] * 3


def test_blocks_without_a_path_around_them_do_not_count(tiny: Any) -> None:
    """None of the blocks of this EfficientNet keeps its size, though each has the place for stochastic depth."""
    made = tiny.backbone("test_efficientnet")
    assert sum(hasattr(module, "drop_path") for module in made.modules()) > 3
    block, said = told(made, tiny.phase(drop_path=0.2))
    with block:
        pass
    assert "has no residual blocks to skip; train.drop_path does nothing" in said[0]
