"""A linear layer on one vector of an encoder: what a fine-tuned classifier ends in."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pooling = Literal["mean", "class"]


class LinearHead(nn.Module):
    """Class scores from the tokens of an encoder.

    Args:
        pooling: ``mean`` of the patch tokens, or the ``class`` token, which stands in front of them.
    """

    def __init__(self, dim: int, classes: int, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.pooling: Pooling = pooling
        self.weight = nn.Parameter(torch.empty(classes, dim))
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.trunc_normal_(self.weight, std=0.01)

    @property
    def prefix(self) -> bool:
        """Whether the class token must be among the tokens, in front."""
        return self.pooling == "class"

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, D)`` tokens → ``(B, classes)`` logits."""
        vector = tokens[:, 0] if self.pooling == "class" else tokens.mean(1)
        return F.linear(vector, self.weight, self.bias)
