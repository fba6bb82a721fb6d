"""Any encoder of images as an encoder of clips: each frame on its own. What it cannot see is order and motion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openjepa.errors import ConfigError
from openjepa.types import Encoder, Ids


class FrameAveraged(nn.Module):
    """Frames encoded one by one; their tokens stand one after another in time, so that pooled features are averages.

    V-JEPA judges encoders of images so (2404.08471 §4; official.md §7.2). An encoder of video sees each frame as a clip of
    one tubelet: the same weights without time.

    Args:
        encoder: of images, or of video.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.embed_dim, self.patch_size = encoder.embed_dim, encoder.patch_size
        self.channels = int(getattr(encoder, "channels", 3))

    def forward_features(self, x: Tensor, keep: Ids | None = None) -> Tensor:
        """``(B, C, T, H, W)`` normalised → ``(B, T·N, D)``; an image ``(B, C, H, W)`` → ``(B, N, D)``.

        Raises:
            ConfigError: ``keep`` is given; frames are seen whole.
        """
        if keep is not None:
            raise ConfigError("frames encoded one by one are seen whole: masks need an encoder of clips")
        if x.ndim == 4:
            return self.encoder.forward_features(x)
        return torch.cat([self.encoder.forward_features(frame) for frame in x.unbind(2)], dim=1)

    forward = forward_features


class LayeredFrames(FrameAveraged):
    """The same for an encoder whose blocks can be read."""

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        keep: Ids | None = None,
        norm: Literal["final", "none"] = "final",
    ) -> list[Tensor]:
        """Tokens ``(B, T·N, D)`` of chosen blocks, in ascending order, as the encoder's own method gives them."""
        if keep is not None:
            raise ConfigError("frames encoded one by one are seen whole: masks need an encoder of clips")
        encoder: Any = self.encoder
        frames = [x] if x.ndim == 4 else list(x.unbind(2))
        taps = [encoder.forward_intermediates(frame, indices, norm=norm) for frame in frames]
        return [torch.cat(list(tap), dim=1) for tap in zip(*taps, strict=True)]


def frame_by_frame(encoder: Encoder) -> FrameAveraged:
    """An encoder of images, or of video, as one that sees every frame of a clip on its own."""
    return LayeredFrames(encoder) if hasattr(encoder, "forward_intermediates") else FrameAveraged(encoder)


class EachFrame:
    """The evaluation transform of images on every frame of clips; nothing random, one spatial view.

    Args:
        image: ``(C, h, w)`` to ``(C, H, W)``. frames: of each clip.

    Attributes:
        names: ``("video",)``. size, at_least: of the image transform.
    """

    names = ("video",)
    views = 1

    def __init__(self, image: Any, frames: int) -> None:
        self.image, self.frames = image, frames
        self.size: tuple[int, int] = image.size
        self.at_least = image.at_least

    def __call__(self, frames: Tensor) -> Tensor:
        """``(S·T, C, h, w)`` to ``(C, T, H, W)``, or ``(S, C, T, H, W)`` of several clips; dtype kept."""
        done = torch.stack([self.image(frame) for frame in frames])
        clips = done.unflatten(0, (-1, self.frames)).transpose(1, 2)  # (S, C, T, H, W)
        return clips[0] if len(clips) == 1 else clips

    def __repr__(self) -> str:
        return f"EachFrame({self.image}, frames={self.frames})"
