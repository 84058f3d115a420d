"""python -m benchmarks.regret run | report | plan: see docs/regret.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.regret.cases import SIZES, find_cases, make_case, read_families, read_size, size_name
from benchmarks.regret.ledger import Ledger, read_ledgers
from benchmarks.regret.order import PASSES, Cell, plan_cells
from finetune.errors import ConfigError, FinetuneError, must
from finetune.version import __version__

OUT = Path("benchmarks/regret.csv")


def parser() -> argparse.ArgumentParser:
    """The two commands."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    for name, said in (("run", "measure rows"), ("plan", "say which rows would be measured")):
        command = commands.add_parser(name, help=said)
        command.add_argument("--root", type=Path, required=True, metavar="DIR", help="the unpacked data sets")
        command.add_argument(
            "--data", nargs="*", default=[], metavar="NAME", help="folders of it; default: all"
        )
        command.add_argument(
            "--dials", metavar="NAME", help="make the dial targets of this one and measure them too"
        )
        command.add_argument("--backbone", default="embedded", metavar="NAME")
        command.add_argument("--arms", nargs="*", default=[], metavar="NAME", help="default: all")
        command.add_argument("--no-auto", action="store_true", help="leave auto out")
        command.add_argument(
            "--race", metavar="TIME", help="measure auto with this time for a race too, as 10m"
        )
        command.add_argument("--sizes", nargs="*", default=[size_name(s) for s in SIZES], metavar="M")
        command.add_argument("--seeds", type=int, default=3)
        command.add_argument("--pass", dest="passes", nargs="*", default=list(PASSES), choices=PASSES)
        command.add_argument("--set", dest="keys", nargs="*", default=[], metavar="KEY=VALUE",
                             help="recipe keys of every row, as data.image_size=96")  # fmt: skip
        command.add_argument("--code", default=__version__, help="code version in the key of every row")
        command.add_argument("--out", type=Path, default=OUT)
        command.add_argument("--retry", action="store_true", help="measure failed rows again")
        command.add_argument("--redo", nargs="*", default=[], metavar="ARM", help="measure these again")
        command.add_argument("--minutes", type=float, help="begin no row after this long")
    report = commands.add_parser("report", help="tables and figures from the rows")
    report.add_argument("csv", nargs="*", type=Path, default=[OUT])
    report.add_argument(
        "--cells", type=Path, metavar="CSV", help="rows of benchmarks/cells.py: whole data sets"
    )
    report.add_argument("--document", type=Path, default=Path("docs/regret.md"))
    report.add_argument(
        "--arms", nargs="*", default=[], help="arms that may be chosen; default: those in most rows"
    )
    report.add_argument(
        "--min-test", type=int, default=200, help="fewest test images of a unit, seeds together"
    )
    report.add_argument("--recipe", nargs="*", default=[],
                        help="digests; default: of each backbone the one with most rows")  # fmt: skip
    report.add_argument("--code", help="code version; default: the one with most rows")
    report.add_argument("--later", metavar="CODE",
                        help="a later code version: what it changed in the trials that it measured too")  # fmt: skip
    report.add_argument(
        "--dials", type=Path, metavar="CSV", help="rows of dial targets: a table of their own"
    )
    report.add_argument("--print", dest="show", action="store_true", help="print instead of writing")
    return top


def cells_of(options: argparse.Namespace, source: str = "") -> list[Cell]:
    """What the options ask for. ``source``: the data set that the backbone was made on is no target for it."""
    from benchmarks.regret.arms import choose_arms

    families = read_families()
    cases = find_cases(options.root, options.data, families)
    cases = [case for case in cases if case.name != source]
    if options.dials:
        from benchmarks.regret.dials import DIALS, make_dial

        parent = find_cases(options.root, [options.dials], families)[0]
        cases += [make_case(make_dial(parent.path, dial), families) for dial in DIALS]
    if options.seeds < 1:
        raise ConfigError(must("--seeds", "an int > 0", options.seeds))
    return plan_cells(
        cases,
        choose_arms(options.arms),
        sizes=[read_size(text) for text in options.sizes],
        seeds=options.seeds,
        passes=[name for name in PASSES if name in options.passes],
        auto=not options.no_auto,
        race=options.race,
    )


def measure(options: argparse.Namespace) -> int:
    """`run` and `plan`."""
    from benchmarks.regret.arms import choose_arms
    from benchmarks.regret.identity import keys_of
    from benchmarks.regret.measure import Bench
    from benchmarks.regret.recipes import keep_recipe
    from benchmarks.regret.runner import missing, run_cells
    from finetune.zoo.zoo import card

    arms = {arm.name: arm for arm in choose_arms(options.arms)}
    bench = Bench(options.backbone, options.keys, options.code, arms)
    cells = cells_of(options, card(options.backbone).source_dataset)
    ledger = Ledger(options.out)
    if options.command == "plan":
        rows = ledger.rows()
        todo = missing(bench, cells, rows, options.retry, options.redo)
        for cell in todo:
            print(cell)
        print(f"{len(todo)} of {len(cells)} rows are to be measured.")
        return 0
    keep_recipe(options.out, bench.recipe_digest, keys_of(bench.recipe))
    run_cells(bench, cells, ledger, minutes=options.minutes, retry=options.retry, redo=options.redo,
              say=lambda text: print(text, flush=True))  # fmt: skip
    return 0


def report(options: argparse.Namespace) -> int:
    """`report`."""
    from benchmarks.regret.dial_table import dial_section
    from benchmarks.regret.from_cells import arms_of, read_cells
    from benchmarks.regret.later import later_section
    from benchmarks.regret.recipes import read_recipes
    from benchmarks.regret.report import render, write_report
    from benchmarks.regret.results import collect

    rows, records = read_ledgers(options.csv)
    keys = read_recipes(options.csv)
    common = {
        "arms": options.arms,
        "min_test": options.min_test,
        "recipes": options.recipe,
        "code": options.code,
    }
    families = read_families()
    own = collect(rows, records, families, own_rates=True, **common)
    tuned = collect(rows, records, families, **common)
    whole = None
    if options.cells is not None:
        cells = read_cells(options.cells)
        whole = collect(cells, {}, families, arms=arms_of(cells), own_rates=True, min_test=options.min_test)
    more = [later_section(rows, own.versions, options.later)] if options.later else []
    more += [dial_section(read_ledgers([options.dials])[0])] if options.dials else []
    if options.show:
        print("\n".join([render(own, tuned, whole=whole, keys=keys)[0], *more]))
    else:
        write_report(own, tuned, options.document, whole, keys, more)
        print(f"Wrote {options.document} from {len(rows)} rows.")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 2 for what a user can mend, 130 when stopped."""
    options = parser().parse_args(arguments)
    try:
        return report(options) if options.command == "report" else measure(options)
    except FinetuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
