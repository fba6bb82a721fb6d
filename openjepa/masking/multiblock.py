"""I-JEPA multi-block masks (2301.08243 §3): several target blocks, and one large context block minus the targets.

Block sizes are drawn once per global batch, positions once per sample, so that targets stack and a sample's own masks
do not depend on its neighbours. Where the published code falls short (it never covers the last row and column, and
keeps only the top of each context), the better behaviour is the default and the published one is called ``release``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openjepa.config.schema import MultiblockMask
from openjepa.errors import ConfigError
from openjepa.masking.blocks import (
    Cells,
    Pair,
    block_ids,
    block_size,
    cells_to_ids,
    corner_counts,
    corners,
    covered,
    first_cells,
    random_cells,
)
from openjepa.masking.checks import check_grid, check_share
from openjepa.masking.draws import Floats, Integers, Purpose, key, uniforms
from openjepa.types import Ids, MaskGroup

ATTEMPTS = 20  # published: redraws before one target less is kept out of the context
SQUARE: Pair = (1.0, 1.0)  # the context block is square up to the grid's own shape, as published
PROBES = 64  # batches of one sample that decide at build time whether a configuration can work


@dataclass(frozen=True)
class Sizes:
    """Block sizes ``(rows, columns)`` shared by a global batch."""

    target: tuple[int, int]
    context: tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Where blocks lie. corners: ``(B, T, 2)`` top left of the targets; hidden: ``(B, h, w)`` union of the targets;
    context: ``(B, h, w)``.
    """

    corners: Integers
    hidden: Cells
    context: Cells


