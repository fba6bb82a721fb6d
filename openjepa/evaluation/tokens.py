"""Labelled patch tokens for probes that are trained for many epochs: kept in memory where they fit, else encoded anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from openjepa.data import Source, Subset, labels_of, read_batches
from openjepa.errors import DataError
from openjepa.evaluation.labels import Labelled, align
from openjepa.evaluation.request import Bench
from openjepa.features import Features, cached_extract, extract

MEMORY_BYTES = 4 * 2**30  # tokens of both sides up to this size are kept


class TokenData(Protocol):
    """Labelled samples whose tokens can be had in any order. y: ``(N,)`` int64. shape: ``(T, D)`` of a sample."""

    @property
    def y(self) -> Tensor:
        """Labels."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and width."""
        ...

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens ``(b, T, D)`` and labels ``(b,)`` of the samples ``order`` names, on the device."""
        ...


@dataclass(frozen=True)
class KeptTokens:
    """Tokens in memory. values ``(N, T, D)`` float32."""

    values: Tensor
    y: Tensor
    device: str | torch.device = "cpu"

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and width."""
        return self.values.shape[1], self.values.shape[2]

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`TokenData`."""
        for part in order.split(batch_size):
            yield self.values[part].to(self.device), self.y[part].to(self.device)


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

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`TokenData`."""
        chosen = Subset(self.source, self.places[order].tolist())
        labels, bench = self.y[order], self.bench
        for batch in read_batches(chosen, bench.transform, batch_size=batch_size, workers=bench.workers):
            found = extract(bench.encoder, [batch], tokens="patch", **_protocol(bench))  # type: ignore[arg-type]
            yield found.values.to(bench.device), labels[batch.ids].to(bench.device)


@dataclass(frozen=True)
class TokenSides:
    """Both sides of an evaluation. labelled: classes and labels (its ``x`` are mean-pooled, or empty when streamed)."""

    train: TokenData
    val: TokenData
    labelled: Labelled
    streamed: bool


def from_features(train: Features, val: Features, device: str | torch.device = "cpu") -> TokenSides:
    """Both sides from patch features ``(N, T, D)``; samples without a label are dropped.

    Raises:
        DataError: as :func:`openjepa.evaluation.labels.align`, or features that are not patch tokens.
    """
    for side, features in (("train", train), ("val", val)):
        if features.values.ndim != 3:
            shape = tuple(features.values.shape)
            raise DataError(f"the {side} features have shape {shape}: this probe needs patch tokens (N, T, D)")
    pooled = [replace(features, values=features.values.mean(1)) for features in (train, val)]
    labelled = align(*pooled)
    sides = [
        KeptTokens(_labelled_rows(features), y, device) for features, y in ((train, labelled.y), (val, labelled.val_y))
    ]
    return TokenSides(sides[0], sides[1], labelled, streamed=False)


def open_tokens(bench: Bench, memory: int = MEMORY_BYTES) -> TokenSides:
    """Tokens of both sides of a bench: extracted (through the cache) when they fit ``memory`` bytes, else streamed.

    Raises:
        DataError: no labels, fewer than two classes, nothing readable, features that are not finite.
    """
    assert bench.encoder is not None
    sources = bench.train_source, bench.val_source
    labelled = align(*(names_only(source) for source in sources))
    shape = _token_shape(bench)
    if sum(map(len, sources)) * shape[0] * shape[1] * 4 <= memory:
        reading: dict[str, Any] = {
            "batch_size": bench.batch_size,
            "workers": bench.workers,
            "cache_dir": bench.cache_dir,
            **_protocol(bench),
        }
        found = [
            cached_extract(bench.encoder, source, bench.transform, tokens="patch", **reading) for source in sources
        ]
        return from_features(found[0], found[1], bench.device)
    sides = []
    for source, y in zip(sources, (labelled.y, labelled.val_y), strict=True):
        places = (torch.tensor(labels_of(source)) >= 0).nonzero().flatten()
        sides.append(StreamedTokens(source, bench, places, y, shape))
    return TokenSides(sides[0], sides[1], labelled, streamed=True)


def _protocol(bench: Bench) -> dict[str, Any]:
    return {
        "normalise": bench.normalise,
        "device": bench.device,
        "layers": bench.layers,
        "precision": bench.precision,
    }


def _labelled_rows(features: Features) -> Tensor:
    assert features.labels is not None
    kept = features.labels >= 0
    return features.values if bool(kept.all()) else features.values[kept]


def names_only(source: Source) -> Features:
    """Labels of a source as features without content, so that labels are checked before anything is encoded."""
    labels = torch.tensor(labels_of(source), dtype=torch.int64)
    classes = None if source.classes is None else tuple(source.classes)
    return Features(torch.zeros(len(labels), 1), torch.arange(len(labels)), labels, (), classes)


def _token_shape(bench: Bench) -> tuple[int, int]:
    """Tokens and width, from the first readable image."""
    batch = next(iter(read_batches(bench.train_source, bench.transform, batch_size=1)))
    assert bench.encoder is not None
    values = extract(bench.encoder, [batch], tokens="patch", **_protocol(bench)).values
    return values.shape[1], values.shape[2]
