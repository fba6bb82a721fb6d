"""The verbs that judge a frozen encoder: scores, a comparison of two encoders, and a check of the evaluation images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openjepa.config.schema import Recipe
from openjepa.data import Source
from openjepa.data.splits import open_splits
from openjepa.errors import ConfigError, DataError, nearest
from openjepa.evaluation import Contamination, Score, Settings, shared_files
from openjepa.evaluation import contamination as find_contamination
from openjepa.evaluation import evaluate as score_encoder
from openjepa.evaluation.cka import Comparison, compare
from openjepa.evaluation.contamination import THRESHOLD, OnImage
from openjepa.evaluation.evaluate import OnEvaluate, asked
from openjepa.evaluation.request import Bench, Evaluator
from openjepa.features import ClipOptions, FrameAveraged, cache_place, frame_by_frame
from openjepa.hub.model_directory import Which
from openjepa.loading import load
from openjepa.masking import build_masker
from openjepa.model import AnyModel, Model
from openjepa.types import Encoder, Ids

RANDOM, SINGLE_FRAMES = "random initialisation", "single frames"

_log = logging.getLogger(__name__)


def evaluate(
    what: str | Sequence[str] = ("knn", "linear"),
    *,
    model: str | Path | AnyModel,
    train: str | Path | None = None,
    val: str | Path | None = None,
    k: int | Sequence[int] = 20,
    temperature: float | Sequence[float | None] | None = 0.07,
    shots: Sequence[int | str] | None = None,
    draws: int = 5,
    layers: Literal["last", "last4"] = "last",
    cache: str | Path | None = "auto",
    baselines: bool = True,
    device: str = "auto",
    batch_size: int = 64,
    which: Which = "deployed",
    seed: int = 0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    clips: ClipOptions | None = None,
    on_progress: OnEvaluate | None = None,
) -> list[Score]:
    """Score a frozen encoder on labelled folders. Deterministic; features are computed once and cached by content.

    Args:
        what: a name in ``openjepa.evaluation.EVALUATORS``, several, or ``"all"``: knn, linear, low-shot, kmeans, retrieval.
        model: what :func:`load` takes or returned (also ``timm:…``, ``hf:…``).
        train, val: labelled folders, list files or ``"scenes"``. ``masks`` needs val only, ``scenes`` neither.
        k, temperature: of kNN; several make a grid, chosen on train. temperature None: majority vote.
        shots, draws: of low-shot: images per class (5) or shares of train ("10%"), and how often they are drawn.
        layers: ``last`` or ``last4``. baselines: also score raw pixels and the random initialisation. which: the encoder.
        cache: folder for features; ``"auto"``: OPENJEPA_CACHE, else the user's cache; ``"none"`` or None keeps none.
        options: of single evaluators by name, e.g. ``{"masks": {"keep": 0.5}}``. on_progress: called as features come.
        clips: how videos are looked at; by default as the model was trained, one clip from the middle. With ``frames`` an
            encoder of images judges videos frame by frame. baselines of videos also are differences between frames, and the
            encoder on single frames.

    Raises:
        CheckpointError, DataError, ConfigError: one line each.
    """
    entries = asked(what)
    look = clips or ClipOptions()
    loaded = (model if isinstance(model, AnyModel) else load(model, which=which)).seen(look)
    _check_video(loaded, entries, look)
    sides = _sides(loaded, entries, train, val, look.segments)
    if any(entry.data != "none" for entry in entries):
        _warn_of_shared_files(loaded.config, sides[1])
    many = dict(options or {})
    if dict(many.get("masks", {})).get("views") == "recipe":
        many["masks"] = {**many["masks"], "views": _recipe_views(loaded, seed), "views_name": "the recipe's own masks"}
    if loaded.config is not None:  # fine-tuning sees images as the pretraining did, unless told otherwise
        augment = loaded.config.data.augment.model_dump()
        many["finetune"] = {"augment": augment, **many.get("finetune", {})}
    return score_encoder(
        loaded.encoder,
        loaded.normalise,
        *sides,
        [entry.name for entry in entries],
        transform=loaded.transform,
        val_transform=loaded.view_transform(look.views),
        across=look.across,
        subject=loaded.name,
        baselines=_baselines(loaded, entries) if baselines else None,
        raw_pixels=baselines,
        predictors=_predictors(loaded),
        settings=Settings(
            k=k if isinstance(k, int) else tuple(k),
            temperature=tuple(temperature) if isinstance(temperature, Sequence) else temperature,
            shots=None if shots is None else tuple(shots),
            draws=draws,
            seed=seed,
            options=many,
        ),
        layers=layers,
        device=choose_device(device),
        batch_size=batch_size,
        cache_dir=cache_place(cache),
        on_progress=on_progress,
    )


def cka(
    *,
    model: str | Path | AnyModel,
    other: str | Path | AnyModel,
    data: str | Path,
    unbiased: bool = False,
    per_layer: bool = False,
    layers: Literal["last", "last4"] = "last",
    cache: str | Path | None = "auto",
    baselines: bool = True,
    device: str = "auto",
    batch_size: int = 64,
    which: Which = "deployed",
    seed: int = 0,
    clips: ClipOptions | None = None,
) -> Comparison:
    """Linear CKA of two encoders on the same images, 1 for features that are equal up to rotation and scale.

    Args:
        model, other: the encoders, as in :func:`evaluate`. data: a folder of images, labels unused; of a folder with
            both parts its ``val/`` or ``test/``.
        unbiased: correct for few images. per_layer: also a matrix of all layers of one with all layers of the other.
        baselines: also each of the two beside its own random initialisation: a high number there means that the
            architecture alone makes features alike. Others as in :func:`evaluate`; of several clips the features are
            averaged.

    Raises:
        CheckpointError, DataError, ConfigError: one line each.
    """
    look = clips or ClipOptions()
    pair = [(given if isinstance(given, AnyModel) else load(given, which=which)).seen(look) for given in (model, other)]
    benches = [
        Bench(
            loaded.encoder,
            loaded.normalise,
            loaded.view_transform(look.views),
            (source := loaded.open(data, "val", look.segments)),
            source,
            device=choose_device(device),
            layers=layers,
            batch_size=batch_size,
            cache_dir=cache_place(cache),
        )
        for loaded in pair
    ]
    names = _called(model, pair[0]), _called(other, pair[1])
    found = compare(benches[0], benches[1], names, unbiased=unbiased, per_layer=per_layer, seed=seed)
    scores = list(found.scores)
    if baselines:
        for name, loaded, bench in zip(names, pair, benches, strict=True):
            fresh = replace(bench, encoder=loaded.fresh())
            scores += compare(bench, fresh, (name, "its random initialisation"), unbiased=unbiased, seed=seed).scores
    return replace(found, scores=tuple(scores))


def contamination(
    *,
    train: str | Path,
    val: str | Path,
    threshold: float = THRESHOLD,
    model: str | Path | AnyModel | None = None,
    on_progress: OnImage | None = None,
) -> Contamination:
    """Which evaluation images are copies, or near copies, of pretraining images.

    Args:
        train, val: pretraining and evaluation images: folders or list files, labels unused.
        threshold: cosine of thumbnails from which two images count as near duplicates.
        model: reads both sides as this model does (its channels); by default as 3 channels.

    Raises:
        DataError, ConfigError: one line each.
    """
    from openjepa.data import open_source
    from openjepa.data.splits import has_val

    if model is not None:
        loaded = model if isinstance(model, AnyModel) else load(model)
        sides = [loaded.open(train), loaded.open(val, "val")]
    else:
        second: Literal["val"] | None = "val" if str(val) == "scenes" or has_val(str(val)) else None
        sides = [open_source(str(train)), open_source(str(val), split=second)]
    return find_contamination(sides[0], sides[1], threshold=threshold, on_progress=on_progress)


def choose_device(wish: str) -> str:
    """``auto`` is cuda, else mps, else cpu; anything else stays. Raises ConfigError for a device that is not there."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wish == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    kind, _, number = wish.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdecimal()):
        near = nearest(kind, ("cpu", "cuda", "mps"))
        raise ConfigError(f"device '{wish}' is none of auto, cpu, cuda, cuda:N, mps{near}")
    there = {"cpu": 1, "cuda": torch.cuda.device_count() if cuda else 0, "mps": int(mps)}[kind]
    if int(number or 0) >= there:
        raise ConfigError(f"device '{wish}' is not there: torch finds {there} {kind} devices here; use cpu or auto")
    return wish


