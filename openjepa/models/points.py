"""Point clouds: groups of neighbouring points become tokens, and a transformer that is told each group's place in every block.

Point-JEPA (2404.16432 §3; family.md §2). A cloud comes as G groups of K points, packed in one tensor ``(B, G, 1 + K, 3)``: the
group's centre first, then its points relative to it (:func:`pack_groups`). Nothing depends on G or K.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openjepa.config.schema import ModelConfig
from openjepa.errors import ConfigError
from openjepa.models.positions import Positions
from openjepa.models.sizes import Size
from openjepa.models.transformer import (
    LAYER_NORM_EPS,
    Block,
    Init,
    gather_tokens,
    initialise,
    key_mask,
    residual,
    set_norm_eps,
)
from openjepa.models.vit import VisionTransformer
from openjepa.types import Ids

AXES = 3
FIRST, SECOND, PLACE = (128, 256), 512, 128  # hidden widths, as published


def pack_groups(groups: Tensor, centres: Tensor) -> Tensor:
    """Groups ``(B, G, K, 3)``, relative to their centres ``(B, G, 3)``, as the one input ``(B, G, 1 + K, 3)`` of an encoder.

    Raises:
        ConfigError: shapes that do not belong together.
    """
    fits = groups.ndim == 4 and centres.ndim == 3 and groups.shape[:2] == centres.shape[:2]
    if not fits or groups.shape[-1] != AXES or centres.shape[-1] != AXES:
        raise ConfigError(
            f"groups (B, G, K, 3) and centres (B, G, 3) are wanted, not {tuple(groups.shape)} and {tuple(centres.shape)}"
        )
    return torch.cat([centres[:, :, None], groups], dim=2)


class PointTokenizer(nn.Module):
    """A small PointNet (1612.00593) turns every group into a token: points alone, their maximum beside each, maximum again."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        narrow, wide = FIRST
        self.first_conv = nn.Sequential(
            nn.Conv1d(AXES, narrow, 1, bias=False), nn.BatchNorm1d(narrow), nn.ReLU(), nn.Conv1d(narrow, wide, 1)
        )
        self.second_conv = nn.Sequential(
            nn.Conv1d(2 * wide, SECOND, 1, bias=False), nn.BatchNorm1d(SECOND), nn.ReLU(), nn.Conv1d(SECOND, dim, 1)
        )

    def forward(self, groups: Tensor) -> Tensor:
        """``(B, G, K, 3)`` → ``(B, G, D)``."""
        batch, count, size, _ = groups.shape
        points = self.first_conv(groups.reshape(batch * count, size, AXES).transpose(1, 2))  # (B·G, 256, K)
        most = points.amax(dim=2, keepdim=True).expand(-1, -1, size)
        tokens = self.second_conv(torch.cat([most, points], dim=1)).amax(dim=2)  # (B·G, D)
        return tokens.unflatten(0, (batch, count))


def place_mlp(dim: int) -> nn.Sequential:
    """What makes a position of a centre: 3 → 128 → GELU → ``dim``."""
    return nn.Sequential(nn.Linear(AXES, PLACE), nn.GELU(), nn.Linear(PLACE, dim))


class PlacedBlock(Block):
    """A block that adds the tokens' positions to its input; what others know as ``rope`` is what it adds."""

    def _parts(self, x: Tensor, mask: Tensor | None, last: int | None, rope: Tensor | None) -> tuple[Tensor, Tensor]:
        return super()._parts(x if rope is None else x + rope, mask, last, None)


class PointTransformer(VisionTransformer):
    """The vision transformer on groups of points: all but its stem and its positions is the same, and so are its methods.

    Where those take images, this takes packed groups ``(B, G, 1 + K, 3)``; ids count groups in the order they come in.
    Batch norm in the stem makes features in training mode depend on the batch.
    """

    def __init__(
        self, *, dim: int, depth: int, heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0, init: Init = "vjepa2"
    ) -> None:
        nn.Module.__init__(self)  # not the parent's: there are no patches, no grid, no table
        self.positions = Positions("coordinates")
        self.positions.check(dim, heads, "model.dim")
        self.image_size, self.patch_size, self.tubelet_size = (0, 0), (1, 1), 1
        self.channels, self.frames, self.grid = AXES, None, ()
        self.embed_dim = self.num_features = dim
        self.depth, self.heads = depth, heads
        self.grad_checkpointing = False
        self.tokenizer = PointTokenizer(dim)
        self.place = place_mlp(dim)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(PlacedBlock(dim, heads, mlp_ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        initialise(self, self.blocks, init)
        self.tap_blocks, self.num_prefix_tokens = (depth - 1,), 0
        self.cls_token = self.img_mod_embed = self.video_mod_embed = self.patch_embed_img = None
        self.register_buffer("rope", None, persistent=False)
        self.register_buffer("pos_embed", None, persistent=False)

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """``(G,)``. Raises ConfigError for what is no packed groups of points."""
        if x.ndim != 4 or x.shape[-1] != AXES or x.shape[2] < 2:
            raise ConfigError(
                f"this encoder takes groups of points (B, G, 1 + K, 3), each behind its centre, not {tuple(x.shape)}"
            )
        return (x.shape[1],)

    def _embed(
        self, x: Tensor, keep: Ids | None, replace: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Tokens, the key mask, and what every block adds."""
        self.grid_of(x)
        tokens, places = self.tokenizer(x[:, :, 1:]), self.place(x[:, :, 0])
        if replace is not None:
            hidden, token = replace
            tokens = torch.where(hidden[..., None], token.to(tokens.dtype), tokens)
        if keep is None:
            return residual(tokens), None, residual(places)
        tokens, places = gather_tokens(tokens, keep.index), gather_tokens(places, keep.index)
        return residual(tokens), key_mask(keep.valid), residual(places)


def build_point_encoder(model: ModelConfig, base: Size | None) -> PointTransformer:
    """The encoder a recipe of points describes. base: its named size, over which free numbers go; None: all are free."""
    encoder = PointTransformer(
        dim=model.dim or (base.dim if base else 0),
        depth=model.depth or (base.depth if base else 0),
        heads=model.heads or (base.heads if base else 0),
        mlp_ratio=model.mlp_ratio or (base.mlp_ratio if base else 4.0),
        drop_path=model.drop_path,
        init=model.init,
    )
    set_norm_eps(encoder, model.norm_eps)
    return encoder
