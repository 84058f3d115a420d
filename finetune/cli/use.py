"""``finetune predict | evaluate | export``: what to do with a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetune.cli import screen

if TYPE_CHECKING:
    from finetune.evaluation.predict import Prediction

_RUN = click.argument("run", metavar="RUN", type=click.Path())


@click.command()
@_RUN
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...", type=click.Path(path_type=Path))
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON list with the probability of every class."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON to this file instead.")
def predict(run: str, images: tuple[Path, ...], as_json: bool, out: Path | None) -> None:
    """Classify IMAGES (files, or folders of files) with the network of RUN; of a run that learned labels or a number
    all labels above 50%, or the number.

    An image that cannot be read is reported on stderr, the others are classified, and the exit code is 2.
    """
    from finetune.api import open_run

    found = open_run(run)
    paths = _expand(images)
    answers = []
    for answer in found.predict_each(paths):
        answers.append(answer)
        if answer.error is not None:
            click.echo(answer.error, err=True)
        elif not as_json and out is None:
            screen.say_long(screen.printable(f"{answer.image}  {_said(answer)}"))
    rows = [answer.to_dict() for answer in answers]
    if out is not None:
        from finetune.files import atomic_write_json

        atomic_write_json(out, rows)
        screen.say_long(f"Wrote {len(rows)} predictions to {out}")
    elif as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    bad = sum(answer.error is not None for answer in answers)
    if bad:
        click.echo(f"{bad} of {len(answers)} images could not be read.", err=True)
        raise SystemExit(2)


def _said(answer: Prediction) -> str:
    """The answer for one image: the class and the next one, all labels above one half, or the number."""
    ranked = answer.probabilities or {}
    if answer.value is not None:
        return f"{answer.value:.6g}"
    if answer.labels is not None:
        return ", ".join(f"{name} {screen.percent(ranked[name])}" for name in answer.labels) or "(no label)"
    second = list(ranked)[1]
    return (
        f"{answer.label}  {screen.percent(answer.probability or 0)}  "
        f"(then {second}, {screen.percent(ranked[second])})"
    )


def _expand(images: tuple[Path, ...]) -> list[Path]:
    """Folders become the images below them, in order."""
    from finetune.data.layout import candidates, looks_like_image
    from finetune.data.place import is_dir
    from finetune.errors import DataError, must

    paths: list[Path] = []
    for path in images:
        if not is_dir(path):
            paths.append(path)
            continue
        below = [Path(file) for file in candidates(path) if isinstance(file, str) and looks_like_image(file)]
        if not below:
            raise DataError(must(f"Folder {str(path)!r}", "one with images in it", "none"))
        paths += below
    return paths


@click.command()
@_RUN
@click.option(
    "--data",
    required=True,
    type=click.Path(),
    help="Folder with a sub-folder per class of the run, or a table.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the figures to this JSON file.")
@click.option(
    "--predictions", type=click.Path(path_type=Path), help="Also write every prediction to this CSV file."
)
def evaluate(run: str, data: str, out: Path | None, predictions: Path | None) -> None:
    """Test the network of RUN on other labelled images."""
    from finetune.api import open_run
    from finetune.cli.result import show_scores
    from finetune.evaluation.table import write_answers
    from finetune.files import atomic_write_json

    found = open_run(run)
    scores, labelled, probabilities = found.judge(data)
    for image in labelled.quarantined:
        click.echo(screen.printable(f"{image.path} {image.reason}; left out."), err=True)
    show_scores(scores.to_dict(), f"{{}} on {labelled.folder}")
    if predictions is not None:
        write_answers(predictions, labelled.images, probabilities, found.classes)
        screen.say_long(f"Wrote {predictions}")
    if out is not None:
        atomic_write_json(
            out,
            {
                "run": str(found.path),
                "data": labelled.folder,
                "left_out": [vars(q) for q in labelled.quarantined],
                **scores.to_dict(),
            },
        )
        screen.say_long(f"Wrote {out}")


@click.command()
@_RUN
@click.option("--format", "kind", default="safetensors", show_default=True, help="Format of the export.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder to write.")
def export(run: str, kind: str, out: Path) -> None:
    """Write the network of RUN for another program, and verify that it gives the same answers."""
    from finetune.api import open_run
    from finetune.export import EXPORTS

    EXPORTS.entry(kind)
    found = open_run(run)
    path = found.export(out, kind)
    from finetune.export.write import how_to_read

    screen.say_long(f"Wrote {path}; its answers equal the checkpoint's.")
    screen.say_long(f"Read it with: {how_to_read(path, kind)}")
