"""``openjepa runs list|show|compare|choose``: what was trained here, how it went, and which checkpoint to keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from openjepa.experiments.choose import Choice

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


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="two run directories or more")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="PNG with the runs' curves over one another")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Put runs side by side: recipe differences, last numbers, label-free measures, probes, scores, verdicts."""
    from openjepa.config import ABSENT
    from openjepa.config.text import shown
    from openjepa.experiments.compare import compare_runs, comparison_figure

    found = compare_runs(runs)
    if out is not None:
        from openjepa.visualize.curves import figure_png
        from openjepa.visualize.files import png_path, write_bytes

        write_bytes(png_path(out), figure_png(comparison_figure(found)))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    rows: list[tuple[str, list[str]]] = [
        (key, ["–" if value is ABSENT else shown(value) for value in values])
        for key, values in found.differences.items()
    ]
    rows.append(("", [""] * len(found.names)))
    rows += [(name, [_number(value) for value in values]) for name, values in found.numbers.items()]
    rows += [(f"{name}, final", ["–" if v is None else f"{v:.3f}" for v in vs]) for name, vs in found.scores.items()]
    rows.append(("health", [verdict.partition(":")[0] for verdict in found.verdicts]))
    _table(("", *found.names), rows)
    if not found.differences:
        typer.echo("\nthe recipes are the same")
    if out is not None:
        typer.echo(f"\nwrote {out}")


@app.command()
def choose(
    run: Annotated[str, typer.Argument(help="run directory with several checkpoints (checkpoint.keep_every)")],
    by: Annotated[str, typer.Option(help="consensus, rankme, lidar, alpha, loss or latest")] = "consensus",
    labels: Annotated[bool, typer.Option(help="where labels exist, show how well each measure agreed with kNN")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Name the checkpoint to keep, without labels; where labels exist, say how far to trust that."""
    from openjepa.experiments.choose import choose_checkpoint

    found = choose_checkpoint(run, by=by, labels=labels, device=device)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    _say_choice(found)


def _say_choice(found: Choice) -> None:
    """The checkpoints, the measures' agreement with the probe, and the one to keep."""
    probed = found.candidates[0].probe is not None
    measures = list(found.candidates[0].numbers)
    rows = [
        (
            f"{'→ ' if c is found.chosen else '  '}{c.step:,}",
            [_number(c.numbers[name]) for name in measures] + ([f"{100 * (c.probe or 0):.1f} %"] if probed else []),
        )
        for c in found.candidates
    ]
    _table(("step", *measures, *(["kNN"] if probed else [])), rows)
    typer.echo("")
    if probed:
        cells = [
            (
                a.measure,
                [f"{a.chosen:,}", _number(a.spearman), _number(a.kendall), f"{100 * (a.regret or 0):.1f} points"],
            )
            for a in found.agreements
        ]
        count = len(found.candidates)
        _table(("measure", "would keep", f"Spearman with kNN (n = {count})", "Kendall", "regret"), cells)
    else:
        typer.echo(found.why_no_probe)
    typer.echo(f"\nkeep {found.chosen.path} (by {found.by}): openjepa.load({found.chosen.path!r})")


def _table(head: tuple[str, ...], rows: list[tuple[str, list[str]]]) -> None:
    """A plain table, names at the left, numbers at the right."""
    from rich.table import Table

    from openjepa.cli.console import console

    table = Table(box=None, header_style="bold")
    for i, heading in enumerate(head):
        table.add_column(heading, justify="right" if i else "left", overflow="fold")
    for name, cells in rows:
        table.add_row(name, *cells)
    console().print(table)


def _number(value: Any) -> str:
    """A number as short text; – for what is missing or not finite."""
    if value is None or value != value:
        return "–"
    return f"{value:,}" if isinstance(value, int) and value < 1e9 else f"{value:.4g}"
