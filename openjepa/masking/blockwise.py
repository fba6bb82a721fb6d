"""Block-wise masks: blocks of random size and shape pile up until a share of the grid is hidden (BEiT 2106.08254 §2.3,
Algorithm 1; data2vec 2202.03555 §3.1).

Every sample hides exactly the same number of tokens, so nothing is padded: the block that would hide too many is cut to
what is missing, from its top or its bottom by a coin, so that no part of the image is favoured.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from openjepa.config.schema import BlockMask
from openjepa.errors import ConfigError
from openjepa.masking.blocks import Cells, block_cells, corners, first_cells, lowest_cells
from openjepa.masking.checks import check_grid
from openjepa.masking.draws import Floats, Integers, Purpose, key, ranks, uniforms
from openjepa.masking.random_patches import split
from openjepa.types import MaskGroup

ROUNDS = 64  # blocks tried per sample; far more than any share below 0.95 needs


class BlockwiseMasker:
    """Draws block-wise masks. Build it with :func:`openjepa.masking.build_masker`."""

    def __init__(self, mask: BlockMask, grid: tuple[int, int], seed: int):
        """Check ``mask`` against ``grid`` (rows, columns of patches), else :class:`ConfigError`."""
        check_grid(grid)
        tokens = grid[0] * grid[1]
        self.mask, self.grid, self.seed = mask, grid, seed
        self.hidden_count = round(tokens * mask.ratio)
        if not 0 < self.hidden_count < tokens:
            raise ConfigError(
                f"mask.ratio {mask.ratio:g} hides {self.hidden_count} of {tokens} tokens: choose it between "
                f"{1 / tokens:.2g} and {1 - 1 / tokens:.2g}"
            )
        if mask.min_block > self.hidden_count:
            raise ConfigError(
                f"mask.min_block is {mask.min_block}, but mask.ratio hides only {self.hidden_count} of {tokens} tokens: "
                f"use mask.min_block {self.hidden_count} or less"
            )

    def __call__(self, places: Tensor, *, epoch: int, step: int) -> MaskGroup:
        """Masks of the global batch whose samples have ``places`` (B,) int64 in ``epoch``; one context, one target.

        ``step`` changes nothing here: every batch hides the same count.
        """
        order = places.cpu().numpy().astype(np.int64)
        hidden = np.zeros((len(order), self.grid[0] * self.grid[1]), dtype=np.bool_)
        rows = np.arange(len(order))
        for attempt in range(ROUNDS):
            missing = self.hidden_count - hidden[rows].sum(axis=1)
            rows, missing = rows[missing > 0], missing[missing > 0]
            if not len(rows):
                break
            draws = uniforms(key(self.seed, Purpose.POSITION, epoch, order[rows], attempt), 5)
            hidden[rows] |= self._block(draws, missing, hidden[rows])
        return split(self._fill(hidden, order, epoch), self.grid)

    def _block(self, draws: Floats, missing: Integers, hidden: Cells) -> Cells:
        """New cells ``(B, N)`` of one block per sample, at most ``missing`` (B,); draws ``(B, 5)`` uniforms."""
        low, high = np.log(self.mask.aspect)
        largest = np.maximum(missing, self.mask.min_block)
        area = self.mask.min_block + draws[:, 0] * (largest - self.mask.min_block)
        aspect = np.exp(low + draws[:, 1] * (high - low))  # log-uniform, as published: tall as often as wide
        height, width = self.grid
        rows = np.clip(np.rint(np.sqrt(area * aspect)), 1, height).astype(np.int64)
        columns = np.clip(np.rint(np.sqrt(area / aspect)), 1, width).astype(np.int64)
        counts = np.stack([height - rows + 1, width - columns + 1], axis=1)
        corner = corners(draws[:, 2:4], counts)
        new = block_cells(corner, (rows, columns), self.grid).reshape(hidden.shape) & ~hidden
        upward = draws[:, 4, None] < 0.5
        turned = np.where(upward, new[:, ::-1], new)
        cut = first_cells(turned, missing[:, None])
        return np.where(upward, cut[:, ::-1], cut)

    def _fill(self, hidden: Cells, places: Integers, epoch: int) -> Cells:
        """Hide single random cells in the rare sample that still misses some (shares near 1 on large grids)."""
        rows = np.flatnonzero(hidden.sum(axis=1) < self.hidden_count)
        if len(rows):
            words = ranks(key(self.seed, Purpose.PERMUTATION, epoch, places[rows]), hidden.shape[1])
            words = np.where(hidden[rows], -1 - words, words)  # what is hidden comes first, and so stays hidden
            hidden[rows] = lowest_cells(np.ones_like(hidden[rows]), self.hidden_count, words)
        return hidden
