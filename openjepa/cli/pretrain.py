"""``openjepa pretrain DATA``: train an encoder, judge it, write the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from openjepa.cli.console import say_result
from openjepa.errors import ConfigError

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.command()
def pretrain(
    data: Annotated[str, typer.Argument(help="folder of images or videos, list file, or 'scenes' (built in)")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY.SUB=VALUE]…", help="recipe keys to change; see 'openjepa recipes keys'"),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="recipe name or YAML file, see 'openjepa recipes list'; default ijepa-tiny, or the resumed run's"
        ),
    ] = None,
    out: Annotated[str | None, typer.Option(help="run directory; default runs/RECIPE-DATE")] = None,
    epochs: Annotated[
        float | None, typer.Option(help="length in passes over the data (recipes without stages)")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="length in optimizer steps (recipes without stages)")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="global batch: images or clips per step over all devices")
    ] = None,
    val: Annotated[str | None, typer.Option(help="labelled folder to score on; default: a held-out tenth")] = None,
    seed: Annotated[int | None, typer.Option(help="seeds order, masks, augmentation and weights")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N, mps")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16, fp16")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in --out exactly where it was")] = False,
    init: Annotated[
        str | None,
        typer.Option(
            help="weights to start from: run, model directory, file, catalogue name, hf:ORG/NAME, timm:NAME, URL"
        ),
    ] = None,
    init_which: Annotated[
        Literal["deployed", "online", "target"],
        typer.Option(help="start both encoders from this one; deployed: each from its own"),
    ] = "deployed",
    init_predictor: Annotated[bool, typer.Option(help="take the predictor too, where there is one that fits")] = True,
    init_hints: Annotated[
        list[str] | None, typer.Option(help="what a file does not tell of itself, such as heads=16; may be repeated")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="delete the run in --out and start again")] = False,
    judge: Annotated[bool, typer.Option(help="score the result beside raw pixels and a random encoder")] = True,
    report: Annotated[bool, typer.Option(help="write report.html")] = True,
) -> None:
    """Train an encoder on images or videos without labels; labels, where the folders give them, only score it."""
    from openjepa import api

    result = api.pretrain(
        data,
        recipe,
        overrides=tuple(overrides or ()),
        out=out,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        val=val,
        seed=seed,
        device=device,
        precision=precision,
        resume=resume,
        init=init,
        init_which=init_which,
        init_predictor=init_predictor,
        init_hints=parse_hints(init_hints or ()),
        overwrite=overwrite,
        judge=judge,
        report=report,
    )
    say_result(result)


def parse_hints(words: Sequence[str]) -> dict[str, Any] | None:
    """``heads=16`` as a hint. Raises ConfigError."""
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise ConfigError(f"--init-hints {word}: write it as key=value, such as heads=16")
        found[key] = int(value) if value.isdecimal() else value
    return found or None
