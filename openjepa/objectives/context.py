"""The loss on visible tokens: near what is hidden it counts most (V-JEPA 2.1, 2603.14482 §3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from openjepa.config.schema import ObjectiveConfig
from openjepa.objectives.distances import distance, masked_sum
from openjepa.types import Ids


def distance_to_hidden(hidden: Ids, grid: tuple[int, ...]) -> Tensor:
    """Euclidean distance of every token of the grid to the nearest hidden one of its sample, ``(B, N)`` float32.

    In patches and tubelets (one step of time is one patch), 0 at hidden tokens, infinite where a sample hides nothing.
    Exact: along one axis after the other, d²(i) ← min over j of d²(j) + (i − j)², which needs N times the sum of the
    sides instead of context × target tokens.

    Args:
        hidden: ids of the hidden tokens, padding marked. grid: ``(h, w)`` or ``(t, h, w)``, of any sides.
    """
    batch, cells = len(hidden.index), math.prod(grid)
    square = torch.full((batch, cells + 1), float("inf"), device=hidden.index.device)
    index = hidden.index if hidden.valid is None else hidden.index.masked_fill(~hidden.valid, cells)
    square = square.scatter(1, index, 0.0)[:, :cells].view(batch, *grid)  # padding went to the cell that is cut off
    for axis, side in enumerate(grid, start=1):
        steps = torch.arange(side, device=square.device, dtype=square.dtype)
        apart = (steps[:, None] - steps).square()  # (side, side)
        moved = square.movedim(axis, -1)  # (B, …, side)
        square = (moved[..., None, :] + apart).amin(dim=-1).movedim(-1, axis)
    return square.flatten(1).sqrt()


def context_weights(context: Ids, hidden: Ids, grid: tuple[int, ...], unit: float = 1.0) -> Tensor:
    """1/√d of every context token, ``(B, K_c)``, d its distance to the nearest hidden one in units of ``unit`` patches.

    At most 1 with one patch as the unit; 0 where a sample hides nothing. A token that is hidden itself (contexts may
    overlap with targets where a recipe says so) counts as one step away.
    """
    apart = distance_to_hidden(hidden, grid).gather(1, context.index).clamp_min(1.0)
    return (apart / unit).rsqrt()


def context_sum(
    config: ObjectiveConfig, prediction: Tensor, target: Tensor, weights: Tensor | None, valid: Tensor | None = None
) -> Tensor:
    """Sum over context tokens of weight × distance: the numerator of 2603.14482's L_ctx.

    Args:
        prediction, target: ``(R, K_c, D)``. weights: ``(R, K_c)``, None: all alike. valid: ``(R, K_c)``, False on padding.
    """
    elements = distance(config, prediction, target, valid)
    if weights is not None:
        elements = elements * weights[..., None]
    return masked_sum(elements, valid)
