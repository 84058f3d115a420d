"""``finetune demo-data``."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli import screen


@click.command("demo-data")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder to write; must not exist."
)
def demo_data(out: Path) -> None:
    """Write scikit-learn's 1,797 handwritten digits as an image folder. No download."""
    from finetune.data.demo import write_demo_data

    write_demo_data(out)
    screen.say_long(f"Wrote 1,797 handwritten digits (10 classes) to {out}")
    screen.say_long(f"Next: finetune run --data {out}")
