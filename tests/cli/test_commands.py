"""What the commands print and write when all is well."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from finetune.cli.app import COMMANDS, cli
from finetune.cookbook import recipe_header, shipped_recipes


def call(*words: object) -> str:
    result = CliRunner().invoke(cli, [str(w) for w in words], prog_name="finetune")
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


# --- help ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["--help"], ["-h"], ["run", "--help"], ["zoo", "--help"], ["recipe", "ls"]]
)
def test_help_is_quick(words: list[str]) -> None:
    code = (
        "import sys\nfrom finetune.cli.app import cli\n"
        f"try: cli({words!r}, prog_name='finetune')\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'torchvision', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "light = {'pydantic', 'rich', 'yaml'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), 'LIGHT', sorted(light))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in said
    if words[0] in ("--help", "-h"):
        assert "LIGHT []" in said


def test_every_command_has_help_and_the_summary_that_is_listed() -> None:
    listed = call("--help")
    for name, (_, summary) in COMMANDS.items():
        assert name in listed
        assert summary in " ".join(listed.split())
        assert "Usage: finetune" in call(name, "--help")


def test_version() -> None:
    from finetune.version import __version__

    assert __version__ in call("--version")


def test_python_m_finetune() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "finetune", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("finetune, version")


# --- the main job --------------------------------------------------------------------------------------


def test_run_tells_its_story(picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "my run"
    said = call("run", "--data", picture_folder, "--out", out, "image_size=32", "epochs=1", "precision=fp32")
    plain = " ".join(said.split())
    for part in (
        "36 images, 3 classes",
        "pretrained on",
        "very similar data set",
        "➤",
        "Chosen:",
        "runner-up",
        "Test accuracy:",
        "95% interval",
        "precision",
        "parameters trained",
        "Everything is in",
        f"finetune predict '{out}' IMAGE...",
        f"finetune export '{out}' --format safetensors",
    ):
        assert part in plain, part
    assert all(
        len(line) <= 80
        for line in said.splitlines()
        if str(out) not in line and str(picture_folder) not in line
    )
    decision = json.loads((out / "decision.json").read_text())
    assert f"Chosen: {decision['chosen']}; runner-up {decision['runner_up']}." in plain


def test_run_with_a_recipe_and_options(picture_folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("strategy: full\nseed: 5\ndata:\n  image_size: 32\n")
    said = call(
        "run",
        "--data",
        picture_folder,
        "--recipe",
        mine,
        "--strategy",
        "linear",
        "--seed",
        3,
        "--quiet",
        "--out",
        tmp_path / "r",
    )
    assert said.startswith("Test accuracy:")
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert (result["strategy"], result["seed"], result["image_size"]) == ("linear", 3, 32)


def test_an_export_is_offered_where_it_can_be_made(picture_folder: Path, tmp_path: Path) -> None:
    data = ["run", "--data", picture_folder, "data.image_size=32", "--strategy", "linear"]
    assert "finetune export" in call(*data, "--out", tmp_path / "a")
    said = call(*data, "--out", tmp_path / "b", "data.normalise=mean-image")
    assert "finetune predict" in said
    assert "finetune export" not in said


def test_resume_of_a_finished_run(finished_run: Path) -> None:
    said = call("resume", finished_run)
    assert "had finished already" in said
    assert "Test accuracy" in said


# --- with a finished run -------------------------------------------------------------------------------


def test_predict(finished_run: Path, picture_folder: Path, tmp_path: Path) -> None:
    path = picture_folder / "disc" / "00.png"
    assert f"{path}  disc  " in call("predict", finished_run, path)
    rows = json.loads(call("predict", finished_run, path, "--json"))
    assert rows[0]["image"] == str(path)
    assert rows[0]["label"] == "disc"
    assert set(rows[0]["probabilities"]) == {"across", "disc", "down"}
    out = tmp_path / "p.json"
    assert "Wrote 36 predictions" in call("predict", finished_run, picture_folder, "--out", out)
    assert len(json.loads(out.read_text())) == 36


def test_evaluate(finished_run: Path, picture_folder: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "e.json", tmp_path / "p.csv"
    said = call("evaluate", finished_run, "--data", picture_folder, "--out", out, "--predictions", table)
    assert "95% interval" in " ".join(said.split())
    facts = json.loads(out.read_text())
    assert facts["n"] == 36
    assert len(facts["interval"]) == 2
    assert len(table.read_text().splitlines()) == 37


def test_export(finished_run: Path, tmp_path: Path) -> None:
    said = call("export", finished_run, "--format", "safetensors", "--out", tmp_path / "x")
    assert f'timm.create_model("local-dir:{tmp_path / "x"}", pretrained=True)' in said


# --- the rest ------------------------------------------------------------------------------------------


def test_zoo() -> None:
    said = call("zoo", "ls")
    assert "embedded" in said
    cards = json.loads(call("zoo", "ls", "--json"))
    assert len(cards) >= 20
    assert "licence" in call("zoo", "show", "embedded")
    assert json.loads(call("zoo", "show", "embedded", "--json"))["name"] == "embedded"


def test_doctor(tmp_path: Path) -> None:
    said = call("doctor")
    assert "torch" in said
    assert "device" in said
    out = tmp_path / "d.json"
    facts = json.loads(call("doctor", "--json", "--out", out))
    assert facts == json.loads(out.read_text())
    assert facts["zoo_cards"] >= 1


def test_demo_data(tmp_path: Path) -> None:
    said = call("demo-data", "--out", tmp_path / "digits")
    assert f"finetune run --data {tmp_path / 'digits'}" in said
    assert len(list((tmp_path / "digits").rglob("*.png"))) == 1797


def test_recipe_commands(tmp_path: Path) -> None:
    assert all(name in call("recipe", "ls") for name in shipped_recipes())
    assert call("recipe", "show", "auto").startswith("# finetune run")
    said = call("recipe", "cp", "auto", tmp_path)
    assert "auto.yaml" in said
    assert "auto.yaml: ok" in call("recipe", "validate", tmp_path / "auto.yaml")


@pytest.mark.parametrize("name", list(shipped_recipes()))
def test_every_shipped_recipe_is_valid_and_says_what_it_is_for(name: str) -> None:
    assert "ok" in call("recipe", "validate", name)
    command, purpose = recipe_header(shipped_recipes()[name])
    assert command.startswith("finetune ")
    assert name in command
    assert len(purpose) > 20


def _table(pictures: Path, folder: Path) -> Path:
    """Of labels that may be read as several an image, as numbers and as classes."""
    rows = [f"{path},{i % 2}" for i, path in enumerate(sorted(pictures.rglob("*.*")))]
    (folder / "labels.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    return folder / "labels.csv"


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if "/" not in n])
def test_every_recipe_runs_as_its_first_line_says(name: str, picture_folder: Path, tmp_path: Path) -> None:
    """Shortened: one epoch of small pictures."""
    words = recipe_header(shipped_recipes()[name])[0].split()[1:]
    at = words.index("--data") + 1
    words[at] = str(_table(picture_folder, tmp_path) if words[at] == "labels.csv" else picture_folder)
    call(*words, "--out", tmp_path / "r", "--quiet", "image_size=32", "epochs=1", "precision=fp32")
    assert (tmp_path / "r" / "result.json").is_file()
