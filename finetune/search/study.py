"""Optuna behind one door: storage, samplers, pruners, and the claiming of trials by several processes."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import ConfigError, RunError, missing_extra, must
from finetune.search.dimension import Dimension, Value

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "gp", "random", "grid")
PRUNERS = ("median", "asha", "none")
_DATABASES = {".db", ".sqlite", ".sqlite3"}


def require_optuna() -> None:
    """Raises ConfigError, naming the extra, where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(missing_extra("A sweep", "optuna", "sweep"))


def open_study(storage: Path, name: str, maximize: bool) -> optuna.Study:
    """The study of that name, made where it is not there yet. Raises RunError where the file cannot be read.

    A file named ``.db`` or ``.sqlite`` is an SQLite database, any other Optuna's journal: both take several
    processes at once.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept: Any
    try:
        storage.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if storage.suffix.lower() in _DATABASES:
                wait = {"connect_args": {"timeout": 60}}
                kept = optuna.storages.RDBStorage(f"sqlite:///{storage}", engine_kwargs=wait)
            else:
                from optuna.storages.journal import JournalFileBackend

                kept = optuna.storages.JournalStorage(JournalFileBackend(str(storage)))
            way = optuna.study.StudyDirection.MAXIMIZE if maximize else optuna.study.StudyDirection.MINIMIZE
            return optuna.create_study(study_name=name, storage=kept, direction=way, load_if_exists=True)
    except Exception as error:  # sqlite, json, sqlalchemy and the file system each have their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(
            f"The trials in {storage} cannot be read: {reason}. Choose another --storage."
        ) from error


def unlock(storage: Path) -> None:
    """Remove the lock that a killed process left on a journal; only for who knows that nobody else is at it."""
    with contextlib.suppress(OSError):
        Path(f"{storage}.lock").unlink()


def sampler(kind: str, seed: int, trials: int, parallel: bool) -> optuna.samplers.BaseSampler:
    """Of one trial: the seed is the trial's own, so that a sweep that goes on draws what it would have drawn."""
    import optuna

    if kind == "tpe":
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=max(4, min(10, trials // 3)), constant_liar=parallel
        )
    if kind == "gp":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental in some versions
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=max(4, min(10, trials // 3)))
    return optuna.samplers.RandomSampler(seed=seed)


def pruner(kind: str, epochs: int) -> optuna.pruners.BasePruner:
    """Stops a trial by its validation figure after an epoch: below the median of the others' after the first
    quarter, or outside the best third of those that came as far (ASHA, arXiv 1810.05934)."""
    import optuna

    if kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=epochs // 4)
    if kind == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=max(1, epochs // 9), reduction_factor=3)
    return optuna.pruners.NopPruner()


def enqueue(study: optuna.Study, values: Mapping[str, Value], attributes: Mapping[str, Any]) -> None:
    """A trial at this place comes before what the sampler draws."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.enqueue_trial(dict(values), user_attrs=dict(attributes))


def suggest(trial: optuna.Trial, space: Sequence[Dimension]) -> dict[str, Value]:
    """The trial's values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a value handed down from an earlier stage may be outside the range
        return {dimension.key: dimension.suggest(trial) for dimension in space}


def fail_stale(study: optuna.Study, alive: Sequence[int] = ()) -> int:
    """Mark the running trials of processes that are gone as failed and queue their places again; how many.

    A place that was tried twice is not tried a third time: it may be what kills the process.
    """
    from optuna.trial import TrialState

    stale = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if trial.user_attrs.get("pid") not in alive
    ]
    for trial in stale:
        give_up(study, trial)
    return len(stale)


def give_up(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Fail one interrupted trial and queue its place again, once."""
    from optuna.trial import TrialState

    study.tell(trial.number, state=TrialState.FAIL)
    keep = {k: v for k, v in trial.user_attrs.items() if k == "default"}
    if "again" not in trial.user_attrs and (trial.params or keep):
        fixed = trial.system_attrs.get("fixed_params") or trial.params
        enqueue(study, fixed, {**keep, "again": trial.number})


class Mutex:
    """Between the processes of one sweep: who holds it may look at the trials and claim the next one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Waits for the others."""
        with self.path.open("w") as file:
            _lock(file.fileno())
            yield  # closing unlocks


class Presence:
    """Held by each process of a sweep while it works, and dropped by the system when it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w")

    def alone(self) -> bool:
        """Whether no other process holds it; from then on this one does."""
        with contextlib.suppress(OSError):
            _lock(self._file.fileno(), wait=False)
            self.join()
            return True
        return False

    def join(self) -> None:
        """Hold it beside others."""
        _lock(self._file.fileno(), shared=True)

    def close(self) -> None:
        """Let go."""
        self._file.close()


def _lock(descriptor: int, *, shared: bool = False, wait: bool = True) -> None:
    """flock; where the system has none (Windows) a sweep is one process and nothing is locked."""
    if os.name == "nt":
        return
    import fcntl

    fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def require_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raises ConfigError for a word that is none of the known ones."""
    if value not in known:
        raise ConfigError(must(name, f"one of {', '.join(known)}", repr(value)))