def _check_video(loaded: AnyModel, entries: Sequence[Evaluator], look: ClipOptions) -> None:
    """Raise ConfigError for measures of clips asked of images, of images asked of clips, and views that nobody looks at."""
    if loaded.clip is not None:
        for entry in entries:
            if entry.sees == "images":
                raise ConfigError(
                    f"{entry.name} is a measure of images, and {loaded.name} takes clips: give --as-images"
                )
            if entry.sees == "one clip" and (look.segments > 1 or look.views > 1):
                raise ConfigError(
                    f"{entry.name} sees one clip of each video, its centre: leave --clips and --views at 1"
                )
        return
    named = [entry.name for entry in entries if entry.video]
    if named:
        raise ConfigError(
            f"{named[0]} is a measure of clips, and {loaded.name} takes images: give --frames, or a video model"
        )
    if not look.plain:
        raise ConfigError(f"{loaded.name} takes images: segments and views are of videos")


def _baselines(loaded: AnyModel, entries: Sequence[Evaluator]) -> dict[str, Encoder]:
    """What a score is held against: the encoder before training, and an encoder of clips on every frame alone.

    Measures that bring their own clips judge frames alone themselves.
    """
    found: dict[str, Encoder] = {RANDOM: loaded.fresh()}
    needed = any(entry.data != "none" for entry in entries)
    if needed and loaded.clip is not None and not isinstance(loaded.encoder, FrameAveraged):
        found[SINGLE_FRAMES] = frame_by_frame(loaded.encoder)
    return found


