"""Predicting where the mask tokens stand: the encoder sees every position, a learned token at the hidden ones (data2vec)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TokenHead(nn.Module):
    """The mask token an encoder is shown at hidden positions, and what turns its output there into a prediction.

    Args:
        embed_dim: encoder width D. linear: one linear layer (data2vec's regression head), else nothing at all.
    """

    def __init__(self, embed_dim: int, *, linear: bool) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.proj: nn.Module = nn.Linear(embed_dim, embed_dim) if linear else nn.Identity()
        if isinstance(self.proj, nn.Linear):
            nn.init.trunc_normal_(self.proj.weight, std=0.02)
            nn.init.zeros_(self.proj.bias)

    def token(self) -> Tensor:
        """The mask token ``(1, 1, D)``: a copy, which outlives this call where the weights are sharded."""
        return self.mask_token.clone()

    def forward(self, tokens: Tensor) -> Tensor:
        """``(R·B, K, D)`` encoder outputs at the hidden positions → predictions of the same shape."""
        return self.proj(tokens)
