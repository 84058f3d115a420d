"""From ``data.path`` to a listing, whatever lies there: a folder tree, a table, an archive of either."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from finetune.data.archive import Branch, Contents, Member, is_archive, plain_name, read_archive
from finetune.data.columns import is_table
from finetune.data.layout import ROLES, class_folders, find_layout, layout_of, subfolders
from finetune.data.listing import Listing, grouped, of_layout
from finetune.data.table import Find, read_table
from finetune.recipe import DataRecipe


def listed(recipe: DataRecipe) -> tuple[Listing, str]:
    """What the source names, and what follows a split's name in messages. Raises DataError; opens no image."""
    path = Path(recipe.path).expanduser() if recipe.path is not None else None
    if path is None or path.is_dir():
        return _grouped(of_layout(find_layout(path)), recipe), "/"
    if is_table(path):
        return _grouped(read_table(recipe), recipe, table=True), ""
    if is_archive(path) and path.is_file():
        return _in_archive(recipe, read_archive(path))
    return of_layout(find_layout(path)), "/"  # which says what is wrong with it


def _in_archive(recipe: DataRecipe, contents: Contents) -> tuple[Listing, str]:
    """A folder tree inside an archive; or a table there, where the folders are no classes."""
    top = archive_root(contents)
    tables = [file for name, file in sorted(top.files.items()) if is_table(name) and not name.startswith(".")]
    if len(tables) == 1 and len(class_folders(top)) < 2:
        listing, mark = read_table(recipe, table=tables[0], find=_below(top)), ""
    else:
        listing, mark = of_layout(layout_of(top)), "/"
    return _grouped(_with_aside(listing, contents), recipe, table=not mark), mark


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
