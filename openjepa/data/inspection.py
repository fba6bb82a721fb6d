"""What a user's images or videos are like, from file headers (``inspect``), and whether all can be decoded (``verify``)."""

from __future__ import annotations

import hashlib
import io
import os
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from openjepa.data.arrays import channels_last
from openjepa.data.channels import UnreadableImageError
from openjepa.data.clips import Clips, UnreadableVideoError
from openjepa.data.image_shards import ParquetImages, ShardImages
from openjepa.data.readers import pillow_formats
from openjepa.data.sources import FileSource, Source, open_source
from openjepa.data.video_inspection import VideoInfo, VideoSummary, holds_videos, summarise, video_info
from openjepa.data.video_source import VideoSource
from openjepa.data.workers import available_cores
from openjepa.errors import DataError

Progress = Callable[[int, int], None]  # (done, total)
_HEADER_BYTES = 1 << 16
_SUFFIX_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "NPY": (".npy",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2",),
}
_MODE_CHANNELS = {"1": 1, "L": 1, "P": 3, "LA": 2, "PA": 4, "RGBA": 4, "CMYK": 4, "I;16": 1, "I;16B": 1, "I": 1, "F": 1}


@dataclass(frozen=True)
class Spread:
    """Smallest, middle and largest of a number, in pixels."""

    min: int
    median: int
    max: int

    @classmethod
    def of(cls, values: Iterable[int]) -> Spread | None:
        """None of no values."""
        ordered = sorted(values)
        return cls(ordered[0], round(statistics.median(ordered)), ordered[-1]) if ordered else None


@dataclass
class Inspection:
    """What is in a folder or list, by file headers.

    images: files taken for images. bytes: their size. formats, modes, channels: counts by content. classes: images per
    class, None when unlabelled. bad: path → reason of files whose header is unreadable. mismatched: path → true format
    of misnamed files (they are read all the same). duplicates: groups of byte-identical files. ignored: other files by
    suffix. unreadable: folders that could not be listed. videos: what they are like when the data is videos; ``images`` is
    then 0, and ``bytes``, ``classes``, ``bad`` and ``duplicates`` are of the videos.
    """

    data: str
    root: str
    note: str = ""
    images: int = 0
    bytes: int = 0
    width: Spread | None = None
    height: Spread | None = None
    formats: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)
    classes: dict[str, int] | None = None
    bad: dict[str, str] = field(default_factory=dict)
    mismatched: dict[str, str] = field(default_factory=dict)
    duplicates: list[list[str]] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    videos: VideoSummary | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return asdict(self)


@dataclass
class Verification:
    """Result of decoding everything. ok: readable images, or videos (``kind``); bad: path → reason; unreadable: folders that
    could not be listed. frames: decoded of videos.
    """

    ok: int
    bad: dict[str, str]
    seconds: float
    unreadable: dict[str, str] = field(default_factory=dict)
    kind: Literal["image", "video"] = "image"
    frames: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, strings and numbers."""
        return asdict(self)


@dataclass(frozen=True)
class _Header:
    """What a file says of itself before its pixels."""

    format: str
    mode: str
    width: int
    height: int
    channels: int


def _npy_header(data: bytes, channels: int) -> _Header:
    """Header of a ``.npy`` file."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    height, width, count = channels_last(np.broadcast_to(np.uint8(0), shape), channels).shape
    return _Header("NPY", str(dtype), width, height, count)


def _tiff_header(path: Path) -> _Header:
    """Header of a TIFF that Pillow does not know."""
    from openjepa.errors import require

    with require("tifffile", "images").TiffFile(path) as file:
        page = file.pages[0]
        count = page.samplesperpixel
        return _Header("TIFF", f"{count}×{page.dtype}", page.imagewidth, page.imagelength, count)


