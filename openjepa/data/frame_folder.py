"""A video stored as numbered images: a folder of them, or a pattern such as ``take3/frame_%05d.png``."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from openjepa.data.channels import UnreadableImageError
from openjepa.data.clips import Timeline, Times, UnreadableVideoError
from openjepa.data.readers import is_image_name, read_image

#: Frames per second of a folder of frames, where nobody says it and a rate is needed.
USUAL_FPS = 25.0
_NUMBERED = re.compile(r"^(.*?)(\d+)$")
_PATTERN = re.compile(r"%0?\d*d")
_EVEN_SHARE = 0.9  # of the steps between numbers that must be alike


def is_pattern(path: str) -> bool:
    """The last part of a path has a printf number in it (``%d``, ``%05d``) and ends like an image."""
    name = os.path.basename(path)
    return is_image_name(name) and len(_PATTERN.findall(name)) == 1


def numbered(names: Sequence[str]) -> list[str] | None:
    """Image names in the order of their numbers when they can be frames of one video, else None.

    That is: at least two, all of one prefix and ending, distinct numbers, and nearly all of them evenly spaced
    (photographs that a camera numbered have gaps).
    """
    found: list[tuple[int, str]] = []
    kinds = set()
    for name in names:
        stem, ending = os.path.splitext(name)
        match = _NUMBERED.match(stem)
        if match is None:
            return None
        kinds.add((match[1], ending.lower()))
        found.append((int(match[2]), name))
    if len(found) < 2 or len(kinds) != 1:
        return None
    found.sort()
    steps = Counter(b[0] - a[0] for a, b in itertools.pairwise(found))
    if min(steps) < 1 or max(steps.values()) < _EVEN_SHARE * (len(found) - 1):
        return None
    return [name for _, name in found]


def frame_files(path: Path, name: str) -> list[Path]:
    """Images of a folder or pattern, by number.

    Raises:
        UnreadableVideoError: nothing there, or images that are no frames of one video.
    """
    folder, pattern = (path.parent, path.name) if is_pattern(str(path)) else (path, None)
    try:
        names = [entry for entry in os.listdir(folder) if is_image_name(entry)]
    except OSError as error:
        raise UnreadableVideoError(name, (error.strerror or str(error)).lower()) from error
    if pattern is not None:
        head, tail = _PATTERN.split(pattern)
        fits = re.compile(re.escape(head) + r"(\d+)" + re.escape(tail) + "$")
        matched = sorted((int(m[1]), entry) for entry in names if (m := fits.match(entry)))
        if not matched:
            raise UnreadableVideoError(name, f"no image in {folder} fits the pattern {pattern}")
        return [folder / entry for _, entry in matched]
    ordered = numbered(names) if len(names) > 1 else names
    if not ordered:
        what = "holds images whose names are not numbered like frames of one video" if names else "holds no images"
        raise UnreadableVideoError(name, what)
    return [folder / entry for entry in ordered]


class FrameFolder:
    """Numbered images as an opened video, alike :class:`openjepa.data.video.VideoFile`.

    Args:
        path: folder or pattern. channels, at_least: see :func:`openjepa.data.readers.read_image`.
        fps: at which the frames were taken; nothing in the files says it.

    Raises:
        UnreadableVideoError: no numbered images there.
    """

    missing = 0

    def __init__(
        self,
        path: Path,
        *,
        channels: int = 3,
        at_least: int | None = None,
        fps: float = USUAL_FPS,
        name: str | None = None,
    ) -> None:
        self.name = str(path) if name is None else name
        self.files = frame_files(path, self.name)
        self.channels, self.at_least, self.decoded = channels, at_least, 0
        self.timeline = Timeline.even(len(self.files), fps)

    @property
    def duration(self) -> float:
        """Seconds at the rate given."""
        return self.timeline.duration

    @property
    def fps(self) -> float:
        """The rate given."""
        return self.timeline.fps

    @property
    def frames(self) -> int | None:
        """Number of images."""
        return len(self.files)

    def at(self, times: Times) -> Tensor:
        """The frames shown at some times: ``(N,)`` seconds to ``(N, C, h, w)`` uint8.

        Raises:
            UnreadableVideoError: an image cannot be read, is not 8-bit, or is of another size than the first.
        """
        numbers = self.timeline.numbers(np.asarray(times, np.float64))
        unique, rows = np.unique(numbers, return_inverse=True)
        frames = [self._read(int(number)) for number in unique]
        sizes = {tuple(frame.shape) for frame in frames}
        if len(sizes) > 1:
            shown = " and ".join(f"{s[2]}x{s[1]}" for s in sorted(sizes)[:2])
            raise UnreadableVideoError(
                self.name, f"its images differ in size ({shown}): are they photographs, no frames?"
            )
        out = torch.stack(frames)
        return out[torch.from_numpy(rows)] if len(rows) > len(unique) or not (rows[1:] > rows[:-1]).all() else out

    def decode_all(self) -> int:
        """Read every frame; returns how many there are. Raises UnreadableVideoError at the first bad one."""
        for time in self.timeline.times if self.timeline.times is not None else ():
            self.at(np.array([time]))
        return len(self.files)

    def _read(self, number: int) -> Tensor:
        """One frame."""
        self.decoded += 1
        try:
            frame = read_image(self.files[number], self.channels, at_least=self.at_least)
        except UnreadableImageError as error:
            raise UnreadableVideoError(self.name, f"frame {self.files[number].name}: {error.reason}") from error
        return frame if frame.dtype == torch.uint8 else (frame * 255).round().to(torch.uint8)

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> FrameFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
