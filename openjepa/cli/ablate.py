"""``openjepa ablate GRID``: test claims on your own data, with seeds, intervals and a verdict."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from openjepa.experiments.ablate import AblationResult, Plan

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def ablate(
    grid: Annotated[
        list[str] | None,
        typer.Argument(metavar="GRID… [KEY.SUB=VALUE]…", help="grid names or YAML files; recipe keys for every arm"),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="labelled folder, list file or 'scenes'; again for more")
    ] = None,
    out: Annotated[str, typer.Option(help="where cells and results go; grids that share it share cells")] = (
        "runs/ablations"
    ),
    steps: Annotated[int | None, typer.Option(min=1, help="length of every run, instead of the grid's budget")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="seeds 0 … N-1 instead of the grid's")] = None,
    only: Annotated[list[str] | None, typer.Option(help="ARM, ARM/SEED or */SEED: the rest is left for later")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="cells at once; default: GPUs, else cores (4 at most)")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per cell; default: cores / jobs")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="run failed cells again")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the cells and how long they would take")] = False,
    show: Annotated[bool, typer.Option("--list", help="list the grids that ship with openjepa")] = False,
    render: Annotated[str | None, typer.Option(help="print results below this folder as Markdown")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Run a grid of recipes × seeds, resumably, and say of each claim: confirmed, refuted or undecided here."""
    from openjepa.errors import ConfigError
    from openjepa.experiments import ablate as room

    if show:
        _list_grids(as_json)
        return
    if render is not None:
        typer.echo(room.render(render), nl=False)
        return
    words = grid or []
    names = [word for word in words if "=" not in word]
    if not names:
        raise ConfigError("which grid? name one of 'openjepa ablate --list' or a YAML file")
    asked: dict[str, Any] = {
        "out": out,
        "overrides": [word for word in words if "=" in word],
        "steps": steps,
        "seeds": None if seeds is None else range(seeds),
        "only": only or (),
        "jobs": jobs,
        "threads": threads,
        "retry": retry,
    }
    if dry_run:
        _say_plan(room.plan(names, data or (), **asked))
        return
    result = room.ablate(names, data or (), on_line=lambda line: typer.echo(line, err=True), **asked)
    if as_json:
        typer.echo(json.dumps(list(result.results), indent=2))
    else:
        _say_result(result)
    if result.tally.failed:
        raise typer.Exit(1)


def _list_grids(as_json: bool) -> None:
    from openjepa.experiments.ablate import list_grids

    grids = list_grids()
    if as_json:
        typer.echo(json.dumps([info.grid.model_dump(mode="json") for info in grids], indent=2))
        return
    from rich.table import Table

    from openjepa.cli.console import console

    table = Table("grid", "question", "arms", "comparisons", box=None, pad_edge=False)
    for info in grids:
        table.add_row(info.name, info.grid.question, ", ".join(info.grid.arms), str(len(info.grid.expect)))
    console().print(table)


def _say_plan(found: Plan) -> None:
    """Every cell with whether it is done, and the estimate."""
    todo = {cell.key for cell in found.todo}
    for cell in found.cells:
        length = f"  {cell.recipe.train.length} × {cell.recipe.train.batch_size}" if cell.kind == "trained" else ""
        state = "to do" if cell.key in todo else "done "
        typer.echo(f"{state}  {found.names[cell.data]}  {cell.label} s{cell.seed}{length}")
    threads = f"{found.slots.threads} thread{'s' if found.slots.threads > 1 else ''} each"
    typer.echo(f"\n{len(found.todo)} of {len(found.cells)} cells to do, {found.slots.jobs} at a time, {threads}")
    long = "unknown" if found.seconds is None else f"about {found.seconds / 60:.0f} minutes"
    typer.echo(f"time: {long} ({found.how})")


def _say_result(result: AblationResult) -> None:
    """Per grid and data set: a table of arms, verdicts in words, what is missing; then where everything is."""
    from openjepa.experiments.ablate.table import missing

    for found in result.results:
        typer.echo(f"\n{found['grid']}: {found['question']}")
        for data in found["data"]:
            _say_data(found, data)
            for line in missing(data):
                typer.echo(f"  missing  {line}")
    typer.echo("")
    for path in result.files:
        if path.suffix in (".md", ".png"):
            typer.echo(f"wrote {path}")
    for note in result.notes:
        typer.echo(note)


def _say_data(found: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    from rich.table import Table

    from openjepa.cli.console import console
    from openjepa.experiments.ablate.table import arm_cells, claim_cells

    head, rows = arm_cells(found, data)
    table = Table(box=None, header_style="bold", title=data["name"], title_justify="left")
    for place, name in enumerate(head):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)
    for comparison in data["comparisons"]:
        claim, arms, difference, _, count, word = claim_cells(comparison)
        typer.echo(f"  {word:<10} {claim}: {arms}: {difference}, {count} seed{'' if count == '1' else 's'}")
