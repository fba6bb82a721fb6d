"""``openjepa visualize``: masks, maps, surprise, attention, decoded features, reconstructions, curves, the report.

torch is loaded only when something is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from openjepa.errors import ConfigError

app = typer.Typer(
    help="Look inside: masks, features, attention, decoded pixels, curves, the report.",
    add_completion=False,
    no_args_is_help=True,
)
_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
_Data = Annotated[str, typer.Argument(help="folder, list file, image or video, or built-in ('scenes')")]
_AnyData = Annotated[
    str | None, typer.Argument(help="folder, list file, image or video, or built-in ('scenes')", show_default=False)
]
_NamedData = Annotated[str | None, typer.Option("--data", "-d", help="the same as DATA, by name", show_default=False)]
_Frames = Annotated[
    int | None, typer.Option(min=1, help="frames of each video, from its beginning", show_default=False)
]
_Film = Annotated[
    Path | None, typer.Option("--out", "-o", help="PNG to write; of clips GIF, MP4 or PNG", show_default=False)
]
_Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="run, checkpoint or model directory; pca, similarity, attention: also timm:NAME"
    ),
]
_Run = Annotated[str, typer.Argument(help="run directory")]
_Out = Annotated[Path, typer.Option("--out", "-o", help="PNG to write")]
_Device = Annotated[str, typer.Option(help="where features are computed: cpu, cuda, mps; the report also takes auto")]


def _done(path: Path) -> None:
    """Say where the file lies."""
    Console(highlight=False).print(f"wrote {path}", markup=False, soft_wrap=True)


def parse_patch(text: str) -> tuple[int, int]:
    """``"3,5"`` as row 3, column 5.

    Raises:
        ConfigError: not two whole numbers.
    """
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--patch {text} is not ROW,COLUMN: write two whole numbers such as 3,5") from error
    return row, column


def given(data: str | None, named: str | None, default: str | None = None) -> str:
    """The data a verb was given, as its argument or by name.

    Raises:
        ConfigError: both, or neither where there is no default.
    """
    if data is not None and named is not None:
        raise ConfigError(f"the data is named twice, '{data}' and '{named}': give DATA or --data")
    found = data or named or default
    if found is None:
        raise ConfigError("no data is named: give a folder, a list file, an image or video, or 'scenes'")
    return found


@app.command("masks", context_settings=_OVERRIDES)
def masks(
    data: _AnyData = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="changes such as mask.targets=2")] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="recipe name, YAML file or run directory")
    ] = "ijepa-tiny",
    named: _NamedData = None,
    out: _Film = None,
    count: Annotated[
        int | None, typer.Option(min=1, max=64, help="images (6) or clips (2) to draw", show_default=False)
    ] = None,
    augment: Annotated[bool, typer.Option(help="with the random training transforms")] = True,
) -> None:
    """Draw what the encoder may see and what it must predict, on your images or clips (none given: 'scenes')."""
    from openjepa.visualize.files import write_masks

    changes, place = list(overrides or ()), data
    if data is not None and "=" in data and (named is not None or not Path(data).exists()):
        changes, place = [data, *changes], None
    where = given(place, named, "scenes")
    _done(write_masks(where, recipe, out, overrides=changes, count=count, augment=augment))


@app.command("pca")
def pca(
    model: _Model,
    data: _AnyData = None,
    named: _NamedData = None,
    out: _Film = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="images (16) or videos (2), spread over the data", show_default=False),
    ] = None,
    frames: _Frames = None,
    foreground: Annotated[bool, typer.Option("--foreground", help="draw background patches grey")] = False,
    remove_position: Annotated[
        bool, typer.Option("--remove-position", help="subtract what images, or time steps, share at a position")
    ] = False,
    device: _Device = "cpu",
) -> None:
    """Draw patch features as colours, jointly over a set of images, or through time over clips."""
    from openjepa.visualize.files import write_pca

    options = {"frames": frames, "foreground": foreground, "remove_position": remove_position}
    _done(write_pca(model, given(data, named), out, count=count, device=device, **options))  # type: ignore[arg-type]


@app.command("surprise")
def surprise(
    model: Annotated[str, typer.Option("--model", "-m", help="run, checkpoint or model directory of a video model")],
    data: _AnyData = None,
    named: _NamedData = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="GIF, MP4 or PNG to write")] = Path("surprise.gif"),
    mode: Annotated[
        str, typer.Option(help="masked: hidden as in training; future: predicted from the frames before")
    ] = "masked",
    count: Annotated[int, typer.Option(min=1, max=16, help="videos, spread over the data")] = 1,
    frames: _Frames = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="also write all errors to this file, .json or .csv", show_default=False),
    ] = None,
    device: _Device = "cpu",
) -> None:
    """Draw prediction error over space and time: heat over the video and a strip below it."""
    from openjepa.visualize.video_files import write_surprise

    where = given(data, named)
    options = {"count": count, "frames": frames, "numbers": json, "device": device}
    for path in write_surprise(model, where, out, mode=mode, **options):  # type: ignore[arg-type]
        _done(path)


@app.command("similarity")
def similarity(
    data: _Data,
    model: _Model,
    patch: Annotated[str, typer.Option("--patch", "-p", help="ROW,COLUMN in the patch grid, from 0,0 at the top left")],
    out: _Out = Path("similarity.png"),
    image: Annotated[int, typer.Option(min=0, help="which of the images the patch is taken from")] = 0,
    count: Annotated[int, typer.Option(min=1, max=64, help="images, spread over the data")] = 9,
    device: _Device = "cpu",
) -> None:
    """Draw how alike every patch is to a chosen one."""
    from openjepa.visualize.files import write_similarity

    _done(write_similarity(model, data, parse_patch(patch), out, image=image, count=count, device=device))


@app.command("attention")
def attention(
    data: _Data,
    model: _Model,
    out: _Film = None,
    part: Annotated[str, typer.Option(help="encoder, or predictor (from hidden patches to visible ones)")] = "encoder",
    layer: Annotated[int, typer.Option(help="block, from 0; -1: the last")] = -1,
    head: Annotated[str, typer.Option(help="mean, all, or a number from 0")] = "mean",
    patch: Annotated[
        str | None, typer.Option("--patch", "-p", help="ROW,COLUMN that asks; none: the mean over all patches")
    ] = None,
    rollout: Annotated[
        bool, typer.Option("--rollout", help="follow attention through all blocks up to --layer")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="images (6) or clips (2), spread over the data", show_default=False),
    ] = None,
    device: _Device = "cpu",
) -> None:
    """Draw where attention goes: over the image, or from a hidden patch to what is visible."""
    from openjepa.visualize.inside_files import write_attention

    asked = None if patch is None else parse_patch(patch)
    options = {"part": part, "layer": layer, "head": head, "rollout": rollout, "count": count, "device": device}
    _done(write_attention(model, data, out, patch=asked, **options))  # type: ignore[arg-type]


@app.command("decode")
def decode(
    data: _Data,
    model: _Model,
    out: _Out = Path("decoded.png"),
    count: Annotated[int, typer.Option(min=1, max=64, help="held-out images to draw")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="updates of the decoder")] = 1000,
    images: Annotated[int, typer.Option(min=2, help="images it is fitted on, at most")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="of the decoder's fit")] = 0,
    again: Annotated[bool, typer.Option("--again", help="fit anew even when a decoder is kept")] = False,
    device: _Device = "cpu",
) -> None:
    """Fit a small pixel decoder on frozen features and draw what features, and predictions of them, hold."""
    from openjepa.visualize.inside_files import write_decode

    console = Console(stderr=True, highlight=False)

    def say(step: int, loss: float) -> None:
        if (step + 1) % max(steps // 10, 1) == 0:
            console.print(f"decoder step {step + 1}/{steps}: squared error {loss:.4f}")

    path, tool = write_decode(
        model, data, out, count=count, steps=steps, images=images, seed=seed, again=again, device=device, on_step=say
    )
    for name, score in tool.scores.items():
        Console(highlight=False).print(f"{name}: {score}", soft_wrap=True)
    _done(path)


@app.command("reconstructions")
def reconstructions(
    data: _Data,
    model: _Model,
    out: _Film = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="images (8) or clips (2), spread over the data", show_default=False),
    ] = None,
    device: _Device = "cpu",
) -> None:
    """Draw what a masked-pixel model (MAE, VideoMAE) makes of hidden patches."""
    from openjepa.visualize.inside_files import write_reconstructions

    _done(write_reconstructions(model, data, out, count=count, device=device))


@app.command("curves")
def curves(run: _Run, out: _Out = Path("curves.png")) -> None:
    """Draw the loss and health curves of a run."""
    from openjepa.visualize.files import write_curves

    _done(write_curves(run, out))


@app.command("report")
def report(
    run: _Run,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML to write; none: RUN/report.html")] = None,
    data: Annotated[str | None, typer.Option(help="where the images are now, when they moved")] = None,
    device: _Device = "auto",
) -> None:
    """Write one self-contained page about a run: health, scores, curves, maps, neighbours, masks."""
    from openjepa.visualize.report import ReportOptions, write_report

    _done(write_report(run, out=out, data=data, options=ReportOptions(device=device)))
