"""``openjepa classify DATA --model CLASSIFIER``: the class of every image or video of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from openjepa.cli.clip_options import with_clips

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


def classify(
    data: Annotated[
        str, typer.Argument(help="folder of images or videos, with labels or without, a list file, or one file")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="a fine-tuned classifier; with --probe any model that load opens")
    ],
    probe: Annotated[str | None, typer.Option(help="published attentive classifier of the model, a file")] = None,
    top: Annotated[int, typer.Option(min=1, help="classes per file, likeliest first")] = 1,
    csv: Annotated[Path | None, typer.Option("--csv", help="write a table here instead of lines")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="files encoded at once")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="processes that read files")] = 0,
    clips: dict[str, Any] | None = None,
) -> None:
    """The likeliest class of every file; where folders are called like classes, also how many are right."""
    from openjepa.classifying import accuracy, write_csv
    from openjepa.classifying import classify as run
    from openjepa.features import ClipOptions

    rows, look = [], ClipOptions(**(clips or {}))
    for row in run(
        data, model, top=top, probe=probe, device=device, batch_size=batch_size, workers=workers, clips=look
    ):
        rows.append(row)
        if csv is None:
            pairs = zip(row.labels, row.probabilities, strict=True)
            found = "  ".join(f"{label} {share:.3f}" for label, share in pairs)
            typer.echo(f"{row.path}\t{found or f'not readable: {row.error}'}")
    if csv is not None:
        typer.echo(f"wrote {write_csv(csv, rows)}: {len(rows)} files", err=True)
    right = accuracy(rows)
    if right is not None:
        typer.echo(
            f"{right[0]} of {right[1]} files lie in a folder called like their class ({right[0] / right[1]:.1%})",
            err=True,
        )


app.command()(with_clips(classify))
