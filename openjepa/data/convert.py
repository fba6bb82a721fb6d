"""``openjepa data convert``: a folder of files as WebDataset tars or Parquet shards, read back and compared, resumable.

Files are copied byte for byte. A shard is written beside its place, read back, compared with what was read, flushed and
renamed: it is there whole or not at all, and the same call again goes on with the first that is missing. ``convert.json``,
written last, says what is in the folder, and lets the folder itself be opened as data.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from openjepa.data.clips import Clips
from openjepa.data.image_shards import CONVERTED, ParquetImages, ShardImages
from openjepa.data.shard_files import Item, read_parquet, read_tar, write_parquet, write_tar
from openjepa.data.sources import FileSource, Source, open_source
from openjepa.data.video_inspection import holds_videos
from openjepa.data.video_source import VideoSource
from openjepa.errors import ConfigError, DataError, RunError, nearest, require

Format = Literal["webdataset", "parquet"]
SUFFIXES: dict[str, str] = {"webdataset": ".tar", "parquet": ".parquet"}
_WORK = ".convert"  # what is known of the shards that are done, until all are
_FORMAT = 1


@dataclass(frozen=True)
class Converted:
    """What :func:`convert` made.

    path: the folder. shards: file names. items, bytes: in all of them. written: shards of this call; others were there.
    bad: files left out, item id → reason.
    """

    path: Path
    shards: tuple[str, ...]
    items: int
    bytes: int
    written: int
    bad: Mapping[str, str] = field(default_factory=dict)


def convert(
    data: str | Path,
    out: str | Path,
    *,
    format: Format = "webdataset",
    shard_mb: float = 256.0,
    video: bool | None = None,
    split: Literal["train", "val"] | None = None,
    check: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Copy images or videos into shards of about ``shard_mb`` megabytes, each sample with its name and label.

    Args:
        data: folder, list file, or shards of the other kind. out: a folder of its own. format: ``webdataset``
            (``shard-000000.tar`` of ``00000012.jpg``, ``.json`` and ``.cls``) or ``parquet`` (columns ``image``, ``label``,
            ``id``, as the ``datasets`` library writes them; images only).
        video: take the data for videos, or for images; by default what there is more of. split: of a folder that has both.
        check: decode each file first and leave out what cannot be read; otherwise only files that cannot be opened are.
        on_progress: called with (done, total) items.

    Raises:
        DataError: nothing there, or nothing that is a file (built-in scenes, folders of frames). ConfigError: an unknown
            format. RunError: ``out`` holds other shards, or cannot be written (one line; what is done stays).
    """
    if format not in SUFFIXES:
        raise ConfigError(f"format '{format}' is not one of {', '.join(SUFFIXES)}{nearest(format, SUFFIXES)}")
    if format == "parquet":
        require("pyarrow.parquet", "tables")
    if not shard_mb > 0:
        raise ConfigError(f"a shard has more than 0 megabytes, not {shard_mb:g}")
    source = _open(str(data), video, split, format)
    plan = {
        "version": _FORMAT,
        "format": format,
        "shard_mb": shard_mb,
        "check": check,
        "data": source.name,
        "fingerprint": source.fingerprint(),
        "classes": source.classes,
    }
    work = _Conversion(source, Path(out), plan, on_progress)
    try:
        return work.run()
    except OSError as error:
        raise _cannot_write(Path(out), error) from error


