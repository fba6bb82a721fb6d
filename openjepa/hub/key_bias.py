"""Two rules for VideoMAE's names: attention without a bias of the keys, and a linear layer without any bias.

Ours have both. A bias b of the keys adds q·b to all scores of a query alike, which softmax does not see: zeros stand for it on
the way in, and on the way out it may be left out whatever it is (:attr:`openjepa.hub.keymaps.Mapped.dropped` has it). The
other bias matters: it must be zero.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from openjepa.errors import CheckpointError
from openjepa.hub.keymaps import Dropped, Work

KEY_BIAS = "bias of the keys: softmax does not see it, and their attention has none"


def _filled(template: str, fields: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: fields[found[1]], template)


@dataclass(frozen=True)
class MergeBias:
    """Biases of queries and values become one of ``qkv``, with zeros for the keys. Templates all have the kinds of fields."""

    query: str
    value: str
    target: str

    def apply(self, work: Work) -> None:
        """Merge every pair. Raises CheckpointError where one of the two is missing."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, template in (("query", self.query), ("value", self.value)):
            for _, fields, tensor in work.take(template):
                found.setdefault(_filled(self.target, fields), {})[name] = tensor
        for key, pair in found.items():
            if len(pair) < 2:
                raise CheckpointError(
                    f"'{key}' cannot be put together: it has a bias of the {' and '.join(pair)} alone"
                )
            work.put(key, torch.cat([pair["query"], torch.zeros_like(pair["query"]), pair["value"]]), key)

    def inverse(self) -> SplitBias:
        """Take apart again."""
        return SplitBias(self.query, self.value, self.target)


@dataclass(frozen=True)
class SplitBias:
    """Inverse of :class:`MergeBias`; the keys' part is left out."""

    query: str
    value: str
    target: str

    def apply(self, work: Work) -> None:
        """Split every match. Raises CheckpointError when its size is not a multiple of three."""
        for key, fields, tensor in work.take(self.target):
            if tensor.ndim != 1 or len(tensor) % 3:
                raise CheckpointError(f"'{key}' {tuple(tensor.shape)} is no bias of queries, keys and values")
            query, middle, value = tensor.chunk(3)
            work.put(_filled(self.query, fields), query, key)
            work.put(_filled(self.value, fields), value, key)
            work.dropped[key] = Dropped(middle, KEY_BIAS)

    def inverse(self) -> MergeBias:
        """Merge again."""
        return MergeBias(self.query, self.value, self.target)


@dataclass(frozen=True)
class AddBias:
    """``source``, the weight of a linear layer without bias, becomes ``target`` and gets a ``bias`` of zeros."""

    source: str
    target: str
    bias: str

    def apply(self, work: Work) -> None:
        """Rename, and put zeros."""
        for key, _, tensor in work.take(self.source):
            work.put(self.target, tensor, key)
            work.put(self.bias, tensor.new_zeros(tensor.shape[0]), key)

    def inverse(self) -> RemoveBias:
        """Without it again."""
        return RemoveBias(self.source, self.target, self.bias)


@dataclass(frozen=True)
class RemoveBias:
    """Inverse of :class:`AddBias`."""

    source: str
    target: str
    bias: str

    def apply(self, work: Work) -> None:
        """Rename, and take the bias out. Raises CheckpointError where it is not zero."""
        for key, _, tensor in work.take(self.target):
            work.put(self.source, tensor, key)
        for key, _, tensor in work.take(self.bias):
            if not tensor.is_meta and bool(tensor.any()):
                raise CheckpointError(f"'{key}' is not zero, and '{self.source.rpartition('.')[0]}' has no bias")

    def inverse(self) -> AddBias:
        """With zeros again."""
        return AddBias(self.source, self.target, self.bias)
