"""The action-conditioned predictor: each frame's tokens, its action and its state foretell the next frame (V-JEPA 2-AC 2506.09985 §3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openjepa.errors import ConfigError
from openjepa.models.positions import Positions
from openjepa.models.rotary import Pairing, pick_rotation, rotary3d, rotation_at
from openjepa.models.transformer import LAYER_NORM_EPS, Block, Init, initialise, residual
from openjepa.types import Tokens

EXTRINSICS = 6  # a camera's place and its turn about three axes


class ActionCausalPredictor(nn.Module):
    """Predict the features of the frame after every frame from frames, actions and states so far (official.md §2.4).

    The sequence is, frame by frame, ``[action, state, (extrinsics), h·w patches]``. A token sees all tokens of its own frame
    and of those before it. Patches turn by time, row and column; what they are conditioned on turns by time alone. Rows
    and columns of another plane than the native one are stretched over it. Parameter names are the published ones.

    Args:
        embed_dim: the encoder's width. plane: rows and columns of patches the predictor is made for.
        action_dim, state_dim: numbers of an action and of a state. extrinsics: condition on the camera's pose too; its
            projection exists anyway, as published.
        frame_causal: off: every token sees every frame.
        pairing: of the rotary angles (:func:`openjepa.models.rotary.rotary3d`).
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        plane: tuple[int, int],
        dim: int = 1024,
        depth: int = 24,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        action_dim: int = 7,
        state_dim: int = 7,
        extrinsics: bool = False,
        frame_causal: bool = True,
        pairing: Pairing = "interleaved",
        init: Init = "vjepa2",
    ) -> None:
        super().__init__()
        Positions("rope3d").check(dim, heads, "predictor.dim")
        self.plane, self.head_dim, self.pairing = plane, dim // heads, pairing
        self.uses_extrinsics, self.frame_causal = extrinsics, frame_causal
        self.grad_checkpointing = False
        self.predictor_embed = nn.Linear(embed_dim, dim)
        self.action_encoder = nn.Linear(action_dim, dim)
        self.state_encoder = nn.Linear(state_dim, dim)
        self.extrinsics_encoder = nn.Linear(EXTRINSICS, dim)
        self.predictor_blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.predictor_proj = nn.Linear(dim, embed_dim)
        initialise(self, self.predictor_blocks, init)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute block activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    @property
    def conditions(self) -> int:
        """Tokens in front of a frame's patches."""
        return 3 if self.uses_extrinsics else 2

    def predict(self, frames: Tokens, actions: Tensor, states: Tensor, extrinsics: Tensor | None = None) -> Tensor:
        """Features of the next frame, at every frame.

        Args:
            frames: values ``(B, T·h·w, D)`` on the grid ``(T, h, w)``, no ids: normalised features of T frames, each
                encoded by itself. actions: ``(B, T, A)``, the one taken at each frame. states: ``(B, T, S)``.
            extrinsics: ``(B, T, 6)``, where the predictor uses them.

        Returns:
            ``(B, T·h·w, D)``, not normalised: the slots of frame t foretell frame t + 1.

        Raises:
            ConfigError: shapes that do not fit each other, or extrinsics missing.
        """
        count, height, width = self._check(frames, actions, states, extrinsics)
        given = [self.action_encoder(actions), self.state_encoder(states)]
        if self.uses_extrinsics:
            given.append(self.extrinsics_encoder(extrinsics))
        patches = self.predictor_embed(frames.values).unflatten(1, (count, -1))  # (B, T, h·w, W)
        x = residual(torch.cat([torch.stack(given, dim=2).to(patches.dtype), patches], dim=2).flatten(1, 2))
        rope = residual(pick_rotation(self.rotation(count, (height, width)).to(x.device), None))
        mask = self.visible(count, height * width).to(x.device) if self.frame_causal and count > 1 else None
        for block in self.predictor_blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, None, rope, use_reentrant=False)
            else:
                x = block(x, mask, None, rope)
        x = x.unflatten(1, (count, -1))[:, :, self.conditions :].flatten(1, 2)
        return self.predictor_proj(self.predictor_norm(x))

    forward = predict

    def visible(self, frames: int, patches: int) -> Tensor:
        """Which keys a token may see, ``(1, 1, N, N)`` bool for N tokens of this many frames: made for the clip at hand.

        (The published code lays out one table for the longest clip: 66,048² entries, 4.4 GB, where 8 frames need 4 MB.)
        """
        number = torch.arange(frames).repeat_interleave(patches + self.conditions)
        return (number[:, None] >= number)[None, None]

    def rotation(self, frames: int, plane: tuple[int, int]) -> Tensor:
        """Cosines and sines ``(2, N, W/heads)`` of the whole sequence: the conditions of a frame, then its patches."""
        height, width = plane
        rows = torch.arange(height, dtype=torch.float64) * (self.plane[0] / height)
        columns = torch.arange(width, dtype=torch.float64) * (self.plane[1] / width)
        sides = (torch.arange(frames)[:, None, None], rows[:, None], columns)
        axes = [side.expand(frames, height, width).flatten() for side in sides]
        patches = rotation_at(self.head_dim, axes, self.pairing).unflatten(1, (frames, -1))  # (2, T, h·w, d)
        given = rotary3d(self.head_dim, (frames, 1, 1), self.pairing)[:, :, None]  # row and column 0 do not turn
        return torch.cat([given.expand(-1, -1, self.conditions, -1), patches], dim=2).flatten(1, 2)

    def _check(
        self, frames: Tokens, actions: Tensor, states: Tensor, extrinsics: Tensor | None
    ) -> tuple[int, int, int]:
        """The grid, once everything is known to fit it."""
        if len(frames.grid) != 3 or frames.values.ndim != 3 or frames.ids is not None:
            raise ConfigError(f"features of frames are (B, T·h·w, D) on a grid (T, h, w), not on {frames.grid}")
        count, height, width = frames.grid
        batch, tokens, width_of = frames.values.shape
        if tokens != count * height * width or width_of != self.predictor_embed.in_features:
            need = (batch, count * height * width, self.predictor_embed.in_features)
            raise ConfigError(
                f"features of {count}×{height}×{width} tokens are {need}, not {tuple(frames.values.shape)}"
            )
        if self.uses_extrinsics and extrinsics is None:
            raise ConfigError("this predictor is conditioned on the camera: give its extrinsics (B, T, 6)")
        asked = {"actions": (actions, self.action_encoder), "states": (states, self.state_encoder)}
        if self.uses_extrinsics and extrinsics is not None:
            asked["extrinsics"] = (extrinsics, self.extrinsics_encoder)
        for name, (given, layer) in asked.items():
            if given.shape != (batch, count, layer.in_features):
                raise ConfigError(
                    f"{name} of {batch} clips of {count} frames are {(batch, count, layer.in_features)}, "
                    f"not {tuple(given.shape)}"
                )
        return count, height, width
