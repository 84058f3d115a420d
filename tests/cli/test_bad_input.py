"""Every bad input is one message on stderr and exit code 2, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from finetune.cli.app import cli


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(w) for w in words], prog_name="finetune")


def refused(*words: object) -> str:
    """The message of a call that must fail with exit code 2 and without a traceback."""
    result = call(*words)
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert "Error" in result.stderr
    return " ".join(result.stderr.split())


def test_data_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "which does not exist" in refused("run", "--data", tmp_path / "none", "--out", out)
    (tmp_path / "empty").mkdir()
    assert "folder without images" in refused("run", "--data", tmp_path / "empty", "--out", out)
    (tmp_path / "one" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "cat" / "a.png")
    assert "at least 2 classes" in refused("run", "--data", tmp_path / "one", "--out", out)
    Image.new("RGB", (8, 8)).save(tmp_path / "file.png")
    assert "which is a file" in refused("run", "--data", tmp_path / "file.png", "--out", out)
    assert "Use --data DIR" in refused("run", "--out", out)
    assert not out.exists()


def test_nothing_readable(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "d" / name).mkdir(parents=True)
        (tmp_path / "d" / name / "x.jpg").write_bytes(b"")
    message = refused("run", "--data", tmp_path / "d", "--out", tmp_path / "out")
    assert "readable images of at least 2 classes" in message
    assert "0 bytes" in message


def test_labels_unknown_to_train(picture_folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(picture_folder, tmp_path / "d" / "train")
    (tmp_path / "d" / "val" / "circle").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "d" / "val" / "circle" / "a.png")
    assert "'circle' (1 images)" in refused("run", "--data", tmp_path / "d", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--backbone", "resnet5O"], "resnet50"),
        (["--backbone", "embeded"], "embedded"),
        (["--strategy", "partail"], 'Did you mean "partial"'),
        (["epochz=5"], 'epochz: unknown key. Did you mean "epochs"'),
        (["epochs=many"], "train.epochs: must be a valid integer"),
        (["epochs=-1"], "train.epochs: must be greater than or equal to 1. Got -1 instead"),
        (["epochs"], "must be of the form key=value"),
        (["device=cuda:77"], "device must be one that this machine has"),
        (["device=gpu"], "device must be auto, cpu, cuda, cuda:N or mps"),
        (["--seed", "-3"], "seed: must be greater than or equal to 0"),
        (["--recipe", "nope.yaml"], "does not exist"),
        (["--recipe", "quick-lok"], 'Did you mean "quick-look"'),
    ],
)
def test_settings(words: list[str], hint: str, picture_folder: Path, tmp_path: Path) -> None:
    assert hint in refused("run", "--data", picture_folder, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_all_mistakes_of_a_recipe_at_once(picture_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("strateg: linear\ntrain:\n  epochz: 3\n  lr: -0.1\ndata:\n  pth: x\n")
    for words in (["run", "--data", picture_folder, "--recipe", path], ["recipe", "validate", path]):
        message = refused(*words)
        assert "4 problems in mine.yaml" in message
        for part in ('"strategy"', '"epochs"', "train.lr: must be greater than 0. Got -0.1", '"path"'):
            assert part in message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a: [1", "line 1 is not valid YAML"),
        ("- 1\n", "must be a mapping of recipe keys"),
        ("\x00", "cannot be read"),
    ],
)
def test_files_that_are_no_recipe(text: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"\xff\xfe\x00" if text == "\x00" else text.encode())
    message = refused("recipe", "validate", path)
    assert hint in message or "line 2 is not valid YAML" in message


def test_output_folders(finished_run: Path, picture_folder: Path, tmp_path: Path) -> None:
    message = refused("run", "--data", picture_folder, "--out", finished_run)
    assert f"finetune resume {finished_run}" in message
    assert "must be a new or empty folder" in refused("export", finished_run, "--out", finished_run)
    assert "new or empty folder" in refused("demo-data", "--out", finished_run)
    assert "a file that does not exist" in refused("recipe", "cp", "auto", finished_run / "recipe.yaml")


@pytest.mark.parametrize("command", ["resume", "predict", "evaluate", "export"])
def test_unknown_runs(command: str, tmp_path: Path) -> None:
    rest = {"predict": ["x.png"], "evaluate": ["--data", "x"], "export": ["--out", tmp_path / "x"]}.get(
        command, []
    )
    assert "does not exist" in refused(command, tmp_path / "nothing", *rest)
    assert "is not the folder of a run" in refused(command, tmp_path, *rest)


def test_a_broken_run_folder(finished_run: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    image = next(iter(sorted(Path(run).glob("*.png"))))
    (run / "result.json").write_text("{")
    assert "result.json cannot be read" in refused("predict", run, image)
    (run / "result.json").write_text("{}")
    for command in (["predict", run, image], ["resume", run]):
        assert "as finetune wrote it. Got one without classes" in refused(*command)
    (run / "result.json").write_bytes((finished_run / "result.json").read_bytes())
    (run / "model" / "model.safetensors").write_bytes(b"rubbish")
    assert "model.safetensors" in refused("predict", run, image)
    (run / "model" / "model.safetensors").unlink()
    lost = (
        f"has lost its network: {run}/model/model.safetensors is missing. Go on with: finetune resume {run}"
    )
    assert lost in refused("predict", run, image)
    (run / "training.json").write_text("{")
    assert "training.json cannot be read" in refused("resume", run)
    (run / "training.json").write_bytes((finished_run / "training.json").read_bytes())
    assert call("resume", run).exit_code == 0
    assert call("predict", run, image).exit_code == 0


def test_images_to_predict(finished_run: Path, picture_folder: Path, tmp_path: Path) -> None:
    good = picture_folder / "disc" / "00.png"
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    result = call("predict", finished_run, tmp_path / "bad.jpg", good, tmp_path / "gone.png")
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert f"{good}  disc" in result.stdout
    assert "not an image that Pillow can read" in result.stderr
    assert "existing file" in result.stderr
    assert "2 of 3 images could not be read." in result.stderr
    (tmp_path / "empty").mkdir()
    assert "one with images in it" in refused("predict", finished_run, tmp_path / "empty")
    assert "Missing argument 'IMAGES...'" in refused("predict", finished_run)


def test_evaluation_data(finished_run: Path, tmp_path: Path) -> None:
    assert "which does not exist" in refused("evaluate", finished_run, "--data", tmp_path / "none")
    assert "Missing option '--data'" in refused("evaluate", finished_run)


def test_export_format(finished_run: Path, tmp_path: Path) -> None:
    message = refused("export", finished_run, "--format", "safetensor", "--out", tmp_path / "x")
    assert 'Did you mean "safetensors"' in message


def test_a_full_disk(
    picture_folder: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out"
    assert "The disk is full" in refused("run", "--data", picture_folder, "--out", out, "image_size=32")
    assert "The disk is full" in refused("export", finished_run, "--out", tmp_path / "x")
    assert "The disk is full" in refused("recipe", "cp", "auto", tmp_path / "mine.yaml")
    assert "The disk is full" in refused(
        "evaluate", finished_run, "--data", picture_folder, "--out", tmp_path / "e"
    )


def test_a_place_that_cannot_be_written(picture_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    message = refused("run", "--data", picture_folder, "--out", tmp_path / "file" / "run")
    assert "file" in message


def test_unknown_commands_and_names() -> None:
    assert 'Did you mean "run"' in refused("runn")
    assert 'Did you mean "show"' in refused("zoo", "shwo", "embedded")
    assert "resnet50" in refused("zoo", "show", "resnet5O")
    assert 'Did you mean "auto"' in refused("recipe", "show", "autoo")
    assert "No such option" in refused("run", "--dat", "x")
