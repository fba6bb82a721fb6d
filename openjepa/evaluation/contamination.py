"""Are evaluation images among those the encoder was trained on? Exact copies, and near ones by small thumbnails."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openjepa.data import FileSource, Source, Subset
from openjepa.errors import ConfigError, DataError
from openjepa.features import cosine_topk

THUMBNAIL = 16  # side in pixels
THRESHOLD = 0.97  # cosine of thumbnails without their mean
FLAT = 4 / 255  # an image whose thumbnail deviates less has too little in it to be told from others
OnImage = Callable[[str, int, int], None]  # side, images done, images in all


@dataclass(frozen=True)
class Match:
    """An evaluation image and the training image it equals or resembles. cosine: of their thumbnails, 1 for a copy."""

    val: str
    train: str
    cosine: float = 1.0


@dataclass(frozen=True)
class Contamination:
    """What :func:`contamination` found. exact: equal pixels; near: not equal, thumbnails above ``threshold``. flat: val
    images with too little in them to be compared by thumbnail; unreadable: files of either side that were left out.
    """

    exact: tuple[Match, ...]
    near: tuple[Match, ...]
    n_train: int
    n_val: int
    threshold: float
    flat: int = 0
    unreadable: int = 0
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The finding in one line."""
        share = (len(self.exact) + len(self.near)) / self.n_val
        return (
            f"{len(self.exact):,} of {self.n_val:,} evaluation images have an exact copy among {self.n_train:,} training"
            f" images, {len(self.near):,} more a near duplicate (thumbnail cosine ≥ {self.threshold:g}): {share:.1%}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def contamination(
    train: Source, val: Source, *, threshold: float = THRESHOLD, on_progress: OnImage | None = None
) -> Contamination:
    """Look for every image of ``val`` in ``train``. Both are decoded once; memory is one thumbnail per image.

    Exact: SHA-256 of the decoded pixels and their shape, so that a copy stored in another lossless format is found. Near:
    cosine of 16 × 16 colour thumbnails (area-averaged, mean of all pixels removed) with the most similar training image at
    least ``threshold``: finds other sizes, compressions, brightness and contrast; not crops, flips or rotations.

    Raises:
        ConfigError: a threshold outside (0, 1]. DataError: a side without a readable image.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"the threshold is a cosine above 0 and up to 1, got {threshold:g}")
    bank, queries = _Looks.of(train, "train", on_progress), _Looks.of(val, "val", on_progress)
    known = {digest: name for digest, name in zip(reversed(bank.digests), reversed(bank.names), strict=True)}
    exact = {i: Match(queries.names[i], known[d]) for i, d in enumerate(queries.digests) if d in known}
    asked = [i for i in range(len(queries.names)) if i not in exact and bool(queries.busy[i])]
    near: list[Match] = []
    if asked and bool(bank.busy.any()):
        busy = bank.busy.nonzero().flatten()
        cosine, index = cosine_topk(queries.thumbnails[asked], bank.thumbnails[busy], 1)
        for place, value, found in zip(asked, cosine[:, 0].tolist(), busy[index[:, 0]].tolist(), strict=True):
            if value >= threshold:
                near.append(Match(queries.names[place], bank.names[found], min(value, 1.0)))
    near.sort(key=lambda match: -match.cosine)
    flat = sum(not bool(queries.busy[i]) for i in range(len(queries.names)) if i not in exact)
    protocol = {"exact": "SHA-256 of decoded pixels", "near": f"{THUMBNAIL} px thumbnails, mean removed, cosine"}
    return Contamination(
        tuple(exact.values()),
        tuple(near),
        len(bank.names),
        len(queries.names),
        threshold,
        flat,
        bank.unreadable + queries.unreadable,
        protocol,
    )


def shared_files(train: Source, val: Source, most: int = 20_000) -> list[str]:
    """Files of ``val`` that are the same file as one of ``train``, or have the same bytes: cheap, nothing is decoded.

    Only files of equal size are read, at most ``most`` of ``val``. Empty for sources that are no files.
    """
    ours, theirs = dict(_files(val, most)), dict(_files(train))
    paths = {os.path.realpath(path) for path in theirs.values()}
    sizes: dict[int, list[Path]] = {}
    for path in theirs.values():
        if (size := _size(path)) is not None:
            sizes.setdefault(size, []).append(path)
    digests: dict[int, set[str]] = {}
    found = []
    for name, path in ours.items():
        size = _size(path)
        if size is None:
            continue
        if os.path.realpath(path) in paths:
            found.append(name)
        elif size in sizes:
            if size not in digests:
                digests[size] = {_digest(other) for other in sizes[size]}
            if _digest(path) in digests[size]:
                found.append(name)
    return found


@dataclass(frozen=True)
class _Looks:
    """A source at a glance: names, digests of the pixels, thumbnails ``(N, 3·16²)`` and which of them show something."""

    names: list[str]
    digests: list[bytes]
    thumbnails: Tensor
    busy: Tensor
    unreadable: int

    @classmethod
    def of(cls, source: Source, side: str, on_progress: OnImage | None) -> _Looks:
        names, digests, thumbnails, unreadable = [], [], [], 0
        for index in range(len(source)):
            try:
                image = source.read(index)
            except DataError:
                unreadable += 1
                continue
            names.append(source.item_id(index))
            about = f"{tuple(image.shape)} {image.dtype}".encode()
            digests.append(hashlib.sha256(about + image.contiguous().numpy().tobytes()).digest())
            thumbnails.append(thumbnail(image))
            if on_progress is not None:
                on_progress(side, index + 1, len(source))
        if not names:
            raise DataError(f"no readable image in {source.name}: there is nothing to compare")
        stacked = torch.stack(thumbnails)
        return cls(names, digests, stacked, stacked.std(1) >= FLAT, unreadable)


def thumbnail(image: Tensor) -> Tensor:
    """``(C, H, W)`` uint8 or float in 0..1 to ``(3 · 16²,)`` float32 without its mean; gray and colour compare.

    Of a clip ``(T, C, H, W)`` it is the middle frame's.
    """
    image = image[len(image) // 2] if image.ndim == 4 else image
    pixels = image.float() / (1.0 if image.is_floating_point() else 255.0)
    pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)
    small = torch.nn.functional.interpolate(pixels[None], size=(THUMBNAIL, THUMBNAIL), mode="area")[0].flatten()
    return small - small.mean()


def _files(source: Source, most: int | None = None) -> Iterator[tuple[str, Path]]:
    """Name and path of every sample that is a file."""
    count = len(source) if most is None else min(most, len(source))
    for index in range(count):
        inner: Any = source
        place = index
        while isinstance(inner, Subset):
            inner, place = inner.source, int(inner.indices[place])
        if not isinstance(inner, FileSource):
            return
        yield source.item_id(index), inner.path(place)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return f"unreadable {path}"
