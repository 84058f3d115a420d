"""Importing timm and torchvision leaves torch's compiler alone until it is wanted, and then it is the real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
import torch
from finetune.zoo.create import create_backbone

backbone = create_backbone("test_resnet", pretrained=False, num_classes=2).eval()
with torch.inference_mode():
    backbone.fold().taps(torch.randn(1, 3, 64, 64))
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)

from timm.models.naflexvit import NaFlexVit
from torchvision.ops import roi_align
roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]), 2)
compiled = torch.compile(lambda x: x + 1, backend="eager")
print(float(compiled(torch.zeros(()))), type(sys.modules["torch._dynamo"]).__name__)
"""


def said(code: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return run.stdout.split("\n")[:-1]


def test_a_backbone_needs_no_compiler() -> None:
    assert said(CODE) == ["False False", "1.0 module"]


WANDB = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "wandb.py").write_text("print('wandb is loaded'); log = print")
sys.path.insert(0, str(folder))
from finetune.zoo.libraries import import_timm

import_timm()
print("wandb" in sys.modules)
from timm.utils import summary
summary.wandb.log("a row")
import wandb
print(type(wandb).__name__)
"""


def test_timm_loads_wandb_at_its_first_use(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WANDB, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.split("\n")[:-1] == ["False", "wandb is loaded", "a row", "module"]
