"""Tables of images: CSV, TSV, JSON lines, Parquet; every way in which one can be wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.data.load import load_data
from finetune.data.table import is_table
from finetune.errors import DataError
from finetune.recipe import DataRecipe

Rows = list[dict[str, Any]]


def rows_of(folder: Path, name: str = "path", label: str = "label") -> Rows:
    return [
        {name: path.relative_to(folder).as_posix(), label: path.parent.name}
        for path in sorted(folder.rglob("*.png"))
    ]


def write_csv(path: Path, rows: Rows, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json(path: Path, rows: Rows) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def write_parquet(path: Path, rows: Rows) -> Path:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").Table.from_pylist(rows)
    parquet.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("all.csv", write_csv),
        ("all.tsv", lambda path, rows: write_csv(path, rows, "\t")),
        ("semicolon.csv", lambda path, rows: write_csv(path, rows, ";")),
        ("all.jsonl", write_json),
        ("all.parquet", write_parquet),
    ],
)
def test_a_table_gives_what_the_folder_gives(
    name: str, write: Callable[[Path, Rows], Path], picture_folder: Path, tmp_path: Path
) -> None:
    table = write(tmp_path / name, rows_of(picture_folder))
    assert is_table(table)
    found = load_data(DataRecipe(path=str(table), root=str(picture_folder)), 0)
    folder = load_data(DataRecipe(path=str(picture_folder)), 0)
    for mine, theirs in ((found.train, folder.train), (found.val, folder.val), (found.test, folder.test)):
        assert mine.classes == theirs.classes == ("across", "disc", "down")
        assert [mine.name(i) for i in range(len(mine))] == [theirs.name(i) for i in range(len(theirs))]
        assert mine.labels.tolist() == theirs.labels.tolist()
        assert mine.fingerprint(0) == theirs.fingerprint(0)


def test_columns_splits_and_numbers(picture_folder: Path, tmp_path: Path) -> None:
    number = {"across": 10, "disc": 9, "down": 100}
    rows = [
        {"id": i, "Image": str(picture_folder / row["path"]), "kind": number[row["label"]],
         "Set": "testing" if i % 4 == 0 else "train"}
        for i, row in enumerate(rows_of(picture_folder))
    ]  # fmt: skip
    table = write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(
        DataError, match=r"must have a column of labels.*'id', 'Image', 'kind', 'Set'.*label_col"
    ):
        load_data(DataRecipe(path=str(table)), 0)
    bundle = load_data(DataRecipe(path=str(table), label_column="kind"), 0)
    assert bundle.classes == ("9", "10", "100")
    assert len(bundle.test) == 9
    assert len(bundle.train) + len(bundle.val) == 27
    with pytest.raises(DataError, match=r"data.label_column must be a column.*'knd'.*Did you mean .*kind"):
        load_data(DataRecipe(path=str(table), label_column="knd"), 0)
    one = [{**row, "Set": "holdout" if i == 5 else row["Set"]} for i, row in enumerate(rows)]
    with pytest.raises(DataError, match="Column 'Set' .* train, val or test in every row. Got 'holdout'"):
        load_data(DataRecipe(path=str(write_csv(table, one)), label_column="kind", split_column="Set"), 0)


@pytest.mark.parametrize("wrong", ["tset", ""])
def test_one_wrong_split_is_refused_and_not_a_reason_to_forget_them_all(
    wrong: str, picture_folder: Path, tmp_path: Path
) -> None:
    rows = [
        {**row, "split": "test" if i % 4 == 0 else "Train"} for i, row in enumerate(rows_of(picture_folder))
    ]
    rows[8]["split"] = wrong
    table = write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match=f"Column 'split' .* train, val or test in every row. Got '{wrong}'"):
        load_data(DataRecipe(path=str(table), root=str(picture_folder)), 0)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_field_may_span_lines(end: str, picture_folder: Path, tmp_path: Path) -> None:
    rows = [f'{row["path"]},"{row["label"]}\nof the test","said ""so"", {i}"' for i, row in
            enumerate(rows_of(picture_folder))]  # fmt: skip
    table = tmp_path / "t.csv"
    table.write_bytes(end.join(["path,label,note", *rows[:9], "", *rows[9:], ""]).encode())
    bundle = load_data(DataRecipe(path=str(table), root=str(picture_folder)), 0)
    assert bundle.classes == ("across\nof the test", "disc\nof the test", "down\nof the test")
    assert len(bundle.train) + len(bundle.val) + len(bundle.test) == 36


def test_rows_without_label_or_file_are_set_aside(picture_folder: Path, tmp_path: Path) -> None:
    rows = rows_of(picture_folder)
    rows += [rows[0], {"path": "gone.png", "label": "disc"}, {"path": rows[1]["path"], "label": rows[1]["label"]},
             {"path": "", "label": "disc"}]  # fmt: skip
    rows[5] = {**rows[5], "label": " "}
    bundle = load_data(DataRecipe(path=str(write_csv(tmp_path / "t.csv", rows)), root=str(picture_folder)), 0)
    reasons = {item.path: item.reason for item in bundle.quarantined}
    assert reasons == {
        rows[5]["path"]: "has no 'label' in t.csv",
        "gone.png": "is listed in t.csv, but there is no such file",
        "": "has no 'path' in a row of t.csv",
    }
    assert len(bundle.train) + len(bundle.val) + len(bundle.test) == 35
    assert any("2 rows of t.csv repeat an image" in note for note in bundle.notes)
    assert any("1 of 40 files that t.csv lists are not there" in note for note in bundle.notes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "must hold a row per image below its header. Got none"),
        ("t.csv", b"path,label\n", "must hold a row per image"),
        ("t.csv", b"path,label\na.png,x\nb.png,y,z\n", "Line 3 of .* must have 2 fields. Got 3"),
        (
            "t.csv",
            b"path,label\na.png,x\na.png,y\n",
            r"must list images that exist.*'a.png', is listed.*data.root",
        ),
        (
            "t.csv",
            b"path,label\n\xff\xfe.png,x\n",
            "text in UTF-8. Got byte 11 of another encoding instead. Save it again in UTF-8",
        ),
        ("t.csv", "path,label\na.png,x".encode("utf-16")[:-1], "text in UTF-8. Got byte"),
        (
            "t.csv",
            b"path,label,label\na.png,x,y\n",
            "Column 'label' of .* must appear once. Got 2 of that name",
        ),
        (
            "t.jsonl",
            b'{"path": "a.png", "label": "x"}\n{"path": "b.png", "label": {"a": "ants"}}\n',
            r"Label 'label' of row 2 \('b.png'\) of .* must be a text, a number .*Got a JSON object.*label_column",
        ),
        ("t.jsonl", b'{"path": "a.png", "label": ["x", ["y"]]}\n', "row 1 .*Got a list in a list"),
        ("t.csv", b'path,label\n"a.png,x\nb.png,y\n', "Line 3 of .* is not CSV: unexpected end of data"),
        ("t.jsonl", b'{"path": "a.png", "label": 1}\n{"path"\n', "Line 2 of .* is not JSON"),
        ("t.jsonl", b"[1]\n", "Line 1 of .* a JSON object. Got list"),
        (
            "t.jsonl",
            b'{"label": "x"}\n',
            "must have a column of images.*Got 'label' instead.*data.image_column",
        ),
    ],
)
def test_a_bad_table_is_told(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_data(DataRecipe(path=str(tmp_path / name)), 0)


def test_a_bad_parquet_file_and_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="existing folder, table or archive. Got .*none.csv.* does not exist"):
        load_data(DataRecipe(path=str(tmp_path / "none.csv")), 0)
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="must be a Parquet file"):
        load_data(DataRecipe(path=str(tmp_path / "t.parquet")), 0)


@pytest.mark.parametrize(
    "name", ["x" * 300 + ".png", "x" * 300 + "/a.png", "x" * 300 + ".zip!/a.png", "a\0b.png"]
)
def test_a_name_that_no_file_can_have_is_not_there(name: str, picture_folder: Path, tmp_path: Path) -> None:
    rows = [{"path": name, "label": "disc"}, *rows_of(picture_folder)]
    rows += [{"path": f"{name.rpartition('/')[0]}/{i}", "label": "disc"} for i in range(70)]
    table = write_json(tmp_path / "t.jsonl", rows)
    bundle = load_data(DataRecipe(path=str(table), root=str(picture_folder)), 0)
    assert [item.path for item in bundle.quarantined] == [row["path"] for row in (rows[0], *rows[-70:])]
    assert {item.reason for item in bundle.quarantined} == {"is listed in t.jsonl, but there is no such file"}


@pytest.mark.parametrize("end", ["", ".csv", ".zip", "*.tar", "/a"])
def test_a_path_that_nothing_can_have(end: str) -> None:
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(DataError, match="data.path must be"):
            load_data(DataRecipe(path=name + end), 0)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_marked_encodings_are_read(encoding: str, picture_folder: Path, tmp_path: Path) -> None:
    rows = [f"{row['path']},{row['label']}é" for row in rows_of(picture_folder)]
    (tmp_path / "t.csv").write_bytes("\r\n".join(["path,label", *rows]).encode(encoding))
    bundle = load_data(DataRecipe(path=str(tmp_path / "t.csv"), root=str(picture_folder)), 0)
    assert bundle.classes == ("acrossé", "discé", "downé")


def test_twins_of_a_parquet_table_and_columns_without_a_name(picture_folder: Path, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table([["a"]] * 3, ["path", "label", "label"]), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="Column 'label' of .* must appear once"):
        load_data(DataRecipe(path=str(tmp_path / "t.parquet")), 0)
    rows = [f"{row['path']},{row['label']},," for row in rows_of(picture_folder)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,,", *rows]))
    assert len(load_data(DataRecipe(path=str(tmp_path / "t.csv"), root=str(picture_folder)), 0).classes) == 3


def test_words_among_numbers_are_told(picture_folder: Path, tmp_path: Path) -> None:
    rows = rows_of(picture_folder)
    said = {}
    for name, label in (("mixed", "3.5"), ("words", "disc")):
        table = write_csv(tmp_path / f"{name}.csv", [*rows[:-1], {**rows[-1], "label": label}])
        said[name] = load_data(DataRecipe(path=str(table), root=str(picture_folder)), 0).notes
    expected = (
        "Column 'label' holds words and numbers, as 'across' and '3.5': each is a class. Mend the table"
    )
    assert sum(note.startswith(expected) for note in said["mixed"]) == 1
    assert not any("words and numbers" in note for note in said["words"])


def test_a_json_array_is_told_what_to_be(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('[{"path": "a.png", "label": "x"}]')
    with pytest.raises(
        DataError, match=r"a table of JSON lines, called .jsonl. Got .*t.json' instead. Write one object"
    ):
        load_data(DataRecipe(path=str(tmp_path / "t.json")), 0)
    for name in ("no.json", "no.zip", "no.tar", "no"):
        with pytest.raises(
            DataError, match=f"existing folder, table or archive. Got .*{name}' instead, which does not exist"
        ):
            load_data(DataRecipe(path=str(tmp_path / name)), 0)


def test_two_labels_for_one_image(picture_folder: Path, tmp_path: Path) -> None:
    rows = rows_of(picture_folder)
    rows.append({**rows[0], "label": "disc"})
    with pytest.raises(DataError, match=r"each image one label. Got 1 with several.*across and disc"):
        load_data(DataRecipe(path=str(write_csv(tmp_path / "t.csv", rows)), root=str(picture_folder)), 0)


def test_run_and_evaluate_from_a_table(picture_folder: Path, tmp_path: Path) -> None:
    from finetune.api import run

    table = write_csv(tmp_path / "t.csv", rows_of(picture_folder, "image", "class"))
    recipe = {"strategy": "linear", "out": str(tmp_path / "run"),
              "data": {"path": str(table), "root": str(picture_folder), "image_size": 32}}  # fmt: skip
    done = run(recipe, figures=False)
    assert done.result["test"]["accuracy"] == 1.0
    assert f"root: {picture_folder}" in (done.path / "recipe.yaml").read_text()
    here = [{"file": str(picture_folder / r["path"]), "target": r["label"]} for r in rows_of(picture_folder)]
    scores = done.evaluate(write_csv(tmp_path / "again.csv", here))
    assert scores.n == 36
    bad = [*here[1:], {**here[0], "target": "rectangle"}]
    with pytest.raises(DataError, match=r"Every label of .* must be a class of the run .*Got rectangle"):
        done.evaluate(write_csv(tmp_path / "bad.csv", bad))
