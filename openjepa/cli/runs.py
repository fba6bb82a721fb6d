"""``openjepa runs list|show``: what was trained here and how it went."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(
    root: Annotated[str, typer.Argument(help="directory that holds runs")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List the runs below a directory, newest first."""
    from openjepa import api

    runs = api.runs(root)
    if as_json:
        typer.echo(json.dumps([api.run_summary(run) for run in runs], indent=2))
        return
    if not runs:
        typer.echo(f"no runs in '{root}': openjepa pretrain DATA makes one")
        return
    from rich.table import Table

    from openjepa.cli.console import console

    table = Table(box=None, header_style="bold")
    for heading in ("run", "recipe", "status", "step", "loss", "kNN", "linear", "health"):
        table.add_column(heading, overflow="fold")
    for run in runs:
        row = api.run_summary(run)
        cells = [row[key] for key in ("name", "recipe", "status", "progress", "loss", "knn", "linear", "verdict")]
        table.add_row(*("–" if cell is None else str(cell) for cell in cells))
    console().print(table)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="run directory")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show one run: what it is, how far it got, its health and its scores."""
    from openjepa import api

    summary = api.run_summary(api.run(run))
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    width = max(map(len, summary)) + 2
    for key, value in summary.items():
        if value not in (None, "", [], {}):
            typer.echo(f"{key.replace('_', ' '):<{width}}{value}")
