"""Where samples come from: a folder, a list file, one file, shards, or the built-in scenes, of images or of clips; subsets
and held-out shares of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openjepa.data.channels import UnreadableImageError
from openjepa.data.clips import Clips
from openjepa.data.frame_folder import is_pattern
from openjepa.data.image_shards import ParquetImages, ShardImages, converted, is_parquet
from openjepa.data.listing import LIST_SUFFIXES, Listing, PathTable, list_file, list_folder, missing_path
from openjepa.data.readers import is_image_name, read_image
from openjepa.data.scene_clips import SceneClips
from openjepa.data.scenes import SceneSource
from openjepa.data.seeds import permutation
from openjepa.data.video_listing import is_video_name, list_video_folder, list_videos
from openjepa.data.video_shards import is_shards, list_shards
from openjepa.data.video_source import VideoSource
from openjepa.errors import DataError

BUILTINS = ("scenes",)


@runtime_checkable
class Source(Protocol):
    """Samples by index.

    name: how reports call it. classes: names by label, None when unlabelled.
    """

    name: str
    classes: list[str] | None

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def label(self, index: int) -> int:
        """Class of a sample, -1 when it has none."""
        ...

    def item_id(self, index: int) -> str:
        """Name of a sample that stays the same between runs: a path below the root, or ``scenes/00012``."""
        ...

    def read(self, index: int) -> Tensor:
        """``(C, H, W)`` uint8, or float32 in 0..1; of a video ``(count·T, C, H, W)`` uint8 (see
        :mod:`openjepa.data.clips`). Raises DataError when it cannot be read.
        """
        ...

    def fingerprint(self) -> str:
        """Identity of the content, for caches: paths, sizes and times of files, or generator and seed."""
        ...


@dataclass
class FileSource:
    """Image files below a root folder.

    note: one sentence when something was decided for the user. ignored: files that are no images, by suffix.
    unreadable: folders that could not be listed. at_least: see :func:`openjepa.data.readers.read_image`.
    """

    name: str
    root: Path
    paths: Sequence[str]
    classes: list[str] | None = None
    labels: NDArray[np.int64] | None = None
    channels: int = 3
    note: str = ""
    ignored: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    lines: NDArray[np.int64] | None = None
    at_least: int | None = None

    @classmethod
    def of(cls, listing: Listing, name: str, channels: int) -> FileSource:
        """The source of a listing; paths and labels are kept compactly."""
        labels = None if listing.labels is None else np.asarray(listing.labels, np.int64)
        return cls(
            name,
            listing.root,
            PathTable(listing.paths),
            listing.classes,
            labels,
            channels,
            listing.note,
            dict(listing.ignored),
            listing.unreadable,
            None if listing.lines is None else np.asarray(listing.lines, np.int64),
        )

    def __len__(self) -> int:
        return len(self.paths)

    def label(self, index: int) -> int:
        """Class of a sample, -1 when it has none."""
        return -1 if self.labels is None else int(self.labels[index])

    def item_id(self, index: int) -> str:
        """Path below the root, printable even when its bytes are not UTF-8."""
        return os.fsencode(self.paths[index]).decode("utf-8", "backslashreplace")

    def path(self, index: int) -> Path:
        """Full path of a sample."""
        return self.root / self.paths[index]

    def read(self, index: int) -> Tensor:
        """Decode one image; see :func:`openjepa.data.readers.read_image`."""
        try:
            return read_image(self.path(index), self.channels, at_least=self.at_least, name=self.item_id(index))
        except UnreadableImageError as error:
            if self.lines is None:
                raise
            reason = f"{error.reason} (line {self.lines[index]} of {self.name})"
            raise UnreadableImageError(error.name, reason) from error

    def sized(self, at_least: int | None) -> FileSource:
        """The same source, allowed to decode JPEGs smaller as long as their short side keeps ``at_least`` pixels."""
        return replace(self, at_least=at_least)

    def fingerprint(self) -> str:
        """SHA-256 over channels and each file's path, size and modification time; missing files count as such."""
        digest = hashlib.sha256(f"files {self.channels} {self.at_least}\n".encode())
        for index in range(len(self)):
            path = self.path(index)
            try:
                status = path.stat()
                state = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                state = "missing"
            digest.update(os.fsencode(path) + f" {state} {self.label(index)}\n".encode())
        return digest.hexdigest()


