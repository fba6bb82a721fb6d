"""Distances between predicted and target features, as *sums* over elements, so that accumulation is exact."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.config.schema import ObjectiveConfig
from openjepa.objectives.precision import full_precision

_PER_CHANNEL = ("smooth_l1", "l1", "l2")


def elements_per_token(config: ObjectiveConfig, width: int) -> int:
    """How many elements :func:`distance` gives per token: one per channel, or one where tokens are compared whole."""
    return width if config.kind in _PER_CHANNEL else 1


def distance(config: ObjectiveConfig, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Distance in float32, or in float64 where both sides are (official.md §4).

    Args:
        prediction, target: ``(R, K, D)``, any float dtype. valid: ``(R, K)``, False on padding: no negatives for info_nce.

    Returns:
        ``(R, K, D)`` for smooth_l1 (β), l1 and l2 (squared error). ``(R, K, 1)`` for cosine (1 − cos),
        normalised_cosine (squared error of unit vectors, 2 − 2 cos; BYOL 2006.07733 eq. 2) and info_nce.
    """
    prediction, target = full_precision(prediction), full_precision(target)
    match config.kind:
        case "smooth_l1":
            return F.smooth_l1_loss(prediction, target, reduction="none", beta=config.beta)
        case "l1":
            return (prediction - target).abs()
        case "l2":
            return (prediction - target).square()
        case "cosine":
            return 1 - F.cosine_similarity(prediction, target, dim=-1)[..., None]
        case "normalised_cosine":
            return 2 - 2 * F.cosine_similarity(prediction, target, dim=-1)[..., None]
        case "info_nce":
            return info_nce(prediction, target, config.temperature, valid)[..., None]


def info_nce(prediction: Tensor, target: Tensor, temperature: float, valid: Tensor | None = None) -> Tensor:
    """−log softmax of the right target among those of the other rows (InfoNCE, 1807.03748 eq. 4), on unit vectors.

    The negatives of a row's k-th token are the k-th tokens of all other rows: other images, and other blocks of the same
    image. One product of (R, R) per k bounds the memory whatever the number of tokens.

    Args:
        prediction, target: ``(R, K, D)``. valid: ``(R, K)``; padded targets are no negatives.

    Returns:
        ``(R, K)``.
    """
    query, keys = F.normalize(prediction, dim=-1).transpose(0, 1), F.normalize(target, dim=-1).transpose(0, 1)
    logits = query @ keys.transpose(1, 2) / temperature  # (K, R, R)
    if valid is not None:
        own = torch.eye(len(prediction), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(~(valid.T[:, None, :] | own), float("-inf"))
    return (logits.logsumexp(dim=-1) - logits.diagonal(dim1=1, dim2=2)).T


def block_mean(tokens: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over the valid tokens of each row: ``(R, K, D)`` → ``(R, 1, D)`` float32."""
    tokens = tokens.float()
    if valid is None:
        return tokens.mean(dim=1, keepdim=True)
    weight = valid[..., None].float()
    return (tokens * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp_min(1)


def masked_sum(elements: Tensor, valid: Tensor | None) -> Tensor:
    """Sum of ``(R, K, E)`` elements over rows of ``valid (R, K)``, or over all when there is no padding."""
    if valid is None:
        return elements.sum()
    return torch.where(valid[..., None], elements, 0.0).sum()
