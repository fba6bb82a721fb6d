"""Images in shards: WebDataset tars and Parquet files, read at random as files in a folder are."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openjepa.data.channels import UnreadableImageError
from openjepa.data.listing import PathTable, number_labels
from openjepa.data.readers import is_image_name, read_image
from openjepa.data.video_shards import Members, expand, list_shards
from openjepa.errors import DataError, require

_IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png")
_LABEL_COLUMNS = ("class_name", "label", "class", "target", "category", "y")
_FEATURES = b"huggingface"  # schema metadata of the datasets library: class names stand there


CONVERTED = "convert.json"  # in a folder that ``openjepa data convert`` filled
PATTERNS = {"webdataset": "*.tar", "parquet": "*.parquet"}


def converted(path: Path) -> str | None:
    """The pattern of the shards in a folder that ``openjepa data convert`` filled; None of other paths."""
    try:
        about = json.loads((path / CONVERTED).read_bytes())
        return str(path / PATTERNS[about["format"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_parquet(data: str) -> bool:
    """``data`` names Parquet files: one, or a pattern of them."""
    return data.lower().endswith(".parquet")


@dataclass
class ShardImages:
    """Images inside tar shards. paths: shard and member. members: where they lie. Others as in ``FileSource``."""

    name: str
    root: Path
    paths: Sequence[str]
    members: Members
    classes: list[str] | None = None
    labels: NDArray[np.int64] | None = None
    channels: int = 3
    note: str = ""
    at_least: int | None = None

    @classmethod
    def open(cls, pattern: str, channels: int) -> ShardImages:
        """Images of all shards of a pattern. Raises DataError: no shard, not a plain tar, no image."""
        listing, members = list_shards(pattern, is_image_name, "images")
        labels = None if listing.labels is None else np.asarray(listing.labels, np.int64)
        return cls(pattern, listing.root, PathTable(listing.paths), members, listing.classes, labels, channels)

    def __len__(self) -> int:
        return len(self.paths)

    def label(self, index: int) -> int:
        """Class of an image, -1 when it has none."""
        return -1 if self.labels is None else int(self.labels[index])

    def item_id(self, index: int) -> str:
        """``shard.tar/name.jpg``."""
        return os.fsencode(self.paths[index]).decode("utf-8", "backslashreplace")

    def path(self, index: int) -> Path:
        """The shard of an image."""
        return self.root / self.members.shards[int(self.members.places[index, 0])]

    def content(self, index: int) -> bytes:
        """The file as it lies in the shard. Raises UnreadableImageError."""
        _, start, end = self.members.places[index].tolist()
        try:
            with self.path(index).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except OSError as error:
            raise UnreadableImageError(self.item_id(index), (error.strerror or str(error)).lower()) from error

    def read(self, index: int) -> Tensor:
        """Decode one image; see :func:`openjepa.data.readers.read_image`."""
        return read_image(self.content(index), self.channels, at_least=self.at_least, name=self.item_id(index))

    def sized(self, at_least: int | None) -> ShardImages:
        """The same images, allowed to be decoded smaller."""
        return replace(self, at_least=at_least)

    def fingerprint(self) -> str:
        """SHA-256 over channels, and each shard's path, size and time."""
        shards = [self.root / shard for shard in self.members.shards]
        return _fingerprint("tar images", self.channels, self.at_least, shards)


