"""The deeper part of the health panel: every block of the deployed encoder, and LiDAR over masked views of the same images.

It costs about two forward passes of the panel's images more, so it is measured less often than the rest: a training
of at least :data:`WORTH` times as many images lies between two of them (plus the first and the last row).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from openjepa.errors import DataError
from openjepa.features import alpha_of, feature_std, lidar, mean_cosine, rankme_of, singular_values
from openjepa.models import VisionTransformer
from openjepa.types import Ids

WORTH = 32
LIDAR_SAMPLES = 64
LIDAR_VIEWS = 8
LIDAR_KEEP = 0.5  # share of an image's patches that a view shows
_SEED = 1 << 30


def deep_every(log_every: int, batch: int, samples: int) -> int:
    """Steps between two deep measurements: a multiple of ``log_every``."""
    return log_every * math.ceil(WORTH * samples / (batch * log_every))


def rank_numbers(features: Tensor) -> dict[str, float]:
    """Spread of mean-pooled features ``(N, D)``; NaN where they are not finite or fewer than two.

    ``rankme_share`` is the effective rank over the largest one possible for N samples of D channels.
    """
    samples, width = features.shape
    if samples < 2 or not bool(torch.isfinite(features).all()):
        return dict.fromkeys(("feature_std", "rankme", "rankme_share", "mean_cosine", "alpha"), math.nan)
    values = singular_values(features)
    rank = rankme_of(values)
    return {
        "feature_std": feature_std(features),
        "rankme": rank,
        "rankme_share": rank / min(samples, width),
        "mean_cosine": mean_cosine(features),
        "alpha": alpha_of(values.square()),
    }


def layer_numbers(layers: Sequence[Tensor]) -> dict[str, list[float]]:
    """RankMe, deviation and mean cosine of mean-pooled features of every block, first block first.

    Args:
        layers: one ``(N, T, D)`` per block, raw (before any norm).
    """
    names = {"rankme": "rankme", "std": "feature_std", "cosine": "mean_cosine"}
    found = [rank_numbers(tokens.float().mean(dim=1).cpu()) for tokens in layers]
    return {ours: [numbers[theirs] for numbers in found] for ours, theirs in names.items()}


def view_lidar(encoder: VisionTransformer, images: Tensor) -> float:
    """LiDAR of mean-pooled features of :data:`LIDAR_VIEWS` random halves of the patches of :data:`LIDAR_SAMPLES` images,
    ``(B, C, H, W)``, or of the tubelets of clips ``(B, C, T, H, W)``.

    The halves are the same in every call; torch's own generator is left alone. NaN where there is too little to compare:
    one image, one patch, features that are not finite.
    """
    spaced = torch.linspace(0, len(images) - 1, min(LIDAR_SAMPLES, len(images))).long().to(images.device)
    images = images[spaced]
    patch = encoder.patch_size[0]
    tokens = (images.shape[-2] // patch) * (images.shape[-1] // patch)
    if images.ndim == 5:
        tokens *= images.shape[2] // encoder.tubelet_size
    if len(images) < 2 or tokens < 2:
        return math.nan
    generator = torch.Generator().manual_seed(_SEED)
    features = []
    for _ in range(LIDAR_VIEWS):
        order = torch.rand(len(images), tokens, generator=generator).argsort(dim=1)
        keep = order[:, : max(1, int(LIDAR_KEEP * tokens))].sort(dim=1).values.to(images.device)
        features.append(encoder.forward_features(images, keep=Ids(keep)).float().mean(dim=1))
    pooled = torch.cat(features).cpu()
    try:
        return lidar(pooled, torch.arange(len(images)).repeat(LIDAR_VIEWS))
    except DataError:  # not finite, or so large that nothing can be told: the verdict says so from the other numbers
        return math.nan
