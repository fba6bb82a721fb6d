"""Judge an encoder on two labelled sources: features once, through the cache, then every asked score of every subject."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from openjepa.data import Source
from openjepa.errors import ConfigError, nearest
from openjepa.evaluation.kmeans import kmeans
from openjepa.evaluation.knn import knn
from openjepa.evaluation.linear import linear
from openjepa.evaluation.low_shot import low_shot
from openjepa.evaluation.masks import mask_consistency
from openjepa.evaluation.motion import MOTION
from openjepa.evaluation.request import Bench, Evaluator, Request, Settings, Side, options_of
from openjepa.evaluation.retrieval import retrieval
from openjepa.evaluation.scene_probes import scene_probes
from openjepa.evaluation.score import Score
from openjepa.evaluation.trained import TRAINED
from openjepa.features import Across, Features, FrameAveraged, cached_extract, cached_raw_pixels
from openjepa.features.extraction import Layers, Precision, TokenKind
from openjepa.types import Encoder

log = logging.getLogger(__name__)

RAW_PIXELS, FRAME_DIFFERENCES = "raw pixels", "frame differences"
SIDES: tuple[Side, Side] = ("train", "val")
OnEvaluate = Callable[[str, str, int, int], None]  # subject, side (train or val), samples done, samples in all

ALIASES: Mapping[str, str] = {"logistic": "linear"}  # second names
ALL = "all"  # every cheap evaluator


def _knn(request: Request) -> list[Score]:
    settings = request.settings
    train, val = request.pair
    score = knn(train, val, k=settings.k, temperature=settings.temperature, subject=request.subject, seed=settings.seed)
    return [score]


def _linear(request: Request) -> list[Score]:
    train, val = request.pair
    return [linear(train, val, c=request.settings.c, subject=request.subject, seed=request.settings.seed)]


def _low_shot(request: Request) -> list[Score]:
    train, val = request.pair
    settings = request.settings
    return low_shot(train, val, settings.shots, draws=settings.draws, seed=settings.seed, subject=request.subject)


def _kmeans(request: Request) -> list[Score]:
    train, val = request.pair
    options = options_of("kmeans", request.settings, ("inits",))
    return kmeans(train, val, seed=request.settings.seed, subject=request.subject, **options)


def _retrieval(request: Request) -> list[Score]:
    train, val = request.pair
    return retrieval(train, val, seed=request.settings.seed, subject=request.subject)


def _masks(request: Request) -> list[Score]:
    options = options_of("masks", request.settings, ("keep", "views", "views_name", "images"))
    return [mask_consistency(request.place, seed=request.settings.seed, subject=request.subject, **options)]


def _scenes(request: Request) -> list[Score]:
    options = options_of("scenes", request.settings, ("images",))
    return scene_probes(request.place, seed=request.settings.seed, subject=request.subject, **options)


_ENTRIES = (
    Evaluator("knn", _knn, help="accuracy of the k nearest training images by centred cosine", cheap=True),
    Evaluator("linear", _linear, help="accuracy of logistic regression to convergence", cheap=True),
    Evaluator("low-shot", _low_shot, help="logistic regression on a few labels per class, several draws", cheap=True),
    Evaluator("kmeans", _kmeans, help="agreement of unlabelled clusters with the classes", cheap=True),
    Evaluator("retrieval", _retrieval, help="mean average precision of rankings by cosine", cheap=True),
    Evaluator(
        "masks",
        _masks,
        "encoder",
        "is an image under two masks closer to itself than to others?",
        data="val",
        sees="one clip",
        masked=True,
    ),
    Evaluator(
        "scenes",
        _scenes,
        "encoder",
        "count, distance and size on built-in scenes",
        pixels=True,
        data="none",
        sees="images",
    ),
    *MOTION,
    *TRAINED,
)
EVALUATORS: Mapping[str, Evaluator] = {entry.name: entry for entry in _ENTRIES}


def evaluate(
    encoder: Encoder,
    normalise: nn.Module,
    train_source: Source,
    val_source: Source,
    what: str | Sequence[str] = ("knn", "linear"),
    *,
    transform: Any,
    val_transform: Any = None,
    subject: str = "encoder",
    baselines: Mapping[str, Encoder] | None = None,
    raw_pixels: bool = False,
    predictors: Mapping[str, nn.Module] | None = None,
    settings: Settings | None = None,
    layers: Layers = "last",
    precision: Precision = "fp32",
    device: str = "cpu",
    batch_size: int = 64,
    workers: int = 0,
    cache_dir: str | Path | None = None,
    across: Across = "attend",
    on_progress: OnEvaluate | None = None,
) -> list[Score]:
    """Score ``encoder`` (and baselines) with mean-pooled features of its last layer or last four.

    Args:
        encoder: any :class:`openjepa.types.Encoder`. normalise: pixels to its input.
        train_source, val_source: labelled data; classes are matched by name.
        what: a name in ``EVALUATORS``, several, or ``all``: every cheap one.
        transform: evaluation transform for both sides; val_transform: for val, where it shows more views of each video.
        subject: how the scores call ``encoder``.
        baselines: other encoders for the same input by name, e.g. ``{"random initialisation": fresh}``.
        raw_pixels: also score the pixels themselves, and of clips the differences between frames.
        predictors: of subjects that have one, by name; anticipation asks them for the future.
        settings: of the evaluators.
        layers, precision, device, batch_size, workers, cache_dir, across: as in
            :func:`openjepa.features.cached_extract`.
        on_progress: called with (subject, ``train`` or ``val``, samples done, samples in all), and with (subject, name of the
            evaluator, epochs done, epochs in all) by those that train something.

    Returns:
        One :class:`Score` per subject and evaluator: the encoder first, then baselines, raw pixels last.

    Raises:
        ConfigError: an unknown evaluator or setting.
        DataError: no labels, fewer than two classes, a validation class that train has not, nothing readable.
    """
    entries = asked(what)
    settings = settings or Settings()
    known = predictors or {}
    for entry in entries:
        if entry.predictor and subject not in known:
            raise ConfigError(f"{entry.name} asks the predictor, and {subject} has none: give a run that kept one")
    if any(entry.data == "labelled" for entry in entries) and train_source.fingerprint() == val_source.fingerprint():
        log.warning("train and val are the same data (%s): the scores say nothing of new images", train_source.name)
    bench = Bench(
        encoder,
        normalise.to(device),  # fine-tuning uses it where the images are, without extracting features first
        transform,
        train_source,
        val_source,
        device=device,
        layers=layers,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        cache_dir=cache_dir,
        val_transform=val_transform,
        across=across,
    )
    subjects = _subjects(bench, {subject: encoder, **(baselines or {})}, known, raw_pixels)
    scores = []
    for name, place in subjects.items():
        alone = name != subject and isinstance(place.encoder, FrameAveraged)
        chosen = [entry for entry in entries if not (alone and entry.masked)]
        scores += _judge(chosen, name, place, settings, on_progress)
    return scores


def _subjects(
    bench: Bench, encoders: Mapping[str, Encoder], predictors: Mapping[str, nn.Module], raw_pixels: bool
) -> dict[str, Bench]:
    """Everything that is judged, by name: encoders with their predictors, pixels, and of clips their differences."""
    found = {
        name: replace(bench, encoder=encoder, predictor=predictors.get(name)) for name, encoder in encoders.items()
    }
    if raw_pixels:
        found[RAW_PIXELS] = replace(bench, encoder=None)
        if bench.clips:
            found[FRAME_DIFFERENCES] = replace(bench, encoder=None, differences=True)
    return found


def _judge(
    entries: Sequence[Evaluator], name: str, bench: Bench, settings: Settings, on_progress: OnEvaluate | None
) -> list[Score]:
    """All asked scores of one subject; its features are computed once per kind."""
    pairs: dict[TokenKind, list[Features]] = {}
    scores = []
    for entry in entries:
        if bench.encoder is None and entry.needs != "pooled" and not entry.pixels:
            continue  # raw pixels are one vector per image
        request = Request(name, settings, bench=bench, on_epoch=_epochs(on_progress, name, entry.name))
        if entry.needs != "encoder":
            if entry.needs not in pairs:
                pairs[entry.needs] = [_features(bench, entry.needs, name, side, on_progress) for side in SIDES]
            train, val = pairs[entry.needs]
            request = replace(request, train=train, val=val)
        clips = {} if entry.data == "none" else bench.clips
        scores += [_with_skipped(score, request, clips) for score in entry.run(request)]
    return scores


def _epochs(on_progress: OnEvaluate | None, subject: str, what: str) -> Callable[[int, int], None] | None:
    """Progress of a training as progress of an evaluation."""
    return None if on_progress is None else lambda done, total: on_progress(subject, what, done, total)


def _with_skipped(score: Score, request: Request, clips: Mapping[str, Any]) -> Score:
    """``score`` with the clips it is of, and a word on files that could not be read, when there were any.

    How several clips are joined is of probes on tokens, which say it themselves: pooled features are averaged.
    """
    sides = {"train": request.train, "val": request.val}
    bad = [f"{len(found.bad)} {side}" for side, found in sides.items() if found is not None and found.bad]
    more = {key: value for key, value in clips.items() if key not in (*score.protocol, "across")}
    more |= {"unreadable_files": " + ".join(bad)} if bad else {}
    return replace(score, protocol={**score.protocol, **more}) if more else score


def _features(bench: Bench, tokens: TokenKind, name: str, side: Side, on_progress: OnEvaluate | None) -> Features:
    """Features of one side, or the pixels themselves when there is no encoder; through the cache."""
    source, transform = bench.side(side)
    reading = bench.reading
    if on_progress is not None:
        reading["on_progress"] = lambda done: on_progress(name, side, done, len(source))
    if bench.encoder is None:
        return cached_raw_pixels(source, transform, differences=bench.differences, **reading)
    return cached_extract(bench.encoder, source, transform, tokens=tokens, **bench.protocol, **reading)


def asked(what: str | Sequence[str]) -> list[Evaluator]:
    """The evaluators ``what`` names, checked, each once; ``all`` stands for the cheap ones."""
    names = [what] if isinstance(what, str) else list(what)
    found: dict[str, Evaluator] = {}
    for name in names:
        if name == ALL:
            found.update({entry.name: entry for entry in EVALUATORS.values() if entry.cheap})
            continue
        name = ALIASES.get(name, name)
        if name not in EVALUATORS:
            choices = (*EVALUATORS, *ALIASES, ALL)
            raise ConfigError(f"unknown evaluation '{name}': {', '.join(choices)}{nearest(name, choices)}")
        found[name] = EVALUATORS[name]
    if not found:
        raise ConfigError(f"nothing to evaluate: name one of {', '.join(EVALUATORS)}")
    return list(found.values())
