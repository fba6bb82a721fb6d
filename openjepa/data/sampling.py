"""Which samples a step sees: a pure function of (seed, step), so runs resume anywhere and ranks agree without
talking.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openjepa.data.seeds import permutation
from openjepa.errors import DataError


class Selection(NamedTuple):
    """Part of a step on one rank: epoch, places in the epoch's order ``(B,)`` and sample indices ``(B,)``, both
    int64.
    """

    epoch: int
    places: Tensor
    indices: Tensor


class Sampler:
    """Shuffled epochs without replacement, the incomplete last batch dropped.

    The global batch of a step is ``batch_size`` consecutive places of its epoch's permutation; each rank owns a
    contiguous slice of it, sizes differing by at most one.

    Args:
        length: samples in the source. batch_size: of all ranks together.

    Raises:
        DataError: the source is smaller than the batch, or the batch smaller than the number of ranks.
    """

    def __init__(self, length: int, batch_size: int, seed: int, *, rank: int = 0, world: int = 1) -> None:
        if batch_size < 1 or length < batch_size:
            raise DataError(
                f"batch size {batch_size} needs at least as many images, and there are {length}: "
                f"use --batch-size {max(length, 1)} or less"
            )
        if batch_size < world:
            raise DataError(f"batch size {batch_size} leaves some of {world} ranks without samples")
        assert 0 <= rank < world, (rank, world)
        self.length, self.batch_size, self.seed, self.rank, self.world = length, batch_size, seed, rank, world
        self.steps_per_epoch = length // batch_size
        self.rank_slice = self.slice_of(rank)
        self._cached: tuple[int, NDArray[np.int64]] | None = None

    def slice_of(self, rank: int) -> slice:
        """Rows of the global batch that ``rank`` owns."""
        return slice(self.batch_size * rank // self.world, self.batch_size * (rank + 1) // self.world)

    def epoch(self, step: int) -> int:
        """Epoch of a 0-based step."""
        return step // self.steps_per_epoch

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The epoch's permutation; the last one asked for is kept."""
        if self._cached is None or self._cached[0] != epoch:
            self._cached = epoch, permutation(self.length, self.seed, epoch)
        return self._cached[1]

    def global_places(self, step: int) -> Tensor:
        """``(batch_size,)`` places in the epoch of the whole global batch, which masks are drawn for."""
        start = step % self.steps_per_epoch * self.batch_size
        return torch.arange(start, start + self.batch_size)

    def batch(self, step: int) -> Selection:
        """Samples of a 0-based step on this rank."""
        epoch = self.epoch(step)
        places = self.global_places(step)[self.rank_slice]
        return Selection(epoch, places, torch.from_numpy(self._order(epoch)[places.numpy()]))
