"""Which moments of a video make a clip: pure functions of what is known of the video and of some random numbers.

How a source of videos behaves (:class:`openjepa.data.video_source.VideoSource`, frame folders, shards, scene clips):

* ``read(index)`` is one uint8 tensor ``(count·T, C, h, w)``, clips after each other. Random starts are drawn from torch's
  global CPU generator, which the loader seeds before it reads; sources of images draw nothing.
* ``sampled(clips)`` is the same source with other clips (:func:`openjepa.data.sources.with_clips` calls it), and
  ``video(index)`` an opened handle to be closed (``duration``, ``fps``, ``frames`` or None, ``at(times)``).
* A video shorter than its clip is padded as ``Clips.short`` says and noted: ``source.padded`` maps item ids to padded
  frames per clip (the first :data:`MOST_NAMED` names), ``source.short`` counts all such videos. Loader processes have
  copies of the source: they send what ``padded`` gained while they made a batch, as they send bad files.
* A video that is too short under ``skip``, or is damaged, raises a :class:`openjepa.errors.DataError` with ``reason``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from openjepa.config.data_parts import ClipConfig
from openjepa.errors import ConfigError, DataError

Where = Literal["random", "centre", "start", "uniform"]
Short = Literal["repeat", "loop", "skip"]
Times = NDArray[np.float64]

#: Names of padded videos that a source remembers; more are only counted.
MOST_NAMED = 1000


class UnreadableVideoError(DataError):
    """One video cannot be used. ``str()`` is ``"name: reason"``; ``reason`` alone is what lists of bad files show."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = " ".join(str(reason).split())[:240] or "cannot be decoded"
        super().__init__(f"{name}: {self.reason}")

    def __reduce__(self) -> tuple[type[UnreadableVideoError], tuple[str, str]]:
        return UnreadableVideoError, (self.name, self.reason)


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown, as far as it is known without decoding.

    duration: seconds from the first frame's beginning to the last one's end. fps: frames per second on average.
    times: ``(frames,)`` seconds at which each frame begins, ascending from 0; None for files too long to be scanned.
    tolerance: seconds by which a frame may begin later than asked and still be the one meant (containers round times).
    """

    duration: float
    fps: float
    times: Times | None = None
    tolerance: float = 1e-6

    @classmethod
    def even(cls, frames: int, fps: float) -> Timeline:
        """``frames`` frames at a constant rate."""
        return cls(frames / fps, fps, np.arange(frames) / fps, 1e-3 / fps)

    @property
    def frames(self) -> int:
        """Number of frames; from duration and rate when they were not counted."""
        return max(round(self.duration * self.fps), 1) if self.times is None else len(self.times)

    def numbers(self, times: Times) -> NDArray[np.int64]:
        """The frame shown at each time, 0 before the first and the last one after the end."""
        if self.times is None:
            found = np.floor((times + self.tolerance) * self.fps).astype(np.int64)
        else:
            found = np.searchsorted(self.times, times + self.tolerance, side="right").astype(np.int64) - 1
        return np.clip(found, 0, self.frames - 1)


class Moments(NamedTuple):
    """What to read. times: ``(count·T,)`` seconds, each the beginning of a frame or later; padded: frames per clip that
    repeat others because the video ended.
    """

    times: Times
    padded: int


@dataclass(frozen=True)
class Clips:
    """Which clips are taken of a video.

    frames: T of one clip. fps: frames per second by presentation time: the frame shown at time t is taken, so an fps
    above the file's repeats frames. stride: every n-th frame instead (1 when neither is given). where: the clip's
    place; ``uniform`` spreads ``count`` clips from beginning to end (one: the centre), ``random`` draws one from each of
    ``count`` equal parts. short: what to do with videos shorter than a clip.

    Raises:
        ConfigError: fps and stride together, or several clips all at the start or the centre.
    """

    frames: int
    fps: float | None = None
    stride: int | None = None
    where: Where = "random"
    count: int = 1
    short: Short = "repeat"

    def __post_init__(self) -> None:
        if self.fps is not None and self.stride is not None:
            raise ConfigError("clip.fps and clip.stride exclude each other: set one of them to none")
        if self.frames < 1 or self.count < 1 or (self.fps or 1) <= 0 or (self.stride or 1) < 1:
            raise ConfigError(f"a clip needs frames, fps, stride and count above 0, not {self}")
        if self.count > 1 and self.where in ("centre", "start"):
            raise ConfigError(f"{self.count} clips cannot all lie at the {self.where}: choose uniform or random")

    @classmethod
    def training(cls, clip: ClipConfig) -> Clips:
        """One clip as the recipe places it."""
        return cls(clip.frames, clip.fps, clip.stride, clip.sampling, 1, clip.short)

    @classmethod
    def evaluation(cls, clip: ClipConfig, count: int = 1) -> Clips:
        """``count`` clips spread evenly; one is the centre."""
        return cls(clip.frames, clip.fps, clip.stride, "uniform", count, clip.short)

    def draws(self) -> list[float]:
        """Numbers in [0, 1) that :meth:`moments` needs: from torch's global CPU generator when clips are random."""
        return torch.rand(self.count).tolist() if self.where == "random" else []

    def moments(self, timeline: Timeline, draws: Sequence[float], name: str = "video") -> Moments:
        """Times of the ``count`` clips.

        Args:
            draws: ``count`` numbers in [0, 1) when ``where`` is random. name: how an error calls the video.

        Raises:
            UnreadableVideoError: the video is too short and ``short`` is skip.
        """
        if self.fps is None and timeline.times is not None:
            return self._by_number(timeline.times, draws, name, timeline)
        return self._by_time(timeline, draws, name)

    def _by_number(self, times: Times, draws: Sequence[float], name: str, timeline: Timeline) -> Moments:
        """Every stride-th frame of a video whose frames are counted."""
        step = self.stride or 1
        latest = len(times) - 1 - (self.frames - 1) * step
        if latest < 0:
            return self._padded(np.asarray(times[::step]), timeline, name)
        starts = [min(int(share * (latest + 1)), latest) for share in self._shares(draws, latest + 1)]
        return Moments(np.concatenate([times[first::step][: self.frames] for first in starts]), 0)

    def _by_time(self, timeline: Timeline, draws: Sequence[float], name: str) -> Moments:
        """By seconds; a stride over frames that were not counted is one over the average rate."""
        step = 1 / self.fps if self.fps else (self.stride or 1) / timeline.fps
        last = timeline.duration - min(step, 1 / timeline.fps)  # the latest time at which a frame is asked for
        latest = last - (self.frames - 1) * step
        if latest < -max(timeline.tolerance, 1e-9):
            count = int((max(last, 0.0) + timeline.tolerance) / step) + 1
            return self._padded(np.arange(min(count, self.frames), dtype=np.float64) * step, timeline, name)
        offsets = np.arange(self.frames) * step
        starts = [share * max(latest, 0.0) for share in self._shares(draws, 0)]
        return Moments(np.concatenate([start + offsets for start in starts]), 0)

    def _shares(self, draws: Sequence[float], places: int) -> list[float]:
        """Where the clips begin between the first (0) and the last (1) possible start; of whole ``places`` if given."""
        if self.where == "random":
            assert len(draws) == self.count
            return [(k + draw) / self.count for k, draw in enumerate(draws)]
        last = (places - 1) / places if places else 1.0  # int(share * places) is then the last place, not beyond
        middle = (places - 1) // 2 / places if places else 0.5
        if self.where == "start":
            return [0.0]
        if self.where == "centre" or self.count == 1:
            return [middle + 1e-9]
        return [k / (self.count - 1) * last + 1e-9 for k in range(self.count)]

    def _padded(self, there: Times, timeline: Timeline, name: str) -> Moments:
        """``count`` equal clips of a video that has only the times ``there``."""
        if self.short == "skip":
            reason = f"is too short ({timeline.duration:.3g} s, {timeline.frames} frames) for {self.describe()}"
            raise UnreadableVideoError(name, reason)
        order = np.arange(self.frames)
        chosen = order % len(there) if self.short == "loop" else np.minimum(order, len(there) - 1)
        return Moments(np.tile(there[chosen], self.count), self.frames - len(there))

    def span(self, times: Times, timeline: Timeline) -> tuple[float, float]:
        """Seconds at which clips with these frame times begin and end: the last frame is shown for as long as the others."""
        step = 1 / self.fps if self.fps else (self.stride or 1) / timeline.fps
        start = float(times.min())
        return start, max(min(float(times.max()) + step, timeline.duration), start)

    def describe(self) -> str:
        """``16 frames at 8 fps`` or ``16 frames, one in 4``, as errors name a clip."""
        if self.fps is not None:
            return f"{self.frames} frames at {self.fps:g} fps"
        return f"{self.frames} frames" + (f", one in {self.stride}" if (self.stride or 1) > 1 else "")
