"""One video file, opened: frames at given times, decoded from the key frame before them (PyAV)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openjepa.data.clips import Timeline, Times, UnreadableVideoError
from openjepa.data.video_index import (
    Clock,
    FrameTable,
    clock_of,
    damage,
    frame_rate,
    header_timeline,
    open_reason,
    read_table,
)
from openjepa.data.video_run import Run, smaller
from openjepa.errors import require

#: Files up to this size (bytes) and length (seconds) have all their packets read once, so that every frame is known by its
#: time; beyond them the header's duration and rate are believed. A minute of film has 1,500 packets, read in about 4 ms.
SCAN_BYTES = 32 << 20
SCAN_SECONDS = 120.0
#: Decoding on is cheaper than seeking when a key frame lies fewer frames than this ahead.
_NEAR = 4
#: The same without a frame table, in seconds: key frames are rarely further apart, but nothing says where they are.
_NEAR_SECONDS = 3.0
#: Decoders that leave out frames no other is predicted from, and nothing else, when told so (AV1's leaves out more).
_SKIPS = frozenset({"h264", "hevc", "mpeg4", "mpeg2video"})
_ATTACHED_PICTURE = 0x400  # cover art of a sound file is no video


class VideoFile:
    """A video file, open until ``close`` (use ``with``).

    timeline: when frames are shown. decoded, seeks: frames that came out of the decoder and jumps so far. missing: of
    the times last asked for, how many lie after the file's true end although its header announces them.

    Args:
        path: the file. span: first byte and end of the video in it, for a member of a tar shard.
        channels: 3 (RGB) or 1 (gray). at_least: the caller needs no more pixels than this on the short side: frames are
            then made 2, 4, 8 … times smaller as they are converted, as long as both sides stay at least this long.
        table: of an earlier visit, so that packets are not read again. threads: of the decoder.
        scan_bytes: see :data:`SCAN_BYTES`. name: how errors call it.

    Raises:
        UnreadableVideoError: missing, empty, no video in it, or damaged. MissingExtra: PyAV is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        span: tuple[int, int] | None = None,
        channels: int = 3,
        at_least: int | None = None,
        table: FrameTable | None = None,
        threads: int = 1,
        scan_bytes: int = SCAN_BYTES,
        name: str | None = None,
    ) -> None:
        self._av = require("av", "video")
        self.name = os.fspath(path) if name is None else name
        if channels not in (1, 3):
            raise UnreadableVideoError(self.name, f"videos have 1 or 3 channels, and data.channels says {channels}")
        self._path, self._span, self._threads = Path(path), span, threads
        self._format, self._at_least = ("rgb24" if channels == 3 else "gray"), at_least
        self.channels, self.decoded, self.seeks, self.missing = channels, 0, 0, 0
        self._shape: tuple[int, int] | None = None
        self._run: Run | None = None
        self._wanted: tuple[set[int], int] | None = None  # ticks, and the last of them
        size = self._size()
        self._open()
        try:
            self._choose_clock(table, size <= scan_bytes)
        except BaseException:
            self.close()
            raise

    def _size(self) -> int:
        """Bytes of the video."""
        try:
            size = self._path.stat().st_size if self._span is None else self._span[1] - self._span[0]
        except OSError as error:
            raise UnreadableVideoError(self.name, (error.strerror or str(error)).lower()) from error
        if size == 0:
            raise UnreadableVideoError(self.name, "the file is empty")
        return size

    def _open(self) -> None:
        """Open the container and its first video stream. Only this file is ever touched: a playlist names others."""
        url = f"file:{self._path}"
        if self._span is not None:
            url = f"subfile,,start,{self._span[0]},end,{self._span[1]},,:{self._path}"
        options = {"protocol_whitelist": "file,subfile"}
        try:
            self._container = self._av.open(url, metadata_errors="ignore", options=options)
        except self._av.FFmpegError as error:
            raise UnreadableVideoError(self.name, open_reason(error)) from error
        streams = [s for s in self._container.streams.video if not int(s.disposition) & _ATTACHED_PICTURE]
        reason = ""
        if not streams:
            reason = "has sound but no video" if self._container.streams.audio else "has no video in it"
        elif streams[0].codec_context is None:
            reason = "its codec is unknown, or the file was cut before its header"
        if reason:
            self._container.close()
            raise UnreadableVideoError(self.name, reason)
        self._stream = streams[0]
        self._stream.codec_context.thread_count = self._threads
        self._skipping = False

    def _choose_clock(self, table: FrameTable | None, scan: bool) -> None:
        """Know when frames are shown: from an earlier visit, all packets, or the header."""
        timeline = header_timeline(self._container, self._stream)
        scan = scan and (timeline is None or timeline.duration <= SCAN_SECONDS)
        if scan or table is not None or clock_of(self._container, self._stream) != "pts":
            timeline = None
        self._fresh = True  # the container stands at its beginning
        if table is None and timeline is None:
            try:
                table = read_table(self._container, self._stream)
            except self._av.FFmpegError as error:
                raise UnreadableVideoError(self.name, damage(error)) from error
            if table is None:
                raise UnreadableVideoError(self.name, "holds no frames")
            self._fresh = False
            if table.clock == "dts":
                table = self._settled(table)
        self.table = table
        self.clock: Clock = clock_of(self._container, self._stream) if table is None else table.clock
        self._base = float(self._stream.time_base or 1) if table is None else table.base
        self._start = int(self._stream.start_time or 0) if table is None else int(table.ticks[0])
        found = timeline if table is None else table.timeline()
        assert found is not None
        self.timeline: Timeline = found

    def _settled(self, table: FrameTable) -> FrameTable:
        """The table of a ``dts`` clock, on which a frame is dated by the packet after which it appears: a delay later.

        The delay is that of the first frame; as many frames as the decoder holds back come after the last packet.
        """
        self._rewind()
        first = next(self._decode("dts"), None)
        if first is None:
            raise UnreadableVideoError(self.name, "holds no frames")
        held = table.ticks[-1] + table.last  # one frame is flushed out after the last packet
        ticks = np.append(table.ticks[table.ticks >= first[0]], held)
        self._fresh = False
        return FrameTable(ticks, table.keys, table.base, table.clock, table.last)

    @property
    def duration(self) -> float:
        """Seconds from the first frame's beginning to the last one's end."""
        return self.timeline.duration

    @property
    def fps(self) -> float:
        """Frames per second on average."""
        return self.timeline.fps

    @property
    def frames(self) -> int | None:
        """Number of frames; None when the file was too long to count them."""
        return None if self.timeline.times is None else len(self.timeline.times)

    @property
    def codec(self) -> str:
        """Name of the decoder."""
        return str(self._stream.codec_context.codec.name)

    @property
    def container(self) -> str:
        """Name of the container format, the first when FFmpeg gives several."""
        return str(self._container.format.name).split(",")[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as stored; a rotated film is shown with the two exchanged."""
        return int(self._stream.codec_context.height), int(self._stream.codec_context.width)

    def at(self, times: Times) -> Tensor:
        """The frames shown at some times.

        Args:
            times: ``(N,)`` seconds from the first frame, in any order; before 0 the first frame is shown, after the end
                the last one.

        Returns:
            ``(N, C, h, w)`` uint8, upright. Rows of equal frames are equal; the memory is channels-last.

        Raises:
            UnreadableVideoError: the file is damaged where the frames are, or has no frame at all.
        """
        wanted = self._ticks(np.asarray(times, np.float64))
        unique, rows = np.unique(wanted, return_inverse=True)
        out: NDArray[np.uint8] | None = None
        before: Any = None
        self.missing = 0
        exact = self.table is not None and self.clock == "pts" and self.codec in _SKIPS
        self._wanted = (set(unique.tolist()), int(unique[-1])) if exact else None
        for k, tick in enumerate(unique.tolist()):
            frame = self._frame(tick)
            if out is not None and frame is before:
                out[k] = out[k - 1]
                continue
            pixels, before = self._pixels(frame), frame
            if out is None:
                out = np.empty((len(unique), *pixels.shape), np.uint8)
            out[k] = pixels
        assert out is not None
        self._count_missing(wanted)
        if len(rows) > len(unique) or not (rows[1:] > rows[:-1]).all():
            out = out[rows]
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    def decode_all(self) -> int:
        """Decode the whole file; returns how many frames it has.

        Raises:
            UnreadableVideoError: some of it is damaged.
        """
        self._run = self._wanted = None
        self._rewind()
        count = 0
        for tick, frame in self._decode(self.clock):
            count += 1
            if frame.is_corrupt:
                raise UnreadableVideoError(self.name, f"is damaged at {(tick - self._start) * self._base:.2f} s")
        if not count:
            raise UnreadableVideoError(self.name, "holds no frames that can be decoded")
        return count

    def _ticks(self, times: Times) -> NDArray[np.int64]:
        """Times as ticks of the clock; with a table, those of the frames shown."""
        if self.table is not None:
            return self.table.ticks[self.timeline.numbers(times)]
        ticks = np.floor((times + self.timeline.tolerance) / self._base).astype(np.int64) + self._start
        return np.maximum(ticks, self._start)

    def _count_missing(self, wanted: NDArray[np.int64]) -> None:
        """Note times after a premature end: the run ended, and its last frame lasted less than to them."""
        if self.table is None and self._run is not None and self._run.ahead is None:
            end = self._run.position + 1.5 / self.timeline.fps / self._base
            self.missing = int((wanted > end).sum())

    def _frame(self, tick: int) -> Any:
        """The decoded frame shown at a tick; ticks must come in ascending order for speed."""
        if self._run is None or tick < self._run.position or self._far(tick):
            self._run = self._jump(tick)
        frame = self._run.advance(tick)
        if frame is None and self._run.ahead is not None:  # decoded from the beginning, and all frames begin later
            frame = self._run.ahead[1]
        if frame is None:
            raise UnreadableVideoError(self.name, "holds no frames that can be decoded")
        if frame.is_corrupt:
            raise UnreadableVideoError(self.name, f"is damaged at {(tick - self._start) * self._base:.2f} s")
        return frame

    def _far(self, tick: int) -> bool:
        """A jump to ``tick`` saves decoding."""
        assert self._run is not None
        here = self._run.position
        if self.table is None:
            return (tick - here) * self._base > _NEAR_SECONDS
        key = self.table.key_before(tick)
        if key < 0 or self.table.keys[key] <= here or self.table.clock == "count":
            return False
        skipped = np.searchsorted(self.table.ticks, self.table.keys[key]) - np.searchsorted(self.table.ticks, here)
        return bool(skipped > _NEAR)

    def _jump(self, tick: int) -> Run:
        """Begin to decode at the last key frame before ``tick``; further back when the container lands too late."""
        for target in self._targets(tick):
            self.seeks += 1
            try:
                self._container.seek(target, stream=self._stream, backward=True)
            except self._av.FFmpegError:
                continue
            self._fresh = False
            run = Run(self._after_key(target))
            if run.ahead is not None and run.ahead[0] <= tick:
                return run
        self._rewind()
        return Run(self._decode(self.clock))

    def _targets(self, tick: int) -> Iterator[int]:
        """Where to seek, best guess first; none: decode from the beginning."""
        if self.table is None:
            for seconds in (0.0, 2.0, 10.0):
                target = tick - round(seconds / self._base)
                if target > self._start:
                    yield target
        elif self.table.clock != "count":
            key = self.table.key_before(tick)
            for k in (key, key - 1, key - 3):
                if k > 0:
                    yield int(self.table.keys[k])

    def _after_key(self, target: int) -> Iterator[tuple[int, Any]]:
        """Frames after a seek, from the first key frame on: those before it lack what they were predicted from."""
        begun = False
        for tick, frame in self._decode(self.clock, forgiving=True):
            begun = begun or bool(frame.key_frame)
            if begun:
                yield tick, frame

    def _rewind(self) -> None:
        """Go to the file's beginning; by opening it again, since not every container can seek."""
        if not self._fresh:
            self._container.close()
            self._open()
        self._fresh = False

    def _decode(self, clock: Clock, forgiving: bool = False) -> Iterator[tuple[int, Any]]:
        """``(tick, frame)`` from here to the end, as the decoder gives them: in the order they are shown.

        Args:
            forgiving: skip packets that cannot be decoded until the first that can.
        """
        last = -1
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                self._skip(packet)
                frames = [] if packet is None else packet.decode()
            except self._av.EOFError:
                return
            except self._av.FFmpegError as error:
                if forgiving:
                    continue
                raise UnreadableVideoError(self.name, damage(error)) from error
            if packet is None:
                return
            for frame in frames:
                forgiving = False
                self.decoded += 1
                tick = frame.dts if clock == "dts" else frame.pts if clock == "pts" else None
                last = last + self._step() if tick is None else int(tick)
                yield last, frame

    def _skip(self, packet: Any) -> None:
        """Let the decoder pass over a frame that is neither wanted nor used to predict others (most B-frames).

        Frames after the last one wanted are decoded, so that the next call can go on from here.
        """
        wanted = self._wanted
        skip = wanted is not None and packet is not None and packet.pts is not None
        skip = skip and packet.pts < wanted[1] and packet.pts not in wanted[0]  # type: ignore[index]
        if skip != self._skipping:
            self._stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
            self._skipping = skip

    def _step(self) -> int:
        """Ticks from one frame to the next, for frames without a time stamp."""
        table = getattr(self, "table", None)
        if table is not None:
            return int(table.last)
        return max(round(1 / frame_rate(self._stream) / float(self._stream.time_base or 1)), 1)

    def _pixels(self, frame: Any) -> NDArray[np.uint8]:
        """``(h, w, C)`` of a frame, upright; all frames of a file get the size of the first."""
        turns = round((frame.rotation or 0) / 90) % 4
        if self._shape is None:
            self._shape = smaller(frame.height, frame.width, self._at_least)
        height, width = self._shape
        how = {} if (height, width) == (frame.height, frame.width) else {"interpolation": "AREA"}
        pixels = frame.to_ndarray(format=self._format, height=height, width=width, threads=1, **how)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        return np.rot90(pixels, turns) if turns else pixels

    def close(self) -> None:
        """Close the file; harmless twice."""
        self._run = None
        self._container.close()

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