@dataclass
class ParquetImages:
    """Images in Parquet files, as the ``datasets`` library and ``openjepa data convert`` write them.

    files: in order. starts: ``(groups + 1,)`` first row of every row group. places: file and group of each. The row group
    read last is kept, so that reading in order decodes each once.
    """

    name: str
    files: list[Path]
    starts: NDArray[np.int64]
    places: list[tuple[int, int]]
    column: str
    ids: Sequence[str]
    classes: list[str] | None = None
    labels: NDArray[np.int64] | None = None
    channels: int = 3
    note: str = ""
    at_least: int | None = None
    _held: tuple[int, Any] = field(default=(-1, None), repr=False)

    @classmethod
    def open(cls, pattern: str, channels: int) -> ParquetImages:
        """Images of all files of a pattern. Raises DataError: no file, no column of images, or one that is damaged."""
        parquet = require("pyarrow.parquet", "tables")
        files = expand(pattern) if not glob.has_magic(pattern) else [Path(p) for p in sorted(glob.glob(pattern))]
        if not files:
            raise DataError(f"no Parquet file fits {pattern}")
        starts, places = [0], []
        ids: list[str] = []
        labels: list[Any] = []
        column, names = "", None
        for number, path in enumerate(files):
            try:
                with parquet.ParquetFile(path) as file:
                    column = _image_column(file.schema_arrow, path)
                    names = names or _class_names(file.schema_arrow)
                    wanted = next((c for c in _LABEL_COLUMNS if c in file.schema_arrow.names), None)
                    columns = [c for c in ("id", wanted) if c is not None and c in file.schema_arrow.names]
                    table = file.read(columns=columns)
                    rows = file.metadata.num_rows
                    ids += (
                        table.column("id").to_pylist() if "id" in columns else [f"{path.name}/{k}" for k in range(rows)]
                    )
                    labels += table.column(wanted).to_pylist() if wanted else [None] * rows
                    for group in range(file.metadata.num_row_groups):
                        places.append((number, group))
                        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
            except (OSError, ValueError) as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(f"{path} is damaged or no Parquet file: {str(error).splitlines()[0][:160]}") from error
        numbers, classes = _numbered(labels, names)
        values = None if numbers is None else np.asarray(numbers, np.int64)
        return cls(
            pattern, files, np.array(starts), places, column, PathTable(list(map(str, ids))), classes, values, channels
        )

    def __len__(self) -> int:
        return int(self.starts[-1])

    def label(self, index: int) -> int:
        """Class of an image, -1 when it has none."""
        return -1 if self.labels is None else int(self.labels[index])

    def item_id(self, index: int) -> str:
        """The ``id`` column, or ``file.parquet/row``."""
        return self.ids[index]

    def path(self, index: int) -> Path:
        """The file an image lies in."""
        group = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.files[self.places[group][0]]

    def content(self, index: int) -> bytes:
        """The image file's bytes. Raises UnreadableImageError: there are none, or the Parquet file is damaged."""
        group = int(np.searchsorted(self.starts, index, side="right")) - 1
        if self._held[0] != group:
            parquet = require("pyarrow.parquet", "tables")
            number, place = self.places[group]
            try:
                with parquet.ParquetFile(self.files[number]) as file:
                    self._held = group, file.read_row_group(place, columns=[self.column]).column(0)
            except (OSError, ValueError) as error:
                raise UnreadableImageError(self.item_id(index), str(error).splitlines()[0]) from error
        cell = self._held[1][index - int(self.starts[group])].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not data:
            raise UnreadableImageError(self.item_id(index), "the row has no image bytes")
        return bytes(data)

    def read(self, index: int) -> Tensor:
        """Decode one image; see :func:`openjepa.data.readers.read_image`."""
        return read_image(self.content(index), self.channels, at_least=self.at_least, name=self.item_id(index))

    def sized(self, at_least: int | None) -> ParquetImages:
        """The same images, allowed to be decoded smaller."""
        return replace(self, at_least=at_least, _held=(-1, None))

    def fingerprint(self) -> str:
        """SHA-256 over channels, and each file's path, size and time."""
        return _fingerprint("parquet images", self.channels, self.at_least, self.files)


def _image_column(schema: Any, path: Path) -> str:
    """The column of images: by name, else the only one with bytes in it."""
    found = [f.name for f in schema if "binary" in str(f.type)]
    named = [name for name in found if name.lower() in _IMAGE_COLUMNS]
    if named or len(found) == 1:
        return (named or found)[0]
    raise DataError(f"{path} has no column of images: its columns are {', '.join(schema.names)}")


def _class_names(schema: Any) -> list[str] | None:
    """Names of the classes, where the ``datasets`` library left them."""
    try:
        features = json.loads((schema.metadata or {})[_FEATURES])["info"]["features"]
        return next((list(f["names"]) for f in features.values() if f.get("_type") == "ClassLabel"), None)
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _numbered(labels: list[Any], names: list[str] | None) -> tuple[list[int] | None, list[str] | None]:
    """Labels as numbers, and what they mean."""
    if names is not None and all(label is None or isinstance(label, int) for label in labels):
        return [-1 if label is None else label for label in labels], names
    classes, numbers = number_labels([None if label is None else str(label) for label in labels])
    return numbers, classes


def _fingerprint(what: str, channels: int, at_least: int | None, files: list[Path]) -> str:
    digest = hashlib.sha256(f"{what} {channels} {at_least}\n".encode())
    for path in files:
        status = path.stat()
        digest.update(os.fsencode(path) + f" {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
