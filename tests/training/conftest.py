"""The tiny run: as a module, and as a server of processes that may be killed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TINY = Path(__file__).parent / "tiny_run.py"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module tiny_run.py: images, plan, recipe and backbone of a run of seconds."""
    spec = importlib.util.spec_from_file_location("tiny_run", TINY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_run"] = module
    spec.loader.exec_module(module)
    return module


class Runner:
    """Starts runs in processes of their own; ``events`` yields what they print."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._server = subprocess.Popen(
            [sys.executable, str(TINY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def start(self, run: Path, *options: str) -> int:
        """Begin a run; its process id."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([str(run), *options]) + "\n")
        self._server.stdin.flush()
        word, pid = self._line()
        assert word == "pid"
        return int(pid)

    def wait_for_step(self, step: int) -> bool:
        """Read on until that optimizer step is done; False where the run ended before."""
        for word, rest in self._lines():
            if word == "step" and int(rest) >= step:
                return True
            if word == "exit":
                self.code = int(rest)
                return False
        raise AssertionError("the server died")

    def finish(self) -> tuple[int, str]:
        """Exit code and the last error message."""
        message = ""
        for word, rest in self._lines():
            if word in ("error", "traceback"):
                message = rest
            if word == "exit":
                return int(rest), message
        raise AssertionError("the server died")

    def _lines(self) -> Iterator[tuple[str, str]]:
        while True:
            yield self._line()

    def _line(self) -> tuple[str, str]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the server died"
        word, _, rest = line.rstrip("\n").partition(" ")
        return word, rest

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    """One server for the whole session."""
    made = Runner()
    yield made
    made.close()
