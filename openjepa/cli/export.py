"""``openjepa export``: one model for other programs, verified before it exists. Loads torch only when it writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from openjepa.errors import ConfigError

app = typer.Typer(
    help="Write a model for other programs and check it at once.", add_completion=False, rich_markup_mode=None
)
_SUFFIX = {"onnx": ".onnx", "pt2": ".pt2"}
_PIXELS = re.compile(r"(\d+)(?:[x×](\d+))?$")


@app.command()
def export(
    model: Annotated[
        str, typer.Option("--model", "-m", help="run or model directory, weight file, published name, timm:…, hf:…")
    ],
    format: Annotated[
        Literal["safetensors", "hf", "timm", "onnx", "pt2"],
        typer.Option("--format", "-f", help="ours, transformers, timm, ONNX, torch.export"),
    ] = "safetensors",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="file or directory; by default named after the model", show_default=False),
    ] = None,
    which: Annotated[
        Literal["deployed", "target", "online"], typer.Option(help="which encoder of the source")
    ] = "deployed",
    output: Annotated[
        Literal["patch", "pooled", "logits"],
        typer.Option(help="what an onnx or pt2 graph gives: tokens, mean, classes"),
    ] = "patch",
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="the graph takes uint8 pixels and normalises them itself")
    ] = False,
    dynamic: Annotated[
        Literal["auto", "size", "batch", "none"], typer.Option(help="axes of the graph that vary; auto: all that can")
    ] = "auto",
    size: Annotated[str | None, typer.Option(help="pixels, such as 224 or 224x448", show_default=False)] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="frames of a clip", show_default=False)] = None,
    as_images: Annotated[
        bool, typer.Option("--as-images", help="the graph of an encoder of video takes images, each as one tubelet")
    ] = False,
    opset: Annotated[int | None, typer.Option(help="of ONNX", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier export")] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", help="instead of a local file: to ORG/NAME on the Hugging Face Hub", show_default=False),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="of a new repository on the Hub")] = False,
    licence: Annotated[
        str | None, typer.Option(help="of the weights, for the card, such as cc-by-nc-4.0", show_default=False)
    ] = None,
) -> None:
    """Write a model for other programs, run both on random inputs, and print by how much they differ."""
    from openjepa.exporting import export as run_export
    from openjepa.exporting import push as run_push

    if push is not None and out is not None:
        raise ConfigError("--push uploads and leaves nothing here, so it takes no --out: run it twice for both")
    if push is None and (private or licence):
        raise ConfigError(f"--{'private' if private else 'licence'} is for --push ORG/NAME")
    options: dict[str, Any] = {
        "which": which,
        "output": output,
        "preprocessing": with_preprocessing,
        "dynamic": dynamic,
        "size": None if size is None else parse_size(size),
        "frames": frames,
        "as_images": as_images,
        "opset": opset,
        "overwrite": overwrite,
    }
    if push is not None:
        typer.echo(str(run_push(model, push, format, private=private, licence=licence, **options)))
        return
    typer.echo(str(run_export(model, out or Path(default_name(model, format)), format, **options)))


def parse_size(text: str) -> tuple[int, int]:
    """``"224"`` as 224 × 224 pixels, ``"224x448"`` as height and width.

    Raises:
        ConfigError: anything else.
    """
    found = _PIXELS.match(text.strip())
    if found is None:
        raise ConfigError(f"--size {text} is neither pixels such as 224 nor HEIGHTxWIDTH such as 224x448")
    return int(found[1]), int(found[2] or found[1])


def default_name(model: str, format: str) -> str:
    """Where an export goes when nobody says: ``runs/x`` as ONNX becomes ``x.onnx``, as ``hf`` ``x-hf/``."""
    last = re.split(r"[/:\\]", model.rstrip("/\\"))[-1].split("@")[0]
    name = re.sub(r"\.(pt|pth|tar|pth\.tar|safetensors)$", "", last) or "model"
    return f"{name}{_SUFFIX[format]}" if format in _SUFFIX else f"{name}-{format}"
