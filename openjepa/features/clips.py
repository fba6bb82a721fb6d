"""Clips as evaluation sees them: several segments and spatial views of one video, and what becomes of their features.

Views are segment-major: view v of V = segments × spatial views is segment v // views, spatial view v % views. The published
protocols (official.md §7.2): ``attend``: tokens of all segments, one after another in time, are pooled once per spatial
view; ``average``: every segment of every spatial view is pooled on its own. Probabilities are averaged over what is pooled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.data.clips import Clips
from openjepa.errors import ConfigError, DataError, nearest
from openjepa.types import Batch

Across = Literal["attend", "average"]
ACROSS = ("attend", "average")
PIXEL_FRAMES, PIXEL_SIDE = 4, 16  # of a clip, when its pixels are the features
DIFFERENCE_FRAMES = 5  # four steps between them


@dataclass(frozen=True)
class ClipOptions:
    """How videos are looked at in an evaluation; what is None is as the model was trained.

    frames, fps, stride: of a clip. segments: clips spread evenly over each video. views: spatial views of each segment of
    a validation video (1: the centre, 3: along the longer side); training videos have one. across: see the module.
    as_images: show images to an encoder of video, each as one tubelet.

    Raises:
        ConfigError: fps and stride together, counts below one, or an unknown choice.
    """

    frames: int | None = None
    fps: float | None = None
    stride: int | None = None
    segments: int = 1
    views: int = 1
    across: Across = "attend"
    as_images: bool = False

    def __post_init__(self) -> None:
        if self.fps is not None and self.stride is not None:
            raise ConfigError("fps and stride exclude each other: give one of them")
        for name in ("frames", "fps", "stride", "segments"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} of a clip must be above 0, got {value:g}")
        if self.views not in (1, 3):
            raise ConfigError(f"views of a clip are 1 (the centre) or 3 (along the longer side), got {self.views}")
        if self.across not in ACROSS:
            raise ConfigError(f"across='{self.across}' is not one of attend, average{nearest(self.across, ACROSS)}")

    @property
    def plain(self) -> bool:
        """Whether nothing about clips was asked for."""
        return self == ClipOptions(as_images=self.as_images)


def input_of(batch: Batch) -> Tensor:
    """The one input of an evaluation batch: images ``(B, C, H, W)``, clips ``(B, C, T, H, W)`` or views of them (6-D).

    Raises:
        DataError: the batch has neither.
    """
    for name in ("image", "video"):
        if name in batch.inputs:
            return batch.inputs[name]
    raise DataError(f"a batch for evaluation holds 'image' or 'video', not {', '.join(batch.inputs) or 'nothing'}")


def views_of(x: Tensor) -> list[Tensor]:
    """What an encoder is given one after another: ``(B, V, C, T, H, W)`` view by view, anything else as it is."""
    return list(x.unbind(1)) if x.ndim == 6 else [x]


def segments_of(x: Tensor, views: int) -> int:
    """Segments of clips with ``views`` spatial views. Raises ConfigError when the views do not divide what there is."""
    count = x.shape[1] if x.ndim == 6 else 1
    if count % views:
        raise ConfigError(f"{count} clips per video are no whole number of segments with {views} spatial views each")
    return count // views


def pooled_over(x: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over views of pooled features: ``encode`` maps ``(B, C, …)`` to ``(B, D)``; one view at a time in memory."""
    parts = views_of(x)
    total = encode(parts[0])
    for part in parts[1:]:
        total = total + encode(part)
    return total / len(parts) if len(parts) > 1 else total


def tokens_over(x: Tensor, encode: Callable[[Tensor], Tensor], views: int, across: Across) -> Tensor:
    """Patch tokens of all views: ``(B, T, D)`` where one pooling sees them all, else ``(B, G, T, D)``, G pooled apart.

    Args:
        encode: ``(B, C, …)`` to ``(B, N, D)``. views: spatial views of each segment. across: see the module.
    """
    segments = segments_of(x, views)
    parts = [encode(part) for part in views_of(x)]
    if across == "attend":
        parts = [torch.cat([parts[s * views + j] for s in range(segments)], dim=1) for j in range(views)]
    return parts[0] if len(parts) == 1 else torch.stack(parts, dim=1)


def describe_input(x: Tensor, views: int, across: Across, tokens: str) -> dict[str, Any]:
    """What a protocol says of clips; empty for images."""
    if x.ndim < 5:
        return {}
    several = x.ndim == 6 and tokens == "patch"
    segments = segments_of(x, views)
    return {
        "frames": x.shape[-3],
        "segments": segments,
        "views": views,
        "across": (across if segments > 1 else None) if several else None,
    }


def clips_of(source: Any) -> Clips | None:
    """Which clips a source, or the one it is a part of, takes of its videos; None of images."""
    while (clips := getattr(source, "clips", None)) is None and hasattr(source, "source"):
        source = source.source
    return clips


def describe_source(source: Any) -> dict[str, Any]:
    """How a source cuts clips, for protocols and cache keys; empty for images."""
    clips = clips_of(source)
    if clips is None:
        return {}
    rate = {"fps": clips.fps} if clips.fps is not None else {"stride": clips.stride or 1}
    return {"frames": clips.frames, **rate, "where": clips.where, "segments": clips.count}


def frame_pixels(x: Tensor) -> Tensor:
    """Pixels of a clip as features: ``(B, C, T, H, W)`` in 0..1 to four frames, spread evenly, of at most 16 px: ``(B, D)``.

    The clip's mean over all of them is removed, so that brightness does not decide.
    """
    frames = _small(x, PIXEL_FRAMES)
    flat = frames.flatten(1)
    return flat - flat.mean(1, keepdim=True)


def frame_differences(x: Tensor) -> Tensor:
    """The simplest feature of motion: ``(B, C, T, H, W)`` in 0..1 to ``(B, D)``.

    Four signed differences between five small frames, spread evenly, and the mean absolute difference of all neighbouring
    frames (signed ones add up to the last frame minus the first and would be nothing new).
    """
    small = _shrunk(x)
    signed = _spread(small, DIFFERENCE_FRAMES).diff(dim=2).flatten(1)
    if x.shape[2] < 2:
        raise DataError("frame differences need clips of at least two frames")
    return torch.cat([signed, small.diff(dim=2).abs().mean(2).flatten(1)], dim=1)


def _small(x: Tensor, frames: int) -> Tensor:
    return _shrunk(_spread(x, frames))


def _spread(x: Tensor, frames: int) -> Tensor:
    """``frames`` frames of ``(B, C, T, H, W)``, the first, the last and evenly between; fewer where there are fewer."""
    count = x.shape[2]
    if count <= frames:
        return x
    return x[:, :, torch.linspace(0, count - 1, frames).round().long()]


def _shrunk(x: Tensor) -> Tensor:
    """Frames averaged down until no side is longer than 16 px."""
    scale = max(x.shape[-2:]) / PIXEL_SIDE
    if scale <= 1:
        return x
    size = tuple(max(1, round(side / scale)) for side in x.shape[-2:])
    small = F.interpolate(x.transpose(1, 2).flatten(0, 1), size=size, mode="area")  # (B·T, C, h, w)
    return small.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
