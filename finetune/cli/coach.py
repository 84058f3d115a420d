"""``finetune coach``: what the curves of a run say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from finetune.cli import screen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@click.command()
@click.argument("run", metavar="RUN", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the findings with their evidence as JSON.")
def coach(run: str, as_json: bool) -> None:
    """Read the curves of RUN (finished, stopped or still training) and say what is wrong and what to change."""
    from finetune.coach.diagnose import diagnose_phases
    from finetune.coach.folder import counted_facts, phase_facts, report
    from finetune.errors import RunError
    from finetune.files import json_text
    from finetune.run_folder import RunFolder
    from finetune.training.metrics_log import read_metrics

    folder = RunFolder.find(run).path
    try:
        rows = read_metrics(folder)
    except ValueError as error:
        raise RunError(f"{folder / 'metrics.jsonl'} cannot be read: {error}.") from None
    known = phase_facts(folder)
    counted = counted_facts(folder) if rows and not known else None
    facts = known if counted is None else {int(row.get("phase_index", 0)): counted for row in rows}
    found = report(diagnose_phases(rows, facts))
    if as_json:
        click.echo(json_text(found))
    elif found["findings"]:
        show_findings(found["findings"])
    else:
        screen.say("There are no curves: nothing was trained by gradient steps, or no row is there yet.")


def show_findings(findings: Sequence[Mapping[str, Any]], most: int = 100) -> None:
    """A sentence a finding, worst first, with the key to change."""
    for finding in findings[:most]:
        text = f"{finding['sentence']} {finding['remedy']}".strip()
        change = f" ({finding['change']})" if finding["change"] else ""
        screen.bullet(f"{text}{change}")
    if len(findings) > most:
        screen.say(f"and {len(findings) - most} more: coach.json", style="dim")
