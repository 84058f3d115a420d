"""The command line. It parses and prints; everything it does can be done from Python through finetune.api."""

from __future__ import annotations


def main() -> None:
    """The console script; imports nothing heavy before a command needs it."""
    from finetune import start

    start.mark()
    from finetune.cli.app import cli
    from finetune.cli.process import carry_out

    carry_out(lambda: cli(prog_name="finetune"))
