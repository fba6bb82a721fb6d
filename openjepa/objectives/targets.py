"""What is done to the target network's output before it is compared with a prediction."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

TARGET_EPS = 1e-5  # of the affine-free layer norm (official.md §4)
STD_EPS = 1e-3  # keeps channels that hardly vary from being blown up


def transform_target(features: Tensor, how: Literal["layer_norm", "centred", "none"]) -> Tensor:
    """``(B, N, D)`` target features → float32, layer-normed over channels without affine, or as they are.

    ``centred`` then subtracts the mean over the batch at each position and divides by each channel's deviation over
    batch and positions. What is left is what an image has at a place beyond what every image has there, at unit scale:
    a predictor that only knows positions scores the loss of zeros. At random initialisation three quarters of the
    layer-normed variance is position, and learning it first is how short runs lose rank.
    """
    features = features.float()
    if how == "none":
        return features
    features = F.layer_norm(features, features.shape[-1:], eps=TARGET_EPS)
    if how == "layer_norm":
        return features
    features = features - features.mean(dim=0, keepdim=True)
    return features / (features.std(dim=(0, 1)) + STD_EPS)


def average_layers(taps: list[Tensor], how: Literal["layer_norm", "instance_norm", "none"]) -> Tensor:
    """Mean of K layers' ``(B, N, D)`` outputs, each normalised first (data2vec 2202.03555 §3.3): ``(B, N, D)`` float32.

    ``layer_norm`` over channels (vision, text) or ``instance_norm`` over the tokens of an image (speech); no affine.
    """
    total = torch.zeros((), device=taps[0].device)
    for tap in taps:
        tap = tap.float()
        if how == "layer_norm":
            tap = F.layer_norm(tap, tap.shape[-1:], eps=TARGET_EPS)
        elif how == "instance_norm":
            tap = F.instance_norm(tap.transpose(1, 2)).transpose(1, 2)
        total = total + tap
    return total / len(taps)


def standardise(pooled: Tensor) -> Tensor:
    """``(B, D)`` → zero mean and unit deviation per channel over the batch; constant channels, and a batch of one, zero."""
    pooled = pooled.float()
    if len(pooled) < 2:
        return torch.zeros_like(pooled)
    return (pooled - pooled.mean(dim=0)) / (pooled.std(dim=0) + STD_EPS)
