"""When the frames of a video file are shown and where decoding can begin, from its packets: nothing is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openjepa.data.clips import Timeline

Ticks = NDArray[np.int64]
#: What tells frames apart. ``pts``: presentation time stamps. ``dts``: decoding time stamps, for AVI with B-frames, which
#: keeps no presentation times (its readers make wrong ones). ``count``: the frame's number from the file's beginning,
#: for streams without time stamps and MPEG program streams (.mpg, .vob), which give others after a seek; such files are
#: always decoded from their beginning.
Clock = Literal["pts", "dts", "count"]


@dataclass(frozen=True)
class FrameTable:
    """Every frame of a file in the order it is shown.

    ticks: ``(frames,)`` ascending, in units of ``base`` seconds. keys: ``(k,)`` ticks of the key frames, at which decoding
    can begin. last: ticks that the last frame is shown.
    """

    ticks: Ticks
    keys: Ticks
    base: float
    clock: Clock
    last: int

    def timeline(self) -> Timeline:
        """As seconds from the first frame on."""
        times = (self.ticks - self.ticks[0]) * self.base
        duration = float(times[-1]) + self.last * self.base
        fps = len(times) / duration
        return Timeline(duration, fps, times, min(self.base, 0.25 / fps))

    def key_before(self, tick: int) -> int:
        """Index in ``keys`` of the last key frame shown at ``tick`` or before, -1 when there is none."""
        return int(np.searchsorted(self.keys, tick, side="right")) - 1


def clock_of(container: Any, stream: Any) -> Clock:
    """What tells the frames of a stream apart, as far as its header says."""
    if container.format.name in ("mpeg", "vob", "svcd"):
        return "count"
    return "dts" if container.format.name == "avi" and stream.codec_context.has_b_frames else "pts"


def frame_rate(stream: Any) -> float:
    """Frames per second as the header has it; 25 when it says nothing."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(rate) if rate else 25.0


def read_table(container: Any, stream: Any) -> FrameTable | None:
    """Read all packets of a stream, from its beginning. None when it has none.

    Damaged packets and those that an edit list leaves out are not counted.
    """
    clock = clock_of(container, stream)
    ticks: list[int] = []
    keys: list[int] = []
    packets = 0
    if clock == "dts" and len(stream.index_entries):  # AVI has them in its index: a long film is not read for them
        entries = list(stream.index_entries)
        return _table([e.timestamp for e in entries], [e.timestamp for e in entries if e.is_keyframe], stream, clock)
    for packet in container.demux(stream):
        if not packet.size or packet.is_corrupt:
            continue
        tick = packet.dts if clock == "dts" else packet.pts
        packets += 1
        if tick is None:
            clock = "count"
            continue
        if packet.is_keyframe:
            keys.append(tick)
        if not packet.is_discard:
            ticks.append(tick)
    if clock == "count":
        rate = frame_rate(stream)
        return FrameTable(np.arange(packets), np.zeros(1, np.int64), 1 / rate, clock, 1) if packets else None
    return _table(ticks, keys, stream, clock) if ticks else None


def _table(ticks: list[int], keys: list[int], stream: Any, clock: Clock) -> FrameTable:
    """A table of time stamps in any order."""
    base = float(stream.time_base or Fraction(1, 25))
    ordered = np.unique(np.array(ticks, np.int64))
    step = int(np.median(np.diff(ordered))) if len(ordered) > 1 else round(1 / frame_rate(stream) / base)
    return FrameTable(ordered, np.unique(np.array(keys, np.int64)), base, clock, max(step, 1))


def header_timeline(container: Any, stream: Any) -> Timeline | None:
    """Duration and rate as the header has them, without frame times; None when it does not say how long it is."""
    base = float(stream.time_base or Fraction(1, 25))
    duration = stream.duration * base if stream.duration else (container.duration or 0) / 1e6
    fps = frame_rate(stream)
    return Timeline(duration, fps, None, min(base, 0.25 / fps)) if duration > 0 else None


def damage(error: Exception) -> str:
    """One line about an error of the decoder."""
    return f"is damaged: {str(getattr(error, 'strerror', None) or error).lower()}"


def open_reason(error: Exception) -> str:
    """One line about a file that cannot be opened."""
    if isinstance(error, FileNotFoundError | IsADirectoryError):
        return str(error.strerror or error).lower()
    text = str(getattr(error, "strerror", None) or error).lower()
    if "invalid data" in text:
        return "is not a video of a known format, or was cut short"
    return f"cannot be opened: {text}"
