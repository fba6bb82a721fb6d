"""What do features of clips know of motion? Actions, headings and the order of frames, on built-in scenes in motion.

No single frame of those scenes tells the action (:mod:`openjepa.data.scene_motion`), so encoders that see frames one by one
stand at chance, and what is above is motion. The probes bring their own scenes, cut as the encoder's clips are.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openjepa.data import Source
from openjepa.data.clips import Clips
from openjepa.data.scene_clips import SceneClips
from openjepa.data.scene_motion import ACTIONS, plan_clip
from openjepa.data.seeds import permutation
from openjepa.errors import ConfigError
from openjepa.evaluation.intervals import bootstrap
from openjepa.evaluation.labels import check_values, feature_protocol
from openjepa.evaluation.linear import linear
from openjepa.evaluation.request import Bench, Evaluator, Request, options_of
from openjepa.evaluation.ridge import ridge
from openjepa.evaluation.score import Score
from openjepa.features import Features, cached_extract, cached_raw_pixels
from openjepa.features.frames import FrameAveraged, frame_by_frame

CLIPS = 2_048  # to fit on; half as many to score on
LEAST = 200
SEED = 4_712  # of the scenes, clear of those that pretraining draws
BY_FRAME = "frame by frame"

_STILL = ACTIONS.index("still")


def motion_probes(bench: Bench, *, clips: int = CLIPS, seed: int = 0, subject: str = "encoder") -> list[Score]:
    """Accuracy of a linear probe for the action, and R² of the heading of what travels, on frozen pooled features.

    ``clips`` scenes to fit on and half as many to score on, with a seed of their own. The encoder of ``bench`` is also judged
    frame by frame: every frame encoded as an image, averaged. The heading is regressed as its cosine and sine by ridge, and
    R² is over both together; ``extra``: the middle angle between predicted and true heading.

    Raises:
        ConfigError: fewer than 200 clips, or an encoder of images. DataError: features that are not finite.
    """
    train, val = _scenes(bench, clips)
    scores = []
    for name, place in _subjects(bench, subject).items():
        found = _features(place, train), _features(place, val)
        about = _about(found)
        score = linear(*found, seed=seed, subject=name)
        scores.append(replace(score, name="motion", protocol={**about, **score.protocol}))
        scores.append(_heading(found, (_headings(train), _headings(val)), seed, name, about))
    return scores


def order_probes(bench: Bench, *, clips: int = CLIPS, seed: int = 0, subject: str = "encoder") -> list[Score]:
    """Accuracy of a linear probe that tells clips in order from shuffled ones; chance is one half.

    Half of the scenes are played in order, the other half with their frames in random order, and in a second probe with
    whole tubelets in random order (so that the two frames of a tubelet still follow each other). Training and validation
    scenes are disjoint; scenes that stand still are left out. Backwards is not asked: a scene played backwards is another
    scene played forwards, which is what the motion probe tells apart. Subjects as in :func:`motion_probes`.

    Raises:
        ConfigError: fewer than 200 clips, an encoder of images, or clips too short to be shuffled.
    """
    tubelet = int(getattr(bench.encoder, "tubelet_size", 2))
    scores = []
    for unit, length in (("frames", 1), ("tubelets", tubelet)):
        if _cut(bench).frames // length < 3:
            raise ConfigError(f"shuffling needs 3 {unit} or more: clips have {_cut(bench).frames} frames")
        train, val = (ShuffledClips(side, length) for side in _scenes(bench, clips))
        for name, place in _subjects(bench, subject).items():
            found = _features(place, train), _features(place, val)
            score = linear(*found, seed=seed, subject=name)
            about = {**_about(found), "shuffled": unit}
            scores.append(replace(score, name=f"order of {unit}", protocol={**about, **score.protocol}))
    return scores


class ShuffledClips:
    """Scenes in motion, every other one with its frames in random order; the label says which.

    source: of scenes; those that stand still are left out. length: frames that stay together. The order is a function of
    the scene alone and is never the true one, nor that backwards.
    """

    def __init__(self, source: SceneClips, length: int) -> None:
        self.source, self.length, self.clips = source, length, source.clips
        self.name, self.note = source.name, ""
        self.classes: list[str] | None = ["in order", "shuffled"]
        moving = [i for i in range(len(source)) if source.action(i) != _STILL]
        self.indices = moving[: len(moving) // 2 * 2]

    def __len__(self) -> int:
        return len(self.indices)

    def label(self, index: int) -> int:
        """1 when the frames are shuffled."""
        return index % 2

    def item_id(self, index: int) -> str:
        """Name of the scene."""
        return self.source.item_id(self.indices[index])

    def order(self, index: int, frames: int) -> NDArray[np.int64]:
        """In which order frames are played."""
        if not self.label(index):
            return np.arange(frames)
        groups = np.array_split(np.arange(frames), frames // self.length)
        for attempt in range(64):
            order = permutation(len(groups), self.source.generator_seed, self.indices[index], attempt)
            steps = np.diff(order)
            if not (np.all(steps == 1) or np.all(steps == -1)):
                break
        return np.concatenate([groups[k] for k in order])

    def read(self, index: int) -> Tensor:
        """``(T, C, size, size)`` uint8."""
        frames = self.source.read(self.indices[index])
        return frames[torch.from_numpy(self.order(index, len(frames)))]

    def fingerprint(self) -> str:
        """Of the scenes, and how they are shuffled."""
        return f"{self.source.fingerprint()} shuffled by {self.length}"


def _subjects(bench: Bench, subject: str) -> dict[str, Bench]:
    """The encoder, and the same frame by frame; pixels and differences alone."""
    if bench.encoder is None or isinstance(bench.encoder, FrameAveraged):
        return {subject: bench}
    apart = replace(bench, encoder=frame_by_frame(bench.encoder))
    return {subject: bench, f"{subject}, {BY_FRAME}": apart}


def _cut(bench: Bench) -> Clips:
    """How the encoder's clips are cut: one, from the middle."""
    source: Any = bench.val_source
    while (clips := getattr(source, "clips", None)) is None and hasattr(source, "source"):
        source = source.source
    if clips is None:
        raise ConfigError("motion and temporal-order need an encoder of clips: this one was given images")
    return Clips(clips.frames, clips.fps, clips.stride, "uniform", 1, clips.short)


