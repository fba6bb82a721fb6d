"""Patch features as pictures: PCA to RGB over a whole set of images, and similarity to one patch.

Maps are made jointly: one basis, one normalisation for all images, so the same colour means the same thing everywhere.
What was done is written in :attr:`PcaMaps.note` and printed below every sheet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from openjepa.errors import ConfigError, DataError
from openjepa.features.extraction import extract
from openjepa.features.pca import PERCENTILES, to_colours
from openjepa.types import Encoder
from openjepa.visualize import canvas, samples
from openjepa.visualize.canvas import Image
from openjepa.visualize.words import percent

BLUE_WHITE_RED = np.array(
    [(33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43)], dtype=np.float64
)  # ColorBrewer RdBu, safe for red-green blindness


@dataclass(frozen=True)
class PcaMaps:
    """PCA colours of the patch features of M images on an ``h × w`` grid.

    colours: ``(M, h, w, 3)`` uint8, grey where a patch is background. explained: share of the variance in each of the
    three components. low, high: ``(3,)`` component values drawn as 0 and 255. foreground: ``(M, h, w)`` bool or None.
    note: the normalisation in one sentence.
    """

    colours: Image
    explained: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    foreground: npt.NDArray[np.bool_] | None
    note: str


def patch_features(
    encoder: Encoder, images: Tensor, normalise: nn.Module, *, device: str = "cpu", batch_size: int = 16
) -> Tensor:
    """Patch features on their grid: images ``(M, C, H, W)`` to ``(M, h, w, D)`` float32 on the CPU; clips
    ``(M, C, T, H, W)`` to ``(M, t, h, w, D)``.

    Raises:
        ConfigError: the encoder does not return one token for each patch of the grid.
    """
    grid = token_grid(encoder, images)
    batches = samples.batches(images, batch_size if images.ndim == 4 else max(batch_size // 8, 1))
    tokens = extract(encoder, batches, normalise=normalise, device=device, tokens="patch").values  # (M, N, D)
    if tokens.shape[1] != math.prod(grid):
        raise ConfigError(
            f"the encoder returned {tokens.shape[1]} tokens for a grid of {' × '.join(map(str, grid))} patches: "
            "maps need one token per patch, without class or register tokens"
        )
    return tokens.view(len(images), *grid, -1)


def token_grid(encoder: Encoder, images: Tensor) -> tuple[int, ...]:
    """The grid ``(h, w)`` or ``(t, h, w)`` of the tokens of images ``(M, C, H, W)`` or clips ``(M, C, T, H, W)``."""
    plane = images.shape[-2] // encoder.patch_size[0], images.shape[-1] // encoder.patch_size[1]
    tubelet: int = getattr(encoder, "tubelet_size", 1)
    return plane if images.ndim == 4 else (images.shape[2] // tubelet, *plane)


def pca_maps(
    features: Tensor,
    *,
    percentiles: tuple[float, float] = PERCENTILES,
    foreground: bool = False,
    centre: Literal["joint", "position"] = "joint",
    what: str = "images",
) -> PcaMaps:
    """Project patch features ``(M, h, w, D)`` of all images onto their first three joint principal components.

    Args:
        features: as :func:`patch_features` returns them.
        percentiles: each component is cut at these percentiles over all patches of all images and drawn as 0..255.
        foreground: split patches in two by the first component (Otsu's threshold); the side that covers less of the
            image borders is foreground, gets its own three components, and the rest is drawn grey (2304.07193 §7.5).
        centre: ``joint`` subtracts the mean of all patches; ``position`` subtracts, at each grid position, the mean
            over the images, which removes what the encoder says about *where* a patch is.

    Raises:
        DataError: fewer than two images for ``centre="position"``, or fewer than four patches or three channels.
    """
    count, height, width, _ = features.shape
    if centre == "position" and count < 2:
        raise DataError("centre='position' needs at least 2 images to know what they share at a position")
    if centre == "position":
        features = features - features.mean(0)
    edge = torch.zeros(count, height, width, dtype=torch.bool)
    edge[:, [0, -1], :] = edge[:, :, [0, -1]] = True
    found = to_colours(features.flatten(0, 2), percentiles=percentiles, foreground=foreground, border=edge.flatten())
    colours = (found.rgb * 255).round().to(torch.uint8).view(count, height, width, 3).numpy()
    return PcaMaps(
        colours,
        tuple(found.explained.tolist()),
        tuple(found.low.tolist()),
        tuple(found.high.tolist()),
        None if found.foreground is None else found.foreground.view(count, height, width).numpy(),
        _note((count, height, width), found.explained, percentiles, foreground, centre, what),
    )


def _note(
    shape: tuple[int, int, int],
    explained: Tensor,
    percentiles: tuple[float, float],
    foreground: bool,
    centre: str,
    what: str,
) -> str:
    """The normalisation in words."""
    count, height, width = shape
    shares = ", ".join(percent(share) for share in explained.tolist())
    parts = [
        f"Red, green, blue: first three principal components ({shares} of the variance) of the patch features of all "
        f"{count} {what} together ({height} × {width} patches each); every component cut at its percentiles "
        f"{percentiles[0]:g} and {percentiles[1]:g} over all {what}"
    ]
    if centre == "position":
        parts.append(f"the mean over the {what} was subtracted at each position")
    if foreground:
        parts.append("grey patches are background by Otsu's threshold on the first component")
    return "; ".join(parts) + "."


def position_share(features: Tensor) -> float | None:
    """Share of the patch variance that only says *where* a patch is, for ``(M, h, w, D)``; None for one image.

    Variance of the per-position means over the total variance, less what chance puts there (one-way random-effects
    estimate): 0 when images share nothing at a position, 1 when every image looks the same to the encoder.
    """
    count = len(features)
    if count < 2:
        return None
    x = features.double().reshape(count, -1, features.shape[-1])
    total = x.var((0, 1), unbiased=False).sum()
    within = x.var(0, unbiased=True).mean(0).sum()  # over images, at each position
    between = x.mean(0).var(0, unbiased=False).sum() - within / count
    return float((between / total.clamp_min(1e-12)).clamp(0, 1))


def similarity(
    features: Tensor, patch: tuple[int, int], *, image: int = 0, centre: bool = True
) -> npt.NDArray[np.float32]:
    """Cosine similarity ``(M, h, w)`` of one patch of one image with every patch of every image.

    Args:
        features: ``(M, h, w, D)``.
        patch: row and column in the grid of ``image``; negative numbers count from the end.
        image: which image the patch is taken from.
        centre: subtract the mean of all patches first, so that 0 means "as alike as any two patches".

    Raises:
        ConfigError: the patch or the image does not exist.
    """
    count, height, width, _ = features.shape
    if not -count <= image < count:
        raise ConfigError(f"there are {count} images, so image {image} does not exist: use 0 to {count - 1}")
    row, column = patch
    if not (-height <= row < height and -width <= column < width):
        raise ConfigError(
            f"patch {row},{column} lies outside the grid of {height} rows and {width} columns: "
            f"use 0,0 to {height - 1},{width - 1}"
        )
    x = features.double()
    if centre:
        x = x - x.mean((0, 1, 2))
    x = nn.functional.normalize(x, dim=-1)
    return (x @ x[image, row, column]).float().numpy()


def heat(values: npt.NDArray[np.floating]) -> Image:
    """Similarities ``(…, h, w)`` in −1..1 as colours: blue −1, white 0, red 1; the range is fixed."""
    position = (np.clip(values, -1, 1) + 1) / 2 * (len(BLUE_WHITE_RED) - 1)
    left = np.minimum(position.astype(int), len(BLUE_WHITE_RED) - 2)
    rest = (position - left)[..., None]
    return (BLUE_WHITE_RED[left] * (1 - rest) + BLUE_WHITE_RED[left + 1] * rest).round().astype(np.uint8)


def tiles(images: Tensor | Sequence[Tensor]) -> list[Image]:
    """Samples as tiles, small ones enlarged by a whole factor."""
    rgb = [canvas.to_rgb(image) for image in images]
    return [canvas.enlarge(image, canvas.scale_for(*image.shape[:2])) for image in rgb]


def map_tile(colours: Image, patch: tuple[int, int], height: int, width: int) -> Image:
    """One map ``(h, w, 3)`` as a tile of the same size as the image's: each cell covers its patch, leftovers white."""
    full = np.full((height, width, 3), 255, dtype=np.uint8)
    cells = canvas.spread(colours, patch, height, width)
    rows, cols = min(height, colours.shape[0] * patch[0]), min(width, colours.shape[1] * patch[1])
    full[:rows, :cols] = cells[:rows, :cols]
    return canvas.enlarge(full, canvas.scale_for(height, width))


def pca_sheet(
    images: Tensor,
    maps: Mapping[str, PcaMaps],
    patch: tuple[int, int],
    *,
    title: str = "PCA of patch features",
    per_row: int = 4,
) -> Pillow.Image:
    """Each image with its map under each named encoder beside it; ``per_row`` images in a row."""
    height, width = images.shape[-2:]
    units = [
        [tile, *(map_tile(m.colours[k], patch, height, width) for m in maps.values())]
        for k, tile in enumerate(tiles(images))
    ]
    rows = canvas.join(units, per_row)
    columns = ["image", *maps] * min(per_row, len(units))
    notes = [f"{name}: {m.note}" if len(maps) > 1 else m.note for name, m in maps.items()]
    return canvas.sheet(rows, columns=columns, title=title, notes=notes)


def similarity_sheet(
    images: Tensor,
    values: npt.NDArray[np.floating],
    cell: tuple[int, int],
    patch: tuple[int, int],
    *,
    image: int = 0,
    title: str = "Similarity to one patch",
) -> Pillow.Image:
    """Images with the heat map beside each; the chosen patch ``cell`` is framed in both."""
    height, width = images.shape[-2:]
    factor = canvas.scale_for(height, width)
    grid = values.shape[1:]
    mark = np.zeros(grid, dtype=bool)
    mark[cell] = True
    where = canvas.enlarge(canvas.spread(mark, patch, height, width), factor)
    rows = []
    for k, tile in enumerate(tiles(images)):
        pair = [tile, map_tile(heat(values[k]), patch, height, width)]
        if k == image:
            pair = [canvas.outline(each, where, canvas.YELLOW, 3) for each in pair]
            pair = [canvas.outline(each, where, canvas.INK, 1) for each in pair]
        rows.append(pair)
    note = (
        "Cosine similarity of centred patch features, range fixed: blue -1, white 0 (as alike as any two patches), "
        f"red 1. The chosen patch (row {cell[0] % grid[0]}, column {cell[1] % grid[1]}) is framed."
    )
    wide = canvas.join(rows, 3)
    return canvas.sheet(wide, columns=["image", "similarity"] * min(3, len(rows)), title=title, notes=[note])
