"""The pre-norm transformer block of the family (official.md §1.3) and its two published initialisations (§1.4)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjepa.models.rotary import rotate

LAYER_NORM_EPS = 1e-6  # encoders and predictors; probes use 1e-5
Init = Literal["ijepa", "vjepa2", "mae"]


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ/√d) v over ``(B, heads, N, d)``; ``mask`` is True where a key may be seen.

    torch's fused kernel everywhere but in bf16 training on a CPU: its backward pass there is 3–5 × slower than plain
    matrix products at the 30–200 tokens of an image (measured with torch 2.15 on a Xeon with AMX).
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, heads, N, N)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(dim=-1).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class Attention(nn.Module):
    """Multi-head self-attention with a fused ``qkv`` projection, rows ordered ``[q; k; v]``, heads contiguous inside."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, last: int | None = None, rope: Tensor | None = None
    ) -> Tensor:
        """``(B, N, D)`` → ``(B, N, D)``; ``mask`` is ``(B, 1, 1, N)`` bool, True where a key may be seen.

        ``last``: only the last so many tokens ask (every token answers), and only they come back. ``rope``: rotary
        positions of all tokens, ``(2, B or 1, 1, N, D/heads)`` (:mod:`openjepa.models.rotary`).
        """
        if last is None:
            heads = self._heads(self.qkv(x), 3)
            if rope is None:
                query, key, value = heads
            else:
                (query, key), value = rotate(heads[:2], rope[:, None]), heads[2]
        else:
            dim = x.shape[-1]
            weight, bias = self.qkv.weight, self.qkv.bias
            (query,) = self._heads(F.linear(x[:, -last:], weight[:dim], bias[:dim]), 1)
            key, value = self._heads(F.linear(x, weight[dim:], bias[dim:]), 2)
            if rope is not None:
                query, key = rotate(query, rope[..., -last:, :]), rotate(key, rope)
        return self.proj(attend(query, key, value, mask).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor, parts: int) -> Tensor:
        """``(B, N, parts·D)`` → ``(parts, B, heads, N, D/heads)``."""
        batch, tokens, width = x.shape
        return x.reshape(batch, tokens, parts, self.heads, width // parts // self.heads).permute(2, 0, 3, 1, 4)


class Mlp(nn.Module):
    """fc1 → exact GELU → fc2."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(…, D)`` → ``(…, D)``."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x ← x + Attn(LN x); x ← x + MLP(LN x), with stochastic depth per sample."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = drop_path

    def forward(
        self, x: Tensor, mask: Tensor | None = None, last: int | None = None, rope: Tensor | None = None
    ) -> Tensor:
        """``(B, N, D)`` → ``(B, N, D)``, or only the last ``last`` tokens of that, for less work; see :class:`Attention`."""
        x, branch = self._parts(x, mask, last, rope)
        return x + branch

    def forward_parts(self, x: Tensor, mask: Tensor | None = None, rope: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The two addends of the block's output: the residual stream after attention, and the FFN's output."""
        return self._parts(x, mask, None, rope)

    def _parts(self, x: Tensor, mask: Tensor | None, last: int | None, rope: Tensor | None) -> tuple[Tensor, Tensor]:
        # Apart from forward_parts, which sharding wraps as it wraps forward: one must not run inside the other.
        answer = self.attn(self.norm1(x), mask, last, rope)
        x = (x if last is None else x[:, -last:]) + self._drop(answer)
        return x, self._drop(self.mlp(self.norm2(x)))

    def _drop(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1 - self.drop_path
        coin = torch.empty(branch.shape[0], 1, 1, dtype=branch.dtype, device=branch.device).bernoulli_(keep)
        return branch * coin / keep


def set_norm_eps(root: nn.Module, eps: float) -> None:
    """Give every layer norm of a network this epsilon; nothing happens for the usual one."""
    if eps != LAYER_NORM_EPS:
        for module in root.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps


def initialise(root: nn.Module, blocks: nn.ModuleList, how: Init) -> None:
    """Draw weights as published: normal with deviation .02 (truncated at ±2, 100 deviations out), biases 0, norms 1.

    ``vjepa2`` then divides ``attn.proj.weight`` and ``mlp.fc2.weight`` of block l (from 1) by √(2l). The published
    I-JEPA and V-JEPA runs had no such rescale, because a later re-draw undid it: ``ijepa`` (official.md §1.4). ``mae``:
    Xavier-uniform, the patch projection as one linear layer (2111.06377 §A.1).
    """
    for module in root.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            if how == "mae":
                nn.init.xavier_uniform_(module.weight.detach().flatten(1))  # a view: the weight itself is filled
            else:
                nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if how == "vjepa2":
        with torch.no_grad():
            for layer, block in enumerate(blocks, start=1):
                assert isinstance(block, Block)
                block.attn.proj.weight.div_(math.sqrt(2 * layer))
                block.mlp.fc2.weight.div_(math.sqrt(2 * layer))


def modality_pair(dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """What is added to the tokens of images and to those of clips, ``(1, 1, dim)`` each, normal of deviation 1e-6 at first."""
    images, clips = (nn.Parameter(nn.init.normal_(torch.zeros(1, 1, dim), std=1e-6)) for _ in range(2))
    return images, clips


def residual(x: Tensor) -> Tensor:
    """What enters the first block: float32 as published, but bfloat16 under autocast on a CPU.

    There the residual stream's memory traffic, not arithmetic, is the cost of a small step (1.5 × faster so).
    """
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return x.to(torch.get_autocast_dtype("cpu"))
    return x


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Pick tokens: ``x (B, N, D)``, ``index (B, K)`` → ``(B, K, D)``."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def key_mask(valid: Tensor | None) -> Tensor | None:
    """``(B, N)`` validity → the ``(B, 1, 1, N)`` mask that scaled-dot-product attention broadcasts."""
    return None if valid is None else valid[:, None, None, :]
