"""Random patches: an exact share of the tokens is hidden and predicted, the rest is context (the published `random`)."""

from __future__ import annotations

from math import prod

import numpy as np
from torch import Tensor

from openjepa.config.schema import RandomMask
from openjepa.errors import ConfigError
from openjepa.masking.blocks import Cells, cells_to_ids, random_cells
from openjepa.masking.checks import check_grid, check_share, modality
from openjepa.masking.draws import Purpose, key, uniforms
from openjepa.types import MaskGroup


def split(hidden: Cells, grid: tuple[int, ...]) -> MaskGroup:
    """One context and one target from hidden cells ``(B, N)``, equally many in every row."""
    share = float(hidden[0].mean())
    stats = {"context_share": 1 - share, "context_kept": 1.0, "target_share": share}
    context, target = cells_to_ids(~hidden, padded=False), cells_to_ids(hidden, padded=False)
    return MaskGroup([context], [target], [(0, 0)], grid, modality(grid), complement=True, stats=stats)


class RandomMasker:
    """Draws random-patch masks. Build it with :func:`openjepa.masking.build_masker`."""

    def __init__(self, mask: RandomMask, grid: tuple[int, ...], seed: int):
        """Check ``mask`` against ``grid`` ((tubelets,) rows, columns of patches), else :class:`ConfigError`."""
        check_grid(grid)
        check_share("mask.ratio", mask.ratio)
        if mask.ratio[0] >= 1:
            raise ConfigError("mask.ratio is (1, 1), which leaves no context: give (low, high) with low below 1")
        self.mask, self.grid, self.seed = mask, grid, seed

    def hidden_count(self, epoch: int, step: int) -> int:
        """Tokens hidden in this global batch: a pure function of (seed, epoch, step), at least 1, at most N − 1."""
        tokens = prod(self.grid)
        low, high = self.mask.ratio
        draw = float(uniforms(key(self.seed, Purpose.SIZE, epoch, step), 1)[0])
        return min(max(tokens - int(tokens * (1 - low - draw * (high - low))), 1), tokens - 1)

    def __call__(self, places: Tensor, *, epoch: int, step: int) -> MaskGroup:
        """Masks of the global batch whose samples have ``places`` (B,) int64 in ``epoch``; one context, one target."""
        order = places.cpu().numpy().astype(np.int64)
        cells = np.ones((len(order), prod(self.grid)), dtype=np.bool_)
        hidden = random_cells(cells, self.hidden_count(epoch, step), key(self.seed, Purpose.PERMUTATION, epoch, order))
        return split(hidden, self.grid)
