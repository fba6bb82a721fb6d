"""``openjepa pretrain DATA``: train an encoder, judge it, write the report."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from openjepa.cli.console import say_result

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.command()
def pretrain(
    data: Annotated[str, typer.Argument(help="folder of images, list file, or 'scenes' (built in)")],
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045 (typer reads it at run time)
        typer.Argument(metavar="[KEY.SUB=VALUE]…", help="recipe keys to change; see 'openjepa recipes keys'"),
    ] = None,
    recipe: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="recipe name or YAML file, see 'openjepa recipes list'; default ijepa-tiny, or the resumed run's"
        ),
    ] = None,
    out: Annotated[Optional[str], typer.Option(help="run directory; default runs/RECIPE-DATE")] = None,  # noqa: UP045
    epochs: Annotated[Optional[float], typer.Option(help="length in passes over the data")] = None,  # noqa: UP045
    steps: Annotated[Optional[int], typer.Option(help="length in optimizer steps")] = None,  # noqa: UP045
    batch_size: Annotated[Optional[int], typer.Option(help="global batch: images per step over all devices")] = None,  # noqa: UP045
    val: Annotated[Optional[str], typer.Option(help="labelled folder to score on; default: a held-out tenth")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="seeds order, masks, augmentation and weights")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(help="auto, cpu, cuda, cuda:N, mps")] = None,  # noqa: UP045
    precision: Annotated[Optional[str], typer.Option(help="auto, fp32, bf16, fp16")] = None,  # noqa: UP045
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in --out exactly where it was")] = False,
    init: Annotated[Optional[str], typer.Option(help="run or model directory to take weights from")] = None,  # noqa: UP045
    overwrite: Annotated[bool, typer.Option("--overwrite", help="delete the run in --out and start again")] = False,
    judge: Annotated[bool, typer.Option(help="score the result beside raw pixels and a random encoder")] = True,
    report: Annotated[bool, typer.Option(help="write report.html")] = True,
) -> None:
    """Train an encoder on images without labels; labels, where the folders give them, only score it."""
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
        overwrite=overwrite,
        judge=judge,
        report=report,
    )
    say_result(result)
