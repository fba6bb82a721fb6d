"""Judge an encoder on two labelled sources: features once, through the cache, then every asked score of every subject."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from openjepa.data import Source
from openjepa.errors import ConfigError, nearest
from openjepa.evaluation.knn import knn
from openjepa.evaluation.linear import linear
from openjepa.evaluation.score import Score
from openjepa.features import Features, cached_extract, cached_raw_pixels
from openjepa.features.extraction import Layers, Precision
from openjepa.types import Encoder

log = logging.getLogger(__name__)

RAW_PIXELS = "raw pixels"
OnEvaluate = Callable[[str, str, int, int], None]  # subject, side (train or val), samples done, samples in all


@dataclass(frozen=True)
class Settings:
    """What the evaluators read. k, temperature: of kNN. c: of linear (None: chosen on held-out train). seed: of draws."""

    k: int = 20
    temperature: float | None = 0.07
    c: float | None = None
    seed: int = 0


Evaluator = Callable[[Features, Features, Settings, str], Score]

EVALUATORS: Mapping[str, Evaluator] = {
    "knn": lambda train, val, settings, subject: knn(
        train, val, k=settings.k, temperature=settings.temperature, subject=subject, seed=settings.seed
    ),
    "linear": lambda train, val, settings, subject: linear(
        train, val, c=settings.c, subject=subject, seed=settings.seed
    ),
}


def evaluate(
    encoder: Encoder,
    normalise: nn.Module,
    train_source: Source,
    val_source: Source,
    what: str | Sequence[str] = ("knn", "linear"),
    *,
    transform: Any,
    subject: str = "encoder",
    baselines: Mapping[str, Encoder] | None = None,
    raw_pixels: bool = False,
    settings: Settings | None = None,
    layers: Layers = "last",
    precision: Precision = "fp32",
    device: str = "cpu",
    batch_size: int = 64,
    workers: int = 0,
    cache_dir: str | Path | None = None,
    on_progress: OnEvaluate | None = None,
) -> list[Score]:
    """Score ``encoder`` (and baselines) with mean-pooled features of its last layer or last four.

    Args:
        encoder: any :class:`openjepa.types.Encoder`. normalise: pixels to its input.
        train_source, val_source: labelled data; classes are matched by name.
        what: ``knn``, ``linear``, or several.
        transform: evaluation transform for both sides.
        subject: how the scores call ``encoder``.
        baselines: other encoders for the same input by name, e.g. ``{"random initialisation": fresh}``.
        raw_pixels: also score the pixels themselves.
        settings: of the evaluators.
        layers, precision, device, batch_size, workers, cache_dir: as in :func:`openjepa.features.cached_extract`.
        on_progress: called with (subject, ``train`` or ``val``, samples done, samples in all).

    Returns:
        One :class:`Score` per subject and evaluator: the encoder first, then baselines, raw pixels last.

    Raises:
        ConfigError: an unknown evaluator or setting.
        DataError: no labels, fewer than two classes, a validation class that train has not, nothing readable.
    """
    names = _asked(what)
    settings = settings or Settings()
    if train_source.fingerprint() == val_source.fingerprint():
        log.warning("train and val are the same data (%s): the scores say nothing of new images", train_source.name)
    reading: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "cache_dir": cache_dir}

    def progress(name: str, side: str, source: Source) -> Callable[[int], None] | None:
        return None if on_progress is None else lambda done: on_progress(name, side, done, len(source))

    def encoded(name: str, model: Encoder, side: str, source: Source) -> Features:
        return cached_extract(
            model,
            source,
            transform,
            normalise=normalise,
            device=device,
            layers=layers,
            precision=precision,
            on_progress=progress(name, side, source),
            **reading,
        )

    def pixels(name: str, side: str, source: Source) -> Features:
        return cached_raw_pixels(source, transform, on_progress=progress(name, side, source), **reading)

    scores = []
    for name, model in {subject: encoder, **(baselines or {})}.items():
        pair = [encoded(name, model, side, data) for side, data in (("train", train_source), ("val", val_source))]
        scores += [EVALUATORS[kind](pair[0], pair[1], settings, name) for kind in names]
    if raw_pixels:
        pair = [pixels(RAW_PIXELS, side, data) for side, data in (("train", train_source), ("val", val_source))]
        scores += [EVALUATORS[kind](pair[0], pair[1], settings, RAW_PIXELS) for kind in names]
    return scores


def _asked(what: str | Sequence[str]) -> list[str]:
    """Names of evaluators, checked."""
    names = [what] if isinstance(what, str) else list(what)
    for name in names:
        if name not in EVALUATORS:
            raise ConfigError(f"unknown evaluation '{name}': {', '.join(EVALUATORS)}{nearest(name, EVALUATORS)}")
    if not names:
        raise ConfigError(f"nothing to evaluate: name one of {', '.join(EVALUATORS)}")
    return names
