"""Patch features of clips through time: PCA colours beside the moving frames, one basis for all clips and time steps.

The same colour means the same thing in every frame: what keeps its colour while it moves is followed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from openjepa.errors import ConfigError
from openjepa.types import Encoder
from openjepa.visualize import canvas, clips, maps
from openjepa.visualize.animation import Film, Frames
from openjepa.visualize.canvas import Image
from openjepa.visualize.maps import PcaMaps
from openjepa.visualize.surprise import windows

OVER = 0.6  # share of the map's colour where it lies over the frames


def window_features(
    encoder: Encoder, clip: Tensor, normalise: nn.Module, frames: int, *, device: str = "cpu"
) -> Tensor:
    """Patch features of a clip ``(C, L, H, W)`` of any length on its grid: ``(t, h, w, D)`` float32 on the CPU.

    A clip longer than ``frames`` is encoded in windows of that length, each by itself; the last ends with the clip, and
    of it only what the others do not cover is taken.

    Raises:
        ConfigError: a clip shorter than a tubelet.
    """
    tubelet: int = getattr(encoder, "tubelet_size", 1)
    steps = clip.shape[1] // tubelet
    if not steps:
        raise ConfigError(f"a clip of {clip.shape[1]} frames is too short: --frames {tubelet} or more")
    size = min(steps, max(frames // tubelet, 1))
    starts = windows(steps, size, size)
    parts = torch.stack([clip[:, s * tubelet : (s + size) * tubelet] for s in starts])
    features = maps.patch_features(encoder, parts, normalise, device=device)  # (M, t, h, w, D)
    late = starts[-1] - (starts[-2] + size if len(starts) > 1 else 0)  # negative: the last window overlaps
    return torch.cat([*features[:-1], features[-1][-late:] if late < 0 else features[-1]])


def pca_through_time(features: Sequence[Tensor], *, foreground: bool = False, remove_position: bool = False) -> PcaMaps:
    """One PCA over all tokens of all clips, each ``(t, h, w, D)``; the maps of all time steps after each other."""
    centre = "position" if remove_position else "joint"
    return maps.pca_maps(torch.cat(list(features)), foreground=foreground, centre=centre, what="time steps")  # type: ignore[arg-type]


def map_frames(colours: Image, frames: int, tubelet: int, patch: tuple[int, int], size: tuple[int, int]) -> Frames:
    """Colours ``(t, h, w, 3)`` as frames ``(T, H, W, 3)``: each cell covers its tubelet and its patch, leftovers white."""
    full = np.full((frames, *size, 3), 255, dtype=np.uint8)
    for number in range(min(frames, len(colours) * tubelet)):
        cells = colours[number // tubelet]
        rows, columns = min(size[0], cells.shape[0] * patch[0]), min(size[1], cells.shape[1] * patch[1])
        full[number, :rows, :columns] = canvas.spread(cells, patch, *size)[:rows, :columns]
    return full


def pca_film(
    videos: Sequence[clips.Video],
    found: PcaMaps,
    lengths: Sequence[int],
    tubelet: int,
    patch: tuple[int, int],
    title: str,
) -> Film:
    """A row per clip: its frames, its map, and the map over the frames. lengths: time steps of each clip's maps.

    Clips of unequal length stand still at their last frame until the longest ends.
    """
    longest = max(length * tubelet for length in lengths)
    rows, first = [], 0
    for video, length in zip(videos, lengths, strict=True):
        plain = clips.to_rgb(video.clip)[: length * tubelet]
        size = plain.shape[1:3]
        colours = map_frames(found.colours[first : first + length], len(plain), tubelet, patch, (size[0], size[1]))
        over = (plain * (1 - OVER) + colours * OVER).round().astype(np.uint8)
        rows.append([_lasting(tiles(part), longest) for part in (plain, colours, over)])
        first += length
    return Film(
        rows, videos[0].seconds, columns=["clip", "features", "over the clip"], captions=[v.name for v in videos],
        title=title, notes=[found.note],
    )  # fmt: skip


def tiles(frames: Frames, tile: int = canvas.TILE) -> Frames:
    """Frames as tiles of about ``tile`` pixels."""
    return np.stack([canvas.tile(frame, tile) for frame in frames])


def _lasting(frames: Frames, length: int) -> Frames:
    """Frames with the last one repeated up to ``length``."""
    return np.concatenate([frames, frames[-1:].repeat(length - len(frames), axis=0)])
