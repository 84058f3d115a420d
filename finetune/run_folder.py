"""The run folder: where a run's files lie, how they are written, and how one is found again."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from finetune.errors import RunError, did_you_mean, must
from finetune.files import atomic_write_bytes, atomic_write_json, atomic_write_text, disk_error
from finetune.recipe import Recipe

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle

ROOT = Path("runs")
ENSEMBLE = "ensemble.json"
_MARK = "recipe.yaml"  # what makes a folder a run


class RunFolder:
    """Paths and small files of one run. Every file is written whole or not at all."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def choose(cls, recipe: Recipe) -> RunFolder:
        """The folder that a recipe asks for, not yet created. Raises RunError if it is in use."""
        if recipe.out is not None:
            path = Path(recipe.out).expanduser()
        elif recipe.name is not None:
            path = ROOT / recipe.name
        else:
            source = named_after(recipe.data.path)
            stem = ROOT / f"{source}-{recipe.strategy}-{time.strftime('%Y%m%d-%H%M%S')}"
            path = next(
                p for i in range(1, 10_000) if not (p := stem if i == 1 else Path(f"{stem}-{i}")).exists()
            )
        check_free(path, "The run folder")
        return cls(path)

    @classmethod
    def find(cls, path: str | os.PathLike[str]) -> RunFolder:
        """An existing run. Raises RunError, naming the runs that lie beside it."""
        folder = cls(path)
        if (folder.path / _MARK).is_file():
            return folder
        beside = folder.path.parent
        runs = sorted(p.name for p in beside.glob("*") if (p / _MARK).is_file()) if beside.is_dir() else []
        hint = did_you_mean(folder.path.name, runs)
        if not hint and runs:
            hint = f" Runs in {beside}: {', '.join(runs[-3:])}."
        what = (
            "is not the folder of a run: it has no recipe.yaml" if folder.path.exists() else "does not exist"
        )
        raise RunError(f"Run {str(path)!r} {what}.{hint}")

    def create(self, recipe: Recipe, plan: str | None = None) -> None:
        """Make the folder, keep the recipe that repeats the run, point ``runs/latest`` to it.

        ``plan`` is the text of a plan that was given: it is there before the folder counts as a run, so that
        a run stopped at any moment goes on with it and asks no strategy.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.path) from error
        if plan is not None:
            atomic_write_text(self.path / "plan.yaml", plan)
        header = _header(self.path, plan is not None)
        atomic_write_text(self.path / _MARK, header + _dump(repeatable(recipe)))
        if self.path.resolve().parent == ROOT.resolve():
            self._point_latest()

    def record_images(self, bundle: DataBundle) -> None:
        """splits.csv and quarantine.csv: who is where, and what was set aside."""
        from finetune.evaluation.table import write_rows

        write_rows(self.path / "splits.csv", ("image", "label", "split", "fingerprint"), _split_rows(bundle))
        aside = [(q.path, q.reason) for q in bundle.quarantined]
        write_rows(self.path / "quarantine.csv", ("image", "reason"), aside)

    def require_same_images(self, bundle: DataBundle) -> None:
        """A resumed run must see the images it began with, or what it goes on with is no longer exact."""
        from finetune.evaluation.table import read_rows

        path = self.path / "splits.csv"
        if not path.is_file():
            return  # stopped before it was written, and so before anything was trained
        before = set(read_rows(path))
        columns = min(map(len, before), default=0)  # older runs kept no fingerprints
        now = {row[:columns] for row in _split_rows(bundle)}
        if before != now:
            raise RunError(
                f"The images and splits must be those that {self.path} began with. Got {_difference(before, now)} "
                "instead. Restore them, or start a new run."
            )

    def discard(self) -> None:
        """Remove what ``create`` made; for a run that failed before there was anything to keep."""
        shutil.rmtree(self.path, ignore_errors=True)
        latest = ROOT / "latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink()

    def _point_latest(self) -> None:
        # Systems without symbolic links (or without the right to make them) do without.
        with contextlib.suppress(OSError):
            temporary = self.path.parent / f".latest-{os.getpid()}"
            temporary.symlink_to(self.path.name, target_is_directory=True)
            os.replace(temporary, self.path.parent / "latest")

    def recipe(self) -> Recipe:
        """The recipe as it was resolved."""
        return Recipe.load(self.path / _MARK)

    @property
    def finished(self) -> bool:
        """Whether the result and the network, or all networks of an ensemble, are there."""
        return (self.path / "result.json").is_file() and not self.missing()

    def missing(self) -> list[Path]:
        """The files of its network, or of its networks, that are not there. Raises RunError as ``members`` does."""
        networks = [folder for folder, _ in self.members()] or [self.model]
        files = [network / name for network in networks for name in ("config.json", "model.safetensors")]
        return [file for file in files if not file.is_file()]

    def members(self) -> list[tuple[Path, float]]:
        """The model folders whose mean probability answers, and the weight of each; none for a single network.

        Raises RunError where ensemble.json is broken.
        """
        if not (self.path / ENSEMBLE).is_file():
            return []
        try:
            listed = self.read_json(ENSEMBLE)["members"]
            found = [(self.path / str(one["model"]), float(one["weight"])) for one in listed]
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{self.path / ENSEMBLE} cannot be read: {type(error).__name__}: {error}."
            ) from None
        if not found or not all(weight > 0 for _, weight in found):
            raise RunError(must(str(self.path / ENSEMBLE), "members with weights > 0", listed))
        return found

    def write_members(self, kind: str, members: Sequence[dict[str, Any]]) -> None:
        """ensemble.json. Each member: ``model``, its folder below this one; ``weight``; whatever else is known."""
        self.write_json(ENSEMBLE, {"kind": kind, "members": list(members)})

    @property
    def go_on(self) -> str:
        """The command that goes on with this run, as a shell takes it."""
        return f"finetune resume {shlex.quote(str(self.path))}"

    def kept(self) -> dict[str, Any] | None:
        """The phase and epoch whose weights the run kept; None where nothing was trained by gradient steps.

        Epochs count from 1; 0 is the head of an earlier phase, which training did not beat on validation.
        ``blend`` is there where a safety net was: 0 is the head of the earlier phase, 1 the tuned network.
        """
        phases = self.read_json("training.json").get("phases", {})
        trained = [phases[key] for key in sorted(phases, key=int) if "best" in phases[key]]
        if not trained:
            return None
        last = trained[-1]
        found = {"phase": last["name"], "epoch": last["best"]["epoch"]}
        return {**found, "blend": last["blend"]["alpha"]} if "blend" in last else found

    @property
    def model(self) -> Path:
        """Folder of the trained network."""
        return self.path / "model"

    def write_json(self, name: str, value: Any) -> None:
        atomic_write_json(self.path / name, value)

    def write_text(self, name: str, text: str) -> None:
        atomic_write_text(self.path / name, text)

    def write_bytes(self, name: str, data: bytes) -> None:
        atomic_write_bytes(self.path / name, data)

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run. Raises RunError where it is missing or broken."""
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(
                f"Run {self.path} has no {name}: it did not finish. Go on with: {self.go_on}"
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name} cannot be read: {error}.") from None
        if not isinstance(value, dict):
            raise RunError(must(str(self.path / name), "a JSON object", type(value).__name__))
        return value


