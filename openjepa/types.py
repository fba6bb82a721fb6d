"""The data that flows between rooms: plain records of tensors, no behaviour beyond moving and slicing.

Axis legend used throughout the package: B batch, C channels, T frames, H×W pixels, t×h×w token grid (t tubelets; images
have h×w only), N = t·h·w tokens, token id = (τ·h + row)·w + column, K kept tokens (padded to the longest row),
D encoder width, P predictor width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


def _move(value: Any, device: torch.device | str) -> Any:
    """Move a tensor, non-blocking; pass anything else through."""
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Batch:
    """One batch of samples on one device.

    inputs: modality → tensor; ``"image"``: ``(B, C, H, W)``, ``"video"``: ``(B, C, T, H, W)`` uint8 (0..255) or float32
        (0..1) until it is on the device, then normalised float.
    ids: ``(B,)`` int64, the sample's index in its source.
    places: ``(B,)`` int64, the sample's place in the epoch's order; mask positions are drawn from it.
    labels: ``(B,)`` int64 or None; -1 where a sample has none.
    """

    inputs: Mapping[str, Tensor]
    ids: Tensor
    places: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device`` (non-blocking copies)."""
        inputs = {name: _move(value, device) for name, value in self.inputs.items()}
        return Batch(inputs, _move(self.ids, device), _move(self.places, device), _move(self.labels, device))

    def rows(self, start: int, stop: int) -> Batch:
        """Rows ``start:stop`` as views."""
        labels = None if self.labels is None else self.labels[start:stop]
        inputs = {name: value[start:stop] for name, value in self.inputs.items()}
        return Batch(inputs, self.ids[start:stop], self.places[start:stop], labels)


@dataclass(frozen=True)
class Ids:
    """Token ids of each sample, padded to the longest row.

    index: ``(B, K)`` int64 token ids, row-major in the grid; padding repeats a valid id and is marked in ``valid``.
    valid: ``(B, K)`` bool, False on padding; None when every row has exactly K ids.
    """

    index: Tensor
    valid: Tensor | None = None

    def to(self, device: torch.device | str) -> Ids:
        """The same ids on ``device``."""
        return Ids(_move(self.index, device), _move(self.valid, device))

    def rows(self, start: int, stop: int) -> Ids:
        """Rows ``start:stop`` as views."""
        return Ids(self.index[start:stop], None if self.valid is None else self.valid[start:stop])

    def count(self) -> int:
        """Number of valid ids over the batch (a host number: call it on CPU ids only)."""
        return self.index.numel() if self.valid is None else int(self.valid.sum())


@dataclass(frozen=True)
class MaskGroup:
    """Which tokens one input group shows to the encoder and which must be predicted.

    group: key into ``Batch.inputs``. contexts, targets: lists of :class:`Ids`. pairs: ``(context, target)`` list indices
    that are predicted, each by itself, either every context with every target or the first with the first and so on.
    grid: token grid the ids index, (h, w) or (t, h, w). mask_tokens: which learned mask token each pair uses (empty: 0).
    weights: of each pair's summed loss (empty: 1). complement: in every row of every pair the valid ids of context and
    target are, together, the whole grid, each id once; predictors then need no padding.
    """

    contexts: list[Ids]
    targets: list[Ids]
    pairs: list[tuple[int, int]]
    grid: tuple[int, ...]
    group: str = "image"
    mask_tokens: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    complement: bool = False
    stats: Mapping[str, float] = field(default_factory=dict)  # e.g. context_share, context_kept, target_share

    def to(self, device: torch.device | str) -> MaskGroup:
        """The same group with its ids on ``device``."""
        return replace(
            self, contexts=[c.to(device) for c in self.contexts], targets=[t.to(device) for t in self.targets]
        )

    def rows(self, start: int, stop: int) -> MaskGroup:
        """Rows ``start:stop`` of every id list."""
        return replace(
            self,
            contexts=[c.rows(start, stop) for c in self.contexts],
            targets=[t.rows(start, stop) for t in self.targets],
        )


@dataclass(frozen=True)
class Tokens:
    """Token features with where they sit. values ``(B, N, D)``; ids as in :class:`Ids`, or None for the whole grid."""

    values: Tensor
    grid: tuple[int, ...]
    ids: Ids | None = None


@dataclass(frozen=True)
class Progress:
    """Where training is: ``step`` of ``total`` (0-based, before the update) and samples seen."""

    step: int
    total: int
    samples: int = 0
    epoch: int = 0

    @property
    def share(self) -> float:
        """Share of the run done, in [0, 1]."""
        return self.step / max(self.total, 1)


@dataclass(frozen=True)
class Output:
    """What a method says of one micro-batch.

    loss_sum: scalar, *sum* over supervised elements; the loop divides by the global ``count`` so that micro-batches,
    ranks and accumulation are exact. terms: named detached parts of the loss, already divided by this micro-batch's
    count. health: named detached device scalars (never read inside the step).
    """

    loss_sum: Tensor
    count: float
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    health: Mapping[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Encoder(Protocol):
    """What evaluation, features and pictures need of any backbone (ours, timm's or Hugging Face's)."""

    embed_dim: int
    patch_size: tuple[int, int]

    def forward_features(self, x: Tensor, keep: Ids | None = None) -> Tensor:
        """``(B, C, H, W)`` normalised → ``(B, N, D)`` patch tokens after the final norm; ``keep`` encodes only those.

        Encoders of video take ``(B, C, T, H, W)``, have ``tubelet_size`` (frames per token), and see an image as a clip of
        one tubelet.
        """
        ...
