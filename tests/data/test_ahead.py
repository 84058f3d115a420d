"""Images read by a forked process: the same as read here, whatever happens to that process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")

SAME = """
import os, signal, sys, time
import numpy as np
from finetune.data import ahead
from finetune.data.load import read_folder
from finetune.recipe import DataRecipe

ahead.available_cores = lambda: 2
recipe = DataRecipe(path=sys.argv[1])
assert ahead.begin(recipe) and "torch" not in sys.modules
what = sys.argv[2]
if what == "killed":
    os.kill(ahead._begun.child.pid, signal.SIGKILL)
    ahead._begun.child.join()
    assert ahead.take(recipe) is None
elif what == "other":
    assert ahead.take(DataRecipe(path=sys.argv[1], max_pixels=17)) is None
    ahead.cancel()
    assert ahead.take(recipe) is None
else:
    found, here = ahead.take(recipe), read_folder(recipe)
    assert ahead.take(recipe) is None
    assert (found.notes, found.quarantined, found.source) == (here.notes, here.quarantined, here.source)
    assert found.given.keys() == here.given.keys()
    for split, theirs in found.given.items():
        mine = here.given[split]
        assert theirs.classes == mine.classes and (theirs.labels == mine.labels).all() and len(mine)
        for i in range(len(mine)):
            assert (theirs.name(i), theirs.fingerprint(i)) == (mine.name(i), mine.fingerprint(i))
            assert theirs.info(i) == mine.info(i)
            assert (np.asarray(theirs.load(i)) == np.asarray(mine.load(i))).all()
    everything = theirs.base
    kept = [everything._decoded.get(file.name) for file in everything.files]
    assert all(image is not None for image in kept)
print("fine")
"""


def script(folder: Path, what: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SAME, str(folder), what], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_images_are_found(picture_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "pictures"
    shutil.copytree(picture_folder, folder)
    (folder / "disc" / "broken.png").write_bytes(b"\x89PNG\r\n")
    (folder / "disc" / "notes.txt").write_text("no image")
    assert script(folder, "same") == "fine\n"


@pytest.mark.parametrize("what", ["killed", "other"])
def test_without_the_second_process(what: str, picture_folder: Path) -> None:
    assert script(picture_folder, what) == "fine\n"


def test_a_bad_folder_gives_the_usual_message(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "finetune", "run", "--data", str(tmp_path), "--out", str(tmp_path / "run")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert "image" in done.stderr
    assert "Traceback" not in done.stderr


def test_not_where_torch_is_loaded_already(picture_folder: Path) -> None:
    import torch  # noqa: F401

    from finetune.data import ahead
    from finetune.recipe import DataRecipe

    assert not ahead.begin(DataRecipe(path=str(picture_folder)))
