"""The command group: commands are imported when they run, and every error is one message and an exit code."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from types import FrameType
from typing import IO, Any

import click

from finetune import ranks
from finetune.errors import FinetuneError, Interrupted, did_you_mean
from finetune.version import __version__

# name -> (module:command, the line that --help shows without importing the module)
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("finetune.cli.run:run", "Look at the images, decide, train, test: the main job."),
    "resume": ("finetune.cli.run:resume", "Go on with a run that was stopped."),
    "sweep": ("finetune.cli.sweep:sweep", "Search recipe keys for the best validation figure."),
    "lr-find": ("finetune.cli.rehearse:lr_find", "Suggest a learning rate by a range test."),
    "preflight": ("finetune.cli.rehearse:preflight", "Look for silent mistakes before training."),
    "predict": ("finetune.cli.use:predict", "Classify images with a finished run."),
    "evaluate": ("finetune.cli.use:evaluate", "Test a finished run on other labelled images."),
    "coach": ("finetune.cli.coach:coach", "What the curves of a run say, and what to change."),
    "ensemble": ("finetune.cli.ensemble:ensemble", "Put finished runs together: answers, weights, bags."),
    "export": ("finetune.cli.use:export", "Write the network for timm or other programs."),
    "data": ("finetune.cli.data:data", "Look for what is wrong with a data set: check."),
    "strategy": ("finetune.cli.strategy:strategy", "What can be done, and which of it to do: ls, advise."),
    "zoo": ("finetune.cli.zoo:zoo", "The pretrained backbones: ls, show."),
    "recipe": ("finetune.cli.recipe:recipe", "The shipped recipes: ls, show, cp, validate, plot-lr."),
    "cache": ("finetune.cli.cache:cache", "Features and pixels kept between runs: ls, clear."),
    "demo-data": ("finetune.cli.demo:demo_data", "Write a small image folder to try things on."),
    "doctor": ("finetune.cli.doctor:doctor", "Versions, device and folders, for bug reports."),
    "pretrain": ("finetune.cli.pretrain:pretrain", "Train a backbone from scratch on a large folder."),
}


class Failed(click.ClickException):
    """A FinetuneError on its way out: its message on stderr, its exit code."""

    def __init__(self, error: FinetuneError) -> None:
        super().__init__(str(error))
        # click declares exit_code for the class; here each error brings its own.
        vars(self)["exit_code"] = error.exit_code

        self.told = error.told

    def show(self, file: IO[Any] | None = None) -> None:
        if self.told:
            return
        stopped = self.exit_code == Interrupted.exit_code
        label = "" if stopped else click.style("Error: ", fg="red", bold=True)
        click.echo(f"{label}{self.message}", file=file or sys.stderr)


class CtrlC:
    """Inside the block, remembers that Ctrl-C was pressed.

    Some libraries swallow a KeyboardInterrupt while they are being imported and then fail at something else,
    because half of a module is missing. Whatever is raised after Ctrl-C is its consequence.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._previous: Any = None

    def __enter__(self) -> CtrlC:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        raise KeyboardInterrupt


class LazyGroup(click.Group):
    """A group that knows its commands' names and summaries without importing them."""

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        module, _, name = self.lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.lazy and not args[0].startswith("-"):
            ctx.fail(f"There is no command {args[0]!r}.{did_you_mean(args[0], self.lazy)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.lazy.items()])

    def invoke(self, ctx: click.Context) -> Any:
        with CtrlC() as ctrl_c, ranks.quiet():
            try:
                return super().invoke(ctx)
            except FinetuneError as error:
                raise Failed(error) from error
            except KeyboardInterrupt:
                raise Failed(Interrupted("\nStopped.")) from None
            except Exception:
                if ctrl_c.pressed:
                    raise Failed(Interrupted("\nStopped.")) from None
                raise


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with:  finetune demo-data --out digits  and  finetune run --data digits",
)
@click.version_option(__version__, prog_name="finetune")
def cli() -> None:
    """Transfer learning for images.

    A folder of labelled images and a pretrained network come in; a decision is made and explained; a trained,
    tested classifier comes out.
    """
