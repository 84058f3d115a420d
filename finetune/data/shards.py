"""WebDataset shards: tars of ``key.jpg`` beside ``key.cls``, ``key.json`` or ``key.txt``, read in place.

A shard is gone through once, header by header; where each image lies, and what its label says, is kept in the cache
folder. From then on any image is one read of its own bytes, so nothing is unpacked and nothing but the batches at hand
is in memory, while order, augmentation and resuming stay as exact as those of a folder.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from finetune import ranks
from finetune.data.archive import index, is_shard
from finetune.data.columns import text_of
from finetune.data.decode import IMAGE_SUFFIXES
from finetune.data.imageset import Quarantined
from finetune.data.layout import ROLES
from finetune.data.listing import UNLABELLED, Listing, Row
from finetune.data.member import Member
from finetune.data.memory import unswept
from finetune.data.place import BETWEEN, exists, is_dir, is_file
from finetune.data.table import LABELS, joined
from finetune.errors import DataError, RunError, must
from finetune.files import atomic_write_bytes
from finetune.recipe import DataRecipe
from finetune.runtime import cache_dir

VERSION = 2
"""Raise it when what is kept of a shard changes."""
_LABELS = ("cls", "json", "txt")  # the first that a key has
_MOST_TEXT = 1 << 20
_ROLE = re.compile(rf"({'|'.join(sorted(ROLES, key=len, reverse=True))})(?![a-z])", re.IGNORECASE)
_PATTERN = re.compile(r"[{}*?\[\]]")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_SHARDS = 1_000_000


def find_shards(path: str | Path) -> tuple[Path, ...] | None:
    """The shards that ``data.path`` names, in order: a pattern such as ``{000..009}.tar`` or ``*.tar``, or a folder of
    tars (or of train/ val/ test/ with tars). None for anything else. Raises DataError where a shard is missing.
    """
    path = Path(path).expanduser()
    if is_dir(path):
        return _in_folder(path) or None
    if exists(path) or not _PATTERN.search(str(path)) or not is_shard(path):
        return None
    found: dict[Path, None] = {}
    for name in expand(str(path)):
        matches = [Path(name)] if is_file(Path(name)) else [Path(n) for n in sorted(glob.glob(name))]  # noqa: PTH207
        if not matches:
            raise DataError(must("data.path", "shards that are there", f"{name!r}, which does not exist"))
        found |= dict.fromkeys(matches)
    return tuple(found)


def expand(pattern: str) -> list[str]:
    """What the braces of a shell stand for.

    >>> expand("{train,val}-{08..10}.tar")[:4]
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-08.tar']
    """
    parts = [_choices(part) for part in re.split(r"(\{[^{}]*\})", pattern)]
    count = 1
    for part in parts:
        count *= len(part)
    if count > _MOST_SHARDS:
        raise DataError(must("data.path", f"a pattern of at most {_MOST_SHARDS:,} shards", f"{count:,}"))
    return ["".join(chosen) for chosen in itertools.product(*parts)]


def _choices(part: str) -> Sequence[str]:
    inside = part[1:-1]
    if not part.startswith("{"):
        return [part]
    if match := _RANGE.fullmatch(inside):
        first, last = match.groups()
        if int(last) - int(first) >= _MOST_SHARDS:
            raise DataError(must("data.path", f"a pattern of at most {_MOST_SHARDS:,} shards", repr(part)))
        return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return inside.split(",")


def _in_folder(folder: Path) -> tuple[Path, ...]:
    def tars(here: Path) -> list[Path]:
        with contextlib.suppress(OSError), os.scandir(here) as entries:
            return sorted(Path(e.path) for e in entries if is_shard(e.name) and not e.name.startswith("."))
        return []

    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        parts = sorted(e.path for e in entries if e.name.lower() in ROLES and e.is_dir())
        return (*tars(folder), *(tar for part in parts for tar in tars(Path(part))))
    return ()


@dataclass(frozen=True)
class _Shard:
    """What is kept of a shard, in columns: a million rows are read from them in a third of the time of rows."""

    inner: list[str]
    """Of each image its path in the shard."""
    offsets: list[int]
    sizes: list[int]
    methods: list[int]
    kinds: list[str | None]
    """Of each image what its label lies in: cls, json, txt, or nothing."""
    labels: list[str]
    """What is written there."""
    aside: list[tuple[str, str]]
    cut: str | None


def read_shards(recipe: DataRecipe, shards: Sequence[Path]) -> Listing:
    """The images of shards with their labels; no image is opened.

    The label is the text of ``key.cls``, a field of ``key.json`` (``data.label_column``, else cls, label, class ...) or
    the text of ``key.txt``. Shards called ``train-...``, ``val-...``, ``test-...``, or in folders called so, are those
    splits. A shard that ends too early gives what is whole before that, with a note. Raises DataError.
    """
    roles = _splits(shards)
    if (
        not ranks.alone()
    ):  # each process goes through its share of the shards; the rest it then finds in the cache
        ranks.each(lambda: [_known(shard) for shard in shards[ranks.rank() :: ranks.world()]])
    base = Path(os.path.commonpath([str(shard.parent.absolute()) for shard in shards]))
    rows: list[Row] = []
    aside: list[Quarantined] = []
    notes: list[str] = []
    same: dict[str, str] = {}
    lists = False
    for path, role in zip(shards, roles, strict=True):
        with unswept():
            shard, called = _known(path), path.absolute().relative_to(base).as_posix()
            if shard.cut is not None:
                notes.append(
                    f"Shard {called} {shard.cut}: the {len(shard.inner)} images before that are used."
                )
            aside += [Quarantined(f"{called}{BETWEEN}{inner}", why) for inner, why in shard.aside]
            columns = shard.inner, shard.offsets, shard.sizes, shard.methods, shard.kinds, shard.labels
            for inner, offset, size, method, kind, text in zip(*columns, strict=True):
                name = f"{called}{BETWEEN}{inner}"
                label, group, listed = _read(kind, text, recipe, name)
                lists = lists or listed
                if not label and recipe.task != "multi-label":
                    why = f"label in its .{kind}" if kind else ".cls, .json or .txt beside it"
                    aside.append(Quarantined(name, UNLABELLED + why, "unlabelled"))
                    continue
                label = same.setdefault(label, label)  # one text for all that have it, not a million
                rows.append(Row(Member(path, inner, size, offset, size, method), name, label, role, group))
    if not rows:
        first = f" The first, {aside[0].path!r}, {aside[0].reason}." if aside else ""
        raise DataError(
            must(
                f"The shards {str(base)!r}",
                "ones with images and labels: key.jpg and key.cls, key.json or key.txt",
                "none",
            )
            + first
        )
    if recipe.group_by is not None and "(" not in recipe.group_by and not any(row.group for row in rows):
        expected = "a field of the shards' .json, or a pattern with one part in parentheses"
        raise DataError(must("data.group_by", expected, f"{recipe.group_by!r}, which no .json has"))
    names = {role: "the shards" if role == "all" else f"the {role} shards" for role in roles}
    return Listing(tuple(rows), names, tuple(notes), tuple(aside), by_value=True,
                   label_name=recipe.label_column or "label", lists=lists)  # fmt: skip


def _splits(shards: Sequence[Path]) -> list[str]:
    found = []
    for shard in shards:
        match = _ROLE.match(shard.name) or _ROLE.fullmatch(shard.parent.name)
        found.append(ROLES[match[1].lower()] if match else "all")
    named = set(found) - {"all"}
    if named and "all" in found:
        odd, like = shards[found.index("all")], shards[next(i for i, r in enumerate(found) if r != "all")]
        raise DataError(
            must("Shards", "all called train-, val- or test-, or none", f"{like.name!r} and {odd.name!r}")
        )
    if named and "train" not in named:
        raise DataError(
            must("Shards", "some called train-... where others are val- or test-", shards[0].name)
        )
    return found


def _read(kind: str | None, text: str, recipe: DataRecipe, name: str) -> tuple[str, str | None, bool]:
    """(label, group, whether the label was a list). A label that is not there, or not to be read, is empty."""
    if kind != "json":
        return text.strip(), None, False
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, lists a thousand deep
        return "", None, False
    if not isinstance(fields, dict):
        value, group = fields, None
    else:
        usual = (recipe.label_column,) if recipe.label_column is not None else ("cls", *LABELS)
        value = next((fields[key] for key in usual if key in fields), None)
        group = fields.get(recipe.group_by) if recipe.group_by is not None else None
    label = joined(name, value, recipe.label_separator)
    if isinstance(label, dict):
        raise DataError(must(f"The label of {name!r}", "a text or number", "a JSON object"))
    return text_of(label), None if group is None else text_of(group), isinstance(value, list)


# --- what is kept of a shard --------------------------------------------------------------------------------


def _kind(value: Any) -> str | None:
    return None if value is None else str(value)


_COLUMNS: dict[str, Callable[[Any], Any]] = {
    "inner": str, "offsets": int, "sizes": int, "methods": int, "kinds": _kind, "labels": str,
}  # fmt: skip


def _known(path: Path) -> _Shard:
    """The index of a shard, from the cache folder if it lies there for this very file."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(must(f"Shard {str(path)!r}", "a readable file", error.strerror)) from None
    where = str(path.absolute())
    stamp = [VERSION, where, stat.st_size, stat.st_mtime_ns]
    file = cache_dir() / "shards" / f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(
        OSError, ValueError, KeyError, TypeError, RecursionError
    ):  # not there, torn, another's
        kept = json.loads(file.read_bytes())
        if kept["stamp"] == stamp:
            columns: dict[str, Any] = {name: list(map(of, kept[name])) for name, of in _COLUMNS.items()}
            aside = [(str(name), str(why)) for name, why in kept["aside"]]
            if len({len(column) for column in columns.values()}) == 1:
                return _Shard(**columns, aside=aside, cut=kept["cut"])
    found = _scan(path)
    with contextlib.suppress(RunError):  # a full or read-only disk: it is gone through again next time
        tree = {"stamp": stamp, **vars(found)}
        atomic_write_bytes(file, json.dumps(tree, separators=(",", ":")).encode())
    return found


