"""Terms with batch statistics that keep features from collapsing (family.md §7.1). All take ``z (B, D)``, float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

VARIANCE_EPS = 1e-4
SIGREG_DIRECTIONS = 256
SIGREG_NODES = 17


def variance(z: Tensor, gamma: float = 1.0) -> Tensor:
    """VICReg's hinge on each channel's deviation: mean_j max(0, γ − √(Var z_j + ε)) (2105.04906 eq. 1).

    A batch of one has no spread to speak of: 0.
    """
    if len(z) < 2:
        return z.sum() * 0
    return F.relu(gamma - (z.var(dim=0) + VARIANCE_EPS).sqrt()).mean()


def covariance(z: Tensor) -> Tensor:
    """VICReg's decorrelation: squared off-diagonal covariances, summed, over D (2105.04906 eq. 3–4)."""
    z = z - z.mean(dim=0)
    cov = z.T @ z / max(len(z) - 1, 1)  # (D, D)
    return (cov.square().sum() - cov.diagonal().square().sum()) / z.shape[1]


def vicreg(z: Tensor, covariance_weight: float = 0.04) -> Tensor:
    """Variance plus covariance term (2105.04906); the published weights are 25 and 1, hence 0.04 beside a weight of 1."""
    return variance(z) + covariance_weight * covariance(z)


def sigreg(z: Tensor, seed: int, directions: int = SIGREG_DIRECTIONS) -> Tensor:
    """Sketched isotropic Gaussian regulariser: the Epps–Pulley statistic over random directions (2511.08544).

    Per unit direction: T = N ∫ |φ̂(t) − e^{−t²/2}|² e^{−t²/2} dt, by the trapezoid rule on 17 nodes of [0, 3], doubled
    for the half line. The directions are the same on every rank because they follow from ``seed`` (the global step).

    Returns:
        The mean statistic over directions, divided by N: a per-sample number that does not grow with the batch.
    """
    generator = torch.Generator().manual_seed(seed)
    axes = torch.randn(z.shape[1], directions, generator=generator).to(z.device)
    projected = z @ F.normalize(axes, dim=0)  # (B, directions)
    nodes = torch.linspace(0, 3, SIGREG_NODES, device=z.device)
    gauss = torch.exp(-nodes.square() / 2)
    weights = torch.full_like(nodes, 2 * 3 / (SIGREG_NODES - 1))
    weights[0] /= 2
    weights[-1] /= 2
    angle = projected[..., None] * nodes  # (B, directions, nodes)
    error = (angle.cos().mean(dim=0) - gauss).square() + angle.sin().mean(dim=0).square()
    return (error * (weights * gauss)).sum(dim=-1).mean()
