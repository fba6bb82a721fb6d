"""``openjepa doctor``: what this machine can do; ``openjepa doctor RUN``: what is wrong with a run, and what to change."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def doctor(
    run: Annotated[str | None, typer.Argument(help="run directory; without it, the machine is looked at")] = None,
    speed: Annotated[bool, typer.Option(help="measure matrix products and image decoding (a few seconds)")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Look at a run: is it sick, by which numbers, what to change. Without RUN look at the machine.

    Needs no labels. Exit code 1 when the run is sick.
    """
    if run is None:
        _machine(speed, as_json)
        return
    from openjepa.experiments.diagnose import diagnose_run

    found = diagnose_run(run)
    typer.echo(json.dumps(found.to_json(), indent=2) if as_json else "\n".join(found.lines()))
    if found.verdict == "sick":
        raise typer.Exit(1)


def _machine(speed: bool, as_json: bool) -> None:
    """Devices, precision, image formats, optional parts, speed, disk."""
    from openjepa.experiments.machine import examine_machine

    machine = examine_machine(speed=speed)
    if as_json:
        typer.echo(json.dumps(machine.to_json(), indent=2))
        return
    for heading, rows in machine.sections():
        typer.echo(f"\n{heading}")
        width = max((len(name) for name, _ in rows), default=0) + 2
        for name, text in rows:
            typer.echo(f"  {name:<{width}}{text}")
    for advice in machine.advice:
        typer.echo(f"\n→ {advice}")
