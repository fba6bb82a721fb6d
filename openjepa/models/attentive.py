"""Attentive pooling: learned queries ask the tokens of an image (official.md §7.1), with the published parameter names.

Two published forms. ``vjepa`` (2404.08471): cross-attention first, further self-attention blocks on the pooled queries; it
keeps an output projection that is never applied. ``vjepa2`` (2506.09985): self-attention blocks on the tokens, then
cross-attention; no output projection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjepa.errors import ConfigError
from openjepa.models.transformer import Block, Mlp, attend

Form = Literal["vjepa", "vjepa2"]

PROBE_EPS = 1e-5  # of every LayerNorm in a probe; encoders use 1e-6


class CrossAttention(nn.Module):
    """softmax(q(query) k(x)ᵀ/√d) v(x), heads concatenated. No output projection is applied, in either published form.

    Args:
        unused_projection: keep ``proj`` among the parameters, as V-JEPA 1 files do; it never takes part.
    """

    def __init__(self, dim: int, heads: int, unused_projection: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        if unused_projection:
            self.proj = nn.Linear(dim, dim)

    def forward(self, query: Tensor, x: Tensor) -> Tensor:
        """``(B, Q, D)`` queries and ``(B, N, D)`` tokens → ``(B, Q, D)``."""
        q, key, value = (self._heads(part) for part in (self.q(query), *self.kv(x).chunk(2, dim=-1)))
        return attend(q, key, value).transpose(1, 2).flatten(2)

    def folded_query(self, query: Tensor) -> Tensor:
        """``(Q, D)`` fixed queries → ``(heads, Q, D)``: what has to be multiplied with a token to get its score.

        q·(W_k x + b_k) = (W_kᵀ q)·x + const, and softmax ignores the constant. With few queries that are the same for
        every image this replaces N key projections of D × D by N products with heads · Q vectors.
        """
        count, width = query.shape
        q = self.q(query).view(count, self.heads, -1).transpose(0, 1)  # (heads, Q, d)
        key = self.kv.weight[:width].view(self.heads, -1, width)  # (heads, d, D)
        return (q @ key) * q.shape[-1] ** -0.5

    def project(self, pooled: Tensor) -> Tensor:
        """``(B, heads, Q, D)`` tokens averaged with each head's weights → values ``(B, Q, D)``; Σaₙ = 1 keeps the bias."""
        batch, heads, count, width = pooled.shape
        value = self.kv.weight[width:].view(heads, -1, width)  # (heads, d, D)
        # One product per head: broadcasting over the batch would copy the weights for every image.
        rows = pooled.transpose(0, 1).reshape(heads, batch * count, width)
        out = rows @ value.transpose(1, 2)  # (heads, B·Q, d)
        return out.view(heads, batch, count, -1).permute(1, 2, 0, 3).flatten(2) + self.kv.bias[width:]

    def _heads(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` → ``(B, heads, N, d)``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class CrossAttentionBlock(nn.Module):
    """q ← q + CrossAttn(q, LN₁(x)); q ← q + MLP(LN₂(q)). The query itself is not normalised before it asks."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0, unused_projection: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=PROBE_EPS)
        self.xattn = CrossAttention(dim, heads, unused_projection)
        self.norm2 = nn.LayerNorm(dim, eps=PROBE_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, query: Tensor, x: Tensor) -> Tensor:
        """``(B, Q, D)`` queries and ``(B, N, D)`` tokens → ``(B, Q, D)``."""
        return self.finish(query, self.xattn(query, self.norm1(x)))

    def finish(self, query: Tensor, answer: Tensor) -> Tensor:
        """Both residual sums, given what the attention answered."""
        query = query + answer
        return query + self.mlp(self.norm2(query))


class AttentivePooler(nn.Module):
    """Tokens ``(B, N, D)`` → ``(B, Q, D)`` through learned queries.

    Args:
        dim, heads, mlp_ratio: of every block. queries: Q.
        depth: blocks in all, the cross-attention one included (V-JEPA 1 used 1, V-JEPA 2 used 4).
        complete_block: False leaves the bare cross-attention, without norms, residual and MLP.
        form: where further blocks stand and which names the file has, see the module.

    Raises:
        ConfigError: a width that is no multiple of the heads, or a depth below one.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        queries: int = 1,
        depth: int = 1,
        mlp_ratio: float = 4.0,
        complete_block: bool = True,
        form: Form = "vjepa2",
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ConfigError(f"a probe of width {dim} cannot have {heads} heads: the width must be a multiple of them")
        if depth < 1:
            raise ConfigError(f"an attentive probe has at least one block, got {depth}")
        self.form, self.complete_block = form, complete_block
        self.query_tokens = nn.Parameter(torch.zeros(1, queries, dim))
        keep = form == "vjepa"
        self.cross_attention_block: nn.Module = (
            CrossAttentionBlock(dim, heads, mlp_ratio, keep) if complete_block else CrossAttention(dim, heads, keep)
        )
        self.blocks = nn.ModuleList(_probe_block(dim, heads, mlp_ratio) for _ in range(depth - 1))
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, D)`` → ``(B, Q, D)``."""
        if self.form == "vjepa2":
            for block in self.blocks:
                x = block(x)
        pooled = self.cross_attention_block(self.query_tokens.expand(len(x), -1, -1), x)
        return self.refine(pooled) if self.form == "vjepa" else pooled

    def refine(self, pooled: Tensor) -> Tensor:
        """The blocks of the V-JEPA 1 form, which work on the pooled queries."""
        for block in self.blocks:
            pooled = block(pooled)
        return pooled

    def _initialise(self) -> None:
        """Normal of deviation .02, biases 0, then output layers divided by √(2·place) (official.md §7.1).

        ``vjepa2``: block i by √(2i), the cross block's MLP by the last of those. ``vjepa``: the cross block is the first.
        """
        nn.init.trunc_normal_(self.query_tokens, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        first = 1 if self.form == "vjepa2" else 2
        cross, place = self.cross_attention_block, max(len(self.blocks), 1) if self.form == "vjepa2" else 1
        outputs: list[tuple[nn.Module, int]] = []
        for i, block in enumerate(self.blocks, start=first):
            assert isinstance(block, Block)
            outputs += [(block.attn.proj, i), (block.mlp.fc2, i)]
        if isinstance(cross, CrossAttentionBlock):
            outputs.append((cross.mlp.fc2, place))
            cross = cross.xattn
        if self.form == "vjepa":
            assert isinstance(cross, CrossAttention)
            outputs.append((cross.proj, place))
        with torch.no_grad():
            for layer, i in outputs:
                assert isinstance(layer, nn.Linear)
                layer.weight.div_(math.sqrt(2 * i))


class AttentiveClassifier(nn.Module):
    """One query pooled from the tokens, then a linear layer; state dict names are those of the published probes."""

    def __init__(
        self,
        dim: int,
        heads: int,
        classes: int,
        *,
        depth: int = 1,
        mlp_ratio: float = 4.0,
        complete_block: bool = True,
        form: Form = "vjepa2",
    ) -> None:
        super().__init__()
        self.pooler = AttentivePooler(
            dim, heads, depth=depth, mlp_ratio=mlp_ratio, complete_block=complete_block, form=form
        )
        self.linear = nn.Linear(dim, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, D)`` → logits ``(B, classes)``."""
        return self.linear(self.pooler(tokens).squeeze(1))


class ActionClassifier(nn.Module):
    """V-JEPA 2's classifier of Epic-Kitchens actions: three queries, each with a linear layer (official.md §6.2, §7.4).

    Args:
        dim, heads, depth: as in :class:`AttentivePooler`. verbs, nouns, actions: numbers of classes.
    """

    def __init__(self, dim: int, heads: int, verbs: int, nouns: int, actions: int, *, depth: int = 4) -> None:
        super().__init__()
        self.pooler = AttentivePooler(dim, heads, queries=3, depth=depth)
        self.verb_classifier = nn.Linear(dim, verbs)
        self.noun_classifier = nn.Linear(dim, nouns)
        self.action_classifier = nn.Linear(dim, actions)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, N, D)`` → logits of verbs, nouns and actions, each ``(B, classes)``."""
        verb, noun, action = self.pooler(tokens).unbind(1)
        return self.verb_classifier(verb), self.noun_classifier(noun), self.action_classifier(action)


def classify_together(probes: Sequence[AttentiveClassifier], tokens: Tensor) -> list[Tensor]:
    """Logits ``(B, classes)`` of each probe on the same ``tokens (B, N, D)``; equal to calling each on its own.

    Complete probes whose cross-attention sees the tokens themselves share two matrix products: normalised tokens times
    the folded queries of all probes, and the attention of all probes times the normalised tokens.
    """
    if not probes or not all(_sees_tokens(probe) for probe in probes):
        return [probe(tokens) for probe in probes]
    normed = F.layer_norm(tokens, tokens.shape[-1:], eps=PROBE_EPS)  # each probe's affine part is folded below
    blocks = [_cross(probe) for probe in probes]
    queries = [
        block.xattn.folded_query(probe.pooler.query_tokens[0]) for probe, block in zip(probes, blocks, strict=True)
    ]
    folded = torch.cat([(q * b.norm1.weight).flatten(0, 1) for q, b in zip(queries, blocks, strict=True)])
    scores = normed @ folded.T  # (B, N, probes·heads·Q); half precision under autocast
    attention = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=1).to(normed.dtype)
    pooled = attention.transpose(1, 2) @ normed  # (B, probes·heads·Q, D)
    shares = pooled.split([len(q) * q.shape[1] for q in queries], dim=1)  # slices would each fill a whole gradient
    logits = []
    for probe, block, query, share in zip(probes, blocks, queries, shares, strict=True):
        mine = share.unflatten(1, query.shape[:2])  # (B, heads, Q, D)
        answer = block.xattn.project(mine * block.norm1.weight + block.norm1.bias)
        out = block.finish(probe.pooler.query_tokens.expand(len(tokens), -1, -1), answer)
        logits.append(probe.linear(probe.pooler.refine(out).squeeze(1)))
    return logits


def _sees_tokens(probe: AttentiveClassifier) -> bool:
    """Whether the cross-attention sees the tokens themselves, through a norm with the usual epsilon."""
    pooler = probe.pooler
    first = pooler.complete_block and (pooler.form == "vjepa" or not pooler.blocks)
    return first and _cross(probe).norm1.eps == PROBE_EPS  # imported probes have that of their encoder


def _cross(probe: AttentiveClassifier) -> CrossAttentionBlock:
    block = probe.pooler.cross_attention_block
    assert isinstance(block, CrossAttentionBlock)
    return block


def _probe_block(dim: int, heads: int, mlp_ratio: float) -> Block:
    """The encoder's block with the probes' eps."""
    block = Block(dim, heads, mlp_ratio)
    block.norm1.eps = block.norm2.eps = PROBE_EPS
    return block
