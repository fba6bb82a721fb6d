"""``openjepa doctor``: what this machine can do."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def doctor(
    speed: Annotated[bool, typer.Option(help="measure matrix products and image decoding (a few seconds)")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Look at the machine: devices, precision, image formats, optional parts, speed, disk."""
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
