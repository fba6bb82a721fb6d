"""Low-rank adaptation: W stays, a product of two thin matrices is learned beside it, and in the end added to it.

LoRA (2106.09685 §4.1): h = W x + (α/r) B A x with A (r × in) drawn, B (out × r) zero, so that training starts at W.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoraLinear(nn.Module):
    """A frozen linear layer and its low-rank change.

    Args:
        base: the layer. rank: r. alpha: the change is scaled by alpha / rank.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        self.down = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    @property
    def weight(self) -> Tensor:
        """The sum, ``(out, in)``: for callers that read the matrix instead of calling the layer."""
        return self.base.weight + self.scale * (self.up @ self.down)

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """``(…, in)`` → ``(…, out)``."""
        return self.base(x) + self.scale * F.linear(F.linear(x, self.down), self.up)

    def merged(self) -> nn.Linear:
        """One linear layer that does the same."""
        with torch.no_grad():
            self.base.weight.copy_(self.weight)
        return self.base


def add_lora(modules: Iterable[nn.Module], rank: int, alpha: float) -> int:
    """Replace every linear layer inside ``modules``, in place; returns how many. Only the new matrices learn.

    All of them, not queries and values alone: the same number of weights spread over all layers does better (QLoRA,
    2305.14314 §4).
    """
    count = 0
    for module in modules:
        module.requires_grad_(False)
        for owner, name, layer in _linear_layers(module):
            setattr(owner, name, LoraLinear(layer, rank, alpha))
            count += 1
    return count


def merge_lora(module: nn.Module) -> int:
    """Put plain linear layers back, with what was learned added to their weights; returns how many."""
    found = [
        (owner, name, layer)
        for owner in module.modules()
        for name, layer in owner.named_children()
        if isinstance(layer, LoraLinear)
    ]
    for owner, name, layer in found:
        setattr(owner, name, layer.merged())
    return len(found)


def _linear_layers(module: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """Owner, name and layer of every linear layer."""
    return [
        (owner, name, layer)
        for owner in module.modules()
        for name, layer in owner.named_children()
        if isinstance(layer, nn.Linear)
    ]
