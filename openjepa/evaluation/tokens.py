"""Labelled patch tokens for probes that are trained for many epochs: kept in memory where they fit, else encoded anew."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from openjepa.data import Source, Subset, labels_of, read_batches
from openjepa.errors import DataError
from openjepa.evaluation.labels import Labelled, align
from openjepa.evaluation.request import Bench, Side
from openjepa.features import Features, cached_extract, extract

MEMORY_BYTES = 4 * 2**30  # tokens of both sides up to this size are kept
SIDES: tuple[Side, Side] = ("train", "val")


class TokenData(Protocol):
    """Labelled samples whose tokens can be had in any order. y: ``(N,)`` int64. shape: ``(T, D)`` of what is pooled."""

    @property
    def y(self) -> Tensor:
        """Labels."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and width."""
        ...

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens ``(b, T, D)`` and labels ``(b,)`` of the samples ``order`` names, on the device.

        ``(b, G, T, D)`` of videos of which G views are pooled apart (:mod:`openjepa.features.clips`).
        """
        ...


@dataclass(frozen=True)
class KeptTokens:
    """Tokens in memory. values ``(N, T, D)`` or ``(N, G, T, D)``, float32 or, to save room, float16."""

    values: Tensor
    y: Tensor
    device: str | torch.device = "cpu"

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and width."""
        return self.values.shape[-2], self.values.shape[-1]

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`TokenData`."""
        for part in order.split(batch_size):
            yield self.values[part].to(self.device).float(), self.y[part].to(self.device)


@dataclass(frozen=True)
class StreamedTokens:
    """Tokens that the encoder computes each time they are asked for.

    places: index in ``source`` of each labelled sample. Files that cannot be read are left out of their batch.
    """

    source: Source
    bench: Bench
    places: Tensor
    y: Tensor
    shape: tuple[int, int]
    side: Side = "train"

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`TokenData`."""
        chosen = Subset(self.source, self.places[order].tolist())
        labels, bench = self.y[order], self.bench
        transform = bench.side(self.side)[1]
        views = int(getattr(transform, "views", 1))
        for batch in read_batches(chosen, transform, batch_size=batch_size, workers=bench.workers):
            assert bench.encoder is not None
            found = extract(bench.encoder, [batch], tokens="patch", views=views, **bench.protocol)
            yield found.values.to(bench.device), labels[batch.ids].to(bench.device)


@dataclass(frozen=True)
class CutTokens:
    """The tokens ``start:stop`` of every sample of other data."""

    data: TokenData
    start: int
    stop: int

    @property
    def y(self) -> Tensor:
        """Labels."""
        return self.data.y

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and width."""
        return self.stop - self.start, self.data.shape[1]

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`TokenData`."""
        for tokens, y in self.data.batches(order, batch_size):
            yield tokens[..., self.start : self.stop, :], y


@dataclass(frozen=True)
class TokenSides:
    """Both sides of an evaluation. labelled: classes and labels (its ``x`` are mean-pooled, or empty when streamed).

    halved: tokens are kept in float16.
    """

    train: TokenData
    val: TokenData
    labelled: Labelled
    streamed: bool
    halved: bool = False

    def cut(self, start: int, stop: int) -> TokenSides:
        """Both sides with the tokens ``start:stop`` of every sample only."""
        return replace(self, train=CutTokens(self.train, start, stop), val=CutTokens(self.val, start, stop))


def from_features(train: Features, val: Features, device: str | torch.device = "cpu") -> TokenSides:
    """Both sides from patch features ``(N, T, D)`` or ``(N, G, T, D)``; samples without a label are dropped.

    Raises:
        DataError: as :func:`openjepa.evaluation.labels.align`, or features that are not patch tokens.
    """
    for side, features in (("train", train), ("val", val)):
        if features.values.ndim not in (3, 4):
            shape = tuple(features.values.shape)
            raise DataError(f"the {side} features have shape {shape}: this probe needs patch tokens (N, T, D)")
    pooled = [replace(features, values=features.values.flatten(1, -2).mean(1)) for features in (train, val)]
    labelled = align(*pooled)
    sides = [
        KeptTokens(_labelled_rows(features), y, device) for features, y in ((train, labelled.y), (val, labelled.val_y))
    ]
    return TokenSides(sides[0], sides[1], labelled, streamed=False)


def open_tokens(bench: Bench, memory: int = MEMORY_BYTES) -> TokenSides:
    """Tokens of both sides of a bench: extracted (through the cache) when they fit ``memory`` bytes, else streamed.

    Tokens of clips, which are many, are kept in float16 where only that fits.

    Raises:
        DataError: no labels, fewer than two classes, nothing readable, features that are not finite.
    """
    assert bench.encoder is not None
    labelled = align(names_only(bench.train_source), names_only(bench.val_source))
    shapes = {side: _token_shape(bench, side) for side in SIDES}
    size = sum(4 * len(bench.side(side)[0]) * math.prod(shape) for side, shape in shapes.items())
    halved = size > memory and bool(bench.clips)
    if size <= (2 * memory if halved else memory):
        found = [_extracted(bench, side, halved) for side in SIDES]
        return replace(from_features(found[0], found[1], bench.device), halved=halved)
    sides = []
    for side, y in zip(SIDES, (labelled.y, labelled.val_y), strict=True):
        source = bench.side(side)[0]
        places = (torch.tensor(labels_of(source)) >= 0).nonzero().flatten()
        tokens, width = shapes[side][-2:]
        sides.append(StreamedTokens(source, bench, places, y, (tokens, width), side))
    return TokenSides(sides[0], sides[1], labelled, streamed=True)


def _extracted(bench: Bench, side: Side, halved: bool) -> Features:
    """Tokens of a side; halved ones batch by batch, so that they never exist in float32 at once."""
    assert bench.encoder is not None
    source, transform = bench.side(side)
    if not halved:
        return cached_extract(bench.encoder, source, transform, tokens="patch", **bench.reading, **bench.protocol)
    views = int(getattr(transform, "views", 1))
    batches = read_batches(source, transform, batch_size=bench.batch_size, workers=bench.workers)
    return extract(
        bench.encoder, batches, tokens="patch", source=source, views=views, dtype=torch.float16, **bench.protocol
    )


def _labelled_rows(features: Features) -> Tensor:
    assert features.labels is not None
    kept = features.labels >= 0
    return features.values if bool(kept.all()) else features.values[kept]


def names_only(source: Source) -> Features:
    """Labels of a source as features without content, so that labels are checked before anything is encoded."""
    labels = torch.tensor(labels_of(source), dtype=torch.int64)
    classes = None if source.classes is None else tuple(source.classes)
    return Features(torch.zeros(len(labels), 1), torch.arange(len(labels)), labels, (), classes)


def _token_shape(bench: Bench, side: Side) -> tuple[int, ...]:
    """Tokens and width (and before them views pooled apart) of a sample, from the first readable one."""
    source, transform = bench.side(side)
    batch = next(iter(read_batches(source, transform, batch_size=1)))
    assert bench.encoder is not None
    views = int(getattr(transform, "views", 1))
    return tuple(extract(bench.encoder, [batch], tokens="patch", views=views, **bench.protocol).values.shape[1:])
