"""Random tubes: the same random patches are hidden in every tubelet of a clip (VideoMAE 2203.12602 §3.3)."""

from __future__ import annotations

from math import ceil

import numpy as np
from torch import Tensor

from openjepa.config.schema import RandomTubeMask
from openjepa.errors import ConfigError
from openjepa.masking.blocks import random_cells
from openjepa.masking.checks import check_grid, size_of, volume
from openjepa.masking.draws import Purpose, key
from openjepa.masking.random_patches import split
from openjepa.types import MaskGroup


class RandomTubeMasker:
    """Draws random tubes. Build it with :func:`openjepa.masking.build_masker`."""

    def __init__(self, mask: RandomTubeMask, grid: tuple[int, ...], seed: int):
        """Check ``mask`` against ``grid`` (tubelets, rows, columns), else :class:`ConfigError`."""
        check_grid(grid)
        self.mask, self.grid, self.seed = mask, grid, seed
        self._tubelets, height, width = volume(grid)
        self._patches = height * width
        self.hidden_count = int(self._patches * mask.ratio + 1e-9)  # of one tubelet; 100 patches · .29 are 29, not 28
        if self._patches < 2:
            raise ConfigError(
                f"random tubes need two patches a frame, not a {size_of(grid)} grid: raise data.image_size or lower "
                "model.patch_size"
            )
        if not 0 < self.hidden_count < self._patches:
            raise ConfigError(
                f"mask.ratio {mask.ratio:g} hides {self.hidden_count} of {self._patches} patches a frame: choose it from "
                f"{ceil(1000 / self._patches) / 1000:g} to below 1"
            )

    def __call__(self, places: Tensor, *, epoch: int, step: int) -> MaskGroup:
        """Masks of the global batch whose samples have ``places`` (B,) int64 in ``epoch``; one context, one target.

        ``step`` changes nothing here: every batch hides the same count.
        """
        order = places.cpu().numpy().astype(np.int64)
        every = np.ones((len(order), self._patches), dtype=np.bool_)
        hidden = random_cells(every, self.hidden_count, key(self.seed, Purpose.PERMUTATION, epoch, order))
        return split(np.tile(hidden, (1, self._tubelets)), self.grid)
