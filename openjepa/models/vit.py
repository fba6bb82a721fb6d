"""The vision transformer every image and video system here encodes with, mean-pooled by whoever needs one vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openjepa.config.schema import ModelConfig
from openjepa.errors import ConfigError
from openjepa.models.levels import choose_taps
from openjepa.models.positions import Positions, same_grid
from openjepa.models.rotary import pick_rotation
from openjepa.models.sizes import size_named
from openjepa.models.transformer import (
    LAYER_NORM_EPS,
    Block,
    Init,
    gather_tokens,
    initialise,
    key_mask,
    modality_pair,
    residual,
    set_norm_eps,
)
from openjepa.types import Ids

DEFAULT_POSITIONS = Positions()


class PatchEmbed(nn.Module):
    """Non-overlapping patches, or tubelets of a clip, through one projection; leftover pixels and frames are dropped.

    The weight is stored as the published convolution, ``(D, C, p, p)`` or ``(D, C, tubelet, p, p)``, and applied as a matrix
    product, so that hidden tokens need not be projected at all.
    """

    def __init__(self, patch_size: int, channels: int, dim: int, tubelet_size: int | None = None) -> None:
        super().__init__()
        self.patch_size, self.tubelet_size = patch_size, tubelet_size
        self.proj: nn.Conv2d | nn.Conv3d
        if tubelet_size is None:
            self.proj = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)
        else:
            size = (tubelet_size, patch_size, patch_size)
            self.proj = nn.Conv3d(channels, dim, kernel_size=size, stride=size)

    def forward(self, x: Tensor, keep: Ids | None = None) -> Tensor:
        """``(B, C, H, W)`` or ``(B, C, T, H, W)`` → ``(B, N, D)`` in id order, or ``(B, K, D)`` for the ids in ``keep``.

        An image before tubelets is a clip of one tubelet: repeated, as published (official.md §1.2).
        """
        if self.tubelet_size is not None and x.ndim == 4:
            x = x[:, :, None].expand(-1, -1, self.tubelet_size, -1, -1)
        if keep is None and torch.compiler.is_exporting():  # one operator, which drops leftovers of any size by itself
            return self.proj(x).flatten(2).transpose(1, 2)
        patches = self._patches(x) if self.tubelet_size is None else self._tubelets(x, self.tubelet_size)
        if keep is not None:
            patches = gather_tokens(patches, keep.index)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)

    def _patches(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` → ``(B, h·w, C·p·p)``."""
        p, (batch, channels, height, width) = self.patch_size, x.shape
        h, w = height // p, width // p
        x = x[..., : h * p, : w * p].reshape(batch, channels, h, p, w, p)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, h * w, channels * p * p)

    def _tubelets(self, x: Tensor, tubelet: int) -> Tensor:
        """``(B, C, T, H, W)`` → ``(B, t·h·w, C·tubelet·p·p)``."""
        p, (batch, channels, frames, height, width) = self.patch_size, x.shape
        t, h, w = frames // tubelet, height // p, width // p
        x = x[:, :, : t * tubelet, : h * p, : w * p].reshape(batch, channels, t, tubelet, h, p, w, p)
        return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, t * h * w, channels * tubelet * p * p)


