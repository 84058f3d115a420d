"""finetune cache: what is kept is shown with its size, and goes when told to."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from finetune.cli.app import cli
from finetune.data.pixel_cache import PixelCache
from finetune.features.cache import FeatureCache


def call(*args: str) -> str:
    result = CliRunner().invoke(cli, ["cache", *args])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def kept(private_cache: Path) -> Path:
    FeatureCache("network", True, print).add([b"x" * 16], np.ones((1, 8), dtype=np.float32))
    cache = PixelCache({})
    cache.add(b"y" * 16, np.zeros((50, 50, 3), dtype=np.uint8))
    cache.flush()
    return private_cache


def test_both_kinds_are_listed(kept: Path) -> None:
    text = call("ls")
    assert "features: " in text
    assert "in 1 files, last used" in text
    tree = json.loads(call("ls", "--json"))
    assert {entry["kind"]: entry["files"] for entry in tree["entries"]} == {"features": 1, "pixels": 1}
    assert tree["folder"] == str(kept)
    assert tree["entries"][0]["bytes"] > 0
    assert [entry["kind"] for entry in json.loads(call("ls", "pixels", "--json"))["entries"]] == ["pixels"]


def test_one_kind_or_all_is_deleted(kept: Path) -> None:
    freed = json.loads(call("clear", "pixels", "--json"))
    assert freed["files"] == 1
    assert freed["bytes"] > 7500
    assert [path.name for path in (kept / "pixels").iterdir()] == []
    assert "Deleted 1 files, " in call("clear")
    assert "Nothing to delete." in call("clear")
    assert json.loads(call("ls", "--json"))["entries"] == []


def test_only_what_is_old(kept: Path) -> None:
    (shard,) = (kept / "features").rglob("*.safetensors")
    os.utime(shard, (time.time() - 3 * 86400,) * 2)
    (kept / "pixels" / ".a.tmp").write_bytes(b"half")
    os.utime(kept / "pixels" / ".a.tmp", (0, 0))
    assert json.loads(call("clear", "--older", "2d", "--json"))["files"] == 2  # and what a killed run left
    assert [entry["kind"] for entry in json.loads(call("ls", "--json"))["entries"]] == ["pixels"]


def test_bad_words() -> None:
    result = CliRunner().invoke(cli, ["cache", "clear", "--older", "soon"])
    assert result.exit_code == 2
    assert "must be a time such as 12h, 30d or 2w. Got 'soon' instead" in result.output
    assert CliRunner().invoke(cli, ["cache", "clear", "weights"]).exit_code == 2
