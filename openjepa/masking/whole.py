"""Nothing hidden: every token is context and target (joint embedding, and a sick masked run on purpose)."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from openjepa.config.schema import NoMask
from openjepa.masking.checks import check_grid, modality
from openjepa.types import Ids, MaskGroup


class WholeMasker:
    """One context and one target, both the whole grid. Build it with :func:`openjepa.masking.build_masker`."""

    def __init__(self, mask: NoMask, grid: tuple[int, ...], seed: int):
        check_grid(grid)
        self.mask, self.grid, self.seed = mask, grid, seed

    def __call__(self, places: Tensor, *, epoch: int, step: int) -> MaskGroup:
        """The same for every sample of ``places`` (B,): no draw is made."""
        every = Ids(torch.arange(prod(self.grid)).expand(len(places), -1).contiguous())
        stats = {"context_share": 1.0, "context_kept": 1.0, "target_share": 1.0}
        return MaskGroup([every], [every], [(0, 0)], self.grid, modality(self.grid), stats=stats)
