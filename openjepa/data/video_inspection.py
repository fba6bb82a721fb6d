"""What videos are like: containers, codecs, sizes, rates, lengths; and whether clips of a recipe fit them."""

from __future__ import annotations

import os
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from openjepa.data.clips import Clips, Timeline, UnreadableVideoError
from openjepa.data.frame_folder import FrameFolder, is_pattern
from openjepa.data.image_shards import converted, is_parquet
from openjepa.data.listing import LIST_SUFFIXES, Listing, choose_split, scan
from openjepa.data.readers import is_image_name
from openjepa.data.sources import Source, Subset
from openjepa.data.video_listing import is_video_name
from openjepa.data.video_shards import holds_member, is_shards
from openjepa.data.video_source import VideoSource
from openjepa.errors import DataError

#: Videos that :func:`check_clips` opens: enough to see what is usual, and a second of work.
LOOK_AT = 24
_LIST_LINES = 50  # of a list file that tell what it names
_ANY_NAME = re.compile(r"[^\s,]+\.[A-Za-z0-9]{2,5}")


@dataclass(frozen=True)
class Range:
    """Smallest, middle and largest of a number."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Range | None:
        """None of no values."""
        ordered = sorted(values)
        return cls(ordered[0], statistics.median(ordered), ordered[-1]) if ordered else None


@dataclass(frozen=True)
class VideoInfo:
    """One video by its packets. timeline: when frames are shown. variable: its frame rate is."""

    container: str
    codec: str
    height: int
    width: int
    timeline: Timeline
    variable: bool


@dataclass
class VideoSummary:
    """Many videos together.

    sizes: ``WIDTHxHEIGHT`` → videos. fps: rate → videos, rounded to a thousandth. seconds, frames: of a video. hours: of
    all. counted: videos whose frames were counted; longer ones are known by their header. variable: videos of variable
    frame rate. notes: what does not fit the clips asked for.
    """

    count: int
    containers: dict[str, int] = field(default_factory=dict)
    codecs: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    fps: dict[str, int] = field(default_factory=dict)
    seconds: Range | None = None
    frames: Range | None = None
    hours: float = 0.0
    counted: int = 0
    variable: int = 0
    notes: list[str] = field(default_factory=list)


def holds_videos(data: str | os.PathLike[str]) -> bool:
    """Data that means videos without being told so: shards, a video, a pattern, a list of videos, or a folder with more
    of them than images (``.gif`` counts as an image here).
    """
    name = os.fspath(data)
    path = Path(data).expanduser()
    name = converted(path) or name
    if is_shards(name):
        try:
            return holds_member(name, is_video_name) or not holds_member(name, is_image_name)
        except DataError:  # opening it says what is wrong
            return True
    if is_parquet(name):
        return False
    if is_pattern(name) and not path.exists():
        return True
    if path.is_dir():
        root, _ = choose_split(path, None)
        names: Iterator[str] = scan(
            str(root), "", (), Listing(root, []), lambda n: is_video_name(n) or is_image_name(n)
        )
    elif path.suffix.lower() in LIST_SUFFIXES and path.is_file():
        names = _names_in(path)
    else:
        return is_video_name(name) and not is_image_name(name)
    kinds = Counter(is_video_name(found) and not is_image_name(found) for found in names)
    return kinds[True] > kinds[False]


def _names_in(path: Path) -> Iterator[str]:
    """What looks like file names in the first lines of a list."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        for _, line in zip(range(_LIST_LINES), stream, strict=False):
            yield from (n for n in _ANY_NAME.findall(line) if is_video_name(n) or is_image_name(n))


def video_info(source: VideoSource, index: int) -> VideoInfo:
    """One video by its header and packets; nothing is decoded.

    Raises:
        UnreadableVideoError: it cannot be opened.
    """
    with source.video(index) as video:
        if isinstance(video, FrameFolder):
            first = video.files[0]
            try:
                with Image.open(first) as image:
                    width, height = image.size
            except (OSError, ValueError, SyntaxError) as error:
                raise UnreadableVideoError(video.name, f"frame {first.name}: not an image of a known format") from error
            return VideoInfo("frames", first.suffix[1:].lower(), height, width, video.timeline, False)
        return VideoInfo(video.container, video.codec, *video.size, video.timeline, _varies(video.timeline))


