"""Zip and tar archives read in place, and every way in which one can be wrong or mean harm."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture

from finetune.data import archive, gzipped, refusals, tar_index
from finetune.data.archive import read_archive
from finetune.data.load import load_data
from finetune.data.member import Member
from finetune.errors import DataError
from finetune.recipe import DataRecipe

Files = dict[str, bytes]


def zip_of(path: Path, files: Files, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as out:
        for name, data in files.items():
            out.writestr(zipfile.ZipInfo(name), data, method)
    return path


def tar_of(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def files_of(folder: Path, top: str = "") -> Files:
    return {
        top + p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def two_classes(count: int = 8, first: int = 0) -> Files:
    return {f"{kind}/{i}.png": encoded(picture(100 * k + first + i)) for k, kind in enumerate(("ants", "bees"))
            for i in range(count)}  # fmt: skip


def aside(path: Path) -> dict[str, str]:
    return {q.path: q.reason for q in load_data(DataRecipe(path=str(path)), 0).quarantined}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.zip", zip_of),
        ("stored.zip", lambda path, files: zip_of(path, files, zipfile.ZIP_STORED)),
        ("bzip2.zip", lambda path, files: zip_of(path, files, zipfile.ZIP_BZIP2)),
        ("a.tar", tar_of),
        ("a.tar.gz", tar_of),
        ("a.tgz", tar_of),
    ],
)
def test_an_archive_gives_what_its_folder_gives(
    name: str, write: Callable[[Path, Files], Path], picture_folder: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / name, files_of(picture_folder, "photos/"))
    found, folder = (
        load_data(DataRecipe(path=str(path)), 0),
        load_data(DataRecipe(path=str(picture_folder)), 0),
    )
    for mine, theirs in ((found.train, folder.train), (found.val, folder.val), (found.test, folder.test)):
        assert mine.classes == theirs.classes == ("across", "disc", "down")
        assert mine.labels.tolist() == theirs.labels.tolist()
        assert [mine.name(i) for i in range(len(mine))] == [
            f"{name}!/photos/{theirs.name(i)}" for i in range(len(theirs))
        ]
        assert all(mine.fingerprint(i) == theirs.fingerprint(i) for i in range(len(mine)))
    member = pickle.loads(pickle.dumps(found.train.file(0)))
    assert isinstance(member, Member)
    assert member.read_bytes() == Path(str(folder.train.file(0))).read_bytes()
    assert np.array_equal(np.asarray(found.train.load(0)), np.asarray(folder.train.load(0)))


@pytest.mark.parametrize("top", ["", "data/", "./"])
def test_splits_of_an_archive(top: str, tmp_path: Path) -> None:
    files = {f"{top}{split}/{name}": data for k, split in enumerate(("train", "valid", "test"))
             for name, data in two_classes(3, 10 * k).items()}  # fmt: skip
    found = load_data(DataRecipe(path=str(tar_of(tmp_path / "a.tar", files))), 0)
    assert (len(found.train), len(found.val), len(found.test)) == (6, 6, 6)
    assert found.classes == ("ants", "bees")


def test_a_table_in_an_archive(picture_folder: Path, tmp_path: Path) -> None:
    files = files_of(picture_folder, "set/images/")
    table = "file,label,patient\n" + "".join(f"images/{n.split('/', 2)[2]},{n.split('/')[2]},p{i // 2}\n"
                                             for i, n in enumerate(files))  # fmt: skip
    path = zip_of(
        tmp_path / "a.zip", {**files, "set/labels.csv": table.encode() + b"images/gone.png,disc,p0\n"}
    )
    found = load_data(DataRecipe(path=str(path), group_by="patient"), 0)
    assert len(found.train) + len(found.val) + len(found.test) == 36
    assert found.train.name(0).startswith("a.zip!/set/images/across/")
    assert [q.path for q in found.quarantined] == ["images/gone.png"]
    patient = {line.split(",")[0]: line.split(",")[2] for line in table.splitlines()[1:]}
    of = [
        {patient[part.name(i).split("/set/")[1]] for i in range(len(part))}
        for part in (found.train, found.test)
    ]
    assert not of[0] & of[1]


def test_a_table_beside_an_archive(picture_folder: Path, tmp_path: Path) -> None:
    zip_of(tmp_path / "a.zip", files_of(picture_folder))
    lines = [f"a.zip!/{name},{name.split('/')[0]}" for name in files_of(picture_folder)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["path,label", *lines, "a.zip!/none.png,disc", "b.zip!/x.png,disc"]))
    found = load_data(DataRecipe(path=str(table)), 0)
    assert len(found.train) + len(found.val) + len(found.test) == 36
    assert [q.path for q in found.quarantined] == ["a.zip!/none.png", "b.zip!/x.png"]


def test_what_leads_out_of_a_zip_is_set_aside(tmp_path: Path) -> None:
    image = encoded(picture(1))
    bad = ["../ants/x.png", "ants/../../x.png", "/etc/x.png", "C:/x.png", "..\\x.png"]
    path = zip_of(tmp_path / "a.zip", two_classes() | dict.fromkeys(bad, image))
    link = zipfile.ZipInfo("ants/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as out:
        out.writestr(link, "/etc/passwd")
    found = aside(path)
    assert found.pop("a.zip!/ants/link.png") == "is a link in the archive, which is not followed"
    assert set(found) == {f"a.zip!/{name}".replace("\\", "/") for name in bad}
    assert set(found.values()) == {"has a path that leads out of the archive"}


def test_what_is_no_file_of_a_tar_is_set_aside(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", two_classes() | {"../up.png": b"x"})
    with tarfile.open(path, "a") as out:
        for kind, name in ((tarfile.SYMTYPE, "soft.png"), (tarfile.LNKTYPE, "hard.png"), (tarfile.CHRTYPE, "dev.png"),
                           (tarfile.SYMTYPE, "notes")):  # fmt: skip
            info = tarfile.TarInfo(f"ants/{name}")
            info.type, info.linkname = kind, "../../etc/passwd"
            out.addfile(info)
    assert aside(path) == {
        "a.tar!/../up.png": "has a path that leads out of the archive",
        "a.tar!/ants/soft.png": "is a link in the archive, which is not followed",
        "a.tar!/ants/hard.png": "is a link in the archive, which is not followed",
        "a.tar!/ants/dev.png": "is a device in the archive",
    }


def test_nested_archives_hidden_files_and_paths_of_windows(tmp_path: Path) -> None:
    inner = zip_of(tmp_path / "inner.zip", two_classes()).read_bytes()
    extra = {"ants/more.zip": inner, "__MACOSX/ants/._0.png": b"x", "ants/.DS_Store": b"x", ".hidden": b"x"}
    files = {name.replace("/", "\\"): data for name, data in two_classes().items()} | extra
    found = load_data(DataRecipe(path=str(zip_of(tmp_path / "a.zip", files))), 0)
    assert len(found.train) + len(found.val) + len(found.test) == 16
    assert found.quarantined == ()
    assert "1 file is no image and is skipped: 1 .zip." in found.notes


def test_of_two_members_of_one_name_the_later_counts(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", two_classes())
    new = encoded(picture(999))
    with tarfile.open(path, "a") as out:
        info = tarfile.TarInfo("./ants/0.png")
        info.size = len(new)
        out.addfile(info, io.BytesIO(new))
    member = read_archive(path).root.find("ants/0.png")
    assert member is not None
    assert member.read_bytes() == new


def test_damaged_members_are_set_aside(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", two_classes(), zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    first, *_ = read_archive(path).members
    data[first.offset + 30 + len(first.inner) + 40] ^= 0xFF
    data[data.index(b"ants/3.png") - 30] ^= 0xFF
    lying = data.rindex(b"PK\x01\x02", 0, data.rindex(b"bees/2.png"))
    data[lying + 24] ^= 0x01  # another size than the member has
    path.write_bytes(data)
    assert aside(path) == {
        "a.zip!/ants/0.png": "cannot be read (its checksum is wrong)",
        "a.zip!/ants/3.png": "cannot be read (the archive is damaged before it)",
        "a.zip!/bees/2.png": "cannot be read (the archive ends before it does, or says another size)",
    }


def encrypted(path: Path) -> None:
    data = bytearray(zip_of(path, two_classes()).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    whole = (zip_of if path.suffix == ".zip" else tar_of)(path, two_classes()).read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def between_members(path: Path) -> None:
    tar_of(path, two_classes())
    last = max(m.offset for m in read_archive(path).members)
    path.write_bytes(path.read_bytes()[: last - 512])


def garbled(path: Path) -> None:
    data = bytearray(tar_of(path, two_classes()).read_bytes())
    data[len(data) // 2 :] = bytes(255 - b for b in data[len(data) // 2 :])
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.zip", lambda p: p.write_bytes(b""), r"Archive '.*a\.zip' must be an archive\. Got an empty file"),
        ("a.tar.gz", lambda p: p.write_bytes(b""), r"must be an archive\. Got an empty file"),
        (
            "a.zip",
            lambda p: p.write_bytes(b"no zip at all"),
            "must be a whole zip archive. Got one that is no zip",
        ),
        (
            "a.tar",
            lambda p: p.write_bytes(b"no tar at all" * 100),
            "must be a tar archive. Got a file that is none",
        ),
        (
            "a.tgz",
            lambda p: p.write_bytes(b"no gzip"),
            "must be a tar.gz archive. Got a file that is not gzipped",
        ),
        (
            "a.tgz",
            lambda p: p.write_bytes(gzip.compress(b"no tar" * 200)),
            "must be a tar archive. Got a file that",
        ),
        (
            "a.zip",
            lambda p: cut(p, 0.6),
            "Got one that ends too early or is damaged instead. Fetch or pack it",
        ),
        ("a.tar", lambda p: cut(p, 0.47), "must be a whole archive. Got one that ends in the middle of '"),
        ("a.tar", between_members, "Got one that ends without the mark at its end"),
        ("a.tar.gz", lambda p: cut(p, 0.5), "must be a whole archive. Got one that ends too early"),
        ("a.tar.gz", garbled, r"must be a whole .*archive\. Got "),
        ("a.zip", encrypted, "must be an archive without a password. Got an encrypted one"),
        ("a.zip", lambda p: zip_of(p, {}), "must be an archive with images. Got an empty one"),
        ("a.tar", lambda p: tar_of(p, {}), "must be an archive with images. Got an empty one"),
        ("a.rar", lambda p: p.write_bytes(b"Rar!"), r"one of \.zip, \.tar, .*Got another kind of archive"),
        ("a.tar.xz", lambda p: p.write_bytes(b"x"), "Unpack it, or pack it so"),
        ("a.zip", lambda p: zip_of(p, {"notes.txt": b"x"}), "Got a folder without images"),
        ("a.zip", lambda p: zip_of(p, {"1.png": encoded(picture())}), "Got 1 images directly in it"),
        (
            "a.zip",
            lambda p: zip_of(p, {"ants/1.png": encoded(picture())}),
            "directly in it|at least 2 classes",
        ),
        ("none.zip", lambda p: None, "none.zip' instead, which does not exist"),
    ],
)
def test_a_bad_archive_is_told(
    name: str, write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=message):
        load_data(DataRecipe(path=str(tmp_path / name)), 0)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_bomb_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "BOMB_BYTES", 1 << 20)
    write = zip_of if name.endswith("zip") else tar_of
    path = write(tmp_path / name, {f"ants/{i}.png": bytes(2 << 20) for i in range(3)})
    assert path.stat().st_size < (6 << 20) / refusals.BOMB_RATIO
    with pytest.raises(DataError, match=r"must be an archive of images\. Got .* a decompression bomb"):
        load_data(DataRecipe(path=str(path)), 0)
    # A member alone cannot give more than it says, nor be larger than any photo is.
    monkeypatch.setattr(refusals, "BOMB_BYTES", 1 << 30)
    monkeypatch.setattr(archive, "MOST_BYTES", 1 << 20)
    (tmp_path / "more").mkdir()
    files = two_classes() | {"ants/big.png": bytes(2 << 20)}
    assert aside(write(tmp_path / "more" / name, files)) == {f"{name}!/ants/big.png": "is larger than 1 MiB"}


@pytest.fixture
def pieces(tmp_path: Path) -> tuple[Path, bytes]:
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 256, 3_500_000, dtype=np.uint8).tobytes() + bytes(2_000_000)
    path = tmp_path / "x.gz"  # two gzips one after the other are one, and zeros may follow
    path.write_bytes(gzip.compress(whole[:1_700_000], 1) + gzip.compress(whole[1_700_000:], 1) + bytes(100))
    return path, whole


def test_any_part_of_a_gzip(pieces: tuple[Path, bytes]) -> None:
    path, whole = pieces
    found = gzipped.GzipFile(path)
    rng = np.random.default_rng(1)
    for start in [5_000_000, 0, len(whole) - 10, len(whole), *rng.integers(0, len(whole), 30).tolist()]:
        size = int(rng.integers(0, 1_500_000))
        assert found.read(start, size) == whole[start : start + size]
    assert found.open().read() == whole
    path.write_bytes(path.read_bytes()[:2_000_000])
    with pytest.raises(EOFError):
        gzipped.GzipFile(path).read(0, len(whole))


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_many_threads_read_one_archive(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    files = {f"{i}.bin": rng.integers(0, 256, 40_000 + i, dtype=np.uint8).tobytes() for i in range(60)}
    members = read_archive((zip_of if name == "a.zip" else tar_of)(tmp_path / name, files)).members
    chosen = [members[i] for i in rng.permutation(600) % 60]
    with ThreadPoolExecutor(8) as pool:
        for member, data in zip(chosen, pool.map(Member.read_bytes, chosen), strict=True):
            assert data == files[member.inner]


def test_run_evaluate_and_check_an_archive(picture_folder: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from finetune.api import run
    from finetune.cli.app import cli

    files = files_of(picture_folder) | {"disc/broken.png": b"\x89PNG", "disc/copy.png": b""}
    files["disc/copy.png"] = files["disc/00.png"]
    path = zip_of(tmp_path / "a.zip", files)
    recipe = {
        "strategy": "linear",
        "out": str(tmp_path / "run"),
        "data": {"path": str(path), "image_size": 32},
    }
    done = run(recipe, figures=False)
    assert done.result["test"]["accuracy"] == 1.0
    assert "a.zip!/disc/broken.png" in (done.path / "quarantine.csv").read_text()
    assert "a.zip!/disc/" in (done.path / "predictions.csv").read_text()
    scores, labelled, _ = done.judge(tar_of(tmp_path / "b.tar", files_of(picture_folder, "top/test/")))
    assert scores.n == 36
    assert labelled.images.name(0) == "b.tar!/top/test/across/00.png"
    with pytest.raises(DataError, match="Every folder of .*must be a class of the run.*square"):
        done.evaluate(zip_of(tmp_path / "c.zip", files | {"square/1.png": b"x"}))
    words = ["data", "check", str(path), "--fix", str(tmp_path / "clean.csv"), "image_size=32"]
    said = CliRunner().invoke(cli, words)
    assert said.exit_code == 0, said.output
    assert "a.zip!/disc/00.png = a.zip!/disc/copy.png" in said.output
    cleaned = load_data(DataRecipe(path=str(tmp_path / "clean.csv")), 0)
    assert len(cleaned.train) + len(cleaned.val) + len(cleaned.test) == 36


def test_a_resumed_run_finds_its_archive_changed(picture_folder: Path, tmp_path: Path) -> None:
    from finetune.api import resume, run
    from finetune.errors import RunError

    path = zip_of(tmp_path / "a.zip", files_of(picture_folder))
    recipe = {
        "strategy": "linear",
        "out": str(tmp_path / "run"),
        "data": {"path": str(path), "image_size": 32},
    }
    done = run(recipe, figures=False)
    (done.path / "result.json").unlink()
    assert resume(done.path, figures=False).result["test"]["n"] == done.result["test"]["n"]
    (done.path / "result.json").unlink()
    zip_of(path, files_of(picture_folder) | {"disc/00.png": encoded(picture(5))})
    with pytest.raises(RunError, match="must be those that .* began with"):
        resume(done.path, figures=False)


def test_plain_headers_say_what_tarfile_reads_in_them() -> None:
    """Every byte of a header changed in turn: it is left to tarfile, or read as tarfile reads it."""
    info = tarfile.TarInfo("ants/10.jpg")
    info.size, info.mtime = 123_456, 1_700_000_000
    header = info.tobuf(tarfile.USTAR_FORMAT)
    assert tar_index._plain_header(header) == ("ants/10.jpg", 123_456)
    rng = np.random.default_rng(0)
    read = 0
    for place in range(len(header)):
        changed = bytearray(header)
        changed[place] ^= int(rng.integers(1, 256))
        found = tar_index._plain_header(bytes(changed))
        if found is not None:
            read += 1
            again = tarfile.TarInfo.frombuf(bytes(changed), "utf-8", "replace")
            assert found == (again.name, again.size)
    assert read < 20  # of the checksum's own field, what does not change its number
    assert tar_index._plain_header(header[:511]) is None
