"""``openjepa evaluate linear-grid, attentive, mean-pool-grid, finetune``: measures that train a head, or everything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from openjepa.cli.clip_options import with_clips
from openjepa.errors import ConfigError

_Model = Annotated[
    str, typer.Option("--model", "-m", help="run, checkpoint or model directory; timm:NAME; hf:ORG/NAME")
]
_Train = Annotated[str, typer.Option("--train", help="labelled folder, list file or 'scenes' to train on")]
_Val = Annotated[str, typer.Option("--val", help="labelled folder, list file or 'scenes' the score is measured on")]
_Lrs = Annotated[str | None, typer.Option(help="peak learning rates, separated by commas; chosen on held-out train")]
_Decays = Annotated[str | None, typer.Option(help="weight decays, separated by commas")]
_Batch = Annotated[int | None, typer.Option(min=2, help="samples per step of the training")]
_Clip = Annotated[float | None, typer.Option(help="largest gradient norm of one probe")]
_Layers = Annotated[Literal["last", "last4"], typer.Option(help="features of the last layer, or the last four joined")]
_Cache = Annotated[str, typer.Option(help="folder for features, auto or none")]
_Json = Annotated[Path | None, typer.Option("--json", help="also write the scores to this file")]
_Baselines = Annotated[bool, typer.Option(help="also score the same encoder before training (and raw pixels)")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps")]
_BatchSize = Annotated[int, typer.Option(min=1, help="images encoded at once; changes speed, not scores")]
_Seed = Annotated[int, typer.Option(help="of the held-out draw, the order of samples and the first weights")]

_Clips = dict[str, Any] | None  # see openjepa.cli.clip_options


def add_to(app: typer.Typer) -> None:
    """Add the commands to ``openjepa evaluate``."""
    app.command("linear-grid")(with_clips(linear_grid))
    app.command("attentive")(with_clips(attentive))
    app.command("mean-pool-grid")(with_clips(mean_pool_grid))
    app.command("attentive-4")(with_clips(attentive_four))
    app.command("finetune")(with_clips(finetune))


def linear_grid(
    model: _Model,
    train: _Train,
    val: _Val,
    lrs: _Lrs = None,
    weight_decays: _Decays = None,
    epochs: Annotated[int, typer.Option(min=1)] = 100,
    train_batch: _Batch = None,
    optimizer: Annotated[Literal["sgd", "adamw"], typer.Option(help="SGD has momentum .9")] = "sgd",
    batch_norm: Annotated[bool, typer.Option(help="batch normalisation without parameters before the head")] = True,
    layers: _Layers = "last",
    cache: _Cache = "auto",
    json: _Json = None,
    baselines: _Baselines = True,
    device: _Device = "auto",
    batch_size: _BatchSize = 64,
    seed: _Seed = 0,
    clips: _Clips = None,
) -> None:
    """Accuracy of a linear head trained by gradient: lr × weight decay at once, chosen on a held-out part of train."""
    grid = {"lrs": parse_numbers("--lrs", lrs), "weight_decays": parse_numbers("--weight-decays", weight_decays)}
    chosen = _given({**grid, "epochs": epochs, "batch_size": train_batch, "optimizer": optimizer})
    shared = {"layers": layers, "cache": cache, "baselines": baselines, "device": device, "batch_size": batch_size}
    _score(
        "linear-grid",
        {**chosen, "batch_norm": batch_norm},
        json,
        model=model,
        train=train,
        val=val,
        seed=seed,
        clips=clips,
        **shared,
    )


def attentive(
    model: _Model,
    train: _Train,
    val: _Val,
    blocks: Annotated[
        int, typer.Option(min=1, help="1: cross-attention alone; 4: three self-attention blocks first")
    ] = 1,
    heads: Annotated[int | None, typer.Option(min=1, help="of attention; by default width / 64")] = None,
    lrs: _Lrs = None,
    weight_decays: _Decays = None,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    train_batch: _Batch = None,
    clip: _Clip = None,
    refit: Annotated[bool, typer.Option(help="train the grid again on all of train after the choice")] = False,
    layers: _Layers = "last",
    cache: _Cache = "auto",
    json: _Json = None,
    baselines: _Baselines = True,
    device: _Device = "auto",
    batch_size: _BatchSize = 64,
    seed: _Seed = 0,
    clips: _Clips = None,
) -> None:
    """Accuracy of an attentive probe on frozen patch tokens, and of the same training on averaged tokens beside it."""
    grid = {"lrs": parse_numbers("--lrs", lrs), "weight_decays": parse_numbers("--weight-decays", weight_decays)}
    chosen = _given(
        {**grid, "blocks": blocks, "heads": heads, "epochs": epochs, "batch_size": train_batch, "clip": clip}
    )
    shared = {"layers": layers, "cache": cache, "baselines": baselines, "device": device, "batch_size": batch_size}
    names = ["attentive", "mean-pool-grid"]
    _score(names, {**chosen, "refit": refit}, json, model=model, train=train, val=val, seed=seed, clips=clips, **shared)


def attentive_four(
    model: _Model,
    train: _Train,
    val: _Val,
    heads: Annotated[int | None, typer.Option(min=1, help="of attention; by default width / 64")] = None,
    lrs: _Lrs = None,
    weight_decays: _Decays = None,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    train_batch: _Batch = None,
    clip: _Clip = None,
    refit: Annotated[bool, typer.Option(help="train the grid again on all of train after the choice")] = False,
    layers: _Layers = "last",
    cache: _Cache = "auto",
    json: _Json = None,
    baselines: _Baselines = True,
    device: _Device = "auto",
    batch_size: _BatchSize = 64,
    seed: _Seed = 0,
    clips: _Clips = None,
) -> None:
    """The attentive probe of V-JEPA 2, three self-attention blocks before the pooling, and averaged tokens beside it."""
    grid = {"lrs": parse_numbers("--lrs", lrs), "weight_decays": parse_numbers("--weight-decays", weight_decays)}
    chosen = _given({**grid, "heads": heads, "epochs": epochs, "batch_size": train_batch, "clip": clip})
    shared = {"layers": layers, "cache": cache, "baselines": baselines, "device": device, "batch_size": batch_size}
    names = ["attentive-4", "mean-pool-grid"]
    _score(names, {**chosen, "refit": refit}, json, model=model, train=train, val=val, seed=seed, clips=clips, **shared)


def mean_pool_grid(
    model: _Model,
    train: _Train,
    val: _Val,
    lrs: _Lrs = None,
    weight_decays: _Decays = None,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    train_batch: _Batch = None,
    clip: _Clip = None,
    refit: Annotated[bool, typer.Option(help="train the grid again on all of train after the choice")] = False,
    layers: _Layers = "last",
    cache: _Cache = "auto",
    json: _Json = None,
    baselines: _Baselines = True,
    device: _Device = "auto",
    batch_size: _BatchSize = 64,
    seed: _Seed = 0,
    clips: _Clips = None,
) -> None:
    """Accuracy of a linear head on averaged patch tokens, trained exactly as the attentive probe is."""
    grid = {"lrs": parse_numbers("--lrs", lrs), "weight_decays": parse_numbers("--weight-decays", weight_decays)}
    chosen = _given({**grid, "epochs": epochs, "batch_size": train_batch, "clip": clip})
    shared = {"layers": layers, "cache": cache, "baselines": baselines, "device": device, "batch_size": batch_size}
    _score(
        "mean-pool-grid",
        {**chosen, "refit": refit},
        json,
        model=model,
        train=train,
        val=val,
        seed=seed,
        clips=clips,
        **shared,
    )


def finetune(
    model: _Model,
    train: _Train,
    val: _Val,
    tune: Annotated[
        Literal["full", "last-n", "lora"],
        typer.Option(help="what learns: everything, the last --blocks blocks, or low-rank changes of every block"),
    ] = "full",
    blocks: Annotated[int, typer.Option(min=1, help="how many of the last blocks learn (--tune last-n)")] = 2,
    lora_rank: Annotated[int, typer.Option(min=1, help="rank of the changes (--tune lora)")] = 8,
    out: Annotated[
        str | None, typer.Option(help="keep the classifier here: openjepa classify DATA --model OUT uses it")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the fine-tuning in --out")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="start the fine-tuning in --out again")] = False,
    lrs: _Lrs = None,
    epochs: Annotated[float, typer.Option(help="passes over train")] = 30,
    train_batch: _Batch = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(help="learning rate of a block over that of the next one; by default .75, 1 unless all learns"),
    ] = None,
    drop_path: Annotated[float | None, typer.Option(help="stochastic depth of the last block; by default .1")] = None,
    label_smoothing: Annotated[float, typer.Option(help="share of the target spread over all classes")] = 0.1,
    head: Annotated[
        Literal["mean", "class"], typer.Option(help="mean of the patch tokens, or the class token")
    ] = "mean",
    json: _Json = None,
    baselines: _Baselines = True,
    device: _Device = "auto",
    batch_size: _BatchSize = 64,
    seed: _Seed = 0,
    clips: _Clips = None,
) -> None:
    """Accuracy after training the encoder too, with layer-wise learning rates; --out keeps the classifier.

    Baseline: the same from scratch.
    """
    chosen = _given({"lrs": parse_numbers("--lrs", lrs), "batch_size": train_batch, "drop_path": drop_path})
    chosen |= _given({"layer_decay": layer_decay}) | {"tune": tune, "blocks": blocks, "lora_rank": lora_rank}
    chosen |= {"epochs": epochs, "label_smoothing": label_smoothing, "head": head}
    shared: dict[str, Any] = {"baselines": baselines, "device": device, "batch_size": batch_size, "seed": seed}
    data: dict[str, Any] = {"model": model, "train": train, "val": val, "clips": clips}
    if out is None:
        if resume or overwrite:
            raise ConfigError(f"--{'resume' if resume else 'overwrite'} is of a fine-tuning that is kept: give --out")
        _score("finetune", chosen, json, cache="none", **data, **shared)
        return
    _keep(out, json, resume=resume, overwrite=overwrite, **data, **shared, chosen=chosen)


def _keep(out: str, json: Path | None, chosen: Mapping[str, Any], clips: _Clips, **options: Any) -> None:
    """Fine-tune, keep the classifier, show its score and how to use it."""
    from openjepa.cli.evaluate import make_console, show_scores, watch
    from openjepa.evaluation import write_scores
    from openjepa.features import ClipOptions
    from openjepa.tuning import finetune as run

    batch = {"train_batch": chosen["batch_size"]} if "batch_size" in chosen else {}
    rest = {key: value for key, value in chosen.items() if key != "batch_size"}
    console = make_console()
    with watch() as on_progress:
        done = run(out=out, clips=ClipOptions(**(clips or {})), on_progress=on_progress, **options, **batch, **rest)
    show_scores(done.scores, console)
    if json is not None:
        console.print(f"wrote {write_scores(json, done.scores)}", markup=False, soft_wrap=True)
    console.print(
        f"kept in {done.run_dir}: openjepa classify DATA --model {done.run_dir}", markup=False, soft_wrap=True
    )


def _score(what: str | list[str], chosen: Mapping[str, Any], json: Path | None, **options: Any) -> None:
    """Evaluate with the options of one evaluator; the probes of patch tokens all read those of ``attentive``."""
    from openjepa.cli.evaluate import score

    key = what if what in ("linear-grid", "finetune") else "attentive"
    score(what, json, options={str(key): dict(chosen)}, **options)


def parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """``1e-3,3e-3`` as numbers. Raises ConfigError."""
    if text is None:
        return None
    try:
        return tuple(float(word) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise ConfigError(f"{option} {text}: numbers separated by commas, such as 1e-3,3e-3") from error


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Only what was set, so that every default has one home."""
    return {key: value for key, value in options.items() if value is not None}
