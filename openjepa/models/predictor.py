"""The narrow predictor: mask tokens at the hidden positions attend to the context (I-JEPA 2301.08243, V-JEPA 2404.08471)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openjepa.errors import ConfigError
from openjepa.models.positions import Positions
from openjepa.models.rotary import pick_rotation
from openjepa.models.transformer import (
    LAYER_NORM_EPS,
    Block,
    Init,
    gather_tokens,
    initialise,
    key_mask,
    modality_pair,
    residual,
)
from openjepa.types import Ids, Tokens

DEFAULT_POSITIONS = Positions()


class NarrowPredictor(nn.Module):
    """Predict the representation of hidden tokens from visible ones, through a width ``dim`` narrower than the encoder's.

    Parameter names are the published ones; positions are fixed and not saved.

    Args:
        grid: token grid the encoder is built for; any other works (:class:`openjepa.models.positions.Positions`).
        levels: how many levels of the encoder's output it reads, joined (:meth:`VisionTransformer.forward_levels`), and
            predicts, joined again. Several are first mixed by a perceptron (V-JEPA 2.1).
        out_dim: width of a predicted level, where it is not the encoder's.
        context_head: a second projection predicts the context tokens, see :meth:`predict_all` (V-JEPA 2.1).
        modality_embeddings: a learned vector for images and one for clips, added to every token (V-JEPA 2.1).
        mask_tokens: how many learned mask tokens there are; one is called ``mask_token``, several ``mask_tokens.0``, ….
        zero_tokens: mask tokens begin at zero, as published for video.
    """

    predictor_pos_embed: Tensor | None
    rope: Tensor | None
    img_mod_embed: nn.Parameter | None
    video_mod_embed: nn.Parameter | None

    def __init__(
        self,
        *,
        embed_dim: int,
        grid: tuple[int, ...],
        dim: int = 384,
        depth: int = 6,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        positions: Positions = DEFAULT_POSITIONS,
        init: Init = "vjepa2",
        out_dim: int | None = None,
        mask_tokens: int = 1,
        zero_tokens: bool = False,
        levels: int = 1,
        context_head: bool = False,
        modality_embeddings: bool = False,
    ) -> None:
        super().__init__()
        positions.check(dim, heads, "predictor.dim")
        self.levels = levels
        self.grid, self.positions = grid, positions
        self.grad_checkpointing = False
        self.predictor_embed = nn.Linear(embed_dim, dim) if levels == 1 else _fusion(embed_dim, levels, dim)
        if mask_tokens == 1:
            self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        else:
            self.mask_tokens = nn.ParameterList(torch.zeros(1, 1, dim) for _ in range(mask_tokens))
        self.predictor_blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.predictor_proj = nn.Linear(dim, levels * (out_dim or embed_dim))
        self.predictor_proj_context = nn.Linear(dim, levels * (out_dim or embed_dim)) if context_head else None
        initialise(self, self.predictor_blocks, init)
        if not zero_tokens:
            for token in self._tokens():
                nn.init.trunc_normal_(token, std=0.02)
        self.img_mod_embed, self.video_mod_embed = modality_pair(dim) if modality_embeddings else (None, None)
        rope = positions.rotation(dim // heads, grid) if positions.rotary else None
        table = None if positions.rotary else positions.native_table(dim, grid)[None]
        self.register_buffer("rope", rope, persistent=False)
        self.register_buffer("predictor_pos_embed", table, persistent=False)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute block activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def predict(
        self,
        context: Tokens,
        query: Ids,
        mask_tokens: Sequence[int] = (),
        complement: bool = False,
        image: bool | None = None,
    ) -> Tensor:
        """Predict every query token of a batch in one call.

        Args:
            context: visible tokens, values ``(B, P + K_c, levels·D)``, with their ids ``(B, K_c)``; P tokens in front (a
                class token) have no id and no position.
            query: ids to predict, ``(R·B, K_t)``: R groups of B rows, each group predicted on its own from the same
                contexts (several target blocks per image). Padded queries are not seen by any token.
            mask_tokens: which learned token each of equally many groups of query rows uses; empty: the first.
            complement: valid ids of context and query make up the whole grid in every row (and R is 1): tokens then
                stand in the order of the grid, rows of unequal contexts need no padding, and all have the same positions.
            image: which modality embedding, where there are two; None: that of images where the grid has one tubelet.

        Returns:
            ``(R·B, K_t, levels·D)`` predictions in the order of ``query``, not normalised.
        """
        asked, _ = self._answers(context, query, mask_tokens, complement, image, everything=False)
        return self.predictor_proj(self.predictor_norm(asked))

    forward = predict

    def predict_all(
        self,
        context: Tokens,
        query: Ids,
        mask_tokens: Sequence[int] = (),
        complement: bool = False,
        image: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict the query tokens, and the context tokens through ``predictor_proj_context`` (V-JEPA 2.1, 2603.14482 §3).

        Arguments as in :meth:`predict`, whose result comes first.

        Returns:
            ``(R·B, K_t, levels·D)`` and ``(R·B, K_c, levels·D)``, in the order of ``query`` and of the context's ids.

        Raises:
            ConfigError: this predictor has no second projection.
        """
        if self.predictor_proj_context is None:
            raise ConfigError("this predictor predicts hidden tokens only: set predictor.context_head=true")
        asked, seen = self._answers(context, query, mask_tokens, complement, image, everything=True)
        assert seen is not None
        norm = self.predictor_norm
        return self.predictor_proj(norm(asked)), self.predictor_proj_context(norm(seen))

    def _answers(
        self,
        context: Tokens,
        query: Ids,
        mask_tokens: Sequence[int],
        complement: bool,
        image: bool | None,
        everything: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """What the last block says at the query's places ``(R·B, K_t, W)`` and, for ``everything``, at the context's."""
        assert context.ids is not None
        prefix = context.values.shape[1] - context.ids.index.shape[1]
        table, rope = self._places(context.grid)
        token = self._token_rows(mask_tokens, len(query.index))  # (R·B or 1, 1, W)
        if complement:
            assert len(query.index) == len(context.values), "one query for each context"
            x = self._whole_grid(context, token, prefix)  # (B, P + N, W)
            if table is not None:
                x = x + F.pad(table, (0, 0, prefix, 0))
            x = self._with_modality(x, context.grid, image)
            turned = None if rope is None else residual(pick_rotation(rope, None, prefix))
            x = self._run(x, None, turned)[:, prefix:]
            return gather_tokens(x, query.index), gather_tokens(x, context.ids.index) if everything else None
        x, asked = self._joined(context, query, token, table, prefix)
        x = self._with_modality(x, context.grid, image)
        repeats = len(query.index) // len(context.values)
        turned = None
        if rope is not None:
            ids = torch.cat([context.ids.index.repeat(repeats, 1), query.index], dim=1)
            turned = residual(pick_rotation(rope, ids, prefix))
        mask = key_mask(_joint_valid(context.ids, query, repeats, prefix))
        x = self._run(x, mask, turned, last=None if everything else asked)
        return x[:, -asked:], x[:, prefix:-asked] if everything else None

    def _with_modality(self, x: Tensor, grid: tuple[int, ...], image: bool | None) -> Tensor:
        """Every token and the embedding of its modality, where there is one."""
        if image is None:
            image = len(grid) == 2 or grid[0] == 1
        modality = self.img_mod_embed if image else self.video_mod_embed
        return x if modality is None else x + modality.to(x.dtype)

    def _joined(
        self, context: Tokens, query: Ids, token: Tensor, table: Tensor | None, prefix: int
    ) -> tuple[Tensor, int]:
        """``[prefix | context | query]`` tokens ``(R·B, P + K_c + K_t, W)`` with additive positions, and K_t."""
        assert context.ids is not None
        repeats = query.index.shape[0] // context.values.shape[0]
        seen = self.predictor_embed(context.values)
        if table is None:
            seen = residual(seen)
            asked = token.expand(*query.index.shape, -1).to(seen.dtype)
        else:
            places = table[context.ids.index]  # (B, K_c, W)
            seen = residual(seen + (F.pad(places, (0, 0, prefix, 0)) if prefix else places))
            asked = (token + table[query.index]).to(seen.dtype)  # (R·B, K_t, W)
        return torch.cat([seen.repeat(repeats, 1, 1), asked], dim=1), asked.shape[1]

    def _whole_grid(self, context: Tokens, token: Tensor, prefix: int) -> Tensor:
        """Prefix and every place of the grid, ``(B, P + N, W)``: the visible token where there is one, else the mask token."""
        assert context.ids is not None
        seen = residual(self.predictor_embed(context.values))
        (batch, kept), tokens = context.ids.index.shape, math.prod(context.grid)
        hidden = prefix + kept  # where the mask token stands in what is gathered from
        index = context.ids.index
        if context.ids.valid is not None:
            index = index.masked_fill(~context.ids.valid, tokens)  # padding fills a place that is cut off
        order = torch.full((batch, tokens + 1), hidden, dtype=torch.int64, device=index.device)
        order.scatter_(1, index, torch.arange(prefix, hidden, device=index.device).expand(batch, -1))
        if prefix:
            front = torch.arange(prefix, device=index.device).expand(batch, -1)
            order = torch.cat([front, order], dim=1)
        everything = torch.cat([seen, token.expand(batch, -1, -1).to(seen.dtype)], dim=1)
        return gather_tokens(everything, order[:, : prefix + tokens])

    def _run(self, x: Tensor, mask: Tensor | None, rope: Tensor | None, last: int | None = None) -> Tensor:
        """All blocks; of the final one only the ``last`` tokens, where given: nobody reads the context after it."""
        for number, block in enumerate(self.predictor_blocks, start=1):
            wanted = last if number == len(self.predictor_blocks) else None
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, wanted, rope, use_reentrant=False)
            else:
                x = block(x, mask, wanted, rope)
        return x

    def _places(self, grid: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None]:
        """Additive table ``(N, W)`` or rotary table ``(2, N, W/heads)`` of a grid."""
        if self.positions.rotary:
            assert self.rope is not None
            if grid == self.grid:
                return None, self.rope
            return None, self.positions.rotation(self.rope.shape[-1], grid).to(self.rope.device)
        assert self.predictor_pos_embed is not None
        return self.positions.table_for(self.predictor_pos_embed[0], self.grid, grid), None

    def _tokens(self) -> list[nn.Parameter]:
        """The learned mask tokens, (1, 1, W) each."""
        return list(self.mask_tokens) if hasattr(self, "mask_tokens") else [self.mask_token]

    def _token_rows(self, numbers: Sequence[int], rows: int) -> Tensor:
        """The mask token of every query row, ``(rows, 1, W)``, or ``(1, 1, W)`` where there is one for all."""
        tokens = self._tokens()
        if len(tokens) == 1:
            return tokens[0]
        stacked = torch.cat([*tokens])[:, 0]  # (tokens, W): those not used get a gradient of zero, which DDP waits for
        chosen = [number % len(tokens) for number in numbers or (0,)]
        return stacked[chosen].repeat_interleave(rows // len(chosen), dim=0)[:, None]


def _fusion(embed_dim: int, levels: int, dim: int) -> nn.Sequential:
    """Mixes the levels of a token: ``levels·D`` → D → ``dim`` (V-JEPA 2.1; published names ``predictor_embed.0`` and ``.2``)."""
    return nn.Sequential(nn.Linear(levels * embed_dim, embed_dim), nn.GELU(), nn.Linear(embed_dim, dim))


def _joint_valid(context: Ids, query: Ids, repeats: int, prefix: int) -> Tensor | None:
    """Validity of ``[prefix | context | query]`` keys, or None when nothing is padded."""
    if context.valid is None and query.valid is None:
        return None
    seen = torch.ones_like(context.index, dtype=torch.bool) if context.valid is None else context.valid
    asked = torch.ones_like(query.index, dtype=torch.bool) if query.valid is None else query.valid
    return torch.cat([F.pad(seen, (prefix, 0), value=True).repeat(repeats, 1), asked], dim=1)
