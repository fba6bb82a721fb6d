"""One shard: written from samples, and read back as what other programs will find in it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openjepa.errors import require

_GROUP_BYTES = 16 << 20  # of a Parquet row group: what reading one image at random costs at most


@dataclass(frozen=True)
class Item:
    """One sample. number: its place in the data. id: its name. suffix: of the file (``.jpg``). label: -1 when it has none."""

    number: int
    id: str
    suffix: str
    data: bytes
    label: int = -1
    class_name: str | None = None

    @classmethod
    def of(cls, source: Any, index: int, data: bytes) -> Item:
        """A sample of a source."""
        name, label = source.item_id(index), source.label(index)
        named = source.classes[label] if source.classes is not None and label >= 0 else None
        return cls(index, name, os.path.splitext(name)[1].lower() or ".bin", data, label, named)

    def digest(self) -> str:
        """SHA-256 of everything that is kept."""
        words = json.dumps([self.number, self.id, self.label, self.class_name])
        return hashlib.sha256(words.encode() + b"\0" + self.data).hexdigest()


def write_tar(path: Path, items: Iterable[Item]) -> None:
    """``00000012.jpg``, ``.json`` (id, class_name, label) and, with a label, ``.cls`` (its number) of each sample.

    The same samples give the same bytes: no times or owners are kept.
    """
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for item in items:
            about = {"id": item.id, "class_name": item.class_name, "label": item.label if item.label >= 0 else None}
            about = {key: value for key, value in about.items() if value is not None}
            members = {item.suffix: item.data, ".json": json.dumps(about, ensure_ascii=False).encode()}
            if item.label >= 0:
                members[".cls"] = str(item.label).encode()
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{item.number:08d}{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def read_tar(path: Path) -> Iterator[Item]:
    """The samples of :func:`write_tar`."""
    with tarfile.open(path, "r:") as tar:
        held: dict[str, bytes] = {}
        key = ""
        for member in tar:
            stem, suffix = os.path.splitext(member.name)
            if stem != key and held:
                yield _item(key, held)
                held = {}
            key = stem
            stream = tar.extractfile(member)
            assert stream is not None
            held[suffix] = stream.read()
        if held:
            yield _item(key, held)


def _item(key: str, members: dict[str, bytes]) -> Item:
    about = json.loads(members[".json"])
    suffix = next(name for name in members if name not in (".json", ".cls"))
    label = int(members.get(".cls", b"-1"))
    return Item(int(key), about["id"], suffix, members[suffix], label, about.get("class_name"))


def write_parquet(path: Path, items: Iterable[Item], classes: Sequence[str] | None) -> None:
    """Columns ``image`` (bytes, path), ``label``, ``id`` and ``number``; the ``datasets`` library decodes them as images."""
    arrow, parquet = require("pyarrow", "tables"), require("pyarrow.parquet", "tables")
    label = {"names": list(classes), "_type": "ClassLabel"} if classes else {"dtype": "int64", "_type": "Value"}
    features = {
        "image": {"_type": "Image"},
        "label": label,
        "id": {"dtype": "string", "_type": "Value"},
        "number": {"dtype": "int64", "_type": "Value"},
    }
    schema = arrow.schema(
        [
            ("image", arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])),
            ("label", arrow.int64()),
            ("id", arrow.string()),
            ("number", arrow.int64()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    with parquet.ParquetWriter(path, schema, compression="none") as writer:
        held: list[Item] = []
        size = 0
        for item in items:
            held.append(item)
            size += len(item.data)
            if size >= _GROUP_BYTES:
                writer.write_batch(_batch(held, schema))
                held, size = [], 0
        if held:
            writer.write_batch(_batch(held, schema))


def _batch(items: list[Item], schema: Any) -> Any:
    arrow = require("pyarrow", "tables")
    rows = [
        {
            "image": {"bytes": item.data, "path": os.path.basename(item.id)},
            "label": item.label if item.label >= 0 else None,
            "id": item.id,
            "number": item.number,
        }
        for item in items
    ]
    return arrow.RecordBatch.from_pylist(rows, schema=schema)


def read_parquet(path: Path) -> Iterator[Item]:
    """The samples of :func:`write_parquet`."""
    parquet = require("pyarrow.parquet", "tables")
    with parquet.ParquetFile(path) as file:
        features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
        names = features["label"].get("names")
        for group in range(file.metadata.num_row_groups):
            for row in file.read_row_group(group).to_pylist():
                label = -1 if row["label"] is None else row["label"]
                suffix = os.path.splitext(row["id"])[1].lower() or ".bin"
                named = names[label] if names and label >= 0 else None
                yield Item(row["number"], row["id"], suffix, row["image"]["bytes"], label, named)