def read_header(path: Path, channels: int = 3) -> _Header:
    """Format, mode and size of an image file, without its pixels.

    Raises:
        UnreadableImageError: it cannot be opened or its header is damaged.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(_HEADER_BYTES)
            if not start:
                raise UnreadableImageError(str(path), "the file is empty")
            if start[:6] == b"\x93NUMPY":
                return _npy_header(start, channels)
            stream.seek(0)
            try:
                with Image.open(stream, formats=pillow_formats()) as image:
                    count = _MODE_CHANNELS.get(image.mode, len(image.getbands()))
                    return _Header(image.format or "?", image.mode, image.width, image.height, count)
            except Image.UnidentifiedImageError:
                if start[:2] not in (b"II", b"MM"):
                    raise UnreadableImageError(str(path), "not an image of a known format") from None
        return _tiff_header(path)
    except OSError as error:
        raise UnreadableImageError(str(path), (error.strerror or str(error)).lower()) from error
    except DataError:
        raise
    except Exception as error:  # decoders raise anything on damaged bytes
        raise UnreadableImageError(str(path), str(error) or type(error).__name__) from error


def _pool_map(work: Callable[[int], Any], count: int) -> Iterator[tuple[int, Any]]:
    """``(i, work(i))`` in order from a thread pool (decoders release the interpreter lock), a few in flight at a
    time.
    """
    threads = available_cores() + 1
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, count, 64 * threads):
            part = range(start, min(start + 64 * threads, count))
            yield from zip(part, pool.map(work, part), strict=True)


def _duplicates(source: FileSource | VideoSource, sizes: dict[int, int]) -> list[list[str]]:
    """Groups of byte-identical files; only files of equal size are read."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, size in sizes.items():
        by_size[size].append(index)
    groups: dict[bytes, list[str]] = defaultdict(list)
    for members in by_size.values():
        if len(members) < 2:
            continue
        for index in members:
            try:
                digest = hashlib.blake2b(source.path(index).read_bytes(), digest_size=20).digest()
            except OSError:
                continue  # listed as bad
            groups[digest].append(source.item_id(index))
    return [group for group in groups.values() if len(group) > 1]


def _class_counts(source: Source) -> dict[str, int] | None:
    """Images per class."""
    if not source.classes:
        return None
    counts = Counter(source.label(i) for i in range(len(source)))
    named = {name: counts.get(k, 0) for k, name in enumerate(source.classes)}
    return named | ({"(no label)": counts[-1]} if counts.get(-1) else {})


def _inspect_files(source: FileSource, out: Inspection, on_progress: Progress | None) -> dict[int, int]:
    """Fill ``out`` from the headers; returns file sizes by index."""
    widths, heights, sizes = [], [], {}
    formats, modes, channels = Counter[str](), Counter[str](), Counter[str]()

    def look(index: int) -> tuple[int, _Header | str]:
        path = source.path(index)
        try:
            return path.stat().st_size, read_header(path, source.channels)
        except OSError as error:
            return 0, (error.strerror or str(error)).lower()
        except UnreadableImageError as error:
            return os.path.getsize(path), error.reason

    for index, (size, header) in _pool_map(look, len(source)):
        out.bytes += size
        sizes[index] = size
        if isinstance(header, str):
            out.bad[source.item_id(index)] = header
        else:
            widths.append(header.width)
            heights.append(header.height)
            formats[header.format] += 1
            modes[header.mode] += 1
            channels[str(header.channels)] += 1
            known = _SUFFIX_FORMATS.get(header.format, ())
            if known and source.path(index).suffix.lower() not in known:
                out.mismatched[source.item_id(index)] = header.format
        if on_progress:
            on_progress(index + 1, len(source))
    out.width, out.height = Spread.of(widths), Spread.of(heights)
    out.formats, out.modes, out.channels = (dict(c.most_common()) for c in (formats, modes, channels))
    return sizes


