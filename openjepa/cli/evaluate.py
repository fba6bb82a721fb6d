"""``openjepa evaluate``: score a frozen encoder on labelled folders. Loads torch only when it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from openjepa.cli.clip_options import with_clips
from openjepa.errors import ConfigError

if TYPE_CHECKING:
    from openjepa.evaluation import Score

app = typer.Typer(
    help="Score a frozen encoder: one measure, or 'all' of the cheap ones.", add_completion=False, no_args_is_help=True
)

Model = Annotated[str, typer.Option("--model", "-m", help="run, checkpoint or model directory; timm:NAME; hf:ORG/NAME")]
Train = Annotated[str, typer.Option("--train", help="labelled folder, list file or 'scenes' the score is fitted on")]
Val = Annotated[str, typer.Option("--val", help="labelled folder, list file or 'scenes' the score is measured on")]
Images = Annotated[str, typer.Option("--val", help="folder, list file or 'scenes'; labels are not used")]
K = Annotated[str, typer.Option(help="neighbours that vote; several (1,5,20) make a grid, chosen on train")]
Temperature = Annotated[str, typer.Option(help="of the votes, or none for a majority; several make a grid")]
Shots = Annotated[str | None, typer.Option(help="images per class and shares of train, such as 1,5,10,1%,10%")]
Draws = Annotated[int, typer.Option(min=1, help="how often the few labelled images are drawn")]
Layers = Annotated[
    Literal["last", "last4"], typer.Option(help="features of the last layer, or of the last four joined")
]
Cache = Annotated[
    str, typer.Option(help="folder for features; auto: OPENJEPA_CACHE or the user's cache; none: keep none")
]
Json = Annotated[Path | None, typer.Option("--json", help="also write the scores to this file")]
Baselines = Annotated[bool, typer.Option(help="also score raw pixels and the same encoder before training")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps")]
BatchSize = Annotated[int, typer.Option(min=1, help="images encoded at once; changes speed, not scores")]
Seed = Annotated[int, typer.Option(help="of held-out draws, starts and resampling")]
Clips = dict[str, Any] | None  # see openjepa.cli.clip_options
_WIDE = 160  # columns when the output is a file or a pipe


@app.command("knn")
@with_clips
def knn(
    model: Model,
    train: Train,
    val: Val,
    k: K = "20",
    temperature: Temperature = "0.07",
    layers: Layers = "last",
    cache: Cache = "auto",
    json: Json = None,
    baselines: Baselines = True,
    device: Device = "auto",
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    clips: Clips = None,
) -> None:
    """Accuracy of the k nearest training images by centred cosine; exact, nothing is trained."""
    options = _options(layers, cache, baselines, device, batch_size, seed)
    votes = {"k": parse_counts(k), "temperature": parse_temperatures(temperature)}
    score("knn", json, model=model, train=train, val=val, **votes, clips=clips, **options)


@app.command("linear")
@with_clips
def linear(
    model: Model,
    train: Train,
    val: Val,
    layers: Layers = "last",
    cache: Cache = "auto",
    json: Json = None,
    baselines: Baselines = True,
    device: Device = "auto",
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    clips: Clips = None,
) -> None:
    """Accuracy of logistic regression, its penalty chosen on a held-out part of the training images."""
    options = _options(layers, cache, baselines, device, batch_size, seed)
    score("linear", json, model=model, train=train, val=val, clips=clips, **options)


app.command("logistic", help="Another name for linear.")(linear)


@app.command("low-shot")
@with_clips
def low_shot(
    model: Model,
    train: Train,
    val: Val,
    shots: Shots = None,
    draws: Draws = 5,
    layers: Layers = "last",
    cache: Cache = "auto",
    json: Json = None,
    baselines: Baselines = True,
    device: Device = "auto",
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    clips: Clips = None,
) -> None:
    """Accuracy of logistic regression on a few labelled images per class: mean and spread of several draws."""
    options = _options(layers, cache, baselines, device, batch_size, seed)
    few = {"shots": None if shots is None else _words(shots), "draws": draws}
    score("low-shot", json, model=model, train=train, val=val, **few, clips=clips, **options)


@app.command("kmeans")
@with_clips
def kmeans(
    model: Model,
    train: Train,
    val: Val,
    inits: Annotated[int, typer.Option(min=1, help="starts; the one with the least inertia is shown")] = 10,
    layers: Layers = "last",
    cache: Cache = "auto",
    json: Json = None,
    baselines: Baselines = True,
    device: Device = "auto",
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    clips: Clips = None,
) -> None:
    """Agreement of clusters found without labels with the classes: accuracy, NMI, ARI."""
    options = _options(layers, cache, baselines, device, batch_size, seed)
    score(
        "kmeans", json, model=model, train=train, val=val, options={"kmeans": {"inits": inits}}, clips=clips, **options
    )


@app.command("retrieval")
@with_clips
def retrieval(
    model: Model,
    train: Train,
    val: Val,
    layers: Layers = "last",
    cache: Cache = "auto",
    json: Json = None,
    baselines: Baselines = True,
    device: Device = "auto",
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    clips: Clips = None,
) -> None:
    """Mean average precision of rankings by cosine, among val and among train, and recall at 1, 5 and 10."""
    options = _options(layers, cache, baselines, device, batch_size, seed)
    score("retrieval", json, model=model, train=train, val=val, clips=clips, **options)


@app.command("all")
@with_clips
def everything(
    model: Model,
    train: Train,
    val: Val,
    k: K = "20",
    temperature: Temperature = "0.07",
    shots: Shots = None,
    draws: Draws = 5,
    layers: Layers = "last",
    cache: Cache = "auto",
    json: Json = None,
    baselines: Baselines = True,
    device: Device = "auto",
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    clips: Clips = None,
) -> None:
    """knn, linear, low-shot, kmeans and retrieval from one pass over the images."""
    options = _options(layers, cache, baselines, device, batch_size, seed)
    options |= {"k": parse_counts(k), "temperature": parse_temperatures(temperature)}
    options |= {"shots": None if shots is None else _words(shots), "draws": draws}
    score("all", json, model=model, train=train, val=val, clips=clips, **options)


@app.command("masks")
@with_clips
def masks(
    model: Model,
    val: Images,
    keep: Annotated[float, typer.Option(help="share of patches that each view shows")] = 0.25,
    views: Annotated[
        Literal["random", "recipe"], typer.Option(help="random patches, or the contexts of the run's own masks")
    ] = "random",
    images: Annotated[int, typer.Option(min=2, help="at most; compare scores of equal numbers only")] = 1_000,
    json: Json = None,
    baselines: Baselines = True,
    device: Device = "auto",
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    clips: Clips = None,
) -> None:
    """Is an image under two different masks nearer to itself than to every other image?"""
    chosen: dict[str, Any] = {"images": images}
    chosen |= {"views": "recipe"} if views == "recipe" else {"keep": keep}
    options = _options("last", "none", baselines, device, batch_size, seed)
    score("masks", json, model=model, val=val, options={"masks": chosen}, clips=clips, **options)


@app.command("scenes")
@with_clips
def scenes(
    model: Model,
    images: Annotated[int, typer.Option(min=40, help="scenes to fit on; half as many to score on")] = 2_048,
    layers: Layers = "last",
    cache: Cache = "auto",
    json: Json = None,
    baselines: Baselines = True,
    device: Device = "auto",
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    clips: Clips = None,
) -> None:
    """How well the number of objects, their distance and their size can be read off the features of built-in scenes."""
    options = _options(layers, cache, baselines, device, batch_size, seed)
    score("scenes", json, model=model, options={"scenes": {"images": images}}, clips=clips, **options)


def parse_counts(text: str) -> tuple[int, ...]:
    """``1,5,20`` as whole numbers. Raises ConfigError."""
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError as error:
        raise ConfigError(f"--k {text}: whole numbers separated by commas, such as 20 or 1,5,10,20,50") from error


def parse_temperatures(text: str) -> tuple[float | None, ...]:
    """``.07,none`` as numbers and None. Raises ConfigError."""
    try:
        return tuple(None if word.lower() == "none" else float(word) for word in _words(text))
    except ValueError as error:
        raise ConfigError(f"--temperature {text}: numbers or none separated by commas, such as .03,.07,none") from error


def score(what: str | Sequence[str], json: Path | None, clips: Clips = None, **options: Any) -> None:
    """Evaluate, show, and write what was asked. clips: options that were set, by name."""
    from openjepa import api
    from openjepa.evaluation import write_scores
    from openjepa.features import ClipOptions, cache_note, cache_place

    console, look = make_console(), ClipOptions(**(clips or {}))
    with watch() as on_progress:
        scores = api.evaluate(what, **options, clips=look, on_progress=on_progress)
    show_scores(scores, console)
    if json is not None:
        console.print(f"wrote {write_scores(json, scores)}", markup=False, soft_wrap=True)
    place = cache_place(options.get("cache"))
    if place is not None:
        console.print(cache_note(place), markup=False, soft_wrap=True, style="dim")


@contextlib.contextmanager
def watch() -> Iterator[Callable[[str, str, int, int], None]]:
    """A progress bar on standard error while a terminal looks on; in a log nothing, scores come soon enough."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def show(subject: str, what: str, done: int, total: int) -> None:
            unit = "images" if what in ("train", "val") else "epochs"
            progress.update(task, description=f"{subject}: {what}, {unit}", completed=done, total=total)

        yield show


def make_console() -> Console:
    """The terminal, or wide lines for a file or a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


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


def _options(layers: str, cache: str, baselines: bool, device: str, batch_size: int, seed: int) -> dict[str, Any]:
    """What every command passes on."""
    shared: dict[str, Any] = {"layers": layers, "cache": cache, "baselines": baselines, "device": device}
    return {**shared, "batch_size": batch_size, "seed": seed}


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


from openjepa.cli import evaluate_pairs, evaluate_trained, evaluate_videos  # noqa: E402  (they use the options above)

evaluate_pairs.add_to(app)
evaluate_trained.add_to(app)
evaluate_videos.add_to(app)
