"""What a folder means: which files are candidates, of which class, in which split. Nothing is opened here."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from finetune.data.decode import IMAGE_SUFFIXES
from finetune.data.member import Branch
from finetune.data.place import Found, Inside, exists, is_dir
from finetune.errors import DataError

ROLES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
          "dev": "val", "test": "test", "testing": "test"}  # fmt: skip
_SKIPPED = {"__MACOSX", "@eaDir", "__pycache__", "$RECYCLE.BIN", "System Volume Information"}

EXPECTED = "a folder with one sub-folder of images per class, with or without train/ val/ test/ above them"

ClassFiles = dict[str, list[Found]]
"""Class name -> files below that class folder, sorted."""

Folder = Path | Branch
"""A folder on the disk, or inside an archive."""


@dataclass(frozen=True)
class Layout:
    """Candidate files by split ("all" where the folder has no splits) and class."""

    root: Folder
    splits: dict[str, ClassFiles]
    folders: dict[str, str]
    """Split -> the folder's own name (``valid``), for messages."""
    notes: list[str] = field(default_factory=list)


def find_layout(path: str | Path | None) -> Layout:
    """Look at a data folder. Raises DataError where it is missing, empty or laid out otherwise."""
    if path is None:
        raise DataError(f"data.path must be {EXPECTED}. Got none instead. Pass --data DIR.")
    root = Path(path).expanduser()
    if not exists(root):
        raise not_there(path)
    if root.suffix.lower() == ".json":
        raise DataError(
            f"data.path must be a table of JSON lines, called .jsonl. Got {str(path)!r} instead. Write one object a "
            "line, without brackets around them all."
        )
    if not is_dir(root):
        raise DataError(
            f"data.path must be {EXPECTED}. Got {str(path)!r} instead, which is a file and neither a table nor an "
            "archive by its name."
        )
    return layout_of(root)


def not_there(path: str | Path, asked: str = "data.path") -> DataError:
    """What to raise where nothing lies."""
    return DataError(
        f"{asked} must be an existing folder, table or archive. Got {str(path)!r} instead, which does not exist."
    )


def layout_of(root: Folder) -> Layout:
    """Splits and classes of a folder that is there. Raises DataError."""
    roles = _roles(root)
    # Only where there are split folders: it looks into every other one.
    others = [d for d in subfolders(root) if roles and d.name.lower() not in ROLES and _has_candidates(d)]
    if _is_split(roles, others):
        return _split_layout(root, roles, others)
    return _flat_layout(root)


def subfolders(folder: Folder) -> list[Folder]:
    """Visible sub-folders, sorted by name."""
    if isinstance(folder, Branch):
        return [folder.folders[name] for name in sorted(folder.folders) if not _hidden(name)]
    return [*sorted(Path(d.path) for d in _entries(folder) if d.is_dir() and not _hidden(d.name))]


def candidates(folder: Folder) -> list[Found]:
    """All visible files below a folder, at any depth, sorted; links are followed, circles are not."""
    if isinstance(folder, Branch):
        below: list[Found] = [file for name, file in folder.files.items() if not _hidden(name)]
        below += [file for sub in subfolders(folder) for file in candidates(sub)]
        return sorted(below, key=lambda file: str(file).split("/"))
    found: list[Found] = []
    _walk(folder, set(), found)
    return found


