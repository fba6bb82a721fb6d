"""LiDAR: how many directions tell samples apart, beyond what views of one sample vary."""

from __future__ import annotations

import torch
from torch import Tensor

from openjepa.errors import DataError
from openjepa.features.rank import as_matrix

LIDAR_DELTA = 1e-4  # added to the diagonal of the within-sample covariance, as in the paper
LIDAR_EPSILON = 1e-8  # added to every share, as in the paper


def lidar(x: Tensor, samples: Tensor, *, delta: float = LIDAR_DELTA, epsilon: float = LIDAR_EPSILON) -> float:
    """Effective rank exp(−Σ p·log p), p = λ/Σλ + ε, of the eigenvalues λ of Σw^−1/2 Σb Σw^−1/2.

    LiDAR, Thilak et al. 2312.04000. With n samples, μ_i the mean over the views of sample i and μ the mean of the μ_i:
    Σb = Σ_i (μ_i − μ)(μ_i − μ)ᵀ / (n − 1), Σw = Σ_ij (x_ij − μ_i)(x_ij − μ_i)ᵀ / Σ_i (q_i − 1) + δI. Beside directions that
    tell samples apart, those in which views of the *same* sample differ count little, unlike in RankMe. Where nothing tells
    samples apart, all directions are equal noise and the value is high: look at the deviation between samples too.

    Args:
        x: features ``(M, D)`` of all views of all samples.
        samples: ``(M,)`` sample ids; views of one sample share an id. Numbers of views may differ.

    Returns:
        Between 1 and min(n − 1, D); 1 where samples do not differ at all.

    Raises:
        DataError: not a finite matrix; fewer than two samples; no sample with two views; features so large that δ is
            lost in rounding.
    """
    x = as_matrix(x)
    ids, place, views = torch.unique(samples.to(x.device), return_inverse=True, return_counts=True)
    if len(place) != len(x):
        raise DataError(f"LiDAR needs one sample id per row: {len(x)} rows, {len(place)} ids")
    if len(ids) < 2 or len(ids) == len(x):
        raise DataError(f"LiDAR needs two samples with two views each or more, got {len(ids)} samples in {len(x)} rows")
    means = torch.zeros(len(ids), x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, place, x) / views[:, None]
    inside = x - means[place]
    within = inside.T @ inside / (len(x) - len(ids))
    within.diagonal().add_(delta)
    # With Σw = LLᵀ, the wanted eigenvalues are those of L⁻¹ΣbL⁻ᵀ, and but for zeros those of its n × n Gram matrix.
    factor, failed = torch.linalg.cholesky_ex(within)
    if int(failed):
        raise DataError("LiDAR needs features of moderate size: these are so large that delta is lost in rounding")
    between = (means - means.mean(0)) / (len(ids) - 1) ** 0.5  # (n, D)
    white = torch.linalg.solve_triangular(factor, between.T, upper=False)  # (D, n)
    values = torch.linalg.svdvals(white).square()
    total = values.sum()
    if total == 0:
        return 1.0
    share = torch.cat([values / total, values.new_zeros(x.shape[1] - len(values))]) + epsilon  # D eigenvalues in all
    return float(torch.exp(-(share * share.log()).sum()))