def inspect(
    data: str | os.PathLike[str],
    *,
    channels: int = 3,
    split: Literal["train", "val"] | None = None,
    duplicates: bool = True,
    video: bool | None = None,
    clip: Clips | None = None,
    on_progress: Progress | None = None,
) -> Inspection:
    """Look at a folder, list file, shards or built-in without decoding pixels.

    Args:
        channels: decides which axis of a ``.npy`` file is channels. duplicates: also look for byte-identical files.
        video: take the data for videos, or for images; by default what there is more of. clip: also say how such clips
            fit the videos.
        on_progress: called with (done, total).

    Raises:
        DataError: nothing there to look at.
    """
    if clip is not None or (holds_videos(data) if video is None else video):
        return _inspect_videos(data, clip, split, duplicates, on_progress)
    source = open_source(data, channels=channels, split=split)
    root = str(source.root) if isinstance(source, FileSource) else source.name
    out = Inspection(os.fspath(data), root, getattr(source, "note", ""), len(source), classes=_class_counts(source))
    if isinstance(source, FileSource):
        out.ignored, out.unreadable = source.ignored, source.unreadable
        sizes = _inspect_files(source, out, on_progress)
        if duplicates:
            out.duplicates = _duplicates(source, sizes)
        return out
    count, height, width = source.read(0).shape
    if isinstance(source, ShardImages | ParquetImages):
        out.formats = {"in shards (data verify reads each)": len(source)}
        return out
    out.width, out.height = Spread(width, width, width), Spread(height, height, height)
    out.formats, out.channels = {"generated": len(source)}, {str(count): len(source)}
    return out


def _inspect_videos(
    data: str | os.PathLike[str],
    clip: Clips | None,
    split: Literal["train", "val"] | None,
    duplicates: bool,
    on_progress: Progress | None,
) -> Inspection:
    """:func:`inspect` of videos: their headers and packets are read."""
    source = open_source(data, split=split, clip=clip or Clips(1, where="start"))
    root = str(source.root) if isinstance(source, VideoSource) else source.name
    out = Inspection(os.fspath(data), root, getattr(source, "note", ""), classes=_class_counts(source))
    if not isinstance(source, VideoSource):
        height, width = source.read(0).shape[-2:]
        out.videos = VideoSummary(len(source), sizes={f"{width}x{height}": len(source)})
        return out
    out.ignored, out.unreadable = source.ignored, source.unreadable
    infos: list[VideoInfo] = []

    def look(index: int) -> VideoInfo | str:
        try:
            return video_info(source, index)
        except UnreadableVideoError as error:
            return error.reason

    for index, info in _pool_map(look, len(source)):
        if isinstance(info, str):
            out.bad[source.item_id(index)] = info
        else:
            infos.append(info)
        if on_progress:
            on_progress(index + 1, len(source))
    sizes = {index: size for index in range(len(source)) if (size := _bytes_of(source, index)) is not None}
    out.bytes = sum(sizes.values())
    if duplicates and source.members is None:
        out.duplicates = _duplicates(source, {index: size for index, size in sizes.items() if size})
    out.videos = summarise(infos, len(source), clip)
    return out


def _bytes_of(source: VideoSource, index: int) -> int | None:
    """Bytes of a video file or shard member; None of folders and of what is not there."""
    span = source.span(index)
    path = source.path(index)
    return span[1] - span[0] if span else path.stat().st_size if path.is_file() else None


def verify(
    data: str | os.PathLike[str],
    on_progress: Progress | None = None,
    *,
    channels: int = 3,
    split: Literal["train", "val"] | None = None,
    video: bool | None = None,
) -> Verification:
    """Decode every image, as training will, or every frame of every video.

    Args:
        on_progress: called with (done, total). video: take the data for videos, or for images; by default what there is
            more of.

    Raises:
        DataError: nothing there to verify.
    """
    clips = holds_videos(data) if video is None else video
    source = open_source(data, channels=channels, split=split, clip=Clips(1, where="start") if clips else None)
    started = time.monotonic()
    bad: dict[str, str] = {}
    frames = 0

    def decode(index: int) -> str | int:
        try:
            if isinstance(source, VideoSource):
                with source.video(index) as opened:
                    return opened.decode_all()
            return len(source.read(index))
        except DataError as error:
            return str(getattr(error, "reason", error))

    for index, found in _pool_map(decode, len(source)):
        if isinstance(found, str):
            bad[source.item_id(index)] = found
        else:
            frames += found
        if on_progress:
            on_progress(index + 1, len(source))
    unreadable = getattr(source, "unreadable", {})
    kind: Literal["image", "video"] = "video" if clips else "image"
    ok = len(source) - len(bad)
    return Verification(ok, bad, time.monotonic() - started, unreadable, kind, frames if clips else 0)
