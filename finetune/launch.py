"""``--processes N``: the same command line in N processes on this machine, watched until the last one is over.

They find each other through a file, so that no port has to be free. Signals are handed on; a process that dies takes
the others with it, and so does this one. Several machines need torchrun or ``accelerate launch``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from finetune import process_group, ranks, start
from finetune.errors import ConfigError, ProcessError, must

if TYPE_CHECKING:
    import click

_POLL = 0.05
_GRACE = 10.0
"""Seconds that the others have to end by themselves after one has failed, and again after they were asked to."""
_TOLD = (2, 130)
"""Exit codes of processes that have said why they end."""


def needed(processes: int | None) -> bool:
    """Whether ``--processes`` asks for processes to be started. Raises ConfigError where that was done already."""
    if processes is None or processes == 1:
        return False
    if ranks.asked():
        raise ConfigError(
            must(
                "--processes", "left out where torchrun or accelerate launch starts the processes", processes
            )
        )
    return True


def again(context: click.Context, option: str) -> None:
    """The command of a click context once more, without ``option``, in as many processes as that says."""
    words = [str(context.command.name)]
    arguments: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if parameter.name == option or value is None or value is False:
            continue
        if parameter.param_type_name == "argument":
            arguments += map(str, value) if isinstance(value, tuple) else [str(value)]
        else:
            words += [parameter.opts[0]] if value is True else [f"{parameter.opts[0]}={value}"]
    launch([sys.executable, "-m", "finetune", *words, "--", *arguments], int(context.params[option]))


@dataclass
class _Member:
    """One of the processes."""

    rank: int
    process: subprocess.Popen[bytes]
    code: int | None = None
    """Exit code, once it is over."""
    asked: bool = False
    """Whether it was told to end."""


def launch(command: Sequence[str], processes: int) -> None:
    """Run ``command`` in so many processes that work together.

    Raises ProcessError (exit code 1) where one is killed or fails without saying why, SystemExit with its code
    where it has said why.
    """
    with tempfile.TemporaryDirectory(prefix="finetune-", ignore_cleanup_errors=True) as place:
        crew: list[_Member] = []
        try:
            for rank in range(processes):
                crew.append(_Member(rank, _start(command, rank, processes, Path(place))))
            with _signals_for(crew):
                order = _wait(crew)
        finally:
            for member in crew:
                if member.process.poll() is None:
                    member.process.kill()
                member.process.wait()
                if member.process.stdin is not None:
                    with contextlib.suppress(OSError):
                        member.process.stdin.close()
        _judge(order, processes, Path(place) / "note")


def _start(command: Sequence[str], rank: int, processes: int, place: Path) -> subprocess.Popen[bytes]:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
              process_group.STORE: place / "store", process_group.NOTE: place / "note",
              start.KEY: start.began()}  # fmt: skip
    # In a group of its own, so that Ctrl-C reaches it once, from here. Its standard input ends with this process.
    apart: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(
        list(command),
        env={**os.environ, **{key: str(value) for key, value in places.items()}},
        stdin=subprocess.PIPE,
        stdout=None if rank == 0 else subprocess.DEVNULL,
        **apart,
    )


@contextlib.contextmanager
def _signals_for(crew: Sequence[_Member]) -> Iterator[None]:
    """Inside the block Ctrl-C and SIGTERM go to the processes, which finish their step and save."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hand_on(number: int, frame: FrameType | None) -> None:
        for member in crew:
            _send(member, number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(member: _Member, number: int) -> None:
    with contextlib.suppress(OSError):  # over in the meantime
        if sys.platform == "win32":
            member.process.send_signal(signal.CTRL_BREAK_EVENT if number == signal.SIGINT else signal.SIGTERM)
        else:
            member.process.send_signal(number)


def _wait(crew: Sequence[_Member]) -> list[_Member]:
    """Until all are over, in the order in which they ended; where one fails the others are ended."""
    order: list[_Member] = []
    failed_at: float | None = None
    stage = 0
    while len(order) < len(crew):
        for member in crew:
            if member.code is None and (code := member.process.poll()) is not None:
                member.code = code
                order.append(member)
                if code != 0 and failed_at is None:
                    failed_at = time.monotonic()
        running = [member for member in crew if member.code is None]
        if failed_at is not None and running and time.monotonic() - failed_at > (stage + 1) * _GRACE:
            stage += 1
            for member in running:
                member.asked = True
                if stage == 1:
                    member.process.terminate()
                else:
                    member.process.kill()
        if running:
            time.sleep(_POLL)
    return order


def _judge(order: Sequence[_Member], processes: int, note: Path) -> None:
    """Say why the job failed, if it did and nobody has."""
    failed = [member for member in order if member.code]
    if not failed:
        return
    # Those that only missed another one, or were ended from here, are no cause.
    causes = [m for m in failed if m.code != process_group.LOST and not m.asked] or failed
    cause = causes[0]
    assert cause.code is not None
    if cause.code in _TOLD:
        raise SystemExit(cause.code)
    go_on = f" Go on with: {note.read_text('utf-8')} --processes {processes}" if note.is_file() else ""
    raise ProcessError(
        f"Process {cause.rank} of {processes} {ended(cause.code)}; the others were stopped.{go_on}"
    )


def ended(code: int) -> str:
    """How a process ended, in words.

    >>> ended(-9), ended(1)
    ('was killed by SIGKILL', 'ended with exit code 1')
    """
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"ended with exit code {code}"


__all__ = ["again", "ended", "launch", "needed"]