def _predictors(loaded: AnyModel) -> dict[str, nn.Module]:
    """Predictors of the subjects that have one, by name."""
    fresh = loaded.fresh_predictor() if isinstance(loaded, Model) else None
    given = {loaded.name: loaded.predictor, RANDOM: fresh}
    return {name: predictor for name, predictor in given.items() if predictor is not None}


def _sides(
    loaded: AnyModel,
    entries: Sequence[Evaluator],
    train: str | Path | None,
    val: str | Path | None,
    segments: int = 1,
) -> tuple[Source, Source]:
    """Both sources; what no asked evaluator needs is stood in for by the other side or by scenes."""
    labelled = [entry.name for entry in entries if entry.data == "labelled"]
    if labelled and (train is None or val is None):
        raise ConfigError(f"{labelled[0]} needs train and val: labelled folders, list files or 'scenes'")
    alone = [entry.name for entry in entries if entry.data == "val"]
    if alone and val is None:
        raise ConfigError(f"{alone[0]} needs val: a folder of images, a list file or 'scenes'")
    val_source = loaded.open("scenes" if val is None else val, "val", segments)
    if train is None:
        return (loaded.open("scenes", segments=segments) if val is None else val_source), val_source
    return loaded.open(train, segments=segments), val_source


def _warn_of_shared_files(recipe: Recipe | None, val: Source) -> None:
    """Say when validation files were pretrained on, where the run names its data and that is still there."""
    if recipe is None or recipe.data.source in (None, "scenes") or not Path(str(recipe.data.source)).exists():
        return
    try:
        found = shared_files(open_splits(recipe).train, val)
    except DataError:  # the data has changed since: nothing can be said
        return
    if found:
        _log.warning(
            "%d of %d val images are files the encoder was pretrained on, without labels (first: %s); 'openjepa evaluate"
            " contamination' also finds near duplicates",
            len(found),
            len(val),
            found[0],
        )


def _recipe_views(loaded: AnyModel, seed: int) -> Callable[[Tensor], tuple[Ids, Ids]]:
    """Two contexts drawn as in training: those of the same place in two epochs."""
    recipe = loaded.config
    if recipe is None:
        raise ConfigError(f"{loaded.name} has no recipe whose masks could be drawn: use views 'random'")
    masker = build_masker(recipe.mask, recipe.grid, seed)
    return lambda places: (
        masker(places, epoch=0, step=0).contexts[0],
        masker(places, epoch=1, step=1).contexts[0],
    )


def _called(given: str | Path | AnyModel, loaded: AnyModel) -> str:
    """How a comparison calls an encoder: by its path's last part, or by its own name."""
    return loaded.name if isinstance(given, AnyModel) or ":" in str(given) else Path(given).name