class VisionTransformer(nn.Module):
    """ViT encoder with the interface of :class:`openjepa.types.Encoder` and timm's method names.

    Parameter names and shapes are those of the published checkpoints (official.md §6.2).

    Args:
        image_size: native ``(H, W)`` in pixels; any other size works, positions are then interpolated.
        frames: native frames of a clip, which makes this an encoder of video; any other length works. None: images.
        tubelet_size: frames per token of a clip.
        positions: :class:`openjepa.models.positions.Positions`: tables are buffers, recomputed, never saved; ``learned`` is
            a parameter; ``rope3d`` turns queries and keys instead.
        drop_path: stochastic depth of the last block, linear over depth.
        init: published initialisation, see :func:`openjepa.models.transformer.initialise`.
        class_token: a learned token in front of the patches. It has no position of its own (MAE's is zero; a learned one
            would only add to it), takes part in attention, and is left out of what the methods below return.
        taps, tap_blocks: how many blocks' outputs :meth:`forward_levels` joins, and which (:func:`choose_taps`). Each has a
            norm of its own then, ``norms_block.k``, the last of which is the final one; with one tap that is ``norm``.
        image_stem: images, and clips of one frame, have a patch projection of their own (``patch_embed_img``), one frame
            deep, instead of being repeated over a tubelet.
        modality_embeddings: a learned vector for images and one for clips, added to every token (both V-JEPA 2.1).
    """

    pos_embed: Tensor | None
    rope: Tensor | None
    img_mod_embed: nn.Parameter | None
    video_mod_embed: nn.Parameter | None

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch_size: int,
        frames: int | None = None,
        tubelet_size: int = 2,
        channels: int = 3,
        dim: int = 192,
        depth: int = 12,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        positions: Positions = DEFAULT_POSITIONS,
        drop_path: float = 0.0,
        init: Init = "vjepa2",
        class_token: bool = False,
        taps: int = 1,
        tap_blocks: Sequence[int] | None = None,
        image_stem: bool = False,
        modality_embeddings: bool = False,
    ) -> None:
        super().__init__()
        positions.check(dim, heads, "model.dim")
        self.image_size, self.channels, self.frames = image_size, channels, frames
        self.patch_size, self.tubelet_size = (patch_size, patch_size), tubelet_size
        plane = (image_size[0] // patch_size, image_size[1] // patch_size)
        self.grid: tuple[int, ...] = plane if frames is None else (frames // tubelet_size, *plane)
        self.positions = positions
        self.embed_dim = self.num_features = dim
        self.depth, self.heads = depth, heads
        self.grad_checkpointing = False
        self.patch_embed = PatchEmbed(patch_size, channels, dim, None if frames is None else tubelet_size)
        self.patch_embed_img = PatchEmbed(patch_size, channels, dim, 1) if image_stem else None
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, rate) for rate in rates)
        self.tap_blocks = choose_taps(depth, taps, tap_blocks)
        if taps == 1:
            self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        else:
            self.norms_block = nn.ModuleList(nn.LayerNorm(dim, eps=LAYER_NORM_EPS) for _ in range(taps))
        initialise(self, self.blocks, init)
        self.num_prefix_tokens = int(class_token)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.img_mod_embed, self.video_mod_embed = modality_pair(dim) if modality_embeddings else (None, None)
        self._add_positions()

    def _add_positions(self) -> None:
        """Parameter or buffers of the native grid."""
        positions, dim = self.positions, self.embed_dim
        rope = positions.rotation(dim // self.heads, self.grid) if positions.rotary else None
        self.register_buffer("rope", rope, persistent=False)
        if positions.kind == "learned":
            self.pos_embed = nn.Parameter(torch.empty(1, math.prod(self.grid), dim))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        else:
            table = None if positions.rotary else positions.native_table(dim, self.grid)[None]
            self.register_buffer("pos_embed", table, persistent=False)

    @property
    def video(self) -> bool:
        """Whether inputs are clips."""
        return self.frames is not None

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
            x: ``(B, C, H, W)`` normalised images of any size of at least one patch; an encoder of video takes clips
                ``(B, C, T, H, W)`` of any length of at least one tubelet, and an image as a clip of one tubelet.
            keep: ids of the visible patches; padded rows are masked out as attention keys.
            replace: ``(hidden (B, N) bool, token (1, 1, D))``: instead of dropping, put a token where ``hidden`` (data2vec).
            prefix: also return the class token, in front.

        Returns:
            ``(B, N, D)`` after the final norm, or ``(B, K, D)`` in the order of ``keep``.
        """
        x, mask, rope = self._embed(x, keep, replace)
        for block in self.blocks:
            x = self._run(block, x, mask, rope)
        x = self._norm_of(self.depth - 1)(x)
        return x if prefix else x[:, self.num_prefix_tokens :]

    forward = forward_features

    def forward_levels(self, x: Tensor, keep: Ids | None = None, levels: int | None = None) -> Tensor:
        """Outputs of the tapped blocks, each through its own norm, joined: ``(B, N, levels·D)`` (V-JEPA 2.1).

        levels: only the last so many taps; None: all. The last D channels are those of :meth:`forward_features`.
        """
        blocks = self.tap_blocks if levels is None else self.tap_blocks[-levels:]
        return torch.cat(self.forward_intermediates(x, blocks, keep), dim=-1)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        keep: Ids | None = None,
        norm: Literal["final", "none"] = "final",
        output: Literal["block", "ffn"] = "block",
    ) -> list[Tensor]:
        """Outputs of chosen blocks, each through the final norm as in the published ``out_layers`` or raw.

        A tapped block has a final norm of its own, which is then the one it goes through.

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
        x, mask, rope = self._embed(x, keep)
        taps = []
        for i, block in enumerate(self.blocks):
            if i in wanted and output == "ffn":
                assert isinstance(block, Block)
                stream, tap = block.forward_parts(x, mask, rope)
                x = stream + tap
            else:
                tap = x = self._run(block, x, mask, rope)
            if i in wanted:
                taps.append((self._norm_of(i)(tap) if norm == "final" else tap)[:, self.num_prefix_tokens :])
        return taps

    def _norm_of(self, block: int) -> nn.Module:
        """The final norm of a block's output: its own where it is tapped."""
        if len(self.tap_blocks) == 1:
            return self.norm
        return self.norms_block[self.tap_blocks.index(block) if block in self.tap_blocks else -1]

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """Token grid of an input. Raises ConfigError when it is smaller than one patch or tubelet, or no clip nor image."""
        p = self.patch_size[0]
        if x.shape[-2] < p or x.shape[-1] < p:  # one by one: the smaller of two symbols would bind an export
            raise ConfigError(f"an image of {x.shape[-2]}×{x.shape[-1]} px is smaller than one {p} px patch")
        plane = x.shape[-2] // p, x.shape[-1] // p
        if not self.video:
            if x.ndim != 4:
                raise ConfigError(f"this encoder takes images (B, C, H, W), not {tuple(x.shape)}")
            return plane
        if self.is_image(x):
            return 1, *plane
        if x.shape[2] < self.tubelet_size:
            raise ConfigError(f"a clip of {x.shape[2]} frames is shorter than one tubelet of {self.tubelet_size}")
        return x.shape[2] // self.tubelet_size, *plane

    def is_image(self, x: Tensor) -> bool:
        """Whether an encoder of clips is shown an image: without an axis of time or, where images have a stem, one frame."""
        return x.ndim == 4 or (self.patch_embed_img is not None and x.shape[2] == 1)

    def _embed(
        self, x: Tensor, keep: Ids | None, replace: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Tokens with positions, the key mask, and rotary positions where these are the positions."""
        grid, image = self.grid_of(x), self.is_image(x)
        stem = self.patch_embed if self.patch_embed_img is None or not image else self.patch_embed_img
        tokens = stem(x, keep)
        if replace is not None:
            hidden, token = replace
            tokens = torch.where(hidden[..., None], token.to(tokens.dtype), tokens)
        modality = self.img_mod_embed if image else self.video_mod_embed
        if modality is not None:
            tokens = tokens + modality
        rope = None
        if self.positions.rotary:
            assert self.rope is not None
            native = same_grid(self.grid, grid)
            table = self.rope if native else self.positions.rotation(self.rope.shape[-1], grid).to(x.device)
            rope = residual(pick_rotation(table, None if keep is None else keep.index, self.num_prefix_tokens))
        else:
            assert self.pos_embed is not None
            places = self.positions.table_for(self.pos_embed[0], self.grid, grid)
            tokens = tokens + (places if keep is None else places[keep.index])
        valid = None if keep is None else keep.valid
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(tokens.dtype), tokens], dim=1)
            valid = None if valid is None else F.pad(valid, (1, 0), value=True)
        return residual(tokens), key_mask(valid), rope

    def _run(self, block: nn.Module, x: Tensor, mask: Tensor | None, rope: Tensor | None) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, mask, None, rope, use_reentrant=False)
        return block(x, mask, None, rope)


def positions_of(model: ModelConfig) -> Positions:
    """The positions a recipe's model asks for."""
    return Positions(model.positions, model.position_order, model.uniform_power, model.rope_pairing, model.rope_grid)


def build_encoder(
    model: ModelConfig, image_size: tuple[int, int], channels: int = 3, frames: int | None = None
) -> VisionTransformer:
    """The encoder a recipe describes: a named size, with free ``dim``/``depth``/``heads``/``mlp_ratio`` on top.

    frames: of a clip (``recipe.frames``), None for images.

    Raises:
        ConfigError: unknown size, or a free size that leaves a number out.
    """
    if model.arch is None:
        missing = [name for name in ("dim", "depth", "heads") if getattr(model, name) is None]
        if missing:
            raise ConfigError(f"model.arch is none, so model.{missing[0]} must be given")
    base = size_named(model.arch) if model.arch else None
    if model.positions == "coordinates":
        from openjepa.models.points import build_point_encoder  # which builds on this module

        return build_point_encoder(model, base)
    encoder = VisionTransformer(
        image_size=image_size,
        patch_size=model.patch_size,
        channels=channels,
        dim=model.dim or (base.dim if base else 0),
        depth=model.depth or (base.depth if base else 0),
        heads=model.heads or (base.heads if base else 0),
        mlp_ratio=model.mlp_ratio or (base.mlp_ratio if base else 4.0),
        frames=frames,
        tubelet_size=model.tubelet_size,
        positions=positions_of(model),
        drop_path=model.drop_path,
        init=model.init,
        class_token=model.class_token,
        taps=model.taps,
        tap_blocks=model.tap_blocks,
        image_stem=model.image_stem,
        modality_embeddings=model.modality_embeddings,
    )
    set_norm_eps(encoder, model.norm_eps)
    return encoder
