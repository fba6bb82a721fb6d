"""``openjepa evaluate``: score a frozen encoder on labelled folders. Loads torch only when it computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from openjepa.evaluation import Score

app = typer.Typer(help="Score a frozen encoder on labelled folders: knn, linear.", no_args_is_help=True)

_Model = Annotated[str, typer.Option("--model", "-m", help="run, checkpoint or model directory; timm:NAME; hf:ORG/NAME")]
_Train = Annotated[str, typer.Option("--train", help="labelled folder, list file or 'scenes' the score is fitted on")]
_Val = Annotated[str, typer.Option("--val", help="labelled folder, list file or 'scenes' the score is measured on")]
_K = Annotated[int, typer.Option(min=1, help="neighbours that vote")]
_Layers = Annotated[
    Literal["last", "last4"], typer.Option(help="features of the last layer, or of the last four joined")
]
_Cache = Annotated[Path | None, typer.Option(help="folder for computed features, found again by content")]
_Json = Annotated[Path | None, typer.Option("--json", help="also write the scores to this file")]
_Baselines = Annotated[bool, typer.Option(help="also score raw pixels and the same encoder before training")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps")]
_BatchSize = Annotated[int, typer.Option(min=1, help="images encoded at once; changes speed, not scores")]
_WIDE = 160  # columns when the output is a file or a pipe


@app.command("knn")
def knn(
    model: _Model,
    train: _Train,
    val: _Val,
    k: _K = 20,
    layers: _Layers = "last",
    cache: _Cache = None,
    json: _Json = None,
    baselines: _Baselines = True,
    device: _Device = "auto",
    batch_size: _BatchSize = 64,
) -> None:
    """Accuracy of the k nearest training images by centred cosine; exact, nothing is trained."""
    options = {"layers": layers, "cache": cache, "baselines": baselines, "device": device, "batch_size": batch_size}
    _score("knn", json, model=model, train=train, val=val, k=k, **options)


@app.command("linear")
def linear(
    model: _Model,
    train: _Train,
    val: _Val,
    layers: _Layers = "last",
    cache: _Cache = None,
    json: _Json = None,
    baselines: _Baselines = True,
    device: _Device = "auto",
    batch_size: _BatchSize = 64,
) -> None:
    """Accuracy of logistic regression, its penalty chosen on a held-out part of the training images."""
    options = {"layers": layers, "cache": cache, "baselines": baselines, "device": device, "batch_size": batch_size}
    _score("linear", json, model=model, train=train, val=val, **options)


def _score(what: str, json: Path | None, **options: Any) -> None:
    """Evaluate, show, and write what was asked."""
    from openjepa import api
    from openjepa.evaluation import write_scores

    scores = api.evaluate(what, **options)
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=_WIDE)
    show_scores(scores, console)
    if json is not None:
        console.print(f"wrote {write_scores(json, scores)}", markup=False, soft_wrap=True)


def show_scores(scores: Sequence[Score], console: Console) -> None:
    """Print a table of scores with intervals, and their protocols below it."""
    from openjepa.evaluation import notes, table_rows

    head, rows = table_rows(scores)
    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for note in notes(scores):
        console.print(note, markup=False, style="dim")
