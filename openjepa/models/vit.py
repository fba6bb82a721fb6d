"""The vision transformer every image system here encodes with: no class token, mean-pooled by whoever needs one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openjepa.config.schema import ModelConfig
from openjepa.errors import ConfigError
from openjepa.models.positions import Order, resample_positions, sincos2d
from openjepa.models.sizes import size_named
from openjepa.models.transformer import LAYER_NORM_EPS, Block, Init, gather_tokens, initialise, key_mask, residual
from openjepa.types import Ids


class PatchEmbed(nn.Module):
    """Non-overlapping patches through one projection; leftover pixels are dropped, tokens are row-major.

    The weight is stored as the published convolution ``(D, C, p, p)`` and applied as a matrix product, so that hidden
    patches need not be projected at all.
    """

    def __init__(self, patch_size: int, channels: int, dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor, keep: Ids | None = None) -> Tensor:
        """``(B, C, H, W)`` → ``(B, h·w, D)``, or ``(B, K, D)`` for the patches ``keep`` names."""
        p, (batch, channels, height, width) = self.patch_size, x.shape
        h, w = height // p, width // p
        x = x[..., : h * p, : w * p].reshape(batch, channels, h, p, w, p)
        patches = x.permute(0, 2, 4, 1, 3, 5).reshape(batch, h * w, channels * p * p)  # (B, N, C·p·p)
        if keep is not None:
            patches = gather_tokens(patches, keep.index)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class VisionTransformer(nn.Module):
    """ViT encoder with the interface of :class:`openjepa.types.Encoder` and timm's method names.

    Parameter names and shapes are those of the published checkpoints (official.md §6.2).

    Args:
        image_size: native ``(H, W)`` in pixels; any other size works, positions are then interpolated.
        positions: ``sincos2d`` (a buffer, recomputed, never saved) or ``learned`` (a parameter).
        position_order: channel order of the sincos table: I-JEPA ``column_first``, V-JEPA ``row_first``.
        drop_path: stochastic depth of the last block, linear over depth.
        init: published initialisation, see :func:`openjepa.models.transformer.initialise`.
        class_token: a learned token in front of the patches. It has no position of its own (MAE's is zero; a learned one
            would only add to it), takes part in attention, and is left out of what the methods below return.
    """

    pos_embed: Tensor

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch_size: int,
        channels: int = 3,
        dim: int = 192,
        depth: int = 12,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        positions: Literal["sincos2d", "learned"] = "sincos2d",
        position_order: Order = "column_first",
        drop_path: float = 0.0,
        init: Init = "vjepa2",
        class_token: bool = False,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"model width {dim} is not a multiple of its {heads} heads")
        if dim % 4 and positions == "sincos2d":
            raise ConfigError(f"model width {dim} is not a multiple of 4, which sincos2d positions need")
        self.image_size, self.channels = image_size, channels
        self.patch_size = (patch_size, patch_size)
        self.grid = (image_size[0] // patch_size, image_size[1] // patch_size)
        self.embed_dim = self.num_features = dim
        self.depth, self.heads = depth, heads
        self.grad_checkpointing = False
        self.patch_embed = PatchEmbed(patch_size, channels, dim)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        initialise(self, self.blocks, init)
        self.num_prefix_tokens = int(class_token)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        if positions == "learned":
            self.pos_embed = nn.Parameter(torch.empty(1, self.grid[0] * self.grid[1], dim))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        else:
            self.register_buffer("pos_embed", sincos2d(dim, self.grid, position_order)[None], persistent=False)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute block activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def forward_features(
        self,
        x: Tensor,
        keep: Ids | None = None,
        replace: tuple[Tensor, Tensor] | None = None,
        prefix: bool = False,
    ) -> Tensor:
        """Encode patches, all or only those ``keep`` names (official.md §1.8: positions are added before dropping).

        Args:
            x: ``(B, C, H, W)`` normalised images of any size of at least one patch.
            keep: ids of the visible patches; padded rows are masked out as attention keys.
            replace: ``(hidden (B, N) bool, token (1, 1, D))``: instead of dropping, put a token where ``hidden`` (data2vec).
            prefix: also return the class token, in front.

        Returns:
            ``(B, N, D)`` after the final norm, or ``(B, K, D)`` in the order of ``keep``.
        """
        x, mask = self._embed(x, keep, replace)
        for block in self.blocks:
            x = self._run(block, x, mask)
        x = self.norm(x)
        return x if prefix else x[:, self.num_prefix_tokens :]

    forward = forward_features

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        keep: Ids | None = None,
        norm: Literal["final", "none"] = "final",
        output: Literal["block", "ffn"] = "block",
    ) -> list[Tensor]:
        """Outputs of chosen blocks, each through the final norm as in the published ``out_layers`` or raw.

        Args:
            indices: block numbers (negative ones count from the end), or n for the last n; None for all.
            output: the block's output, or that of its FFN before the residual sum (data2vec's targets).

        Returns:
            One ``(B, N, D)`` per chosen block, in ascending block order.
        """
        if indices is None:
            indices = range(self.depth)
        elif isinstance(indices, int):
            indices = range(self.depth - indices, self.depth)
        wanted = {i % self.depth for i in indices}
        x, mask = self._embed(x, keep)
        taps = []
        for i, block in enumerate(self.blocks):
            if i in wanted and output == "ffn":
                assert isinstance(block, Block)
                stream, tap = block.forward_parts(x, mask)
                x = stream + tap
            else:
                tap = x = self._run(block, x, mask)
            if i in wanted:
                taps.append((self.norm(tap) if norm == "final" else tap)[:, self.num_prefix_tokens :])
        return taps

    def positions_for(self, grid: tuple[int, int]) -> Tensor:
        """Position table ``(1, h·w, D)`` for ``grid``: native, or bicubically interpolated."""
        if grid == self.grid:
            return self.pos_embed
        return resample_positions(self.pos_embed[0], self.grid, grid)[None]

    def _embed(
        self, x: Tensor, keep: Ids | None, replace: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if min(x.shape[-2:]) < self.patch_size[0]:
            raise ConfigError(
                f"an image of {x.shape[-2]}×{x.shape[-1]} px is smaller than one {self.patch_size[0]} px patch"
            )
        positions = self.positions_for((x.shape[-2] // self.patch_size[0], x.shape[-1] // self.patch_size[1]))
        tokens = self.patch_embed(x, keep)
        if replace is not None:
            hidden, token = replace
            tokens = torch.where(hidden[..., None], token.to(tokens.dtype), tokens)
        tokens = tokens + (positions if keep is None else positions[0][keep.index])
        valid = None if keep is None else keep.valid
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(len(x), -1, -1).to(tokens.dtype), tokens], dim=1)
            valid = None if valid is None else F.pad(valid, (1, 0), value=True)
        return residual(tokens), key_mask(valid)

    def _run(self, block: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, mask, use_reentrant=False)
        return block(x, mask)


def build_encoder(model: ModelConfig, image_size: tuple[int, int], channels: int = 3) -> VisionTransformer:
    """The encoder a recipe describes: a named size, with free ``dim``/``depth``/``heads``/``mlp_ratio`` on top.

    Raises:
        ConfigError: unknown size, or a free size that leaves a number out.
    """
    if model.arch is None:
        missing = [name for name in ("dim", "depth", "heads") if getattr(model, name) is None]
        if missing:
            raise ConfigError(f"model.arch is none, so model.{missing[0]} must be given")
    base = size_named(model.arch) if model.arch else None
    return VisionTransformer(
        image_size=image_size,
        patch_size=model.patch_size,
        channels=channels,
        dim=model.dim or (base.dim if base else 0),
        depth=model.depth or (base.depth if base else 0),
        heads=model.heads or (base.heads if base else 0),
        mlp_ratio=model.mlp_ratio or (base.mlp_ratio if base else 4.0),
        positions=model.positions,
        position_order=model.position_order,
        drop_path=model.drop_path,
        init=model.init,
        class_token=model.class_token,
    )
