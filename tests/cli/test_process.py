"""The process of a command ends quickly, and leaves nothing undone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENDS = """
import atexit, sys, threading, time
from pathlib import Path
from finetune.cli.process import carry_out

def late():
    time.sleep(0.3)
    Path(sys.argv[1], "thread").touch()

def command():
    atexit.register(Path(sys.argv[1], "atexit").touch)
    threading.Thread(target=late).start()
    print("out", end="")
    print("err", end="", file=sys.stderr)
    {last}

class Never:
    def __del__(self):
        Path({folder!r}, "taken down").touch()

kept = Never()
carry_out(command)
"""


def ended(folder: Path, last: str) -> subprocess.CompletedProcess[str]:
    code = ENDS.format(last=last, folder=str(folder))
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("last", "code", "said"),
    [
        ("pass", 0, "err"),
        ("sys.exit()", 0, "err"),
        ("sys.exit(3)", 3, "err"),
        ("sys.exit('why')", 1, "errwhy\n"),
    ],
)
def test_it_ends_with_the_exit_code_and_leaves_nothing_undone(
    tmp_path: Path, last: str, code: int, said: str
) -> None:
    run = ended(tmp_path, last)
    assert (run.returncode, run.stdout, run.stderr) == (code, "out", said)
    assert {path.name for path in tmp_path.iterdir()} == {"atexit", "thread"}


def test_an_error_that_nobody_expected_is_shown(tmp_path: Path) -> None:
    run = ended(tmp_path, "raise RuntimeError('unexpected')")
    assert run.returncode == 1
    assert run.stderr.endswith("RuntimeError: unexpected\n")


def test_output_that_nobody_reads(tmp_path: Path) -> None:
    code = ENDS.format(last="sys.stdout.close()", folder=str(tmp_path))
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60, check=False)
    assert run.returncode == 1


MEMORY = """
import os, resource, sys
import torch
from finetune.cli.process import keep_memory

torch.set_num_threads(1)
told = keep_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20).add_(1)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(told, [faults() for _ in range(12)][-1] < 1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults")
@pytest.mark.parametrize("environment", [{}, {"MALLOC_ARENA_MAX": "2"}])
def test_large_blocks_stay_with_the_process(environment: dict[str, str]) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    run = subprocess.run(
        [sys.executable, "-c", MEMORY],
        capture_output=True,
        text=True,
        check=True,
        env={**clean, **environment},
    )
    told, few = run.stdout.split()
    assert (told == "False") == bool(environment) or few == "False"  # another C library cannot be told
    assert few == told
