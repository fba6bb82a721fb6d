"""What several verbs print alike."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from openjepa.api import PretrainResult
    from openjepa.evaluation import Score


def console() -> Console:
    """A rich console as wide as the terminal; 120 columns where there is none."""
    from rich.console import Console

    return Console(width=shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 120, highlight=False)


def score_table(scores: list[Score]) -> None:
    """Scores by encoder, with their 95 % intervals."""
    from rich.table import Table

    names = list(dict.fromkeys(score.name for score in scores))
    table = Table(box=None, header_style="bold")
    table.add_column("encoder")
    for name in names:
        table.add_column(f"{name} %", justify="right")
    for subject in dict.fromkeys(score.subject for score in scores):
        found = {score.name: score for score in scores if score.subject == subject}
        cells = [
            f"{100 * found[n].value:.1f}  [{100 * found[n].interval[0]:.1f}, {100 * found[n].interval[1]:.1f}]"
            if n in found
            else "–"
            for n in names
        ]
        table.add_row(subject, *cells)
    console().print(table)


def say_result(result: PretrainResult) -> None:
    """The last lines of a training: scores, verdict, where things are, what to type next."""
    if os.environ.get("RANK", "0") != "0":
        return
    if not result.training.finished:
        return  # the training has said how to resume
    typer.echo("")
    if result.scores:
        score_table(list(result.scores))
        typer.echo("")
    typer.echo(f"health   {result.verdict}")
    typer.echo(f"encoder  {result.run_dir / 'model'}   (openjepa.load({str(result.run_dir)!r}).embed(paths))")
    if result.report is not None:
        typer.echo(f"report   {result.report}")
