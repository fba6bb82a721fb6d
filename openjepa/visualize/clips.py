"""Clips of videos for pictures: as frames to draw, and whole videos as inputs of an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from openjepa.config.data_parts import ClipConfig
from openjepa.config.schema import DataConfig
from openjepa.data import Source, Subset, eval_transform, with_hint
from openjepa.data.clips import Clips
from openjepa.data.sources import with_clips
from openjepa.errors import ConfigError, DataError
from openjepa.visualize import canvas, samples
from openjepa.visualize.animation import Frames

MOST_FRAMES = 128  # of a whole video that is drawn, at most
OTHERS = 32  # clips that targets are centred by, where a recipe centres them
FEWEST = 4  # videos these may come from, at least
UNKNOWN_RATE = 8.0  # frames per second a clip is shown at when nothing says its rate


@dataclass(frozen=True)
class Video:
    """One video as model input before normalisation: clip ``(C, L, H, W)``; seconds: how long a frame lasts."""

    name: str
    clip: Tensor
    seconds: float


def to_rgb(clip: Tensor) -> Frames:
    """A clip ``(C, T, H, W)`` as frames ``(T, H, W, 3)``; float clips are stretched once for all frames."""
    channels, frames, height, width = clip.shape
    tall = canvas.to_rgb(clip.reshape(channels, frames * height, width))
    return np.ascontiguousarray(tall.reshape(frames, height, width, 3))


def middle(clip: Tensor) -> Tensor:
    """The middle frame ``(C, H, W)`` of a clip ``(C, T, H, W)``; an image is returned as it is."""
    return clip[:, clip.shape[1] // 2] if clip.ndim == 4 else clip


def seconds_per_frame(source: Source, clip: ClipConfig, index: int = 0) -> float:
    """How long a frame of a clip lasts: by the recipe's rate, else by its stride over the rate of video ``index``."""
    if clip.fps is not None:
        return 1 / clip.fps
    return (clip.stride or 1) / (_known(source, index)[0] or UNKNOWN_RATE)


def whole_videos(source: Source, data: DataConfig, count: int, frames: int | None = None) -> list[Video]:
    """``count`` videos spread over ``source``, each from its beginning: ``frames`` of it, by default all of it.

    At least as many frames as the model's clips have (short videos are padded as the recipe says), and at most
    :data:`MOST_FRAMES` of a video whose length is not asked for. All have the model's size and frame rate.

    Raises:
        ConfigError: fewer frames than one. DataError: no video can be read.
    """
    if frames is not None and frames < 1:
        raise ConfigError(f"--frames {frames} leaves nothing to draw: 1 or more")
    assert data.clip is not None
    found = []
    for index in _readable_places(source, count):
        length = frames or _length(source, index, data.clip)
        clip = data.clip.model_copy(update={"frames": length})
        moved = with_clips(source, Clips(length, clip.fps, clip.stride, "start", 1, clip.short))
        transform = eval_transform(data.model_copy(update={"clip": clip}))
        try:
            raw = with_hint(moved, transform.at_least).read(index)
        except DataError:
            continue
        found.append(Video(source.item_id(index), transform(raw), seconds_per_frame(source, data.clip, index)))
        if len(found) == count:
            break
    if not found:
        raise DataError(f"{source.name}: none of its {len(source)} videos can be read, so there is nothing to draw")
    return found


def compared_with(source: Source, data: DataConfig, count: int = OTHERS) -> Tensor | None:
    """Middle clips of ``count`` videos of ``source``, ``(M, C, T, H, W)``: what recipes that centre targets centre by.

    None where there are too few videos for statistics; a long video then gives its own windows.
    """
    return samples.gather(source, data, count).images if len(source) >= FEWEST else None


def _readable_places(source: Source, count: int) -> list[int]:
    """Places to try: those spread evenly first, then all others."""
    first = samples.spaced(len(source), count)
    return [*first, *(k for k in range(len(source)) if k not in set(first))]


def _length(source: Source, index: int, clip: ClipConfig) -> int:
    """Frames of the whole video ``index`` at the clip's rate, between one clip and :data:`MOST_FRAMES`."""
    rate, duration = _known(source, index)
    if duration is None or rate is None:
        return clip.frames
    step = 1 / clip.fps if clip.fps is not None else (clip.stride or 1) / rate
    return max(clip.frames, min(int(duration / step + 1e-6), MOST_FRAMES))


def _known(source: Source, index: int) -> tuple[float | None, float | None]:
    """Frames per second and seconds of video ``index``; None where it does not say."""
    if isinstance(source, Subset):
        return _known(source.source, int(source.indices[index]))
    handle: Any = getattr(source, "video", None)
    if handle is None:
        return None, None
    try:
        video = handle(index)
    except DataError:
        return None, None
    try:
        return float(video.fps), float(video.duration)
    finally:
        video.close()
