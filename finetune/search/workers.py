"""Further processes of a sweep, and what each of them runs: ``python -m finetune.search.workers``."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO

from finetune.errors import FinetuneError, Interrupted
from finetune.events import Listener

_PATIENCE = 30.0
"""Seconds that a worker has to end after it was told to."""


class Workers:
    """Starts the processes, knows which live, and ends them with the block."""

    def __init__(
        self, folder: Path, count: int, trials: int, deadline: float | None, listener: Listener
    ) -> None:
        self._folder, self._count, self._listener = folder, count, listener
        self._task = {"out": str(folder), "trials": trials, "deadline": deadline, "parent": os.getpid()}
        self._running: list[subprocess.Popen[bytes]] = []
        self._logs: list[IO[bytes]] = []

    def start(self) -> None:
        """They read the images for themselves and take trials as soon as they can."""
        import finetune

        package = str(Path(finetune.__file__).resolve().parent.parent)
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        for index in range(self._count):
            log = (self._folder / f"worker-{index + 1}.log").open("ab")
            self._logs.append(log)
            # In a session of its own Ctrl-C reaches it once, through the parent.
            self._running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "finetune.search.workers", json.dumps(self._task)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    env={**os.environ, "PYTHONPATH": path},
                )
            )  # fmt: skip

    def pids(self) -> list[int]:
        """Of those alive. One that failed costs a line: the others do its work."""
        for process in [p for p in self._running if p.poll() is not None]:
            self._running.remove(process)
            if process.returncode:
                self._listener.on_message(
                    f"A worker ended with exit code {process.returncode} (see {self._folder}/worker-*.log); "
                    "the others go on."
                )
        return [process.pid for process in self._running]

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            if kind is not None:
                process.terminate()
        for process in self._running:
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self._logs:
            log.close()


def work(text: str) -> None:
    """A worker's life: set up like the parent, then take trials until there are none. Raises FinetuneError."""
    from finetune.advice import set_up
    from finetune.search.crew import Crew
    from finetune.search.settings import Settings
    from finetune.search.study import Presence
    from finetune.training.interrupt import sigterm_raises

    task = json.loads(text)
    out, parent = Path(task["out"]), int(task["parent"])
    settings, quiet = Settings.load(out), Listener()
    presence = Presence(out / ".lock")
    try:
        presence.join()
        with sigterm_raises():
            crew = Crew(
                settings, set_up(settings.recipe, None, quiet), out, int(task["trials"]), listener=quiet,
                deadline=task["deadline"], parallel=True, alive=lambda: os.getppid() == parent,
            )  # fmt: skip
            crew.work()
    finally:
        presence.close()


def main() -> int:
    """Exit code of a worker."""
    try:
        work(sys.argv[1])
    except FinetuneError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return Interrupted.exit_code
    return 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
