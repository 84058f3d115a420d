"""How a process leaves the group."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from finetune.launch import launch

LEAVES = """
import atexit, sys
from pathlib import Path

def look():  # what is registered first runs last
    names = sorted(p.read_text().strip() for p in Path("/proc/self/task").glob("*/comm"))
    Path(sys.argv[1], f"rank{ranks.rank()}").write_text(" ".join(names))

atexit.register(look)
import torch
from finetune import process_group, ranks

with process_group.session(lambda: torch.device("cpu")):
    assert ranks.gather(ranks.rank()) == [0, 1]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    """One that drops a tensor while the interpreter ends aborts the process, whatever its exit code was to be."""
    launch([sys.executable, "-c", LEAVES, str(tmp_path)], 2)
    found = [(tmp_path / f"rank{rank}").read_text().split() for rank in range(2)]
    assert all(names for names in found)
    assert not [name for names in found for name in names if "gloo" in name]