def check_free(path: Path, what: str) -> None:
    """Raise RunError unless ``path`` is free to become a folder, absent or empty, where folders can be made."""
    try:
        if not path.exists() and not path.is_symlink():
            above = next(parent for parent in path.absolute().parents if parent.exists())
            if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
                got = (
                    f"below {str(above)!r}, which {'cannot be written to' if above.is_dir() else 'is a file'}"
                )
                raise RunError(
                    must(f"{what} {str(path)!r}", "where a folder can be made", got, "Choose another --out.")
                )
            return
        if path.is_dir() and not any(path.iterdir()):
            return
    except OSError as error:
        raise disk_error(error, path) from error
    found = "one with files in it" if path.is_dir() else "a file"
    remedy = "Choose another --out, or remove it."
    if (path / _MARK).is_file():
        remedy = f"Choose another --out, or go on with that run: {RunFolder(path).go_on}"
    raise RunError(must(f"{what} {str(path)!r}", "a new or empty folder", found, remedy))


def named_after(data: str | None) -> str:
    """What a run of this data is called.

    >>> named_after("photos/"), named_after("shards/{000..009}.tar"), named_after("hf:user/birds")
    ('photos', 'shards', 'birds')
    """
    if data is None:
        return "data"
    path = Path(data).resolve()
    if any(sign in path.name for sign in "{}*?"):
        path = path.parent
    return path.name.removeprefix("hf:")


def repeatable(recipe: Recipe) -> Recipe:
    """The recipe that repeats a run from any folder: absolute paths, and no output folder of its own."""
    keys: dict[str, Any] = {"out": None, "name": None}
    if recipe.data.path is not None:
        data = recipe.data.model_dump(exclude_unset=True)
        places = {"path": recipe.data.path, "root": recipe.data.root}
        if recipe.data.path.startswith("hf:"):  # a name, no place
            del places["path"]
        keys["data"] = data | {
            key: str(Path(place).expanduser().resolve()) for key, place in places.items() if place is not None
        }
    weights = recipe.backbone.removeprefix("local:")
    if Path(weights).expanduser().is_file():
        keys["backbone"] = recipe.backbone.replace(weights, str(Path(weights).expanduser().resolve()))
    return recipe.override(**keys)


def _dump(recipe: Recipe) -> str:
    """Everything resolved, but training keys that were left to the strategy: plan.yaml has those."""
    tree = {**recipe.model_dump(), "train": recipe.train.model_dump(exclude_unset=True)}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _header(path: Path, plan: bool) -> str:
    given = f" --plan {path / 'plan.yaml'}" if plan else ""
    return f"# Repeats this run: finetune run --recipe {path / _MARK}{given}\n"


def _split_rows(bundle: DataBundle) -> list[tuple[str, ...]]:
    """(image, label, split, fingerprint in hexadecimal) of every image; several labels joined, a number as text."""
    parts = {"train": bundle.train, "val": bundle.val, "test": bundle.test}
    return [
        (part.name(i), part.truth(i), split, part.fingerprint(i).hex())
        for split, part in parts.items()
        for i in range(len(part))
    ]


def _difference(before: set[tuple[str, ...]], now: set[tuple[str, ...]]) -> str:
    """How two versions of splits.csv differ: files first, for a file that is gone moves others to another split."""
    old, new = {row[0] for row in before}, {row[0] for row in now}
    changed = {row[0] for row in before ^ now} & old & new
    told = [
        f"{len(names)} {what} (the first: {min(names)!r})"
        for what, names in ((f"of {len(old)} missing", old - new), ("new", new - old))
        if names
    ]
    if not told:
        told = [
            f"{len(changed)} with other contents, another label or another split (the first: {min(changed)!r})"
        ]
    return " and ".join(told)
