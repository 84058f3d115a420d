"""From ``data.path`` to a listing, whatever lies there: a folder tree, a table, an archive of either, shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from finetune.data.archive import index, is_archive, is_shard, plain_name, whole
from finetune.data.columns import is_table
from finetune.data.hub import is_hub, read_hub
from finetune.data.layout import (
    ROLES,
    candidates,
    class_folders,
    find_layout,
    layout_of,
    looks_like_image,
    subfolders,
)
from finetune.data.listing import Listing, grouped, of_layout
from finetune.data.member import Branch, Contents, Member
from finetune.data.place import is_dir, is_file
from finetune.data.shards import find_shards, read_shards
from finetune.data.table import Find, read_table
from finetune.recipe import DataRecipe


def listed(recipe: DataRecipe) -> tuple[Listing, str]:
    """What the source names, and what follows a split's name in messages. Raises DataError; opens no image."""
    path = Path(recipe.path).expanduser() if recipe.path is not None else None
    if path is not None and is_hub(path):
        return _grouped(read_hub(recipe), recipe, table=True), ""
    shards = _shards(path)
    if shards is not None:
        return _grouped(read_shards(recipe, shards), recipe, table=True), ""
    if path is None or is_dir(path):
        return _grouped(of_layout(find_layout(path)), recipe), "/"
    if is_table(path):
        return _grouped(read_table(recipe), recipe, table=True), ""
    if is_archive(path) and is_file(path):
        return _in_archive(recipe, path)
    return of_layout(find_layout(path)), "/"  # which says what is wrong with it


def _in_archive(recipe: DataRecipe, path: Path) -> tuple[Listing, str]:
    """A shard; a folder tree inside an archive; or a table there, where the folders are no classes."""
    contents = index(path)
    if is_shard(path) and _looks_like_shard(contents):
        return _grouped(read_shards(recipe, [path]), recipe, table=True), ""
    top = archive_root(whole(path, contents))
    tables = [file for name, file in sorted(top.files.items()) if is_table(name) and not name.startswith(".")]
    if len(tables) == 1 and len(class_folders(top)) < 2:
        listing, mark = read_table(recipe, table=tables[0], find=_below(top)), ""
    else:
        listing, mark = of_layout(layout_of(top)), "/"
    return _grouped(_with_aside(listing, contents), recipe, table=not mark), mark


def is_folder_of_classes(path: Path) -> bool:
    """Whether classes are folders there, if it is there at all: no shards, nor a tar that looks like one."""
    if is_hub(path) or _shards(path) is not None:
        return False
    if is_dir(path) or not (is_shard(path) and is_file(path)):
        return True
    return not _looks_like_shard(index(path))


def _shards(path: Path | None) -> tuple[Path, ...] | None:
    """Shards, where ``path`` names some; a folder with images below it is a folder of images."""
    found = find_shards(path) if path is not None else None
    if (
        found
        and path is not None
        and is_dir(path)
        and any(looks_like_image(file) for file in candidates(path))
    ):
        return None
    return found


def _looks_like_shard(contents: Contents) -> bool:
    """Whether one of the first files is an image's label: a .cls, .json or .txt of its name beside it."""
    first = contents.members[:64]
    names = {member.inner.split(".", 1)[0] for member in first if looks_like_image(member)}
    return any(m.inner.split(".", 1)[0] in names for m in first if m.suffix in (".cls", ".json", ".txt"))


def archive_root(contents: Contents) -> Branch:
    """Where the classes begin: below a top folder that holds everything, as archives of a folder have one."""
    here = contents.root
    while True:
        inside = [sub for sub in subfolders(here) if isinstance(sub, Branch)]
        files = [name for name in here.files if not name.startswith(".")]
        if len(inside) != 1 or files or inside[0].name.lower() in ROLES or not _has_more(inside[0]):
            return here
        here = inside[0]


def _has_more(folder: Branch) -> bool:
    return bool(subfolders(folder)) or any(is_table(name) for name in folder.files)


def _below(top: Branch) -> Find:
    """Finds members by their path below the folder of the table."""

    def find(name: str) -> Member | None:
        return top.find(plain_name(name))

    return find


def _with_aside(listing: Listing, contents: Contents) -> Listing:
    return replace(listing, aside=(*contents.aside, *listing.aside))


def _grouped(listing: Listing, recipe: DataRecipe, table: bool = False) -> Listing:
    """Groups by a pattern; a table has told groups by a column itself."""
    if recipe.group_by is None or (table and "(" not in recipe.group_by):
        return listing
    return grouped(listing, recipe.group_by)
