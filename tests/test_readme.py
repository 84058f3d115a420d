"""What the README says can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from finetune.cli.app import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^\s*(?:\S+=\S+ )?(finetune .+?)(?:\s+#.*)?$", re.MULTILINE)


def commands(page: Path) -> list[str]:
    found = []
    for line in COMMAND.findall(page.read_text(encoding="utf-8")):
        head, *others = line.split(" | ")
        found.append(head)
        # "zoo ls | show NAME" stands for two commands
        found += [" ".join([*head.split()[:2], other]) for other in others]
    return found


ALL = [(page.name, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), ALL)
def test_commands_parse(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    words = [word for word in words if word not in {"[...]", "..."}]
    context = click.Context(cli, info_name="finetune")
    group: click.Command = cli
    while isinstance(group, click.Group):
        _, found, words = group.resolve_command(context, words)
        assert found is not None
        group = found
    group.make_context(group.name, words)  # an unknown option or a missing argument is an error


def test_the_readme_has_commands_of_every_kind() -> None:
    text = " ".join(command for page, command in ALL if page == "README.md")
    assert {name for name in cli.list_commands(click.Context(cli)) if f"finetune {name}" not in text} <= {
        "pretrain"
    }


def test_python_block_runs(picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    image = next(p for p in sorted(picture_folder.rglob("*")) if p.is_file())
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        code = block.replace('"photos"', repr(str(picture_folder))).replace('"new.jpg"', repr(str(image)))
        code = code.replace('strategy="auto"', 'strategy="linear", image_size=32')
        exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "exported").is_dir()
