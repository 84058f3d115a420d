"""The wheel carries zoo.yaml, recipes and weights, and works far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 12 * 2**20  # bytes of shipped weights


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("finetune-*.whl"))


def test_wheel_carries_its_resources(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {item.filename: item.file_size for item in archive.infolist()}
    for name in ("finetune/_resources/zoo.yaml", "finetune/_resources/recipes/pretrain/embedded.yaml",
                 "finetune/weights/embedded.safetensors"):  # fmt: skip
        assert name in sizes
    assert sum(size for name, size in sizes.items() if name.startswith("finetune/weights/")) <= LIMIT
    assert not [name for name in sizes if name.startswith(("tests/", "benchmarks/"))]


def test_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def finetune(*arguments: str) -> str:
        command = [sys.executable, "-m", "finetune", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [sys.executable, "-c", "import finetune; print(finetune.__file__)"]
    assert (
        str(site)
        in subprocess.run(
            where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout
    )
    assert "embedded" in finetune("zoo", "ls")
    assert "pretrain/embedded" in finetune("recipe", "ls")
    finetune("demo-data", "--out", "digits")
    out = finetune(
        "run",
        "--data",
        "digits",
        "--strategy",
        "linear",
        "--out",
        "run",
        "data.limit_per_class=8",
        "data.image_size=32",
    )
    assert "test" in out.lower()
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.network
def test_pip_install_into_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Downloads torch: some minutes and several GB."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = str(tmp_path / "env" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[demo]"], check=True)
    program = str(tmp_path / "env" / "bin" / "finetune")
    for arguments in (["demo-data", "--out", "digits"],
                      ["run", "--data", "digits", "--strategy", "linear", "--out", "run",
                       "data.image_size=32"]):  # fmt: skip
        done = subprocess.run(
            [program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model").is_dir()
