"""The command line. It parses and prints; everything it does can be done from Python through finetune.api."""

from __future__ import annotations


def main() -> None:
    """The console script; imports nothing heavy before a command needs it."""
    from finetune import start

    start.mark()
    from finetune.cli.app import cli

    cli(prog_name="finetune")