def _scenes(bench: Bench, clips: int) -> tuple[SceneClips, SceneClips]:
    """Scenes to fit on and to score on, at the size the encoder sees."""
    if clips < LEAST:
        raise ConfigError(f"motion and temporal-order need at least {LEAST} clips to fit on, got {clips}")
    cut = _cut(bench)
    size = max(min(getattr(bench.transform, "size", (64, 64))), 32)
    channels = int(getattr(bench.encoder, "channels", getattr(bench.val_source, "channels", 3)))
    look: dict[str, Any] = {"channels": channels, "clips": cut}
    return SceneClips(clips, size, SEED, **look), SceneClips(clips // 2, size, SEED, split="val", **look)


def _features(bench: Bench, source: Source) -> Features:
    if bench.encoder is None:
        return cached_raw_pixels(source, bench.transform, differences=bench.differences, **bench.reading)
    found = cached_extract(bench.encoder, source, bench.transform, **bench.protocol, **bench.reading)
    check_values(found, source.name)
    return found


def _about(found: tuple[Features, Features]) -> dict[str, object]:
    cut = {key: found[0].protocol[key] for key in ("frames", "fps", "stride") if key in found[0].protocol}
    scenes = f"{len(found[0]):,} + {len(found[1]):,} in motion, seed {SEED}"
    return {**feature_protocol(found[0]), **cut, "scenes": scenes}


def _headings(source: SceneClips) -> Tensor:
    """``(N,)`` radians, NaN for what does not travel."""
    found = (plan_clip(source.generator_seed, i).direction for i in range(len(source)))
    return torch.tensor([math.nan if heading is None else heading for heading in found], dtype=torch.float64)


def _heading(
    found: tuple[Features, Features], truth: tuple[Tensor, Tensor], seed: int, subject: str, about: dict[str, object]
) -> Score:
    """R² of the heading among the clips in which things travel."""
    (x, y), (val_x, val_y) = (_travelling(side, angle) for side, angle in zip(found, truth, strict=True))
    fits = [ridge(x, part(y), val_x, part(val_y), seed=seed) for part in (torch.cos, torch.sin)]
    predicted = torch.stack([fit.predicted for fit in fits], 1)  # (M, 2)
    wanted = torch.stack([val_y.cos(), val_y.sin()], 1)
    errors = (predicted - wanted).square().sum(1).numpy()
    wide = wanted.numpy()

    def r2(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(1 - errors[drawn].mean(1) / wide[drawn].var(1).sum(-1), np.float64)

    turned = torch.atan2(predicted[:, 1], predicted[:, 0]) - val_y
    off = torch.atan2(turned.sin(), turned.cos()).abs().median()
    value = float(1 - errors.mean() / wide.var(0).sum())
    penalties = " and ".join(f"{fit.penalty:.3g}" for fit in fits)
    return Score(
        "motion heading",
        value,
        len(x),
        len(val_x),
        subject,
        {**about, "model": "ridge regression of cosine and sine", "penalty": penalties, "of": "clips that travel"},
        interval=bootstrap(len(val_x), r2, value, seed, (-np.inf, 1.0)),
        seed=seed,
        metric="r2",
        extra={"median angle off in degrees": math.degrees(float(off))},
    )


def _travelling(side: Features, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Features and headings of the clips that have one."""
    angle = angle[side.ids]
    there = ~angle.isnan()
    return side.values[there], angle[there]


def _motion(request: Request) -> list[Score]:
    options = options_of("motion", request.settings, ("clips",))
    return motion_probes(request.place, seed=request.settings.seed, subject=request.subject, **options)


def _order(request: Request) -> list[Score]:
    options = options_of("temporal-order", request.settings, ("clips",))
    return order_probes(request.place, seed=request.settings.seed, subject=request.subject, **options)


#: Entries of ``EVALUATORS``.
MOTION = (
    Evaluator(
        "motion",
        _motion,
        "encoder",
        "action and heading on built-in scenes in motion",
        pixels=True,
        data="none",
        video=True,
        sees="one clip",
    ),
    Evaluator(
        "temporal-order",
        _order,
        "encoder",
        "in order or shuffled, on built-in scenes",
        pixels=True,
        data="none",
        video=True,
        sees="one clip",
    ),
)
