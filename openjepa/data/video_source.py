"""Clips of video files, frame folders and shards, by index."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openjepa.data.clips import MOST_NAMED, Clips, UnreadableVideoError
from openjepa.data.frame_folder import USUAL_FPS, FrameFolder, is_pattern
from openjepa.data.listing import Listing, PathTable
from openjepa.data.video import SCAN_BYTES, VideoFile
from openjepa.data.video_index import FrameTable
from openjepa.data.video_shards import Members
from openjepa.errors import DataError

#: Frame times are remembered of videos with up to this many frames together, per process: 4 MB.
_REMEMBERED_FRAMES = 500_000


class _Tables:
    """Frame tables of the videos read last, within a budget of frames."""

    def __init__(self) -> None:
        self.tables: OrderedDict[int, FrameTable] = OrderedDict()
        self.frames = 0

    def get(self, index: int) -> FrameTable | None:
        """The table of a video, which then counts as read last."""
        if index in self.tables:
            self.tables.move_to_end(index)
        return self.tables.get(index)

    def put(self, index: int, table: FrameTable) -> None:
        """Remember a table, and forget the oldest ones beyond the budget."""
        if index in self.tables or len(table.ticks) > _REMEMBERED_FRAMES:
            return
        self.tables[index] = table
        self.frames += len(table.ticks)
        while self.frames > _REMEMBERED_FRAMES:
            _, old = self.tables.popitem(last=False)
            self.frames -= len(old.ticks)


@dataclass
class VideoSource:
    """Videos below a root folder, in a list or in shards; see :mod:`openjepa.data.clips` for what ``read`` gives.

    paths: files, folders of frames or patterns (``take/%04d.png``), relative to root; of a shard member, shard and name.
    members: where they lie in tar shards. note: one sentence when
    something was decided for the user. ignored: other files, by suffix. unreadable: folders that could not be listed.
    lines: line of the list file that names a video. at_least: see :class:`openjepa.data.video.VideoFile`. threads: of the
    decoder (the loader has its own processes). padded: item id → padded frames per clip; short: how many there are.
    """

    name: str
    root: Path
    paths: Sequence[str]
    clips: Clips
    classes: list[str] | None = None
    labels: NDArray[np.int64] | None = None
    channels: int = 3
    note: str = ""
    ignored: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    lines: NDArray[np.int64] | None = None
    members: Members | None = None
    at_least: int | None = None
    threads: int = 1
    padded: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise DataError(f"videos have 3 channels (or 1 for gray) and data.channels says {self.channels}")
        self._tables = _Tables()
        self._short: NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls, listing: Listing, name: str, clips: Clips, channels: int, members: Members | None = None
    ) -> VideoSource:
        """The source of a listing; paths and labels are kept compactly."""
        return cls(
            name,
            listing.root,
            PathTable(listing.paths),
            clips,
            listing.classes,
            None if listing.labels is None else np.asarray(listing.labels, np.int64),
            channels,
            listing.note,
            dict(listing.ignored),
            listing.unreadable,
            None if listing.lines is None else np.asarray(listing.lines, np.int64),
            members,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def label(self, index: int) -> int:
        """Class of a video, -1 when it has none."""
        return -1 if self.labels is None else int(self.labels[index])

    def item_id(self, index: int) -> str:
        """Path below the root, printable even when its bytes are not UTF-8; of a shard member ``shard.tar/name.mp4``."""
        return os.fsencode(self.paths[index]).decode("utf-8", "backslashreplace")

    def path(self, index: int) -> Path:
        """Full path of a video; of a shard member, that of its shard."""
        if self.members is not None:
            return self.root / self.members.shards[int(self.members.places[index, 0])]
        return self.root / self.paths[index]

    def video(self, index: int, *, scan_bytes: int = SCAN_BYTES) -> VideoFile | FrameFolder:
        """Open a video; close it, or use ``with``.

        Raises:
            UnreadableVideoError: it cannot be opened, or holds no video.
        """
        path, name = self.path(index), self.item_id(index)
        try:
            if self.members is None and (is_pattern(str(path)) or path.is_dir()):
                fps = self.clips.fps or USUAL_FPS
                return FrameFolder(path, channels=self.channels, at_least=self.at_least, fps=fps, name=name)
            video = VideoFile(
                path,
                span=self.span(index),
                channels=self.channels,
                at_least=self.at_least,
                table=self._tables.get(index),
                threads=self.threads,
                scan_bytes=scan_bytes,
                name=name,
            )
        except UnreadableVideoError as error:
            raise self._with_line(error, index) from error
        if video.table is not None:
            self._tables.put(index, video.table)
        return video

    def span(self, index: int) -> tuple[int, int] | None:
        """First byte and end of a shard member, None of files."""
        if self.members is None:
            return None
        _, start, end = self.members.places[index].tolist()
        return start, end

    def _with_line(self, error: UnreadableVideoError, index: int) -> UnreadableVideoError:
        """The error with the line of the list file, where the video comes from one."""
        if self.lines is None:
            return error
        return UnreadableVideoError(error.name, f"{error.reason} (line {self.lines[index]} of {self.name})")

    def read(self, index: int) -> Tensor:
        """Clips of one video: ``(count·T, C, h, w)`` uint8.

        Raises:
            UnreadableVideoError: it cannot be read, or is too short and ``clips.short`` is skip.
        """
        return self.read_timed(index)[0]

    def read_timed(self, index: int) -> tuple[Tensor, float, float]:
        """What :meth:`read` gives, and the seconds at which the clips (of several, the first and the last) begin and end."""
        draws = self.clips.draws()  # before anything can fail: the same numbers whatever the file is like
        with self.video(index) as video:
            try:
                moments = self.clips.moments(video.timeline, draws, video.name)
                frames = video.at(moments.times)
                if video.missing and self.clips.short == "skip":
                    raise UnreadableVideoError(video.name, "ends before its header says, and within the clip")
            except UnreadableVideoError as error:
                raise self._with_line(error, index) from error
            if moments.padded or video.missing:
                self._note_short(index, moments.padded or video.missing)
            return frames, *self.clips.span(moments.times, video.timeline)

    def _note_short(self, index: int, padded: int) -> None:
        """Remember that a video was padded."""
        if self._short is None:
            self._short = np.zeros(len(self), np.bool_)
        self._short[index] = True
        if len(self.padded) < MOST_NAMED:
            self.padded[self.item_id(index)] = padded

    @property
    def short(self) -> int:
        """Number of videos found shorter than their clip so far, in this process."""
        return 0 if self._short is None else int(self._short.sum())

    def sized(self, at_least: int | None) -> VideoSource:
        """The same videos, allowed to be made smaller as long as the short side keeps ``at_least`` pixels."""
        return self._again(replace(self, at_least=at_least, padded={}))

    def sampled(self, clips: Clips) -> VideoSource:
        """The same videos with other clips."""
        return self._again(replace(self, clips=clips, padded={}))

    def _again(self, other: VideoSource) -> VideoSource:
        """``other``, which knows the same frame times."""
        other._tables = self._tables
        return other

    def fingerprint(self) -> str:
        """SHA-256 over clips, channels and each file's path, size and modification time; missing files count as such."""
        digest = hashlib.sha256(f"videos {self.channels} {self.at_least} {self.clips}\n".encode())
        states: dict[Path, str] = {}
        for index in range(len(self)):
            path = self.path(index)
            if path not in states:
                states = {} if self.members is None else states  # shards are few, files many
                states[path] = _state(path)
            place = self.span(index) or ""
            line = f" {states[path]} {place} {self.label(index)}\n"
            digest.update(os.fsencode(self.root / self.paths[index]) + line.encode())
        return digest.hexdigest()


def _state(path: Path) -> str:
    """Size and time of a file or folder; a pattern counts by its folder."""
    try:
        status = (path.parent if is_pattern(str(path)) else path).stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        return "missing"
