"""``openjepa embed DATA --model M --out FILE``: features of every item in one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from openjepa.cli.clip_options import with_clips

if TYPE_CHECKING:
    from openjepa.embedding import Embedded

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)
_SHOWN = 5


@app.command()
@with_clips
def embed(
    data: Annotated[str, typer.Argument(help="folder of images or videos, list file, shards, or 'scenes'")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="run, model directory, weight file, catalogue name, hf:…")
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="FILE.parquet, .npz, .safetensors, .lance or .zarr")],
    tokens: Annotated[
        Literal["pooled", "patch", "frame", "attentive"],
        typer.Option(help="mean over patches; every patch; mean per frame of a clip; an attentive probe's query"),
    ] = "pooled",
    layers: Annotated[Literal["last", "last4"], typer.Option(help="the last layer, or the last four joined")] = "last",
    window: Annotated[
        float | None, typer.Option(help="seconds: a row for each place of a window that slides over every video")
    ] = None,
    hop: Annotated[float | None, typer.Option(help="seconds between two windows; default: they touch")] = None,
    probe: Annotated[
        str | None, typer.Option(help="file of a published attentive probe, for --tokens attentive")
    ] = None,
    split: Annotated[Literal["train", "val"], typer.Option(help="of a folder that has both")] = "train",
    batch_size: Annotated[int | None, typer.Option(help="rows encoded at once; default 64 images or 4 clips")] = None,
    workers: Annotated[str, typer.Option(help="processes that read files, or auto")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps")] = "auto",
    precision: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="of the forward pass")] = "fp32",
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="of the features in the file")] = "float32",
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="processes that encode; GPUs are taken in turn")] = 1,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="ray: on the machines of a Ray cluster")] = "local",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a file of another model, of other settings or data")
    ] = False,
    clips: dict[str, Any] | None = None,
) -> None:
    """Write features of every item: a row each, with path, label, times and error. Killed, the same command goes on."""
    from openjepa.embedding import embed as run
    from openjepa.errors import ConfigError
    from openjepa.features import ClipOptions

    if workers != "auto" and not workers.isdecimal():
        raise ConfigError(f"--workers {workers}: a number of processes, or auto")
    with _progress() as on_progress:
        found = run(
            data,
            model,
            out,
            tokens=tokens,
            layers=layers,
            clips=ClipOptions(**(clips or {})),
            window=window,
            hop=hop,
            split=split,
            batch_size=batch_size,
            workers="auto" if workers == "auto" else int(workers),
            device=device,
            precision=precision,
            dtype=dtype,
            probe=probe,
            jobs=jobs,
            engine=engine,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    _say(found)


def _say(found: Embedded) -> None:
    """What was written, and what could not be read."""
    if not found.finished:
        return
    shape = " × ".join(map(str, found.shape))
    typer.echo(f"{found.rows:,} rows of {shape} in {found.path}")
    if not found.computed:
        typer.echo("all of them were there already: nothing was computed")
    else:
        before = found.rows - found.computed
        rate = found.computed / max(found.seconds, 1e-9)
        already = f", {before:,} were there already" if before > 0 else ""
        typer.echo(f"{found.computed:,} computed in {found.seconds:.1f} s ({rate:,.1f} rows/s){already}")
    for name, reason in list(found.bad.items())[:_SHOWN]:
        typer.echo(f"no features: {name}: {reason}", err=True)
    if found.failed > _SHOWN:
        typer.echo(f"no features: … and {found.failed - _SHOWN:,} more (column 'error')", err=True)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal's standard error; nothing in a log."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("embedding", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