@dataclass
class _Conversion:
    """One folder of shards on its way."""

    source: Any
    out: Path
    plan: dict[str, Any]
    on_progress: Callable[[int, int], None] | None

    def run(self) -> Converted:
        """Write the shards that are missing, then say what there is."""
        done = self._begin()
        if done is not None:
            return done
        spans, written, at = list(self._spans()), 0, 0
        for number, (start, stop) in enumerate(spans):
            if not self._note(number).exists() or not self._shard(number).exists():
                self._write(number, start, stop)
                written += 1
            at = stop
            if self.on_progress is not None:
                self.on_progress(at, len(self.source))
        return self._finish(len(spans), written)

    def _begin(self) -> Converted | None:
        """Make or take up the folder; what is there when it is finished already. Raises RunError when it is another's."""
        about = self.out / CONVERTED
        if about.exists():
            found = json.loads(about.read_bytes())
            if found.get("plan") != self.plan:
                raise RunError(
                    f"'{self.out}' holds shards of {_other(found.get('plan'), self.plan)}: name another folder"
                )
            return Converted(self.out, tuple(found["shards"]), found["items"], found["bytes"], 0, found["bad"])
        begun = self.out / _WORK / "plan.json"
        if begun.exists():
            found = json.loads(begun.read_bytes())
            if found != self.plan:
                raise RunError(
                    f"'{self.out}' was begun with {_other(found, self.plan)}: finish that, or name another folder"
                )
            return None
        if self.out.exists() and any(item.name != _WORK for item in self.out.iterdir()):
            raise RunError(f"'{self.out}' holds other files: name a folder of its own")
        begun.parent.mkdir(parents=True, exist_ok=True)
        _publish_text(begun, json.dumps(self.plan))
        return None

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Items of each shard: as many as fill it, by their sizes on disk."""
        start, size, limit = 0, 0, self.plan["shard_mb"] * 1e6
        for index in range(len(self.source)):
            item = _size(self.source, index)
            if index > start and size + item > limit:
                yield start, index
                start, size = index, 0
            size += item
        yield start, len(self.source)

    def _write(self, number: int, start: int, stop: int) -> None:
        """One shard: written, read back, compared, put in its place."""
        bad: dict[str, str] = {}
        digests: list[str] = []

        def items() -> Iterator[Item]:
            for index in range(start, stop):
                try:
                    if self.plan["check"]:
                        self.source.read(index)
                    item = Item.of(self.source, index, _content(self.source, index))
                except DataError as error:
                    bad[self.source.item_id(index)] = str(getattr(error, "reason", error))
                    continue
                digests.append(item.digest())
                yield item

        shard, parquet = self._shard(number), self.plan["format"] == "parquet"
        scratch = self.out / _WORK / shard.name
        if parquet:
            write_parquet(scratch, items(), self.source.classes)
        else:
            write_tar(scratch, items())
        back = read_parquet(scratch) if parquet else read_tar(scratch)
        if [item.digest() for item in back] != digests:
            raise RunError(f"'{scratch}' reads back other than it was written: is the disk sound?")
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        note = {"items": len(digests), "bytes": scratch.stat().st_size, "sha256": _sha256(scratch), "bad": bad}
        os.replace(scratch, shard)
        _publish_text(self._note(number), json.dumps(note))

    def _finish(self, count: int, written: int) -> Converted:
        """Write what the folder holds, and remove what was needed on the way."""
        notes = [json.loads(self._note(number).read_bytes()) for number in range(count)]
        shards = {
            self._shard(number).name: {key: note[key] for key in ("items", "bytes", "sha256")}
            for number, note in enumerate(notes)
        }
        bad = {name: reason for note in notes for name, reason in note["bad"].items()}
        found = Converted(
            self.out,
            tuple(shards),
            sum(note["items"] for note in notes),
            sum(note["bytes"] for note in notes),
            written,
            bad,
        )
        if not found.items:
            name, reason = next(iter(bad.items()), ("it", "is empty"))
            shutil.rmtree(self.out)
            raise DataError(f"none of the {len(self.source)} files can be read; the first: {name}: {reason}")
        about = {**asdict(found), "path": None, "format": self.plan["format"], "shards": shards, "plan": self.plan}
        _publish_text(self.out / CONVERTED, json.dumps(about, indent=1, ensure_ascii=False))
        shutil.rmtree(self.out / _WORK)
        return found

    def _shard(self, number: int) -> Path:
        return self.out / f"shard-{number:06d}{SUFFIXES[self.plan['format']]}"

    def _note(self, number: int) -> Path:
        return self.out / _WORK / f"shard-{number:06d}.json"


def _open(data: str, video: bool | None, split: Literal["train", "val"] | None, format: Format) -> Source:
    """The data as files. Raises DataError: it has none, or videos are wanted as Parquet."""
    clips = holds_videos(data) if video is None else video
    source = open_source(data, split=split, clip=Clips(1, where="start") if clips else None)
    if not isinstance(source, FileSource | VideoSource | ShardImages | ParquetImages):
        raise DataError(f"{data} is drawn as it is read: there are no files to convert")
    if clips and format == "parquet":
        raise DataError(f"{data} holds videos, whose clips are read at random from tars: use --format webdataset")
    return source


def _content(source: Any, index: int) -> bytes:
    """The bytes of one file. Raises DataError with its reason."""
    content = getattr(source, "content", None)
    if content is not None:
        data: bytes = content(index)
        return data
    path, span = source.path(index), source.span(index) if hasattr(source, "span") else None
    if path.is_dir() or "%" in path.name:
        raise DataError(f"{source.item_id(index)}: is a folder of frames, not a file")
    try:
        with path.open("rb") as file:
            if span is None:
                found = file.read()
            else:
                file.seek(span[0])
                found = file.read(span[1] - span[0])
    except OSError as error:
        raise DataError(f"{source.item_id(index)}: {(error.strerror or str(error)).lower()}") from error
    if not found:
        raise DataError(f"{source.item_id(index)}: the file is empty")
    return found


def _size(source: Any, index: int) -> int:
    """Bytes of one file, 0 of what is not there (it will be listed as bad); of shards, those of the sample."""
    members = getattr(source, "members", None)
    if members is not None:
        _, start, end = members.places[index].tolist()
        return int(end - start)
    if isinstance(source, ParquetImages):
        return len(source.content(index))
    try:
        return int(source.path(index).stat().st_size)
    except OSError:
        return 0


def _publish_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    scratch = path.with_name(f".new-{path.name}")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _other(have: Mapping[str, Any] | None, want: Mapping[str, Any]) -> str:
    """In words what two conversions differ in."""
    have = have or {}
    if have.get("fingerprint") != want["fingerprint"]:
        return f"other data ({have.get('data')}, or its files have changed since)"
    key = next((name for name in want if have.get(name) != want[name]), "settings")
    return f"another {key} ({have.get(key)}, now {want[key]})"


def _cannot_write(out: Path, error: OSError) -> RunError:
    reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
    return RunError(f"cannot write '{out}': {reason}; shards that are done stay, and the same command goes on")
