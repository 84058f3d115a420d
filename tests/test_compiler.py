"""What is trained without torch.compile does not load torch's compiler, and afterwards it is the real one."""

from __future__ import annotations

import subprocess
import sys

import pytest

STAND_IN = """
import sys
import torch
from finetune.compiler import without_compiler

with without_compiler():
    import torch._dynamo
    assert type(sys.modules["torch._dynamo"]).__name__ == "StandIn"

    @torch.compiler.disable
    def plain(x):
        return x + 1

    @torch.compiler.disable(recursive=False)
    def with_options(x):
        return x + 2

    print(plain(1), with_options(1), plain.__name__)
    print(type(sys.modules["torch._dynamo"]).__name__, "torch._dynamo.config" in sys.modules)
    torch._dynamo.config  # more than the decorator: the real one, now
    print(type(sys.modules["torch._dynamo"]).__name__)
print(plain(1), with_options(1), plain.__name__)
with without_compiler():
    print(type(sys.modules["torch._dynamo"]).__name__)
"""

OPTIMIZER = """
import sys
import torch
from finetune.strategy.plan import GradientPhase
from finetune.training.engine import Engine
from finetune.training.optim import build_optimizer
from finetune.training.precision import Precision

network = torch.nn.Linear(4, 2)
names = [name for name, _ in network.named_parameters()]
phase = GradientPhase(name="p", train_from=0, epochs=1, lr=0.1, head_lr=0.1, optimizer=sys.argv[1])
group = {"params": list(network.parameters()), "lr": 0.1, "weight_decay": 0.1, "names": names, "decays": True}
optimizer = build_optimizer([group], phase)
engine = Engine(torch.device("cpu"), Precision("fp32", False))
engine.prepare(optimizer)
for _ in range(2):
    engine.backward(network(torch.ones(3, 4)).square().mean())
    engine.step(clip=1.0)
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)

def twice(x):
    optimizer.zero_grad()
    return x + x

print(float(torch.compile(twice, backend="eager")(torch.ones(()))), "torch._dynamo" in sys.modules)
"""

IMAGES = """
import sys
import numpy as np
import torch
from PIL import Image
from finetune.data.augment import jitter
from finetune.data.operations import OPERATIONS
from finetune.strategy.plan import GradientPhase
from finetune.training.mixing import Disturbance

image = jitter(Image.new("RGB", (9, 9), (80, 90, 100)), 0.2, np.random.default_rng(0))
for operation in OPERATIONS.values():
    image = operation(image, 0.5, 1.0, [0, 0, 0])
phase = GradientPhase(name="p", train_from=0, epochs=1, lr=0.1, head_lr=0.1, mixup=0.4, cutmix=1.0)
mixed, shares = Disturbance(phase, 2, 0)(torch.ones(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]), 0, 0)
print(tuple(shares.shape), "torch._dynamo" in sys.modules)
"""


def said(code: str, *words: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, timeout=120
    )
    return run.stdout.split("\n")[:-1]


def test_the_stand_in_gives_way() -> None:
    assert said(STAND_IN) == ["2 3 plain", "StandIn False", "module", "2 3 plain", "module"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_optimizer_steps_without_the_compiler(optimizer: str) -> None:
    assert said(OPTIMIZER, optimizer) == ["False False", "2.0 True"]


def test_images_are_changed_and_mixed_without_the_compiler() -> None:
    assert said(IMAGES) == ["(4, 2) False"]
