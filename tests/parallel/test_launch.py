"""The launcher: who is started with what, whose exit code counts, what it says, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from finetune import launch, process_group
from finetune.errors import ConfigError, ProcessError

# Each process writes its number; then it does what the second argument says of it.
WORKER = """
import os, signal, sys, time
rank, out = int(os.environ["RANK"]), sys.argv[1]
assert (os.environ["WORLD_SIZE"], os.environ["LOCAL_RANK"]) == (os.environ["LOCAL_WORLD_SIZE"], str(rank))
def leave(number, frame):
    open(f"{out}/signal{rank}", "w").write(str(number))
    sys.exit(130)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, leave)
open(f"{out}/pid{rank}", "w").write(str(os.getpid()))
deed = sys.argv[2 + rank]
if deed == "note":
    open(os.environ["FINETUNE_NOTE"], "w").write("finetune resume runs/x")
    time.sleep(60)
if deed == "die":
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
if deed == "wait":
    time.sleep(60)
sys.exit(int(deed))
"""


def command(out: Path, *deeds: object) -> list[str]:
    return [sys.executable, "-c", WORKER, str(out), *map(str, deeds)]


def gone(out: Path) -> bool:
    """Whether every process that wrote its number is over."""
    for path in out.glob("pid*"):
        try:
            os.kill(int(path.read_text()), 0)
        except ProcessLookupError:
            continue
        return False
    return True


def test_all_well(tmp_path: Path) -> None:
    launch.launch(command(tmp_path, 0, 0, 0), 3)
    assert len(list(tmp_path.glob("pid*"))) == 3
    assert gone(tmp_path)


@pytest.mark.parametrize("code", [2, 130])
def test_a_process_that_said_why_gives_its_exit_code(tmp_path: Path, code: int) -> None:
    """The other one only missed it, and is no cause."""
    with pytest.raises(SystemExit) as left:
        launch.launch(command(tmp_path, process_group.LOST, code), 2)
    assert left.value.code == code


def test_a_killed_process_ends_all_with_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_GRACE", 0.2)
    said = (
        r"^Process 1 of 2 was killed by SIGKILL; the others were stopped\. "
        r"Go on with: finetune resume runs/x --processes 2$"
    )
    with pytest.raises(ProcessError, match=said) as raised:
        launch.launch(command(tmp_path, "note", "die"), 2)
    assert raised.value.exit_code == 1
    assert (tmp_path / "signal0").read_text() == str(int(signal.SIGTERM))  # asked before it is killed
    assert gone(tmp_path)


def test_a_traceback_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ProcessError, match=r"Process 0 of 2 ended with exit code 1; the others were stopped\.$"
    ):
        launch.launch(command(tmp_path, 1, process_group.LOST), 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_handed_on(tmp_path: Path, number: signal.Signals) -> None:
    script = f"from finetune.launch import launch; launch({command(tmp_path, 'wait', 'wait')!r}, 2)"
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("pid*"))) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == 130
    assert [(tmp_path / f"signal{rank}").read_text() for rank in (0, 1)] == [str(int(number))] * 2
    assert gone(tmp_path)


def test_refused_inside_another_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not launch.needed(None)
    assert not launch.needed(1)
    assert launch.needed(2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert not launch.needed(1)
    with pytest.raises(ConfigError, match=r"--processes must be left out where torchrun .* Got 2 instead"):
        launch.needed(2)


def test_the_same_command_line_without_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(launch, "launch", lambda words, count: started.append([*words, str(count)]))

    @click.command("run")
    @click.argument("overrides", nargs=-1)
    @click.option("--out")
    @click.option("--seed", type=int)
    @click.option("--quiet", is_flag=True)
    @click.option("--explain", default="text")
    @click.option("--processes", type=int)
    def run(**values: object) -> None:
        launch.again(click.get_current_context(), "processes")

    words = ["epochs=1", "train.lr=-1", "--quiet", "--out", "my run", "--processes", "3"]
    result = CliRunner().invoke(run, words, catch_exceptions=False)
    assert result.exit_code == 0
    same = ["run", "--out=my run", "--quiet", "--explain=text", "--", "epochs=1", "train.lr=-1"]
    assert started == [[sys.executable, "-m", "finetune", *same, "3"]]
