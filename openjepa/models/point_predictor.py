"""The predictor of point groups: mask tokens at the hidden groups' places attend to the context (Point-JEPA 2404.16432 §3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openjepa.models.points import place_mlp
from openjepa.models.positions import Positions
from openjepa.models.transformer import LAYER_NORM_EPS, Block, Init, gather_tokens, initialise, key_mask, residual
from openjepa.types import Ids, Tokens


class PointPredictor(nn.Module):
    """Predict hidden groups' features from those of visible groups and the centres of both.

    Args:
        embed_dim: the encoder's width. out_dim: width of a prediction, where it is another.

    Published files hold a second norm that nothing reads: ``spare_norm`` keeps it, without a gradient, so that they can be
    written back whole.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        dim: int = 192,
        depth: int = 6,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        init: Init = "vjepa2",
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        Positions("coordinates").check(dim, heads, "predictor.dim")
        self.grad_checkpointing = False
        self.predictor_embed = nn.Linear(embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.place = place_mlp(dim)
        self.predictor_blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.spare_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS).requires_grad_(False)
        self.predictor_proj = nn.Linear(dim, out_dim or embed_dim)
        initialise(self, self.predictor_blocks, init)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute block activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def predict(self, context: Tokens, query: Ids, centres: Tensor) -> Tensor:
        """Predict every query group of a batch in one call.

        Args:
            context: visible groups, values ``(B, K_c, D)``, with their ids ``(B, K_c)``. query: ids to predict,
                ``(R·B, K_t)``: R groups of B rows, each predicted on its own (several target blocks per cloud).
            centres: ``(B, G, 3)`` of all groups, which the ids index.

        Returns:
            ``(R·B, K_t, D)`` predictions in the order of ``query``, not normalised.
        """
        assert context.ids is not None
        repeats = len(query.index) // len(context.values)
        places = self.place(centres)  # (B, G, W)
        seen = residual(self.predictor_embed(context.values) + gather_tokens(places, context.ids.index))
        asked = (self.mask_token + gather_tokens(places.repeat(repeats, 1, 1), query.index)).to(seen.dtype)
        x = torch.cat([seen.repeat(repeats, 1, 1), asked], dim=1)
        mask = key_mask(_valid(context.ids, query, repeats))
        for block in self.predictor_blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return self.predictor_proj(self.predictor_norm(x[:, -query.index.shape[1] :]))

    forward = predict


def _valid(context: Ids, query: Ids, repeats: int) -> Tensor | None:
    """Validity of ``[context | query]`` keys, None when nothing is padded."""
    if context.valid is None and query.valid is None:
        return None
    parts = []
    for ids, times in ((context, repeats), (query, 1)):
        valid = torch.ones_like(ids.index, dtype=torch.bool) if ids.valid is None else ids.valid
        parts.append(valid.repeat(times, 1))
    return torch.cat(parts, dim=1)