class Subset:
    """Some samples of a source, in the given order."""

    def __init__(self, source: Source, indices: Sequence[int] | NDArray[np.int64] | Tensor) -> None:
        self.source = source
        self.indices = np.asarray(indices, np.int64)
        if len(self.indices) and not (self.indices.min() >= 0 and self.indices.max() < len(source)):
            raise DataError(f"subset of {source.name}: indices must lie in 0..{len(source) - 1}")
        self.name = source.name
        self.classes = source.classes
        self.note: str = getattr(source, "note", "")

    def __len__(self) -> int:
        return len(self.indices)

    def label(self, index: int) -> int:
        """Class of a sample, -1 when it has none."""
        return self.source.label(int(self.indices[index]))

    def item_id(self, index: int) -> str:
        """The sample's name in the whole source."""
        return self.source.item_id(int(self.indices[index]))

    def read(self, index: int) -> Tensor:
        """Read one sample of the whole source."""
        return self.source.read(int(self.indices[index]))

    def sized(self, at_least: int | None) -> Subset:
        """The same samples of :func:`with_hint` of the source."""
        return Subset(with_hint(self.source, at_least), self.indices)

    def sampled(self, clips: Clips) -> Subset:
        """The same samples of :func:`with_clips` of the source."""
        return Subset(with_clips(self.source, clips), self.indices)

    def fingerprint(self) -> str:
        """Of the whole source and the chosen indices."""
        return hashlib.sha256(self.source.fingerprint().encode() + self.indices.tobytes()).hexdigest()


def with_hint(source: Source, at_least: int | None) -> Source:
    """Tell a source that can use it (``sized``) how many pixels are needed at least; others are returned as they
    are.
    """
    sized = getattr(source, "sized", None)
    return source if sized is None or at_least is None else sized(at_least)


def with_clips(source: Source, clips: Clips) -> Source:
    """The same videos with other clips; sources of images are returned as they are."""
    sampled = getattr(source, "sampled", None)
    return source if sampled is None else sampled(clips)


def labels_of(source: Source) -> NDArray[np.int64]:
    """Labels of all samples, -1 where there is none."""
    return np.fromiter((source.label(i) for i in range(len(source))), np.int64, len(source))


