"""WebDataset shards: plain ``.tar`` files of videos or images with their labels beside them, read at random.

The members of a sample follow each other and share the name up to its first dot: ``000123.mp4``, ``000123.cls``. Only the
headers of the tar are read to find them, once; a sample is then decoded from its place in the shard.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openjepa.data.listing import Listing, missing_path, number_labels
from openjepa.data.video_listing import is_video_name
from openjepa.errors import DataError

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LABEL_KEYS = ("class_name", "label", "class", "cls", "target", "category", "y")
_MOST_LABEL_BYTES = 1 << 16  # a label file is small; anything longer is another thing
_EXAMPLES = {"videos": "name.mp4, .avi, .webm", "images": "name.jpg, .png, .webp"}
_CLASS_SHARE = 0.5  # .txt members are class names when at most this share of them differs, else captions


def is_shards(data: str) -> bool:
    """``data`` names tar shards: a ``.tar`` file, or a pattern of them with braces, ``*`` or ``?``."""
    return data.lower().endswith((".tar", ".tar.gz", ".tgz"))


def expand(pattern: str) -> list[Path]:
    """Shards of a pattern: ``shards-{000..010}.tar``, ``*.tar`` or one name.

    Raises:
        DataError: none is there, or one of a range is missing.
    """
    ranges = [[f"{k:0{len(low)}d}" for k in range(int(low), int(high) + 1)] for low, high in _BRACES.findall(pattern)]
    texts = _BRACES.split(pattern)[::3]
    names = [
        "".join(itertools.chain.from_iterable(itertools.zip_longest(texts, numbers, fillvalue="")))
        for numbers in itertools.product(*ranges)
    ]
    found: list[Path] = []
    for name in names:
        name = os.path.expanduser(name)
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name))
        if not matches and not glob.has_magic(name):
            raise missing_path(Path(name), ())
        found += map(Path, matches)
    if not found:
        raise DataError(f"no shard fits {pattern}: write a .tar file, or a pattern as 'shards-{{000..010}}.tar'")
    return found


def holds_member(pattern: str, accepts: Callable[[str], bool]) -> bool:
    """Whether the first shard of a pattern has a member of that kind.

    Raises:
        DataError: no shard, or not a plain tar.
    """
    return any(sample.videos for sample in _samples(expand(pattern)[0], accepts))


@dataclass
class _Sample:
    """One sample of a shard: its videos, and the label beside them."""

    videos: list[tuple[str, int, int]] = field(default_factory=list)  # name, first byte, end
    label: str | None = None
    text: str | None = None


def _label_of(ending: str, data: bytes) -> str | None:
    """The class in a label member, None when it says none."""
    text = data.decode("utf-8", "replace").strip()
    if ending != "json":
        return text or None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if isinstance(found, dict):
        found = next((found[key] for key in _LABEL_KEYS if key in found), None)
    return str(found) if isinstance(found, str | int) and not isinstance(found, bool) else None


def _samples(shard: Path, accepts: Callable[[str], bool]) -> Iterator[_Sample]:
    """Samples of a shard, in order.

    Raises:
        DataError: not a plain tar.
    """
    try:
        with tarfile.open(shard, mode="r:") as tar:
            key, sample = "", _Sample()
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if (own := f"{folder}/{stem}") != key:
                    yield sample
                    key, sample = own, _Sample()
                ending = ending.lower()
                if accepts(f"x.{ending}"):
                    start = member.offset_data
                    sample.videos.append((member.name, start, start + member.size))
                elif ending in ("cls", "json", "txt") and member.size <= _MOST_LABEL_BYTES:
                    stream = tar.extractfile(member)
                    assert stream is not None
                    label = _label_of(ending, stream.read())
                    if ending == "txt":
                        sample.text = label
                    else:
                        sample.label = sample.label or label
            yield sample
    except tarfile.TarError as error:
        compressed = shard.suffix.lower() in (".gz", ".tgz")
        why = "compressed shards cannot be read at random: unpack them to .tar" if compressed else str(error)
        raise DataError(f"{shard} is not a plain tar file: {why}") from error
    except OSError as error:
        raise DataError(f"{shard}: {(error.strerror or str(error)).lower()}") from error


@dataclass(frozen=True)
class Members:
    """Where videos lie in shards. shards: paths below the root. places: ``(n, 3)`` shard, first byte, end."""

    shards: tuple[str, ...]
    places: NDArray[np.int64]


def list_shards(
    pattern: str, accepts: Callable[[str], bool] = is_video_name, noun: str = "videos"
) -> tuple[Listing, Members]:
    """Videos (or images) of all shards of a pattern, and where they lie.

    Labels come from ``.cls`` or ``.json`` members, or from ``.txt`` when its texts are few (else they are captions).

    Raises:
        DataError: no shard, not a plain tar, or no video in any.
    """
    shards = expand(pattern)
    root = Path(os.path.commonpath([shard.parent.absolute() for shard in shards]))
    paths: list[str] = []
    places: list[tuple[int, int, int]] = []
    labels: list[str | None] = []
    texts: list[str | None] = []
    names = tuple(os.path.relpath(shard.absolute(), root) for shard in shards)
    for number, shard in enumerate(shards):
        for sample in _samples(shard, accepts):
            for name, start, end in sample.videos:
                paths.append(f"{names[number]}/{name}")
                places.append((number, start, end))
                labels.append(sample.label)
                texts.append(sample.text)
    if not paths:
        raise DataError(f"{pattern} holds no {noun}: looked for members as {_EXAMPLES[noun]} in {len(shards)} shards")
    if not any(labels) and len(set(texts)) <= _CLASS_SHARE * len(texts):
        labels = texts
    classes, numbers = number_labels(labels)
    return Listing(root, paths, numbers, classes), Members(names, np.array(places, np.int64))