class MultiblockMasker:
    """Draws multi-block masks for global batches. Build it with :func:`openjepa.masking.build_masker`."""

    def __init__(self, mask: MultiblockMask, grid: tuple[int, int], seed: int):
        """Check that ``mask`` can work on ``grid`` (rows, columns of patches), else :class:`ConfigError`, one line."""
        self.mask, self.grid, self.seed = mask, grid, seed
        self._check()

    def __call__(self, places: Tensor, *, epoch: int, step: int) -> MaskGroup:
        """Masks of the global batch whose samples have ``places`` (B,) int64 in ``epoch``; one context, T targets."""
        sizes = self.sizes(epoch, step)
        order = places.cpu().numpy().astype(np.int64)
        layout = self._layout(order, epoch, sizes)
        ids = block_ids(layout.corners.swapaxes(0, 1), sizes.target, self.grid[1])  # (T, B, K)
        targets = [Ids(block) for block in torch.from_numpy(ids)]
        context, stats = self._context(layout.context.reshape(len(order), -1), order, epoch)
        stats["target_share"] = np.count_nonzero(layout.hidden) / layout.hidden.size
        if not self.mask.overlap:
            relaxed = (layout.context & layout.hidden).reshape(len(order), -1).any(axis=1)
            stats["relaxed_share"] = float(relaxed.mean())
        pairs = [(0, target) for target in range(len(targets))]
        return MaskGroup([context], targets, pairs, self.grid, stats=stats)

    def sizes(self, epoch: int, step: int) -> Sizes:
        """Block sizes of a global batch: a pure function of (seed, epoch, step)."""
        draws = uniforms(key(self.seed, Purpose.SIZE, epoch, step), 3)
        return self._sizes(float(draws[0]), float(draws[1]), float(draws[2]))

    def _sizes(self, scale_draw: float, context_draw: float, aspect_draw: float) -> Sizes:
        mask = self.mask
        if mask.size_draw == "release":
            aspect_draw = scale_draw
        target = block_size(scale_draw, aspect_draw, mask.target_scale, mask.target_aspect, self.grid, mask.borders)
        context = block_size(context_draw, context_draw, mask.context_scale, SQUARE, self.grid, mask.borders)
        return Sizes(target, context)

    @property
    def _excluded(self) -> int:
        """Targets kept out of the context when all goes well."""
        return 0 if self.mask.overlap else self.mask.targets

    def _layout(self, places: Integers, epoch: int, sizes: Sizes) -> Layout:
        """Draw positions; draw again, only for the samples that keep too little, as often as it takes.

        After ``ATTEMPTS`` redraws the last target is no longer kept out of the context, after as many more the one
        before it, and so on (published). The build check makes sure that a whole context block is always enough.
        """
        layout = self._draw(places, epoch, 0, sizes, self._excluded)
        rows = np.flatnonzero(self._too_small(layout))
        for attempt in range(1, (self._excluded + 1) * ATTEMPTS):
            if not len(rows):
                break
            again = self._draw(places[rows], epoch, attempt, sizes, self._excluded - attempt // ATTEMPTS)
            layout.corners[rows], layout.hidden[rows] = again.corners, again.hidden
            layout.context[rows] = again.context
            rows = rows[self._too_small(again)]
        assert not len(rows), "the build check lets no context block of min_keep tokens or fewer pass"
        return layout

    def _too_small(self, layout: Layout) -> Cells:
        """``(B,)``: samples whose context keeps min_keep tokens or fewer."""
        return np.count_nonzero(layout.context, axis=(1, 2)) <= self.mask.min_keep

    def _draw(self, places: Integers, epoch: int, attempt: int, sizes: Sizes, excluded: int) -> Layout:
        """One attempt; the first ``excluded`` targets are kept out of the context."""
        borders, targets = self.mask.borders, self.mask.targets
        drawn = self._positions(places, epoch, attempt)  # (B, 1 + T, 2): the context block first
        # Published: a redraw moves the context block only. Ours moves the targets as well, since a context block that
        # fills the grid has nowhere to go.
        moved = self._positions(places, epoch, 0) if self.mask.context_mode == "release" and attempt else drawn
        target = corners(moved[:, 1:], corner_counts(sizes.target, self.grid, borders))
        block = corners(drawn[:, 0], corner_counts(sizes.context, self.grid, borders))
        hidden = covered(target, sizes.target, self.grid)
        kept_out = hidden if excluded == targets else covered(target[:, :excluded], sizes.target, self.grid)
        return Layout(target, hidden, covered(block[:, None], sizes.context, self.grid) & ~kept_out)

    def _positions(self, places: Integers, epoch: int, attempt: int) -> Floats:
        """Uniforms ``(B, 1 + T, 2)``: a pure function of (seed, epoch, place, attempt)."""
        drawn = uniforms(key(self.seed, Purpose.POSITION, epoch, places, attempt), 2 * (1 + self.mask.targets))
        return drawn.reshape(len(places), -1, 2)

    def _context(self, cells: Cells, places: Integers, epoch: int) -> tuple[Ids, dict[str, float]]:
        """Contexts ``(B, N)`` as ids by ``context_mode``, with the share shown and the share that survived the cut."""
        drawn = cells.sum(axis=1)
        shortest = int(drawn.min())
        mode = self.mask.context_mode
        if mode == "subset":
            cells = random_cells(cells, shortest, key(self.seed, Purpose.CUT, epoch, places))
        elif mode == "release":
            cells = first_cells(cells, shortest)
        kept = float(drawn.sum()) if mode == "padded" else float(shortest * len(cells))
        stats = {"context_share": kept / cells.size, "context_kept": kept / float(drawn.sum())}
        return cells_to_ids(cells, padded=mode == "padded"), stats

    def _check(self) -> None:
        """Refuse, in one line, what cannot work on this grid."""
        mask, (height, width) = self.mask, self.grid
        check_grid(self.grid, smallest=2 if mask.borders == "release" else 1)
        check_share("mask.target_scale", mask.target_scale)
        check_share("mask.context_scale", mask.context_scale)
        where = f"on a {height}x{width} grid"
        smallest = self._sizes(0.0, 0.0, 0.0).context
        if smallest[0] * smallest[1] <= mask.min_keep:
            raise ConfigError(
                f"mask.min_keep is {mask.min_keep}, but the smallest context block {where} has only "
                f"{smallest[0] * smallest[1]} tokens: lower mask.min_keep, raise mask.context_scale, or use more patches"
            )
        typical = self._typical_context()
        if typical <= mask.min_keep:
            raise ConfigError(
                f"mask.min_keep is {mask.min_keep}, but a typical context {where} keeps {typical:.0f} tokens beside its "
                f"{mask.targets} targets: use mask.min_keep {max(1, int(typical) // 2)} or less, fewer or smaller targets, "
                "or more patches"
            )

    def _typical_context(self) -> float:
        """Mean context tokens of first draws, over sizes and positions. At or below min_keep redraws would be the rule:
        every mask then a freak whose targets pile up, which no one means to train on.
        """
        draws = uniforms(key(self.seed, Purpose.PROBE, np.arange(PROBES)), 3)
        places = np.arange(4)
        total = 0.0
        for epoch, (scale, context, aspect) in enumerate(draws):
            sizes = self._sizes(scale, context, aspect)
            total += self._draw(places, epoch, 0, sizes, self._excluded).context.sum() / len(places)
        return total / PROBES
