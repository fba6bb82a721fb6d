"""What is done to the target network's output before it is compared with a prediction."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

TARGET_EPS = 1e-5  # of the affine-free layer norm (official.md §4)


def transform_target(features: Tensor, how: Literal["layer_norm", "centred", "none"]) -> Tensor:
    """``(B, N, D)`` target features → float32, layer-normed over channels without affine, or as they are.

    ``centred`` subtracts the mean over the batch at each position after the layer norm. What is left is what an image
    has at a place beyond what every image has there: a predictor that only knows positions scores the loss of zeros.
    At random initialisation three quarters of the layer-normed variance is position, and learning it first is how
    short runs lose rank.
    """
    features = features.float()
    if how == "none":
        return features
    features = F.layer_norm(features, features.shape[-1:], eps=TARGET_EPS)
    return features - features.mean(dim=0, keepdim=True) if how == "centred" else features


def standardise(pooled: Tensor) -> Tensor:
    """``(B, D)`` → zero mean and unit deviation per channel over the batch; constant channels become zero."""
    pooled = pooled.float()
    return (pooled - pooled.mean(dim=0)) / (pooled.std(dim=0) + 1e-3)
