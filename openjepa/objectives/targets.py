"""What is done to the target network's output before it is compared with a prediction."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

TARGET_EPS = 1e-5  # of the affine-free layer norm (official.md §4)


def transform_target(features: Tensor, how: Literal["layer_norm", "none"]) -> Tensor:
    """``(B, N, D)`` target features → float32, layer-normed over channels without affine, or as they are."""
    features = features.float()
    return F.layer_norm(features, features.shape[-1:], eps=TARGET_EPS) if how == "layer_norm" else features
