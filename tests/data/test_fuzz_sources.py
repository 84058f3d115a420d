"""Mutated tables, archives and shards: each is read or refused with a FinetuneError. No crash, no hang, no flood."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import sys
import tarfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture
from test_fuzz import most_memory, mutated

from finetune.data.load import load_data
from finetune.data.member import STORED, Member
from finetune.errors import DataError, FinetuneError
from finetune.recipe import DataRecipe
from finetune.runtime import cache_dir

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

SECONDS, MEBIBYTES = 10.0, 400
"""Most that one file may take of a processor, and all of them together of memory."""
NAMES = [f"{label}/{i}.png" for label in ("ant", "bee") for i in range(14)]
RECORDS = [
    {"path": name, "label": name[:3], "split": "train" if i % 5 < 3 else "test", "patient": f"p{i // 2}"}
    for i, name in enumerate(NAMES)
]


def pictures() -> dict[str, bytes]:
    """Small files."""
    return {name: encoded(picture(i, (12, 10))) for i, name in enumerate(NAMES)}


def csv_table() -> bytes:
    lines = [",".join(RECORDS[0]), *(",".join(f'"{cell}"' for cell in record.values()) for record in RECORDS)]
    return ("\r\n".join(lines) + "\n").encode()


def tsv_table() -> bytes:
    return csv_table().replace(b",", b"\t")


def json_lines() -> bytes:
    return "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


def lists_of_labels() -> bytes:
    made = [{**record, "label": [record["label"], "xy"[i % 2]]} for i, record in enumerate(RECORDS)]
    return "".join(json.dumps(record) + "\n" for record in made).encode()


def numbers() -> bytes:
    lines = ["path,label", *(f'"{record["path"]}","{i / 4}"' for i, record in enumerate(RECORDS))]
    return ("\n".join(lines) + "\n").encode()


def parquet() -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as writer

    out = io.BytesIO()
    writer.write_table(pyarrow.Table.from_pylist(RECORDS), out)
    return out.getvalue()


def zipped(method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in pictures().items():
            archive.writestr(name, data)
    return out.getvalue()


def stored() -> bytes:
    return zipped(zipfile.ZIP_STORED)


def zipped_table() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.csv", csv_table())
        for name, data in pictures().items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(
    mode: str = "w", form: int = tarfile.USTAR_FORMAT, members: dict[str, bytes] | None = None
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in (members or pictures()).items():
            info = tarfile.TarInfo(name if form == tarfile.USTAR_FORMAT else f"{'deep/' * 30}{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tar_of_long_names() -> bytes:
    return tarred(form=tarfile.PAX_FORMAT)


def tar_gz() -> bytes:
    return tarred("w:gz")


def shard() -> bytes:
    members = {}
    for i, (record, data) in enumerate(zip(RECORDS, pictures().values(), strict=True)):
        members[f"{i:03d}.png"] = data
        kind = ("cls", "json", "txt")[i % 3]
        members[f"{i:03d}.{kind}"] = (json.dumps(record) if kind == "json" else record["label"]).encode()
    return tarred(members=members)


MADE: dict[str, Callable[[], bytes]] = {
    "t.csv": csv_table, "u.tsv": tsv_table, "t.jsonl": json_lines, "lists.jsonl": lists_of_labels,
    "numbers.csv": numbers, "t.parquet": parquet, "a.zip": zipped, "stored.zip": stored,
    "table.zip": zipped_table, "a.tar": tarred, "long.tar": tar_of_long_names, "a.tar.gz": tar_gz, "shard.tar": shard,
}  # fmt: skip


ODD = [
    "", " ", "null", "NaN", "-inf", "1e999", "-0.0", "9" * 5000, "true", "..", "/", "ant", "ant/0.png", "ant/0.png!/b",
    "a.zip!/b.png", "~", "*", "../" * 40 + "etc/passwd", "x" * 200_000, "\0", "\ufeff", "\u202e", "a|b", "|",
    "ant|bee|", "train", "trian", "all", "0", "1", "-7", "0.5", "path", "label",
]  # fmt: skip
"""Cells that somebody may have, or may have written to do harm."""
ODD_JSON = [
    *map(json.dumps, ODD), *("null", "true", "NaN", "Infinity", "1e999", "9" * 5000, "-" + "9" * 400, "0.5"),
    *("[" * 100_000 + "]" * 100_000, "[" * 60 + "]" * 60, '{"a": {"b": []}}', "[]", "{}", '["ant", ["bee"]]'),
    "[null, 3]", r'"\ud800"', r'["\ud800"]', '"ant", "label": "bee"', '["a|b"]',
]  # fmt: skip
CELL = re.compile(rb'"[^"]*"')


def changed(name: str, data: bytes, rng: np.random.Generator) -> bytes:
    """A mutation that is not refused at the first look: of tables cells as a rule, of tars with right checksums."""
    kind = name.rpartition(".")[2]
    if kind in ("csv", "tsv", "jsonl") and rng.random() < 0.7:
        odd = ODD_JSON if kind == "jsonl" else [f'"{text}"' for text in ODD]
        for _ in range(int(rng.integers(1, 4))):
            cells = list(CELL.finditer(data))
            cell = cells[int(rng.integers(len(cells)))]
            new = odd[int(rng.integers(len(odd)))].encode(errors="surrogatepass")
            data = data[: cell.start()] + new + data[cell.end() :]
        return data
    if kind == "gz":
        return (
            gzip.compress(changed("a.tar", gzip.decompress(data), rng))
            if rng.random() < 0.7
            else mutated(data, rng)
        )
    if kind == "tar" and rng.random() < 0.4:
        return with_checksums(odd_header(data, rng))
    made = mutated(data, rng)
    return with_checksums(made) if kind == "tar" and rng.random() < 0.7 else made


SIZES = [b"77777777777\0", b"00000000000\0", b"00000001000\0", b"-0000000001\0", b"8".ljust(12, b"\0"),
         b"\x80" + b"\0" * 10 + b"\x09", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"\xff" * 10 + b"\xfc\0",
         b"\x80\0\0\0\x7f" + b"\xff" * 7]  # fmt: skip
"""Sizes in octal and in base 256: huge, negative, none."""


def odd_header(data: bytes, rng: np.random.Generator) -> bytes:
    """Some headers of a tar say another kind of member, or another size."""
    made = bytearray(data)
    headers = [at for at in range(0, len(made) - 511, 512) if made[at + 257 : at + 262] == b"ustar"]
    for at in rng.choice(headers, min(len(headers), int(rng.integers(1, 3))), replace=False).tolist():
        if rng.random() < 0.7:
            made[at + 156] = b"0123456789xgLKSVDM\0"[int(rng.integers(19))]
        if rng.random() < 0.7:
            made[at + 124 : at + 136] = SIZES[int(rng.integers(len(SIZES)))]
    return bytes(made)


def with_checksums(data: bytes) -> bytes:
    """Every block of a tar that looks like a header gets the checksum that it should have."""
    made = bytearray(data)
    for at in range(0, len(made) - 511, 512):
        if made[at + 257 : at + 262] == b"ustar":
            made[at + 148 : at + 156] = b" " * 8
            made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
    return bytes(made)


def read_or_refused(recipe: DataRecipe) -> bool:
    """Whether the source could be read; the error of anything but a refusal is raised."""
    try:
        load_data(recipe, 0)
    except FinetuneError:
        return False
    return True


def keys(name: str, number: int) -> dict[str, object]:
    """Of the recipe: each way to read a table gets its turn."""
    table = name.rpartition(".")[2] in ("csv", "tsv", "jsonl", "parquet")
    if name.startswith("numbers"):
        return {"task": "auto" if number % 3 else "regression"}
    if table and number % 3 == 1:
        return {"group_by": "patient"}
    if name.startswith("lists") or (table and number % 3 == 2):
        return {"task": "multi-label"}
    return {}


def whole_source(folder: Path, name: str) -> str:
    """A source without a mutation, beside the pictures that a table names."""
    for picture_name, data in pictures().items():
        (folder / picture_name).parent.mkdir(parents=True, exist_ok=True)
        (folder / picture_name).write_bytes(data)
    (folder / name).write_bytes(MADE[name]())
    return str(folder / name)


def fuzz(folder: Path, name: str, count: int, seed: int) -> tuple[int, int]:
    """(read, refused) of ``count`` mutations of a file, which lies beside the pictures that a table names."""
    whole_source(folder, name)
    whole, read = MADE[name](), 0
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        path = folder / f"{number}-{name}"
        path.write_bytes(changed(name, whole, rng))
        began = time.process_time()
        try:
            read += read_or_refused(DataRecipe(path=str(path), **keys(name, number)))  # type: ignore[arg-type]
        except Exception:
            pytest.fail(f"{name}, mutation {number} of seed {seed}:\n{traceback.format_exc()}")
        took = time.process_time() - began
        assert took < SECONDS, (name, number)
        path.unlink()
    return read, count - read


def fuzz_index(folder: Path, count: int, seed: int) -> int:
    """Mutations of what is kept of a shard; how many could be read."""
    path, kept = folder / "shard.tar", cache_dir() / "shards"
    path.write_bytes(shard())
    shutil.rmtree(kept, ignore_errors=True)
    recipe = DataRecipe(path=str(folder / "s*.tar"))
    assert read_or_refused(recipe)
    (file,) = kept.iterdir()
    whole, read = file.read_bytes(), 0
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        file.write_bytes(mutated(whole, rng))
        began = time.process_time()
        try:
            read += read_or_refused(recipe)
        except Exception:
            pytest.fail(f"the index of a shard, mutation {number} of seed {seed}:\n{traceback.format_exc()}")
        assert time.process_time() - began < SECONDS
    return read


@pytest.mark.parametrize("name", MADE)
def test_what_is_mutated_can_be_read(tmp_path: Path, name: str) -> None:
    assert read_or_refused(DataRecipe(path=whole_source(tmp_path, name), **keys(name, 0)))  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", ["9" * 5000, "[" * 100_000 + "]" * 100_000])
def test_json_that_python_refuses_to_read(tmp_path: Path, odd: str) -> None:
    whole_source(tmp_path, "t.jsonl")
    text = (tmp_path / "t.jsonl").read_text()
    (tmp_path / "t.jsonl").write_text(text.replace('"label": "ant"', f'"label": {odd}', 1))
    with pytest.raises(DataError, match=r"Line 1 of '.*' must be plain JSON. Got a number of thousands"):
        load_data(DataRecipe(path=str(tmp_path / "t.jsonl")), 0)
    path = tmp_path / "000.tar"
    members = {f"{i}.{kind}": data for i, png in enumerate(pictures().values())
               for kind, data in (("png", png), ("json", json.dumps({"cls": "ab"[i % 2]}).encode()))}  # fmt: skip
    path.write_bytes(tarred(members={**members, "3.json": odd.encode()}))
    assert [q.path for q in load_data(DataRecipe(path=str(path)), 0).quarantined] == ["000.tar!/3.png"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [b"0", b"5", b"x", b"L"])
def test_sizes_that_no_member_can_have(tmp_path: Path, size: bytes, kind: bytes) -> None:
    whole = bytearray(shard())
    second = [at for at in range(0, len(whole), 512) if whole[at + 257 : at + 262] == b"ustar"][1]
    whole[second + 124 : second + 136], whole[second + 156 : second + 157] = size, kind
    for name, data in (("a.tar", bytes(whole)), ("b.tar.gz", gzip.compress(bytes(whole)))):
        (tmp_path / name).write_bytes(with_checksums(data))
        read_or_refused(DataRecipe(path=str(tmp_path / name)))


@pytest.mark.parametrize(("offset", "size"), [(1 << 70, 3), (0, 1 << 70), (-5, 3), (0, -2)])
def test_places_that_no_archive_has(tmp_path: Path, offset: int, size: int) -> None:
    (tmp_path / "a.zip").write_bytes(stored())
    for checksum in (None, 0):
        member = Member(tmp_path / "a.zip", "x.png", size, offset, size, STORED, checksum)
        with pytest.raises(OSError, match="archive|Invalid argument"):
            member.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="memory is read by resource")
@pytest.mark.parametrize("name", MADE)
def test_five_hundred_mutated_sources(tmp_path: Path, name: str) -> None:
    assert read_or_refused(DataRecipe(path=whole_source(tmp_path, name), **keys(name, 0)))  # type: ignore[arg-type]
    before = most_memory()
    read, refused = fuzz(tmp_path, name, 500, 2)
    assert read > (0 if name == "t.parquet" else 20)
    assert refused > 20
    assert most_memory() - before < MEBIBYTES * 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="memory is read by resource")
def test_five_hundred_mutated_indices_of_a_shard(tmp_path: Path) -> None:
    before = most_memory()
    assert fuzz_index(tmp_path, 500, 2) > 250  # what cannot be read is made again
    assert most_memory() - before < MEBIBYTES * 2**20