def _varies(timeline: Timeline) -> bool:
    """The time from frame to frame differs by more than the container's rounding and a tenth."""
    if timeline.times is None or len(timeline.times) < 3:
        return False
    steps = np.diff(timeline.times)
    return bool(np.ptp(steps) > max(2 * timeline.tolerance, 0.1 * float(np.median(steps))) + 1e-9)


def summarise(infos: Iterable[VideoInfo], count: int, clips: Clips | None = None) -> VideoSummary:
    """Counts over videos. clips: also say what does not fit them."""
    found = list(infos)
    out = VideoSummary(count)
    for name, values in (
        ("containers", [i.container for i in found]),
        ("codecs", [i.codec for i in found]),
        ("sizes", [f"{i.width}x{i.height}" for i in found]),
        ("fps", [f"{i.timeline.fps:.5g}" for i in found]),
    ):
        setattr(out, name, dict(Counter(values).most_common()))
    out.seconds = Range.of(i.timeline.duration for i in found)
    out.frames = Range.of(i.timeline.frames for i in found)
    out.hours = sum(i.timeline.duration for i in found) / 3600
    out.counted = sum(i.timeline.times is not None for i in found)
    out.variable = sum(i.variable for i in found)
    out.notes = clip_notes([i.timeline for i in found], clips) if clips is not None else []
    return out


def clip_notes(timelines: list[Timeline], clips: Clips) -> list[str]:
    """What does not fit between clips and videos, one sentence each.

    Raises:
        DataError: every video is too short, and ``clips.short`` is skip.
    """
    if not timelines:
        return []
    notes, asked = [], clips.describe()
    short = [t for t in timelines if _is_short(t, clips)]
    longest = max(timelines, key=lambda t: t.duration)
    if len(short) == len(timelines):
        fits = _most_frames(longest, clips)
        line = (
            f"no video is as long as a clip of {asked}: the longest of {len(timelines)} has {longest.frames} frames "
            f"({longest.duration:.3g} s); set data.clip.frames to at most {fits}"
        )
        if clips.short == "skip":
            raise DataError(line)
        notes.append(f"{line}, else all are padded (data.clip.short={clips.short})")
    elif short:
        done = "are skipped" if clips.short == "skip" else f"are padded ({clips.short})"
        notes.append(f"{len(short)} of {len(timelines)} videos are shorter than a clip of {asked} and {done}")
    slow = [t.fps for t in timelines if clips.fps is not None and clips.fps > t.fps * 1.01]
    if slow:
        notes.append(
            f"data.clip.fps {clips.fps:g} is above the rate of {len(slow)} of {len(timelines)} videos (from "
            f"{min(slow):.4g} fps): their frames repeat"
        )
    return notes


def _is_short(timeline: Timeline, clips: Clips) -> bool:
    """The video would be padded."""
    try:
        once = Clips(clips.frames, clips.fps, clips.stride, "start", 1, "skip")
        once.moments(timeline, [])
    except UnreadableVideoError:
        return True
    return False


def _most_frames(timeline: Timeline, clips: Clips) -> int:
    """The longest clip that fits."""
    step = 1 / clips.fps if clips.fps else (clips.stride or 1) / timeline.fps
    last = timeline.duration - min(step, 1 / timeline.fps)
    return max(int((last + timeline.tolerance) / step) + 1, 1)


def check_clips(source: Source, on_look: Callable[[int], None] | None = None) -> list[str]:
    """Notes on how the clips of a source fit its videos, from some of them; empty for other sources.

    Args:
        on_look: called with the number of videos opened so far.

    Raises:
        DataError: all videos looked at are too short, and ``clips.short`` is skip.
    """
    inner = source
    while isinstance(inner, Subset):
        inner = inner.source
    if not isinstance(inner, VideoSource):
        return []
    infos = []
    for index in np.unique(np.linspace(0, len(inner) - 1, LOOK_AT).round().astype(int)).tolist():
        try:
            infos.append(video_info(inner, index))
        except UnreadableVideoError:
            continue  # named when it is read
        if on_look:
            on_look(len(infos))
    notes = clip_notes([info.timeline for info in infos], inner.clips)
    sizes = {(info.width, info.height) for info in infos}
    if len(sizes) > 1:
        low, *_, high = sorted(sizes, key=lambda size: (size[0] * size[1], size))
        notes.append(
            f"videos are of {len(sizes)} sizes ({low[0]}x{low[1]} to {high[0]}x{high[1]}): each is cropped and resized to "
            "data.image_size"
        )
    return notes
