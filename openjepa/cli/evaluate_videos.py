"""``openjepa evaluate anticipation, motion, temporal-order``: measures of encoders of video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from openjepa.cli.clip_options import with_clips

_Model = Annotated[str, typer.Option("--model", "-m", help="run, checkpoint or model directory of an encoder of video")]
_Train = Annotated[
    str, typer.Option("--train", help="labelled videos to train the probe on; 'scenes': in motion, by action")
]
_Val = Annotated[str, typer.Option("--val", help="labelled videos, or 'scenes', the score is measured on")]
_Count = Annotated[int, typer.Option("--scenes", min=200, help="scenes to fit on; half as many to score on")]
_Layers = Annotated[Literal["last", "last4"], typer.Option(help="features of the last layer, or the last four joined")]
_Cache = Annotated[str, typer.Option(help="folder for features, auto or none")]
_Json = Annotated[Path | None, typer.Option("--json", help="also write the scores to this file")]
_Baselines = Annotated[bool, typer.Option(help="also score the same networks before training, frames alone and pixels")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps")]
_BatchSize = Annotated[int, typer.Option(min=1, help="clips encoded at once; changes speed, not scores")]
_Seed = Annotated[int, typer.Option(help="of held-out draws, the order of samples and the first weights")]
_Clips = dict[str, Any] | None  # see openjepa.cli.clip_options


def add_to(app: typer.Typer) -> None:
    """Add the commands to ``openjepa evaluate``."""
    app.command("anticipation")(with_clips(anticipation))
    app.command("motion")(with_clips(motion))
    app.command("temporal-order")(with_clips(temporal_order))


def anticipation(
    model: _Model,
    train: _Train = "scenes",
    val: _Val = "scenes",
    tau: Annotated[float, typer.Option(min=0, help="seconds between the end of what is seen and the anchor")] = 1.0,
    anchor: Annotated[float, typer.Option(min=0, max=1, help="0: the end of a video, 1: its beginning")] = 0.0,
    mask_token: Annotated[int, typer.Option(min=0, help="which mask token asks for the future; of one, that")] = 1,
    ahead: Annotated[int, typer.Option(min=1, help="tubelets predicted")] = 1,
    loss: Annotated[
        Literal["cross_entropy", "focal"], typer.Option(help="of the probes; focal as published")
    ] = "cross_entropy",
    blocks: Annotated[int, typer.Option(min=1, help="of the probes; 4: three of self-attention first")] = 1,
    lrs: Annotated[str | None, typer.Option(help="peak learning rates, separated by commas")] = None,
    weight_decays: Annotated[str | None, typer.Option(help="weight decays, separated by commas")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    cache: _Cache = "auto",
    json: _Json = None,
    baselines: _Baselines = True,
    device: _Device = "auto",
    batch_size: _BatchSize = 64,
    seed: _Seed = 0,
    clips: _Clips = None,
) -> None:
    """Naming what a video shows from what comes before, with and without what the predictor expects."""
    from openjepa.cli.evaluate import score
    from openjepa.cli.evaluate_trained import parse_numbers

    chosen: dict[str, Any] = {"tau": tau, "anchor": anchor, "mask_token": mask_token, "ahead": ahead}
    chosen |= {"loss": loss, "blocks": blocks, "epochs": epochs}
    grids = {"lrs": parse_numbers("--lrs", lrs), "weight_decays": parse_numbers("--weight-decays", weight_decays)}
    chosen |= {name: values for name, values in grids.items() if values is not None}
    shared: dict[str, Any] = {"cache": cache, "baselines": baselines, "device": device, "batch_size": batch_size}
    shared |= {"seed": seed, "options": {"anticipation": chosen}, "clips": clips}
    score("anticipation", json, model=model, train=train, val=val, **shared)


def motion(
    model: _Model,
    scenes: _Count = 2_048,
    layers: _Layers = "last",
    cache: _Cache = "auto",
    json: _Json = None,
    baselines: _Baselines = True,
    device: _Device = "auto",
    batch_size: _BatchSize = 64,
    seed: _Seed = 0,
    clips: _Clips = None,
) -> None:
    """Which action, and where to: a linear probe on built-in scenes in motion, beside the same frame by frame."""
    shared = {"layers": layers, "cache": cache, "baselines": baselines, "device": device, "batch_size": batch_size}
    _scenes("motion", scenes, json, model=model, seed=seed, clips=clips, **shared)


def temporal_order(
    model: _Model,
    scenes: _Count = 2_048,
    layers: _Layers = "last",
    cache: _Cache = "auto",
    json: _Json = None,
    baselines: _Baselines = True,
    device: _Device = "auto",
    batch_size: _BatchSize = 64,
    seed: _Seed = 0,
    clips: _Clips = None,
) -> None:
    """Played in order or shuffled: a linear probe on built-in scenes in motion, beside the same frame by frame."""
    shared = {"layers": layers, "cache": cache, "baselines": baselines, "device": device, "batch_size": batch_size}
    _scenes("temporal-order", scenes, json, model=model, seed=seed, clips=clips, **shared)


def _scenes(what: str, count: int, json: Path | None, **options: Any) -> None:
    from openjepa.cli.evaluate import score

    score(what, json, options={what: {"clips": count}}, **options)