def holdout(source: Source, share: float, seed: int) -> tuple[Subset, Subset]:
    """Split a source at random into train and validation, by class when it is labelled.

    Every class of at least two samples keeps at least one on each side.

    Args:
        share: part that goes to validation, in (0, 1).

    Raises:
        DataError: fewer than two samples, or a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise DataError(f"held-out share {share} must lie between 0 and 1")
    if len(source) < 2:
        raise DataError(f"{source.name} has {len(source)} image: a held-out share needs at least 2")
    labels = labels_of(source) if source.classes else np.zeros(len(source), np.int64)
    held = np.zeros(len(source), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held[members[permutation(len(members), seed, int(label))[:count]]] = True
    if not held.any():  # every class has one sample
        held[permutation(len(source), seed)[: max(round(share * len(source)), 1)]] = True
    return Subset(source, np.flatnonzero(~held)), Subset(source, np.flatnonzero(held))


def open_source(
    data: str | os.PathLike[str],
    *,
    channels: int = 3,
    split: Literal["train", "val"] | None = None,
    count: int | None = None,
    seed: int = 0,
    scene_size: int = 64,
    clip: Clips | None = None,
) -> Source:
    """Open what a user calls their data.

    Args:
        data: a folder (nested or flat; its first-level subfolders are classes when there are at least two and no image
            lies beside them), a list file (.txt .lst .csv .tsv), one image, shards (``x-{000..010}.tar`` or ``.parquet``, or
            what ``openjepa data convert`` wrote), or ``scenes`` (a folder of that name: ``./scenes``).
        channels: channels of every sample.
        split: of a folder with ``train/`` and ``val/`` (or ``test/``) inside, a list with a split column, or
            ``scenes``. By default such a folder means its ``train/``, and ``source.note`` says so.
        count, seed, scene_size: number, seed and side in pixels of the built-in scenes; files do not use them.
        clip: open videos and take these clips of them. ``data`` may then also be one video, a folder of numbered frames,
            a pattern of them (``take/%05d.png``), or WebDataset shards (``shards-{000..010}.tar``).

    Raises:
        DataError: one line: nothing there (with the nearest path that exists), no images, a bad list line.
    """
    if split not in (None, "train", "val"):
        raise DataError(f"split '{split}' is not one of train, val")
    if clip is not None:
        return _open_videos(data, clip, channels, split, (count, scene_size, seed))
    if isinstance(data, str) and data == "scenes":
        return SceneSource(
            4096 if count is None else count, scene_size, seed, split=split or "train", channels=channels
        )
    name = os.fspath(data)
    path = Path(data).expanduser()
    try:
        name = converted(path) or name
        if is_shards(name):
            return ShardImages.open(name, channels)
        if is_parquet(name):
            return ParquetImages.open(name, channels)
        if path.is_dir():
            return FileSource.of(list_folder(path, split), str(path), channels)
        if not path.exists():
            raise missing_path(path, BUILTINS)
    except PermissionError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if path.suffix.lower() in LIST_SUFFIXES:
        return FileSource.of(list_file(path, split), str(path), channels)
    if is_image_name(path):
        return FileSource.of(Listing(path.parent, [path.name]), str(path), channels)
    if is_video_name(path):
        raise DataError(f"{path} is a video: choose a recipe with clips, as vjepa-tiny")
    raise DataError(f"{path} is neither a folder, a list file ({', '.join(LIST_SUFFIXES)}) nor an image this can read")


def _open_videos(
    data: str | os.PathLike[str],
    clip: Clips,
    channels: int,
    split: Literal["train", "val"] | None,
    scenes: tuple[int | None, int, int],
) -> Source:
    """:func:`open_source` of videos. scenes: count, size and seed of the built-in ones."""
    if isinstance(data, str) and data == "scenes":
        count, size, seed = scenes
        made = 4096 if count is None else count
        return SceneClips(made, size, seed, split=split or "train", channels=channels, clips=clip)
    name = os.fspath(data)
    path = Path(data).expanduser()
    try:
        name = converted(path) or name
        if is_parquet(name):
            raise DataError(f"{name}: clips are read at random from .tar shards, not from Parquet files")
        if path.is_dir() and not is_shards(name):
            return VideoSource.of(list_video_folder(path, split), str(path), clip, channels)
        if is_shards(name):
            listing, members = list_shards(name)
            return VideoSource.of(listing, name, clip, channels, members)
        if is_pattern(name) and not path.exists():
            return VideoSource.of(Listing(path.parent, [path.name]), name, clip, channels)
        if not path.exists():
            raise missing_path(path, BUILTINS)
    except PermissionError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if path.suffix.lower() in LIST_SUFFIXES:
        return VideoSource.of(list_videos(path, split), str(path), clip, channels)
    if is_video_name(path):
        return VideoSource.of(Listing(path.parent, [path.name]), str(path), clip, channels)
    if is_image_name(path):
        raise DataError(f"{path} is one image, no video: choose an image recipe, or name a folder of numbered frames")
    raise DataError(f"{path} is neither a folder, a list file ({', '.join(LIST_SUFFIXES)}), shards (.tar) nor a video")
