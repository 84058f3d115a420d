"""Every example runs as its docstring says, and stays under 50 lines."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


def call(name: str, *arguments: object) -> None:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(*map(str, arguments))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_short_and_say_how_to_run_them(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 50
    assert f"python examples/{path.name}" in text
    assert f"def test_{path.stem}(" in Path(__file__).read_text()


def test_classify_a_folder(picture_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = picture_folder / "disc" / "00.png"
    call("classify_a_folder", picture_folder, image)
    said = capsys.readouterr().out
    assert "test images" in said
    assert f"{image}: " in said


def test_torch_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("torch_dataset", tmp_path)
    assert "plain timm: 2 classes" in capsys.readouterr().out


def test_compare_strategies(picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("compare_strategies", picture_folder, tmp_path, "image_size=32", "epochs=1", "precision=fp32")
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_your_own_plan(picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("your_own_plan", picture_folder, tmp_path)
    assert "test accuracy" in capsys.readouterr().out