def _scan(path: Path) -> _Shard:
    if path.stat().st_size == 0:
        return _Shard([], [], [], [], [], [], [], "is empty (0 bytes)")
    contents = index(path)
    images: dict[str, Member] = {}
    labels: dict[str, tuple[str, Member]] = {}
    for inner, member in contents.named.items():
        folder, _, name = inner.rpartition("/")
        stem, _, kind = name.partition(".")
        key, kind = f"{folder}/{stem}", kind.lower()
        if f".{kind.rpartition('.')[2]}" in IMAGE_SUFFIXES:
            images.setdefault(key, member)
        elif kind in _LABELS and (key not in labels or _LABELS.index(kind) < _LABELS.index(labels[key][0])):
            labels[key] = kind, member
    with path.open("rb") as file:
        opened = file if path.suffix.lower() == ".tar" else None
        texts = [_text(labels[key][1], opened) if key in labels else "" for key in images]
    kinds = [labels[key][0] if key in labels else None for key in images]
    prefix = f"{path.name}{BETWEEN}"
    aside = [(q.path.removeprefix(prefix), q.reason) for q in contents.aside]
    if contents.cut is None:  # else the image was lost with the end
        aside += [
            (m.inner, "has no image of its name") for key, (_, m) in labels.items() if key not in images
        ]
    found = images.values()
    return _Shard([m.inner for m in found], [m.offset for m in found], [m.size for m in found],
                  [m.method for m in found], kinds, texts, aside, contents.cut)  # fmt: skip


def _text(member: Member, file: IO[bytes] | None) -> str:
    """Of a label; empty where it cannot be read."""
    try:
        if member.size > _MOST_TEXT:
            return ""
        data = member.read_bytes() if file is None else member.read_from(file)
        return data.decode("utf-8-sig", errors="replace")
    except OSError:
        return ""
