"""Every family of architectures keeps the promises of Backbone, with random weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from finetune.errors import ZooError
from finetune.zoo.backbone import Backbone
from finetune.zoo.create import create_backbone
from finetune.zoo.model_folder import load_backbone, save_backbone

# (name, stages, whether it can be cut at every stage)
FAMILIES = {
    "test_resnet": (5, True),
    "test_efficientnet": (6, True),
    "test_convnext": (5, True),
    "test_vit": (5, True),
    "test_nfnet": (5, True),
    "test_byobnet": (5, True),
    "test_mambaout": (5, True),
    "test_maxvit": (5, True),
    "test_coatnet": (5, True),
    "mobilenetv3_small_050": (5, True),
    "densenet121": (5, True),
    "regnety_002": (5, True),
    "levit_128s": (4, True),
    "eva02_tiny_patch14_224": (5, False),
    "torchvision:alexnet": (4, True),
    "torchvision:vgg16": (6, True),
    "torchvision:resnet101": (5, True),
    "torchvision:mobilenet_v2": (5, False),
}
CLASSES = 3
LARGE = ("torchvision:vgg16", "torchvision:alexnet", "torchvision:resnet101")
"""Written to disk by no test: half a gigabyte shows nothing that a megabyte does not."""


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest) -> tuple[str, Backbone]:
    return request.param, create_backbone(request.param, pretrained=False, num_classes=CLASSES)


@pytest.fixture
def backbone(made: tuple[str, Backbone]) -> Backbone:
    made[1].freeze_below(0)
    made[1].freeze_norms(False)
    return made[1].eval()


def picture(backbone: Backbone, n: int = 2) -> Tensor:
    size = backbone.built_size or 64
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_stages_and_taps(made: tuple[str, Backbone], backbone: Backbone) -> None:
    x = picture(backbone)
    with torch.no_grad():
        taps, logits = backbone.taps(x), backbone(x)
        embedding = backbone.embed(x)
    assert backbone.num_stages == len(backbone.stage_names) == len(backbone.widths) == FAMILIES[made[0]][0]
    assert backbone.stage_names[0] == "stem"
    assert [tuple(t.shape) for t in taps] == [(2, w) for w in backbone.widths]
    assert torch.equal(taps[-1], embedding)
    assert embedding.shape[1] == backbone.feature_width
    assert torch.equal(backbone.head(embedding), logits)
    assert logits.shape == (2, CLASSES)


def test_each_parameter_is_in_one_stage(backbone: Backbone) -> None:
    staged = [name for i in range(backbone.num_stages) for name, _ in backbone.stage_parameters(i)]
    heads = [name for name, _ in backbone.head_parameters()]
    everything = [name for name, _ in backbone.named_parameters()]
    assert sorted(staged + heads) == sorted(everything)
    assert all(backbone.stage_parameters(i) for i in range(backbone.num_stages))


def test_stages_run_in_order(backbone: Backbone) -> None:
    """A change in a stage changes its tap and those after it, never those before."""
    x = picture(backbone, 1)
    with torch.no_grad():
        before = backbone.taps(x)
        for stage in range(backbone.num_stages):
            was = [(p, p.clone()) for _, p in backbone.stage_parameters(stage)]
            for parameter, _ in was:
                parameter.mul_(1.5).add_(0.01)
            after = backbone.taps(x)
            for parameter, value in was:
                parameter.copy_(value)
            same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
            assert all(same[:stage]), backbone.stage_names[stage]
            assert not same[stage], backbone.stage_names[stage]


def test_frozen_means_frozen(backbone: Backbone) -> None:
    """After steps in training mode everything below the stage has the same bits, statistics too."""
    stage = backbone.num_stages - 1
    trained = copy.deepcopy(backbone)
    trained.freeze_below(stage)
    trained.train()
    frozen = {n for i in range(stage) for n, _ in trained.stage_parameters(i)}
    modules = {n.rpartition(".")[0] for n in frozen}
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        loss = torch.nn.functional.cross_entropy(trained(picture(trained)), torch.tensor([step, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = trained.state_dict()
    for name, value in after.items():
        if name in frozen or name.rpartition(".")[0] in modules:
            assert torch.equal(value, before[name]), name
    assert not torch.equal(after["head.weight"], before["head.weight"])
    moved = [n for n, _ in trained.stage_parameters(stage) if not torch.equal(after[n], before[n])]
    assert moved


def test_head_alone_trains(backbone: Backbone) -> None:
    backbone.freeze_below(backbone.num_stages)
    backbone.train()
    assert not any(m.training for m in backbone.model.modules())
    assert [n for n, p in backbone.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


def test_split(made: tuple[str, Backbone], backbone: Backbone) -> None:
    x = picture(backbone)
    assert backbone.supports_split is FAMILIES[made[0]][1]
    with torch.no_grad():
        logits = backbone(x)
        for stage in range(backbone.num_stages):
            if backbone.can_split(stage):
                assert torch.equal(backbone.suffix(backbone.prefix(x, stage), stage), logits)
            else:
                with pytest.raises(ZooError, match=f"cannot be cut below stage {stage}"):
                    backbone.prefix(x, stage)


def test_split_below_a_head_that_reads_several_stages(backbone: Backbone) -> None:
    x, before = (
        picture(backbone),
        (backbone.head.weight.detach(), backbone.head.bias.detach(), backbone.head_taps),
    )
    draw = torch.Generator().manual_seed(0)
    try:
        for stage in range(1, backbone.num_stages):
            taps = tuple(range(stage, backbone.num_stages))
            width = sum(backbone.widths[i] for i in taps)
            backbone.set_head(torch.randn(3, width, generator=draw), torch.zeros(3), taps)
            backbone.eval()
            if backbone.can_split(stage):
                with torch.no_grad():
                    torch.testing.assert_close(backbone.suffix(backbone.prefix(x, stage), stage), backbone(x))
    finally:
        backbone.set_head(*before)


def test_fold(backbone: Backbone) -> None:
    x = picture(backbone)
    with torch.no_grad():
        for module in backbone.modules():  # statistics as after a training, not zeros and ones
            if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 2)
        folded, expected = backbone.fold(), backbone.taps(x)
        for got, want in zip(folded.taps(x), expected, strict=True):
            assert float((got - want).abs().max()) <= 1e-4 * float(want.abs().max())
    assert folded is not backbone
    assert not any(p.requires_grad for p in folded.parameters())


def test_several_taps(
    made: tuple[str, Backbone], backbone: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> None:
    several = copy.deepcopy(backbone)
    taps = (1, several.num_stages - 1)
    width = sum(several.widths[i] for i in taps)
    several.set_head(torch.randn(4, width), torch.zeros(4), taps)
    x = picture(several)
    with torch.no_grad():
        features = several.taps(x)
        logits = several(x)
        assert torch.equal(logits, several.head(torch.cat([features[i] for i in taps], 1)))
    if made[0] in LARGE:
        return
    folder = save_backbone(several, tmp_path_factory.mktemp("several"))
    with torch.no_grad():
        assert torch.equal(load_backbone(folder)(x), logits)


def test_saved_and_loaded(
    made: tuple[str, Backbone], backbone: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if made[0] in LARGE:
        return
    x = picture(backbone)
    folder = save_backbone(backbone, tmp_path_factory.mktemp("model"), classes=["a", "b", "c"])
    again = load_backbone(folder)
    with torch.no_grad():
        assert torch.equal(again(x), backbone(x))
    assert again.stage_names == backbone.stage_names
    assert again.preprocessing == backbone.preprocessing
    assert (folder / "config.json").stat().st_size > 100


def test_plain_weights_in_the_source_library(
    made: tuple[str, Backbone], backbone: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> None:
    x = picture(backbone)
    if not backbone.is_plain:
        with pytest.raises(ZooError, match="no counterpart in plain"):
            backbone.plain_state_dict()
        return
    if backbone.card.source == "torchvision":
        import torchvision

        plain = torchvision.models.get_model(backbone.card.arch, num_classes=CLASSES)
        plain.load_state_dict(backbone.plain_state_dict())
    else:
        import timm

        folder = save_backbone(backbone, tmp_path_factory.mktemp("plain"))
        plain = timm.create_model(f"local-dir:{folder}", pretrained=True)
    with torch.no_grad():
        assert torch.allclose(plain.eval()(x), backbone(x), atol=1e-5)
