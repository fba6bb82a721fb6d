"""Distances between predicted and target features, as *sums* over elements, so that accumulation is exact."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.config.schema import ObjectiveConfig


def distance(config: ObjectiveConfig, prediction: Tensor, target: Tensor) -> Tensor:
    """Elementwise distance in float32 (official.md §4): smooth-L1 (β), L1 or squared error.

    Args:
        prediction, target: same shape, any float dtype.

    Returns:
        The same shape, float32.
    """
    prediction, target = prediction.float(), target.float()
    if config.kind == "smooth_l1":
        return F.smooth_l1_loss(prediction, target, reduction="none", beta=config.beta)
    if config.kind == "l1":
        return (prediction - target).abs()
    return (prediction - target).square()


def masked_sum(elements: Tensor, valid: Tensor | None) -> Tensor:
    """Sum of ``(R, K, D)`` elements over rows of ``valid (R, K)``, or over all when there is no padding."""
    if valid is None:
        return elements.sum()
    return torch.where(valid[..., None], elements, 0.0).sum()
