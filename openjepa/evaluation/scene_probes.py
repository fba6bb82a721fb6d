"""What do features know of a scene besides its class? Counting, distance and size on built-in scenes, which know the truth.

After the CLEVR count and distance tasks of the I-JEPA paper (Assran et al. 2301.08243 table 4; Johnson et al. 1612.06890).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from openjepa.data import SceneSource
from openjepa.data.scene_spec import SceneStyle, plan_scene
from openjepa.errors import ConfigError
from openjepa.evaluation.labels import check_values, feature_protocol
from openjepa.evaluation.linear import linear
from openjepa.evaluation.request import Bench
from openjepa.evaluation.ridge import ridge
from openjepa.evaluation.score import Score
from openjepa.features import Features, cached_extract, cached_raw_pixels

IMAGES = 2_048  # to fit on; half as many to score on
SEED = 4_711  # of the scenes, clear of those that pretraining draws
#: One to six objects small enough to stand apart.
CROWD = SceneStyle(radius=(0.08, 0.13), kin=(0, 5), occluders=(0, 0))
#: Two objects, the first the larger, of very different sizes from scene to scene.
PAIR = SceneStyle(radius=(0.08, 0.2), kin=(1, 1), occluders=(0, 0))


@dataclass(frozen=True)
class Question:
    """Something to read off an image. unit: of the answer."""

    name: str
    style: SceneStyle
    unit: str


QUESTIONS = (
    Question("count", CROWD, "visible objects"),
    Question("distance", PAIR, "shares of the image side, between the centres of the two objects"),
    Question("size", PAIR, "radius of the larger object in shares of the image side"),
)


def scene_probes(bench: Bench, *, images: int = IMAGES, seed: int = 0, subject: str = "encoder") -> list[Score]:
    """R² of a ridge regression from pooled features to count, distance and size, and accuracy of counting as classes.

    The scenes are the probe's own: ``images`` to fit on and half as many to score on, with seeds and styles of their
    own; of ``bench`` only the encoder (None: raw pixels) and how images are read are used. Penalties are chosen on a
    held-out fifth of the fitting images. ``extra``: RMSE, and RMSE of always answering the training mean.

    Raises:
        ConfigError: fewer than 40 images. DataError: features that are not finite.
    """
    if images < 40:
        raise ConfigError(f"scene probes need at least 40 images to fit on, got {images}")
    size, channels = _drawn_as(bench)
    features: dict[SceneStyle, tuple[Features, Features]] = {}
    scores = []
    for question in QUESTIONS:
        look: dict[str, Any] = {"channels": channels, "style": question.style}
        sides = [SceneSource(images, size, SEED, **look), SceneSource(images // 2, size, SEED, split="val", **look)]
        if question.style not in features:
            features[question.style] = _features(bench, sides[0]), _features(bench, sides[1])
        train, val = features[question.style]
        answers = [torch.tensor(_answers(question.name, side), dtype=torch.float64) for side in map(_key, sides)]
        scores += _scores(question, train, val, answers[0][train.ids], answers[1][val.ids], seed, subject)
    return scores


def _scores(
    question: Question, train: Features, val: Features, y: Tensor, val_y: Tensor, seed: int, subject: str
) -> list[Score]:
    found = ridge(train.values, y, val.values, val_y, seed=seed)
    about: dict[str, object] = {
        **feature_protocol(train),
        "unit": question.unit,
        "scenes": f"{len(train):,} + {len(val):,}, seed {SEED}",
    }
    protocol = {**about, "model": "ridge regression", "penalty": found.penalty, "chosen_on": "held-out 20% of train"}
    score = Score(
        f"scenes {question.name}",
        found.r2,
        len(train),
        len(val),
        subject,
        protocol,
        interval=found.interval,
        seed=seed,
        metric="r2",
        extra={"rmse": found.rmse, "rmse of the train mean": found.rmse_of_mean},
    )
    if question.name != "count":
        return [score]
    sides = [
        replace(side, labels=answer.to(torch.int64) - 1, classes=tuple(map(str, range(1, 2 + CROWD.kin[1]))))
        for side, answer in ((train, y), (val, val_y))
    ]
    classified = linear(sides[0], sides[1], seed=seed, subject=subject)
    share = float((val_y == y.mode().values).double().mean())
    counting = replace(
        classified,
        name="scenes count",
        protocol={**about, **classified.protocol},
        extra={"accuracy of the most frequent count": share},
    )
    return [score, counting]


def _drawn_as(bench: Bench) -> tuple[int, int]:
    """Side and channels of the images to draw: as the bench's scenes are, else as its transform wants them."""
    source = bench.train_source
    if isinstance(source, SceneSource):
        return source.size, source.channels
    size = getattr(bench.transform, "size", (64, 64))
    return max(min(size), 32), int(getattr(source, "channels", 3))


def _features(bench: Bench, source: SceneSource) -> Features:
    reading: dict[str, Any] = {"batch_size": bench.batch_size, "workers": bench.workers, "cache_dir": bench.cache_dir}
    if bench.encoder is None:
        return cached_raw_pixels(source, bench.transform, **reading)
    found = cached_extract(
        bench.encoder,
        source,
        bench.transform,
        normalise=bench.normalise,
        device=bench.device,
        layers=bench.layers,
        precision=bench.precision,
        **reading,
    )
    check_values(found, source.name)
    return found


_Key = tuple[int, int, int, SceneStyle]


def _key(source: SceneSource) -> _Key:
    return source.generator_seed, source.count, source.size, source.style


@lru_cache(maxsize=16)
def _answers(question: str, key: _Key) -> tuple[float, ...]:
    """The truth about every scene; counting needs it drawn, because an object may stand wholly behind another."""
    seed, count, size, style = key
    if question == "count":
        from openjepa.data import render

        scenes = (render(seed, i, size, style=style) for i in range(count))
        return tuple(float((scene.boxes[:, 2] > 0).sum()) for scene in scenes)
    plans = (plan_scene(seed, i, style) for i in range(count))
    if question == "size":
        return tuple(plan.objects[0].radius for plan in plans)
    pairs = ((plan.objects[0], plan.objects[1]) for plan in plans)
    return tuple(((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5 for a, b in pairs)
