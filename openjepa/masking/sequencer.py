"""Point sequencers: an order of groups in which neighbours in the list are neighbours in space (Point-JEPA 2404.16432 §3.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Start = Literal["minimum", "first"]


def nearest_order(centres: Tensor, start: Start = "minimum") -> Tensor:
    """Walk from group to group, each time to the nearest one not yet visited.

    Args:
        centres: ``(B, G, 3)``. start: the group with the smallest x + y + z (published), or the first one.

    Returns:
        ``(B, G)`` int64: which group stands at each place of the list. Equal distances: the lower number.
    """
    batch, count, _ = centres.shape
    rows = torch.arange(batch, device=centres.device)
    sums = centres.sum(dim=-1)
    here = sums.argmin(dim=1) if start == "minimum" else torch.zeros_like(rows)
    gaps = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")  # (B, G, G), exact
    order = [here]
    for _ in range(count - 1):
        gaps[rows, :, here] = float("inf")  # nobody walks there again
        here = gaps[rows, here].argmin(dim=1)
        order.append(here)
    return torch.stack(order, dim=1)