def _walk(folder: Path | str, seen: set[str], found: list[Found]) -> None:
    """Append the files in the order of their paths: in every folder by name, what a folder holds in its place."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for entry in sorted(_entries(folder), key=_name_of):
        if _hidden(entry.name):
            continue
        if entry.is_dir():
            _walk(entry.path, seen, found)
        elif entry.is_file() or entry.is_symlink():  # a dangling link is reported, not overlooked
            found.append(entry.path)


def _name_of(entry: os.DirEntry[str]) -> str:
    return entry.name


def looks_like_image(path: Path | Found) -> bool:
    """Whether the name claims to be an image."""
    if isinstance(path, Inside) and path.known_image:
        return True
    name = path if isinstance(path, str) else path.name
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"Folder {str(folder)!r} must be readable. Got {error.strerror} instead.") from None


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _SKIPPED


def _has_candidates(folder: Folder) -> bool:
    return any(looks_like_image(f) for f in candidates(folder))


def _loose(folder: Folder) -> int:
    if isinstance(folder, Branch):
        return sum(1 for name, f in folder.files.items() if not _hidden(name) and looks_like_image(f))
    return sum(
        1 for f in _entries(folder) if not _hidden(f.name) and looks_like_image(Path(f.name)) and f.is_file()
    )


def class_folders(folder: Folder) -> list[Folder]:
    """Sub-folders with any file below them."""
    return [d for d in subfolders(folder) if candidates(d)]


def class_name(folder: Folder) -> str:
    """A folder's name in composed form: macOS stores accents decomposed, and the same name in train/ and val/ would be
    two classes."""
    return unicodedata.normalize("NFC", folder.name)


def _roles(root: Folder) -> dict[str, Folder]:
    roles: dict[str, Folder] = {}
    for folder in subfolders(root):
        role = ROLES.get(folder.name.lower())
        if role is None:
            continue
        if role in roles and class_folders(folder):
            raise DataError(
                f"{str(root)!r} must hold one {role} folder. "
                f"Got {roles[role].name!r} and {folder.name!r} instead. Remove or merge one of them."
            )
        roles.setdefault(role, folder)
    return roles


def _is_split(roles: dict[str, Folder], others: list[Folder]) -> bool:
    """Split folders, or classes that happen to be called ``train`` (a railway) or ``test``?

    Only split folders: splits. With other folders beside them: splits if they share a class.
    """
    if not roles:
        return False
    if not others:
        return True
    if "train" not in roles or len(roles) < 2:
        return False
    inside = {role: {class_name(d) for d in class_folders(folder)} for role, folder in roles.items()}
    return any(inside["train"] & names for role, names in inside.items() if role != "train")


def _split_layout(root: Folder, roles: dict[str, Folder], others: list[Folder]) -> Layout:
    if "train" not in roles:
        names = " and ".join(f"{f.name}/" for f in roles.values())
        raise DataError(
            f"{str(root)!r} must hold a train/ folder beside {names}. Got none instead. "
            "Rename the folder with the training images to train."
        )
    notes = [f"Folder {d.name}/ is neither a split nor a class and is skipped." for d in others]
    splits: dict[str, ClassFiles] = {}
    for role, folder in roles.items():
        classes, found = _read_classes(folder)
        notes += found
        if classes:
            splits[role] = classes
        elif role == "train":
            held = f"{_loose(folder)} images directly in it" if _loose(folder) else "no images"
            raise DataError(
                f"{str(folder)!r} must hold one sub-folder of images per class. Got {held} instead. "
                "Move the images of each class into a folder named after the class."
            )
        else:
            notes.append(f"{folder.name}/ has no class folders with images and is skipped.")
    return Layout(root, splits, {role: folder.name for role, folder in roles.items()}, notes)


def _flat_layout(root: Folder) -> Layout:
    classes, notes = _read_classes(root)
    if not classes:
        if loose := _loose(root):
            raise DataError(
                f"{str(root)!r} must be {EXPECTED}. Got {loose} images directly in it instead. "
                "Move the images of each class into a folder named after the class."
            )
        raise DataError(f"{str(root)!r} must be {EXPECTED}. Got a folder without images instead.")
    if len(classes) == 1:
        (only,) = classes
        inside = next(d for d in subfolders(root) if class_name(d) == only)
        deeper = [d.name for d in class_folders(inside)]
        remedy = "Add a folder with images of another class: a classifier needs something to tell apart."
        if len(deeper) > 1:
            remedy = f"Did you mean {str(inside)!r}, which has {len(deeper)} sub-folders?"
        raise DataError(f"{str(root)!r} must hold at least 2 classes. Got only {only!r} instead. {remedy}")
    for name in (name for name in classes if name.lower() in ROLES):
        notes.append(f"Folder {name}/ is taken for a class, not for a split: other classes lie beside it.")
    return Layout(root, {"all": classes}, {"all": root.name}, notes)


def _read_classes(folder: Folder) -> tuple[ClassFiles, list[str]]:
    classes: ClassFiles = {}
    notes = []
    for sub in subfolders(folder):
        files = candidates(sub)
        if not files:
            notes.append(f"Folder {sub.name}/ has no images and is skipped.")
            continue
        classes.setdefault(class_name(sub), []).extend(files)
    if classes and (loose := _loose(folder)):
        notes.append(f"{loose} images directly in {folder.name}/ have no class and are skipped.")
    return classes, notes
