"""From the decoded frames of a video to clips: one crop, one flip and one draw of every colour for all frames of a clip."""

from __future__ import annotations

import torch
from torch import Tensor

from openjepa.config.schema import DataConfig
from openjepa.data.transforms import TrainTransform, cover, sides
from openjepa.errors import ConfigError


class ClipTransform(TrainTransform):
    """What :class:`TrainTransform` does to an image, done alike to all frames of a clip (V-JEPA 2404.08471 §3).

    Args:
        config: as for :class:`TrainTransform`. key: where ``augment`` stands in the recipe.
    """

    names = ("video",)

    def __call__(self, frames: Tensor) -> Tensor:
        """``(T, C, h, w)`` to ``(C, T, H, W)``, dtype kept."""
        return super().__call__(frames).transpose(0, 1)


class FrameTransform(TrainTransform):
    """One frame of a video as an image: ``(1, C, h, w)`` to ``(C, H, W)``; images pass as they do otherwise."""

    def __call__(self, image: Tensor) -> Tensor:
        """``(C, h, w)``, or the frames of a video of which the first is taken, to ``(C, H, W)``."""
        return super().__call__(image if image.ndim == 3 else image[0])


class ClipEvalTransform:
    """Clips of a video as evaluation sees them: nothing random (official.md §6.7).

    One view: the short side is resized to ``int(image_size / eval_crop)``, then the centre is cut. Several: the short side
    is resized to ``image_size`` itself, and ``views`` crops are cut along the long side, ``(long - crop) // (views - 1)``
    pixels apart, from its beginning on (three are usual). All frames are cut alike.

    Args:
        config: image_size, eval_crop, interpolation and clip.frames are used. views: spatial views of each clip.

    Raises:
        ConfigError: no clip length, or less than one view.
    """

    names = ("video",)

    def __init__(self, config: DataConfig, views: int = 1) -> None:
        if config.clip is None:
            raise ConfigError("clips need data.clip.frames: how many frames a clip has")
        if views < 1:
            raise ConfigError(f"{views} spatial views of a clip: 1 (its centre) and 3 (along its long side) are usual")
        self.frames, self.views = config.clip.frames, views
        self.size = sides(config.image_size)
        share = config.eval_crop if views == 1 else 1.0
        self.covered = int(self.size[0] / share + 1e-6), int(self.size[1] / share + 1e-6)
        self.mode = config.interpolation
        self.at_least = max(self.covered)

    def __call__(self, frames: Tensor) -> Tensor:
        """Decoded frames to what an encoder takes, dtype kept.

        Args:
            frames: ``(S·T, C, h, w)``, the S clips of a video after each other.

        Returns:
            ``(C, T, H, W)``, or ``(S·views, C, T, H, W)`` when there is more than one: all views of the first clip first.
        """
        assert len(frames) % self.frames == 0, (len(frames), self.frames)
        cut = torch.stack(self._cut(frames))  # (views, S·T, C, H, W)
        clips = cut.unflatten(1, (-1, self.frames)).permute(1, 0, 3, 2, 4, 5).flatten(0, 1)  # (S·views, C, T, H, W)
        return clips[0] if len(clips) == 1 else clips

    def _cut(self, frames: Tensor) -> list[Tensor]:
        """``(S·T, C, H, W)`` for each spatial view."""
        if self.views == 1:
            return [cover(frames, self.covered, self.size, self.mode)]
        frames = cover(frames, self.covered, None, self.mode)
        (height, width), (h, w) = frames.shape[-2:], self.size
        down, across = (height - h) // (self.views - 1), (width - w) // (self.views - 1)  # one of them is 0
        return [frames[..., k * down : k * down + h, k * across : k * across + w] for k in range(self.views)]

    def __repr__(self) -> str:
        return f"ClipEvalTransform(frames={self.frames}, views={self.views}, size={self.size}, covered={self.covered})"
