"""From a recipe's mask part to the function that draws masks."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from openjepa.config.schema import BlockMask, MaskConfig, MultiblockMask, NoMask, RandomMask, RandomTubeMask, TubesMask
from openjepa.masking.blockwise import BlockwiseMasker
from openjepa.masking.checks import plane
from openjepa.masking.multiblock import MultiblockMasker
from openjepa.masking.random_patches import RandomMasker
from openjepa.masking.random_tubes import RandomTubeMasker
from openjepa.masking.tubes import TubesMasker
from openjepa.masking.whole import WholeMasker
from openjepa.types import MaskGroup


class Masker(Protocol):
    """Draws the masks of one global batch, on the CPU; take ``.rows(a, b)`` of the result for a rank or micro-batch.

    Sizes and counts are a pure function of (seed, epoch, step), positions of (seed, epoch, place): masks do not depend
    on the global generator, workers, ranks, micro-batches or the order of calls.
    """

    @property
    def grid(self) -> tuple[int, ...]:
        """The token grid of the masks: (rows, columns), or (tubelets, rows, columns)."""
        ...

    def __call__(self, places: Tensor, *, epoch: int, step: int) -> MaskGroup:
        """``places`` (B,) int64: each sample's place in the epoch's order, for the *global* batch of ``step``.

        ``stats``: context_share (mean share of the grid shown, after any cut), context_kept (share of the drawn context
        that survived the cut), target_share (mean share of the grid to predict); multiblock also relaxed_share
        (samples whose context had to keep target tokens because redraws were used up). With several pairs these are
        means over pairs, and ``context_share_0`` and so on are those of each pair.
        """
        ...


def build_masker(mask: MaskConfig, grid: tuple[int, ...], seed: int) -> Masker:
    """The masker that ``mask`` names, for a token ``grid``: (rows, columns), or (tubelets, rows, columns) for video.

    Raises :class:`openjepa.errors.ConfigError`, one line saying what to change, when it cannot work on this grid.
    """
    match mask:
        case MultiblockMask():
            return MultiblockMasker(mask, plane(grid, mask.kind), seed)
        case RandomMask():
            return RandomMasker(mask, grid, seed)
        case BlockMask():
            return BlockwiseMasker(mask, plane(grid, mask.kind), seed)
        case NoMask():
            return WholeMasker(mask, grid, seed)
        case TubesMask():
            return TubesMasker(mask, grid, seed)
        case RandomTubeMask():
            return RandomTubeMasker(mask, grid, seed)
