"""WebDataset shards: what they give, how they may end, and what each process reads of them."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import encoded, picture
from test_archive import tar_of, zip_of

from finetune import ranks
from finetune.data import folder, shards
from finetune.data.load import load_data
from finetune.data.shards import expand, find_shards
from finetune.errors import ConfigError, DataError
from finetune.recipe import DataRecipe

Files = dict[str, bytes]


def samples(count: int, first: int = 0, kind: str = "cls", **more: Any) -> Files:
    """``count`` images of two classes, keys like those of WebDataset's writer."""
    files: Files = {}
    for i in range(first, first + count):
        files[f"{i:06d}.png"] = encoded(picture(i))
        label: Any = i % 2
        if kind == "json":
            label = json.dumps({"label": ["ants", "bees"][i % 2], "patient": i // 2} | more)
        files[f"{i:06d}.{kind}"] = str(label).encode()
    return files


def write_shards(root: Path, names: list[str], each: int = 10, **more: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (root / name).parent.mkdir(exist_ok=True)
        tar_of(root / name, samples(each, number * each, **more))
    return root


def load(path: Path | str, **keys: Any) -> Any:
    return load_data(DataRecipe(path=str(path), **keys), 0)


def names_of(bundle: Any) -> set[str]:
    return {part.name(i) for part in (bundle.train, bundle.val, bundle.test) for i in range(len(part))}


def test_braces_as_in_a_shell() -> None:
    assert expand("a/{train,val}-{08..10}.tar") == [
        f"a/{split}-{n}.tar" for split in ("train", "val") for n in ("08", "09", "10")
    ]
    assert expand("a.tar") == ["a.tar"]
    assert expand("{2..1}.tar") == []
    for greedy in ("{0..9999999}.tar", "{0..9999}{0..9999}.tar"):
        with pytest.raises(DataError, match="at most 1,000,000 shards"):
            expand(greedy)


@pytest.mark.parametrize("how", ["{000..002}.tar", "*.tar", ""])
def test_shards_give_images_and_labels(how: str, tmp_path: Path) -> None:
    root = write_shards(tmp_path / "s", ["000.tar", "001.tar", "002.tar"])
    bundle = load(root / how if how else root)
    assert bundle.classes == ("0", "1")
    assert names_of(bundle) == {f"{i // 10:03d}.tar!/{i:06d}.png" for i in range(30)}
    for part in (bundle.train, bundle.val, bundle.test):
        for i in range(len(part)):
            number = int(part.name(i)[-10:-4])
            assert part.labels[i] == number % 2
            assert np.array_equal(np.asarray(part.load(i)), np.asarray(picture(number)))


def test_a_single_shard_by_its_name(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "one.tar", samples(12))
    assert names_of(load(path)) == {f"one.tar!/{i:06d}.png" for i in range(12)}
    assert find_shards(path) is None  # it could have been a folder tree: the members decide
    tree = tar_of(
        tmp_path / "tree.tar", {f"{k}/{i}.png": encoded(picture(i)) for k in "ab" for i in range(6)}
    )
    assert load(tree).classes == ("a", "b")


@pytest.mark.parametrize("names", [["train-0.tar", "train-1.tar", "val-0.tar", "test_00.tar"],
                                   ["train/0.tar", "train/1.tar", "valid/0.tar", "test/0.tar"]])  # fmt: skip
def test_splits_by_the_names_of_shards(names: list[str], tmp_path: Path) -> None:
    bundle = load(write_shards(tmp_path / "s", names))
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (20, 10, 10)
    assert len(names_of(bundle)) == 40  # also where two shards are called alike


def test_labels_and_groups_from_json(tmp_path: Path) -> None:
    root = write_shards(tmp_path / "s", ["0.tar", "1.tar"], kind="json", species="x")
    bundle = load(root, group_by="patient")
    assert bundle.classes == ("ants", "bees")
    patients = [
        {int(part.name(i)[-10:-4]) // 2 for i in range(len(part))} for part in (bundle.train, bundle.test)
    ]
    assert not patients[0] & patients[1]
    with pytest.raises(
        DataError, match=r"data.group_by must be a field of the shards' .json.*'clinic', which no"
    ):
        load(root, group_by="clinic")
    with pytest.raises(DataError, match="readable images of at least 2 classes. Got only 'x'"):
        load(root, label_column="species")
    with pytest.raises(
        DataError, match="ones with images and labels.*'0.tar!/000000.png', has no label in its .json"
    ):
        load(root, label_column="genus")


def test_several_labels_and_text(tmp_path: Path) -> None:
    files = samples(20)
    for i in range(20):
        files[f"{i:06d}.json"] = json.dumps({"label": ["a", "b"][: i % 3]}).encode()
        del files[f"{i:06d}.cls"]
    (tmp_path / "s").mkdir()
    tar_of(tmp_path / "s" / "0.tar", files)
    bundle = load(tmp_path / "s", task="multi-label")
    assert bundle.classes == ("a", "b")
    assert load(write_shards(tmp_path / "t", ["0.tar", "1.tar"], kind="txt")).classes == ("0", "1")


def test_what_a_shard_lacks_is_set_aside(tmp_path: Path) -> None:
    files = samples(12)
    del files["000003.cls"], files["000004.png"]
    files |= {"000005.json": b"{", "000006.cls": b" ", "more/deep.dir/7.x.png": files["000007.png"], "README": b"",
              "000008.png": b"\x89PNG"}  # fmt: skip
    del files["000005.cls"]
    tar_of(tmp_path / "s.tar", files)
    assert {q.path: q.reason for q in load(tmp_path / "s.tar").quarantined} == {
        "s.tar!/000003.png": "has no .cls, .json or .txt beside it",
        "s.tar!/000004.cls": "has no image of its name",
        "s.tar!/000005.png": "has no label in its .json",
        "s.tar!/000006.png": "has no label in its .cls",
        "s.tar!/000008.png": "is not an image that Pillow can read",
        "s.tar!/more/deep.dir/7.x.png": "has no .cls, .json or .txt beside it",
    }


@pytest.mark.parametrize(
    ("end", "how", "left"),
    [
        (0.55, "ends in the middle of '000015.png'", 5),
        (None, "ends without the mark at its end", 10),
        (0.0, r"is empty \(0 bytes\)", 0),
    ],
)
def test_a_shard_that_ends_too_early(end: float | None, how: str, left: int, tmp_path: Path) -> None:
    root = write_shards(tmp_path / "s", ["0.tar", "1.tar", "2.tar"])
    data = (root / "1.tar").read_bytes()
    whole = data.rstrip(b"\0")
    keep = -(-len(whole) // 512) * 512 if end is None else int(len(whole) * end)
    (root / "1.tar").write_bytes(data[:keep])
    bundle = load(root)
    (note,) = [note for note in bundle.notes if note.startswith("Shard 1.tar ")]
    assert f"the {left} images before that are used" in note
    assert re.search(how, note)
    # The image whose label is lost with the end is set aside; the others are all there.
    assert len(names_of(bundle)) + len(bundle.quarantined) == 20 + left
    assert len(bundle.quarantined) <= 1


def test_bad_names_of_shards(tmp_path: Path) -> None:
    root = write_shards(tmp_path / "s", ["train-0.tar", "1.tar"])
    with pytest.raises(
        DataError, match="Shards must be all called train-, val- or test-, or none. Got 'train-0.tar'"
    ):
        load(root)
    root = write_shards(tmp_path / "v", ["val-0.tar", "test-1.tar"])
    assert len(find_shards(root / "*.tar") or ()) == 2
    with pytest.raises(DataError, match="Shards must be some called train-"):
        load(root)
    with pytest.raises(DataError, match=r"shards that are there. Got '.*/0.tar', which does not exist"):
        load(tmp_path / "v" / "{0..3}.tar")
    with pytest.raises(DataError, match="which does not exist"):
        load(tmp_path / "v" / "none*.tar")
    (tmp_path / "v" / "test-1.tar").write_bytes(b"no tar" * 200)
    write_shards(tmp_path / "v", ["train-0.tar"])
    with pytest.raises(DataError, match=r"Archive '.*test-1.tar' must be a tar archive"):
        load(tmp_path / "v")


def test_a_folder_of_images_with_a_tar_in_it_is_a_folder_of_images(
    picture_folder: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(picture_folder, tmp_path / "d")
    tar_of(tmp_path / "d" / "backup.tar", samples(4))
    assert load(tmp_path / "d").classes == ("across", "disc", "down")


def test_the_index_is_kept_and_made_anew(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_shards(tmp_path / "s", ["0.tar", "1.tar"])
    scans: list[str] = []
    scan = shards._scan
    monkeypatch.setattr(shards, "_scan", lambda path: (scans.append(path.name), scan(path))[1])
    first = names_of(load(root))
    assert scans == ["0.tar", "1.tar"]
    assert names_of(load(root)) == first
    assert len(scans) == 2
    kept = sorted((private_cache / "shards").glob("*.json"))
    assert len(kept) == 2
    kept[0].write_bytes(kept[0].read_bytes()[:50])  # torn
    kept[1].write_text(json.dumps(json.loads(kept[1].read_text()) | {"stamp": [0]}))  # another version
    assert names_of(load(root)) == first
    assert len(scans) == 4
    tree = json.loads(kept[0].read_text())
    kept[0].write_text(json.dumps(tree | {"labels": tree["labels"][1:]}))  # columns of several lengths
    assert names_of(load(root)) == first
    tar_of(root / "1.tar", samples(12, 10))  # another file
    assert len(names_of(load(root))) == 22
    assert len(scans) == 6
    assert scans[5] == "1.tar"
    monkeypatch.setenv("FINETUNE_CACHE", "/proc/none")  # nowhere to write
    assert len(names_of(load(root))) == 22


def test_each_process_opens_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads stand for two processes: what they say to each other goes over a barrier."""
    root = write_shards(tmp_path / "s", [f"{i}.tar" for i in range(4)])
    alone = load(root)
    mine, box, gate = threading.local(), [None, None], threading.Barrier(2, timeout=30)
    opened: Counter[int] = Counter()

    def gather(value: Any) -> list[Any]:
        box[mine.rank] = value
        gate.wait()
        found = list(box)
        gate.wait()
        return found

    def each(work: Any) -> Any:
        value = work()
        gather(None)
        return value

    checked = folder._check

    def check(*words: Any) -> Any:
        opened[mine.rank] += 1
        return checked(*words)

    for name, fake in {"alone": lambda: False, "rank": lambda: mine.rank, "world": lambda: 2, "gather": gather,
                       "each": each}.items():  # fmt: skip
        monkeypatch.setattr(ranks, name, fake)
    monkeypatch.setattr(folder, "_check", check)

    def work(rank: int) -> Any:
        mine.rank = rank
        return load(root, workers=1)

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(work, [0, 1]))
    assert opened == {0: 20, 1: 20}
    for found in both:
        for part in ("train", "val", "test"):
            a, b = getattr(found, part), getattr(alone, part)
            assert [a.name(i) for i in range(len(a))] == [b.name(i) for i in range(len(b))]
            assert [a.fingerprint(i) for i in range(len(a))] == [b.fingerprint(i) for i in range(len(b))]

    monkeypatch.setattr(ranks, "each", lambda work: work())
    elsewhere = write_shards(tmp_path / "t", ["0.tar"])

    def apart(rank: int) -> Any:
        mine.rank = rank
        monkeypatch.setattr(shards, "_known", shards._scan)
        return load([root, elsewhere][rank], workers=1)

    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(apart, rank) for rank in (0, 1)]:
            with pytest.raises(
                DataError, match="All processes must see the same images. Process 1 sees others"
            ):
                job.result()


def test_run_resume_and_evaluate_on_shards(tmp_path: Path) -> None:
    from finetune.api import resume, run

    def stripes(seed: int) -> bytes:
        from PIL import Image

        x = (
            np.random.default_rng(seed).integers(0, 60, (32, 32, 3))
            + 180 * (np.indices((32, 32))[seed % 2] % 8 > 3)[..., None]
        )
        return encoded(Image.fromarray(x.clip(0, 255).astype(np.uint8)))

    for number in range(4):
        files = samples(12, number * 12)
        tar_of(
            tmp_path / f"{number:03d}.tar",
            {n: stripes(int(n[:6])) if n.endswith("png") else d for n, d in files.items()},
        )
    recipe = {"strategy": "linear", "data": {"path": str(tmp_path / "{000..002}.tar"), "image_size": 32}}
    done = run({**recipe, "out": str(tmp_path / "run")}, figures=False)
    assert done.result["test"]["accuracy"] == 1.0
    assert "000.tar!/0000" in (done.path / "splits.csv").read_text()
    (done.path / "result.json").unlink()
    assert resume(done.path, figures=False).result["test"]["accuracy"] == 1.0
    scores, labelled, _ = done.judge(tmp_path / "003.tar")
    assert (scores.n, scores.accuracy) == (12, 1.0)
    assert labelled.images.name(0) == "003.tar!/000036.png"
    with pytest.raises(DataError, match="Every label of .* must be a class of the run.*Got 7"):
        done.evaluate(tar_of(tmp_path / "x.tar", samples(2) | {"000000.cls": b"7"}))
    with pytest.raises((DataError, ConfigError)):
        done.evaluate(zip_of(tmp_path / "x.zip", samples(2)))
