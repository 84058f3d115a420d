"""Images in the cells of a Parquet table: as ``datasets`` writes them, or bytes alone."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import encoded, picture
from test_archive import zip_of

from finetune.data import parquet as reading
from finetune.data.load import load_data
from finetune.errors import DataError
from finetune.recipe import DataRecipe

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def cells(kind: str, count: int = 30, first: int = 0) -> list[Any]:
    data = [encoded(picture(first + i)) for i in range(count)]
    return data if kind == "binary" else [{"bytes": d, "path": f"{i}.png"} for i, d in enumerate(data)]


def write(target: Path, images: list[Any], name: str = "image", **more: list[Any]) -> Path:
    labels = [["ants", "bees"][i % 2] for i in range(len(images))]
    table = pyarrow.table({name: images, "label": labels, **more})
    parquet.write_table(table, target, row_group_size=7)
    return target


def load(path: Path, **keys: Any) -> Any:
    return load_data(DataRecipe(path=str(path), **keys), 0)


def check_all(bundle: Any, prefix: str = "t.parquet!/") -> None:
    seen = 0
    for part in (bundle.train, bundle.val, bundle.test):
        for i in range(len(part)):
            number = int(part.name(i).removeprefix(prefix))
            assert part.truth(i) == ["ants", "bees"][number % 2]
            assert np.array_equal(np.asarray(part.load(i)), np.asarray(picture(number)))
            seen += 1
    assert seen == 30


@pytest.mark.parametrize("kind", ["struct", "binary"])
@pytest.mark.parametrize("name", ["image", "scan"])
def test_images_in_cells(kind: str, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", cells(kind), name, path=["gone.png"] * 30)
    bundle = load(path)
    check_all(bundle)
    place = bundle.train.file(0)
    assert pickle.loads(pickle.dumps(place)).read_bytes() == place.read_bytes()


def test_row_groups_that_do_not_all_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "budget", lambda most, share: 1)
    monkeypatch.setattr("finetune.data.folder.budget", lambda most, share: 0)  # decoded again every time
    check_all(load(write(tmp_path / "t.parquet", cells("struct"))))


def test_a_table_in_an_archive(tmp_path: Path) -> None:
    data = write(tmp_path / "t.parquet", cells("struct")).read_bytes()
    check_all(load(zip_of(tmp_path / "t.zip", {"t.parquet": data})), "t.zip!/t.parquet!/")


def test_a_table_written_anew_is_another(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", cells("binary", first=50))
    load(path)
    write(path, cells("binary"))
    os.utime(path, ns=(1, 1))
    check_all(load(path))


def test_cells_without_an_image_are_set_aside(tmp_path: Path) -> None:
    images = cells("struct", 40)
    images[3], images[4] = None, {"bytes": None, "path": None}
    images[5], images[6] = {"bytes": None, "path": "nowhere.png"}, {"bytes": b"no image", "path": None}
    (tmp_path / "here.png").write_bytes(encoded(picture(7)))
    images[7] = {"bytes": None, "path": "here.png"}
    bundle = load(write(tmp_path / "t.parquet", images))
    assert {q.path: q.reason for q in bundle.quarantined} == {
        "t.parquet!/3": "cannot be read (the row has no image)",
        "t.parquet!/4": "cannot be read (the row has no image)",
        "t.parquet!/5": "cannot be read (No such file or directory)",
        "t.parquet!/6": "is not an image that Pillow can read",
    }
    assert len(bundle.train) + len(bundle.val) + len(bundle.test) == 36


def test_text_written_as_bytes_is_text(picture_folder: Path, tmp_path: Path) -> None:
    files = sorted(picture_folder.rglob("*.png"))
    columns = {
        "path": [str(f).encode() for f in files],
        "label": [f.parent.name.encode() for f in files],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet").classes == ("across", "disc", "down")


def test_a_table_cut_in_an_image_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", cells("struct"))
    data = bytearray(path.read_bytes())
    data[4:2000] = os.urandom(1996)
    path.write_bytes(data)
    bundle = load(path)
    assert bundle.quarantined
    assert all("damaged" in q.reason or "cannot" in q.reason for q in bundle.quarantined)
    path.write_bytes(data[:5000])
    with pytest.raises(DataError, match="must be a Parquet file"):
        load(path)


def test_run_check_and_evaluate(tmp_path: Path) -> None:
    from finetune.api import run
    from finetune.audit.run import audit_recipe
    from finetune.recipe import Recipe

    path = write(tmp_path / "t.parquet", cells("struct", 40))
    data = {"path": str(path), "image_size": 32}
    done = run({"strategy": "linear", "out": str(tmp_path / "run"), "data": data}, figures=False)
    assert done.evaluate(path).n == 40
    found = audit_recipe(Recipe.model_validate({"data": data}))
    assert found.to_dict()["formats"] == {"PNG": 40}
