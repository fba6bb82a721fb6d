"""What the encoder may see and what must be predicted, drawn on real samples.

Each preview is three tiles: the input, the context (everything hidden is dark), and the target blocks, each tinted and
outlined in its own colour. Masks come from the very masker that training uses, at step 0 of epoch 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as Pillow
from torch import Tensor

from openjepa.config.schema import Recipe
from openjepa.data import Source
from openjepa.types import Ids, MaskGroup
from openjepa.visualize import canvas, samples
from openjepa.visualize.canvas import Image
from openjepa.visualize.words import percent

DIM = 0.88  # share of slate mixed into what is hidden
TINT = 0.42  # share of its colour mixed into a target block
COLUMNS = ("input", "context: what the encoder sees", "targets: what must be predicted")


@dataclass(frozen=True)
class MaskPreview:
    """One sample and its masks as three images of the same size.

    name: the sample's item id. context_share: context tokens over all tokens. target_share: tokens in at least one
    target over all tokens. blocks: number of targets. kept: share of the drawn context that the encoder really gets
    (below 1 only where the recipe truncates contexts), None when the masker does not say.
    """

    name: str
    original: Image
    context: Image
    targets: Image
    context_share: float
    target_share: float
    blocks: int
    kept: float | None = None

    @property
    def caption(self) -> str:
        """One line: the shares in words."""
        kept = (
            ""
            if self.kept is None or self.kept > 0.995
            else f", after truncation {percent(self.kept)} of what was drawn"
        )
        return (
            f"context {percent(self.context_share)} of the tokens{kept} · {self.blocks} target"
            f"{'s' if self.blocks != 1 else ''}, together {percent(self.target_share)} · {self.name}"
        )


def token_cells(ids: Ids, row: int, grid: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Ids of one sample as a boolean grid, ``(h, w)`` or ``(t, h, w)``; padding is left out.

    Raises:
        IndexError: an id lies outside the grid.
    """
    index = ids.index[row] if ids.valid is None else ids.index[row][ids.valid[row]]
    cells = torch.zeros(math.prod(grid), dtype=torch.bool)
    cells[index] = True
    return cells.view(grid).numpy()


def preview_masks(
    images: Tensor | Sequence[Tensor],
    group: MaskGroup,
    patch: tuple[int, int],
    names: Sequence[str] | None = None,
    *,
    context: int = 0,
) -> list[MaskPreview]:
    """Draw context number ``context`` of ``group`` and the targets paired with it over ``images`` ``(B, C, H, W)``."""
    paired = [t for c, t in group.pairs if c == context] or list(range(len(group.targets)))
    kept = group.stats.get("context_kept")
    previews = []
    for row, image in enumerate(images):
        seen = token_cells(group.contexts[context], row, group.grid)
        blocks = [token_cells(group.targets[t], row, group.grid) for t in paired]
        original, shown, targets = _draw(canvas.to_rgb(image), seen, blocks, patch)
        union = np.logical_or.reduce(blocks) if blocks else np.zeros_like(seen)
        name = names[row] if names is not None else str(row)
        shares = float(seen.mean()), float(union.mean())
        previews.append(MaskPreview(name, original, shown, targets, *shares, len(blocks), kept))
    return previews


def _draw(
    image: Image, seen: npt.NDArray[np.bool_], blocks: list[npt.NDArray[np.bool_]], patch: tuple[int, int]
) -> tuple[Image, Image, Image]:
    """The three tiles of one preview, enlarged so that small inputs can be read."""
    height, width = image.shape[:2]
    factor = canvas.scale_for(height, width)
    original = canvas.enlarge(image, factor)
    pixels = [canvas.enlarge(canvas.spread(cells, patch, height, width), factor) for cells in (seen, *blocks)]
    context = canvas.mix(original, canvas.SLATE, DIM, ~pixels[0])
    targets = canvas.mix(original, canvas.SLATE, 0.45)
    colours = [canvas.PALETTE[k % len(canvas.PALETTE)] for k in range(len(blocks))]
    covered = np.zeros((height * factor, width * factor), dtype=bool)
    for region in pixels[1:]:
        covered |= region
    targets = np.where(covered[..., None], original, targets)
    for region, colour in zip(pixels[1:], colours, strict=True):
        targets = canvas.mix(targets, colour, TINT, region)
    thick = max(2, max(targets.shape[:2]) // 64)
    for region, colour in zip(pixels[1:], colours, strict=True):  # after all tints: no block hides another's outline
        targets = canvas.outline(targets, region, colour, thick)
    return original, context, targets


def mask_previews(source: Source, recipe: Recipe, *, count: int = 6, augment: bool = True) -> list[MaskPreview]:
    """Masks of ``recipe`` on ``count`` samples spread over ``source``, as training would see them.

    Args:
        source: any opened data; unreadable samples are passed over.
        recipe: names masker, image size, patch size and seed.
        count: samples, at most as many as there are.
        augment: with the random training transforms (seeded by the recipe); off: the evaluation crop.

    Raises:
        DataError: no sample can be read.
    """
    from openjepa.masking import build_masker  # here, so that the tiles above need no masker

    chosen = samples.gather(source, recipe.data, count, seed=recipe.seed, augment=augment)
    masker = build_masker(recipe.mask, recipe.grid, recipe.seed)
    group = masker(torch.arange(len(chosen.images)), epoch=0, step=0)
    return preview_masks(chosen.images, group, (recipe.model.patch_size,) * 2, chosen.names)


def mask_sheet(previews: Sequence[MaskPreview], title: str = "Masks") -> Pillow.Image:
    """All previews on one sheet, one row each with its shares in words below."""
    rows = [(p.original, p.context, p.targets) for p in previews]
    return canvas.sheet(rows, captions=[p.caption for p in previews], columns=COLUMNS, title=title)
