"""The narrow predictor: mask tokens at the hidden positions attend to the context (I-JEPA 2301.08243; official.md §2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjepa.errors import ConfigError
from openjepa.models.positions import Order, resample_positions, sincos2d
from openjepa.models.transformer import LAYER_NORM_EPS, Block, Init, initialise, key_mask, residual
from openjepa.types import Ids, Tokens


class NarrowPredictor(nn.Module):
    """Predict the representation of hidden tokens from visible ones, through a width ``dim`` narrower than the encoder's.

    Parameter names are the published ones. ``predictor_pos_embed`` is fixed sincos and not saved. ``out_dim``: width of
    a prediction, where it is not the encoder's.
    """

    predictor_pos_embed: Tensor

    def __init__(
        self,
        *,
        embed_dim: int,
        grid: tuple[int, int],
        dim: int = 384,
        depth: int = 6,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        position_order: Order = "column_first",
        init: Init = "vjepa2",
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"predictor.dim {dim} is not a multiple of its {heads} heads: set predictor.heads")
        if dim % 4:
            raise ConfigError(f"predictor.dim {dim} is not a multiple of 4, which sincos2d positions need")
        self.grid = grid
        self.predictor_embed = nn.Linear(embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.predictor_blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.predictor_proj = nn.Linear(dim, out_dim or embed_dim)
        initialise(self, self.predictor_blocks, init)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.register_buffer("predictor_pos_embed", sincos2d(dim, grid, position_order)[None], persistent=False)

    def predict(self, context: Tokens, query: Ids) -> Tensor:
        """Predict every query token of a batch in one call.

        Args:
            context: visible tokens, values ``(B, P + K_c, D)``, with their ids ``(B, K_c)``; P tokens in front (a class
                token) have no id and no position.
            query: ids to predict, ``(R·B, K_t)``: R groups of B rows, each group predicted on its own from the same
                contexts (several target blocks per image). Padded queries are not seen by any token.

        Returns:
            ``(R·B, K_t, D)`` predictions in the order of ``query``, not normalised.
        """
        assert context.ids is not None
        repeats = query.index.shape[0] // context.values.shape[0]
        prefix = context.values.shape[1] - context.ids.index.shape[1]
        positions = resample_positions(self.predictor_pos_embed[0], self.grid, (context.grid[0], context.grid[1]))
        seen = self.predictor_embed(context.values)
        places = positions[context.ids.index]  # (B, K_c, W)
        seen = residual(seen + (F.pad(places, (0, 0, prefix, 0)) if prefix else places))
        asked = (self.mask_token + positions[query.index]).to(seen.dtype)  # (R·B, K_t, W)
        x = torch.cat([seen.repeat(repeats, 1, 1), asked], dim=1)
        mask = key_mask(_joint_valid(context.ids, query, repeats, prefix))
        *inner, final = self.predictor_blocks
        for block in inner:
            x = block(x, mask)
        x = final(x, mask, asked.shape[1])  # nobody reads the context after this
        return self.predictor_proj(self.predictor_norm(x))

    forward = predict


def _joint_valid(context: Ids, query: Ids, repeats: int, prefix: int) -> Tensor | None:
    """Validity of ``[prefix | context | query]`` keys, or None when nothing is padded."""
    if context.valid is None and query.valid is None:
        return None
    seen = torch.ones_like(context.index, dtype=torch.bool) if context.valid is None else context.valid
    asked = torch.ones_like(query.index, dtype=torch.bool) if query.valid is None else query.valid
    return torch.cat([F.pad(seen, (prefix, 0), value=True).repeat(repeats, 1), asked], dim=1)
