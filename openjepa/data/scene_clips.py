"""The built-in ``scenes`` in motion: procedural videos with exact action, shape, masks, tracks and object states.

``plan_clip`` (:mod:`openjepa.data.scene_motion`) says what is in a clip and how it moves, ``draw_clip`` shows some of its
frames, ``scene_clip`` does both, ``SceneClips`` is a source of them. Everything is a function of (seed, index), the same
bytes in every process and on every platform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openjepa.data.channels import fit_channels
from openjepa.data.clips import Clips, Timeline
from openjepa.data.scene_motion import (
    ACTIONS,
    FPS,
    FRAMES,
    ClipSpec,
    ObjectTrack,
    clip_action,
    plan_clip,
    tracks,
)
from openjepa.data.scene_paint import paint_background, paint_object, paint_track
from openjepa.data.scene_spec import SHAPES, scene_label
from openjepa.data.seeds import mix
from openjepa.errors import ConfigError, DataError

#: Part of every fingerprint: raise it when the same seed draws other videos, so that caches notice.
VERSION = 1
_SPLIT_KEYS = {"train": 0, "val": 1}


@dataclass(frozen=True)
class SceneClip:
    """Some frames of a scene in motion, with the whole truth about them.

    video: ``(T, 3, size, size)`` uint8. action, action_name: what happens. label, class_name: which shape it happens to.
    direction: heading in radians (0 right, π/2 down) of actions that travel, else None. masks: ``(T, size, size)`` int64, 0
    background, k the visible pixels of object k - 1. tracks: ``(T, n, 4)`` float32 pixels (x0, y0, x1, y1) around those,
    zeros where an object is out of sight. visible: ``(T, n)`` bool. objects: place, angle and radius of each through time.
    times: ``(T,)`` frame numbers.
    """

    video: Tensor
    action: int
    action_name: str
    label: int
    class_name: str
    direction: float | None
    masks: Tensor
    tracks: Tensor
    visible: Tensor
    objects: tuple[ObjectTrack, ...]
    spec: ClipSpec
    times: NDArray[np.float64]


def draw_clip(spec: ClipSpec, size: int, times: NDArray[np.float64]) -> SceneClip:
    """Draw a clip at ``size`` × ``size`` pixels and ``times (T,)`` in frames."""
    frames, paths, masks = _drawn(spec, size, times, masks=True)
    assert masks is not None
    boxes, visible = _boxes(masks, len(paths))
    return SceneClip(
        torch.from_numpy(frames),
        spec.action,
        ACTIONS[spec.action],
        spec.label,
        SHAPES[spec.label],
        spec.direction,
        torch.from_numpy(masks),
        boxes,
        visible,
        tuple(paths),
        spec,
        times,
    )


def scene_clip(seed: int, index: int, size: int = 64, frames: int = FRAMES, *, stride: int = 1) -> SceneClip:
    """The first ``frames`` frames, every ``stride``-th, of clip ``index`` of generator ``seed``."""
    if frames < 1 or stride < 1:
        raise ConfigError(f"a scene clip needs at least 1 frame and a stride of at least 1, not {frames} and {stride}")
    return draw_clip(plan_clip(seed, index), size, np.arange(frames, dtype=np.float64) * stride)


def _drawn(
    spec: ClipSpec, size: int, times: NDArray[np.float64], *, masks: bool
) -> tuple[NDArray[np.uint8], list[ObjectTrack], NDArray[np.int64] | None]:
    """Frames ``(T, 3, size, size)``, object paths and, when asked for, masks. The background is painted once."""
    if size < 1:
        raise ConfigError(f"scenes cannot be drawn at {size} pixels: at least 1")
    still = spec.still
    ground = paint_background(size, still.background, still.direction, still.roughness, still.key)
    for fragment in still.behind:
        paint_object(ground, fragment, 0.0)
    first = (ground * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    frames = np.repeat(first[None], len(times), axis=0)
    found = np.zeros((len(times), size, size), np.int64) if masks else None
    paths = tracks(spec, times)
    layers = [(k + 1, path) for k, path in enumerate(paths)][::-1]
    here = np.zeros(len(times))
    layers += [(0, ObjectTrack(f, here + f.x, here + f.y, here + f.angle, here + f.radius)) for f in still.front]
    for number, path in layers:
        for t, window, covered in paint_track(frames, path.spec, (path.x, path.y), path.angle, path.radius):
            if found is not None:
                found[t][window][covered] = number
    return frames, paths, found


def _boxes(masks: NDArray[np.int64], count: int) -> tuple[Tensor, Tensor]:
    """Boxes ``(T, n, 4)`` around ids 1..n of masks, and where there is one ``(T, n)``."""
    boxes, visible = torch.zeros(len(masks), count, 4), torch.zeros(len(masks), count, dtype=torch.bool)
    for k in range(count):
        here = masks == k + 1
        for t in np.flatnonzero(here.any((1, 2))):
            rows, columns = np.flatnonzero(here[t].any(1)), np.flatnonzero(here[t].any(0))
            boxes[t, k] = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            visible[t, k] = True
    return boxes, visible


class SceneVideo:
    """An opened scene clip: frames by time, as of a file. Nothing needs closing; ``close`` is there for those who do."""

    def __init__(self, spec: ClipSpec, size: int, frames: int, channels: int = 3) -> None:
        self.spec, self.size, self.channels = spec, size, channels
        self.frames: int | None = frames
        self.fps, self.duration = FPS, frames / FPS

    def at(self, times: NDArray[np.float64]) -> Tensor:
        """Frames ``(T, channels, size, size)`` uint8 shown at ``times`` in seconds."""
        assert self.frames is not None
        numbers = Timeline.even(self.frames, FPS).numbers(np.asarray(times, np.float64))
        return _with_channels(_drawn(self.spec, self.size, numbers.astype(np.float64), masks=False)[0], self.channels)

    def close(self) -> None:
        """Nothing to do."""

    def __enter__(self) -> SceneVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SceneClips:
    """``count`` scenes in motion as a labelled source of clips; see :mod:`openjepa.data.clips` for what such sources do.

    Args:
        count: number of videos. size: side in pixels. seed: of the generator.
        split: ``val`` draws from other seeds, so it shares no scene with ``train``.
        channels: 3, or 1 for brightness.
        clips: which frames :meth:`read` gives. Videos have 48 frames at 24 per second, or as many as the clip needs: what
            moves in a scene can do so for ever.
        label: what the classes are: the ``action`` (motion), or the ``shape`` (content).
    """

    padded: dict[str, int]
    short = 0

    def __init__(
        self,
        count: int,
        size: int = 64,
        seed: int = 0,
        *,
        split: Literal["train", "val"] = "train",
        channels: int = 3,
        clips: Clips,
        label: Literal["action", "shape"] = "action",
    ) -> None:
        if count < 1:
            raise DataError(f"scenes needs a count of at least 1, not {count}")
        if channels not in (1, 3):
            raise DataError(f"scenes has 3 channels (or 1 for gray) and data.channels says {channels}")
        if label not in ("action", "shape"):
            raise ConfigError(f"the label of scene clips is action or shape, not '{label}'")
        self.name = "scenes" if split == "train" else "scenes-val"
        self.classes: list[str] | None = list(ACTIONS if label == "action" else SHAPES)
        self.note, self.padded = "", {}
        self.count, self.size, self.channels, self.clips, self.labelled = count, size, channels, clips, label
        self.seed, self.split = seed, split
        self.generator_seed = mix(seed, _SPLIT_KEYS[split], 0xC11B)
        self.frames = max(FRAMES, _needed(clips))

    def __len__(self) -> int:
        return self.count

    def _check(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        return index

    def sampled(self, clips: Clips) -> SceneClips:
        """The same scenes with other clips."""
        return SceneClips(
            self.count,
            self.size,
            self.seed,
            split=self.split,
            channels=self.channels,
            clips=clips,
            label=self.labelled,
        )

    def action(self, index: int) -> int:
        """What happens in a clip, as an index into ``ACTIONS``."""
        return clip_action(self.generator_seed, self._check(index))

    def shape(self, index: int) -> int:
        """Which shape it happens to, as an index into ``SHAPES``."""
        return scene_label(self.generator_seed, self._check(index))

    def label(self, index: int) -> int:
        """Class of a clip: its action, or its shape."""
        return self.action(index) if self.labelled == "action" else self.shape(index)

    def item_id(self, index: int) -> str:
        """``scenes/00012``."""
        return f"{self.name}/{index:05d}"

    def clip(self, index: int, times: NDArray[np.float64] | None = None) -> SceneClip:
        """The whole truth about a clip at ``times`` in frames, by default all of its frames."""
        when = np.arange(self.frames, dtype=np.float64) if times is None else times
        return draw_clip(plan_clip(self.generator_seed, self._check(index)), self.size, when)

    def video(self, index: int) -> SceneVideo:
        """A clip as an opened video."""
        return SceneVideo(plan_clip(self.generator_seed, self._check(index)), self.size, self.frames, self.channels)

    def read(self, index: int) -> Tensor:
        """``(count·T, channels, size, size)`` uint8; random starts are drawn from torch's global generator."""
        return self.read_timed(index)[0]

    def read_timed(self, index: int) -> tuple[Tensor, float, float]:
        """What :meth:`read` gives, and the seconds at which the clips begin and end."""
        spec, timeline = plan_clip(self.generator_seed, self._check(index)), Timeline.even(self.frames, FPS)
        moments = self.clips.moments(timeline, self.clips.draws(), self.item_id(index))
        numbers = timeline.numbers(moments.times).astype(np.float64)
        frames = _with_channels(_drawn(spec, self.size, numbers, masks=False)[0], self.channels)
        return frames, *self.clips.span(moments.times, timeline)

    def fingerprint(self) -> str:
        """Generator version, seed, count, size, clips and label."""
        about = f"{self.name} clips v{VERSION} seed {self.seed} count {self.count} size {self.size}"
        return f"{about} channels {self.channels} frames {self.frames} label {self.labelled} {self.clips}"


def _with_channels(frames: NDArray[np.uint8], channels: int) -> Tensor:
    """Drawn frames ``(T, 3, size, size)`` in colour, or as brightness ``(T, 1, size, size)``."""
    if channels == 3:
        return torch.from_numpy(frames)
    count, _, height, width = frames.shape
    rows = frames.transpose(0, 2, 3, 1).reshape(-1, width, 3)  # fit_channels takes (H, W, C)
    return torch.from_numpy(fit_channels(rows, 1).reshape(count, 1, height, width))


def _needed(clips: Clips) -> int:
    """Frames of a video that is long enough for a clip."""
    step = FPS / clips.fps if clips.fps else (clips.stride or 1)
    return int(np.ceil((clips.frames - 1) * step - 1e-9)) + 2
