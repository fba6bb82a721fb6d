"""Mask tubes over clips, moving: what the encoder sees of a clip and what is hidden from it, for every mask pair.

Three states of a token, in every frame it covers: context is shown as it is; what has to be predicted is dark, tinted and
outlined in the pair's colour; what is neither is darker still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openjepa.config.schema import Recipe, TubesMask
from openjepa.data import Source
from openjepa.types import MaskGroup
from openjepa.visualize import canvas, clips, samples
from openjepa.visualize.animation import Film, Frames
from openjepa.visualize.masks import DIM, token_cells
from openjepa.visualize.words import percent

HIDDEN = 0.74  # share of slate mixed into what must be predicted
TINT = 0.30  # share of the pair's colour mixed into that

Cells = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TubePreview:
    """One clip with its mask pairs.

    original: ``(T, H, W, 3)``; pairs: one such for each mask pair. context_shares, target_shares: of all tokens, by pair.
    """

    name: str
    original: Frames
    pairs: tuple[Frames, ...]
    context_shares: tuple[float, ...]
    target_shares: tuple[float, ...]

    def caption(self, names: Sequence[str]) -> str:
        """One line: the shares in words."""
        told = [
            f"{name}: {percent(seen)} seen, {percent(hidden)} to predict"
            for name, seen, hidden in zip(names, self.context_shares, self.target_shares, strict=True)
        ]
        return " · ".join([*told, self.name])


def pair_names(recipe: Recipe, group: MaskGroup) -> list[str]:
    """What each mask pair of ``group`` is called: the recipe's groups of blocks in words, where a pair is one of them."""
    mask = recipe.mask
    if not isinstance(mask, TubesMask) or len(mask.groups) != len(group.pairs):
        return ["masked"] if len(group.pairs) == 1 else [f"pair {k}" for k in range(len(group.pairs))]
    sizes = [sum(part.spatial_scale) / 2 for part in mask.groups]
    names = []
    for part, size in zip(mask.groups, sizes, strict=True):
        kind = "" if len(set(sizes)) < 2 else "long range: " if size == max(sizes) else "short range: "
        names.append(f"{kind}{part.blocks} × {size:.2g}")
    return names


def over_time(cells: Cells, frames: int, tubelet: int, patch: tuple[int, int], size: tuple[int, int]) -> Cells:
    """Cells ``(t, h, w)`` in every frame and pixel they cover: ``(T, H, W)``; frames and pixels without a token are False."""
    full = np.zeros((frames, *size), dtype=bool)
    for frame in range(min(frames, len(cells) * tubelet)):
        full[frame] = canvas.spread(cells[frame // tubelet], patch, *size)
    return full


def preview_tubes(
    images: Tensor, group: MaskGroup, patch: tuple[int, int], tubelet: int, names: Sequence[str] | None = None
) -> list[TubePreview]:
    """Draw every mask pair of ``group`` over clips ``images (B, C, T, H, W)``; ``tubelet`` frames are one token."""
    previews = []
    for row, image in enumerate(images):
        plain = clips.to_rgb(image)  # (T, H, W, 3)
        frames, height, width = plain.shape[:3]
        factor = canvas.scale_for(height, width)
        large = plain.repeat(factor, axis=1).repeat(factor, axis=2)
        drawn, seen_shares, hidden_shares = [], [], []
        for number, (i, j) in enumerate(group.pairs):
            seen, hidden = (token_cells(ids, row, group.grid) for ids in (group.contexts[i], group.targets[j]))
            seen_shares.append(float(seen.mean()))
            hidden_shares.append(float(hidden.mean()))
            shown = [over_time(c, frames, tubelet, patch, (height, width)) for c in (seen, hidden)]
            sees, hides = (c.repeat(factor, axis=1).repeat(factor, axis=2) for c in shown)
            drawn.append(_shade(large, sees, hides, canvas.PALETTE[number % len(canvas.PALETTE)]))
        name = names[row] if names is not None else str(row)
        previews.append(TubePreview(name, large, tuple(drawn), tuple(seen_shares), tuple(hidden_shares)))
    return previews


def _shade(frames: Frames, seen: Cells, hidden: Cells, colour: canvas.Colour) -> Frames:
    """Frames with one pair's masks; ``seen``, ``hidden``: ``(T, H, W)``."""
    thick = max(1, max(frames.shape[1:3]) // 96)
    made = []
    for frame, sees, hides in zip(frames, seen, hidden, strict=True):
        dark = canvas.mix(frame, canvas.SLATE, DIM + 0.07)
        shade = canvas.mix(canvas.mix(frame, canvas.SLATE, HIDDEN), colour, TINT)
        shown = np.where(sees[..., None], frame, np.where(hides[..., None], shade, dark))
        made.append(canvas.outline(shown, hides & ~sees, colour, thick))
    return np.stack(made)


def tube_previews(
    source: Source, recipe: Recipe, *, count: int = 2, augment: bool = True
) -> tuple[list[TubePreview], list[str]]:
    """Masks of a video ``recipe`` on ``count`` clips spread over ``source``, as step 0 of training sees them.

    Returns:
        The previews and the names of their mask pairs.

    Raises:
        DataError: no clip can be read.
    """
    from openjepa.masking import build_masker  # here, so that the tiles above need no masker

    chosen = samples.gather(source, recipe.data, count, seed=recipe.seed, augment=augment)
    masker = build_masker(recipe.mask, recipe.grid, recipe.seed)
    group = masker(torch.arange(len(chosen.images)), epoch=0, step=0)
    patch = (recipe.model.patch_size,) * 2
    drawn = preview_tubes(chosen.images, group, patch, recipe.model.tubelet_size, chosen.names)
    return drawn, pair_names(recipe, group)


def tube_film(previews: Sequence[TubePreview], names: Sequence[str], title: str, seconds: float) -> Film:
    """A row per clip: the clip, then each mask pair over it."""
    neither = any(a + b < 0.999 for p in previews for a, b in zip(p.context_shares, p.target_shares, strict=True))
    notes = [
        f"Bright: what the encoder sees. Tinted and outlined: hidden, to be predicted.{' Dark: neither.' if neither else ''}"
        + (" Each pair of masks is predicted by itself." if len(names) > 1 else "")
    ]
    return Film(
        [[p.original, *p.pairs] for p in previews],
        seconds,
        columns=["clip", *names],
        captions=[p.caption(names) for p in previews],
        title=title,
        notes=notes,
    )
