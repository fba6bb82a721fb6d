"""Terms with batch statistics that keep features from collapsing (family.md §7.1). All take ``z (B, D)``.

They are computed in float32 (float64 stays float64) even under autocast, and over the joint batch of all processes: every
process gets the same value and its own part of the exact gradient (:mod:`openjepa.objectives.across`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.config.schema import RegulariserConfig
from openjepa.objectives.across import all_rows, all_sum
from openjepa.objectives.precision import full_precision

VARIANCE_EPS = 1e-4
SIGREG_DIRECTIONS = 256
SIGREG_NODES = 17
SIGREG_REACH = 3.0  # the integral's upper end, in deviations


def variance(z: Tensor, gamma: float = 1.0) -> Tensor:
    """VICReg's hinge on each channel's deviation: mean_j max(0, γ − √(Var z_j + ε)) (2105.04906 eq. 1).

    Var divides by N − 1, ε = 1e-4. A batch of one has no spread to speak of: 0.
    """
    with _exact(z):
        return _variance(all_rows(full_precision(z)), gamma)


def covariance(z: Tensor) -> Tensor:
    """VICReg's decorrelation: squared off-diagonal covariances (over N − 1), summed, over D (2105.04906 eq. 3–4)."""
    with _exact(z):
        return _covariance(all_rows(full_precision(z)))


def vicreg(z: Tensor, covariance_weight: float = 0.04) -> Tensor:
    """Variance plus covariance term (2105.04906); the published weights are 25 and 1, hence 0.04 beside a weight of 1."""
    with _exact(z):
        rows = all_rows(full_precision(z))
        return _variance(rows, 1.0) + covariance_weight * _covariance(rows)


def sigreg(z: Tensor, seed: int, directions: int = SIGREG_DIRECTIONS, nodes: int = SIGREG_NODES) -> Tensor:
    """Sketched isotropic Gaussian regulariser: the Epps–Pulley statistic, averaged over random directions (2511.08544).

    Per unit direction a, with h = za and φ̂(t) = mean cos th + i·mean sin th over all N samples of all processes:
    T = N ∫ |φ̂(t) − e^{−t²/2}|² e^{−t²/2} dt, by the trapezoid rule on ``nodes`` points of [0, 3], doubled for the other
    half line. For a standard normal sample T is about 1 for any N; it grows with N for anything else.

    Args:
        z: features ``(B, D)``. seed: the global step: all processes then draw the same directions.
        directions: how many; the paper and its library use 1024, its minimal script 256.
        nodes: points of the quadrature; 17 as published.

    Returns:
        The mean statistic, a scalar. It is not divided by N: a weight beside a per-element loss should be small (0.02).
    """
    with _exact(z):
        z = full_precision(z)
        t, weight, gauss = _quadrature(nodes, z)
        projected = z @ sigreg_directions(z.shape[1], directions, seed, z.device).to(z.dtype)  # (B, K)
        angle = projected[..., None] * t  # (B, K, nodes)
        parts = (angle.cos().sum(0).flatten(), angle.sin().sum(0).flatten(), z.new_full((1,), len(z)))
        sums = all_sum(torch.cat(parts))  # one exchange
        count = sums[-1]
        cosine, sine = (sums[:-1] / count).view(2, directions, nodes)
        error = (cosine - gauss).square() + sine.square()
        return count * (error * weight).sum(dim=-1).mean()


def regularise(term: RegulariserConfig, z: Tensor, seed: int) -> Tensor:
    """The regulariser that a recipe's ``objective.regularisers`` entry names, unweighted; ``seed``: the global step."""
    match term.kind:
        case "vicreg":
            return vicreg(z, term.covariance)
        case "variance":
            return variance(z)
        case "sigreg":
            return sigreg(z, seed=seed, directions=term.directions)


def sigreg_directions(dim: int, count: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Unit directions ``(dim, count)`` float32: normalised Gaussian columns, drawn on ``device`` without waiting for it.

    The same on every process with the same kind of device; CPU, CUDA and MPS have generators of their own and differ.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    return F.normalize(torch.randn(dim, count, generator=generator, device=device), dim=0)


def _quadrature(nodes: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points t, trapezoid weights × e^{−t²/2} × 2 for the half line, and e^{−t²/2}; each ``(nodes,)`` in z's dtype."""
    t = torch.linspace(0, SIGREG_REACH, nodes, device=like.device, dtype=like.dtype)
    gauss = torch.exp(-t.square() / 2)
    weight = torch.full_like(t, 2 * SIGREG_REACH / (nodes - 1))
    weight[0] /= 2
    weight[-1] /= 2
    return t, weight * gauss, gauss


def _variance(z: Tensor, gamma: float) -> Tensor:
    if len(z) < 2:
        return z.sum() * 0
    return F.relu(gamma - (z.var(dim=0) + VARIANCE_EPS).sqrt()).mean()


def _covariance(z: Tensor) -> Tensor:
    z = z - z.mean(dim=0)
    cov = z.T @ z / max(len(z) - 1, 1)  # (D, D)
    return (cov.square().sum() - cov.diagonal().square().sum()) / z.shape[1]


def _exact(z: Tensor) -> AbstractContextManager[Any]:
    """No autocast: a covariance in bfloat16 has two digits."""
    return torch.autocast(z.device.type, enabled=False)


def token_variance(prediction: Tensor, valid: Tensor | None, pairs: int) -> Tensor:
    """V-JEPA's optional term (official.md §4): mean over samples and channels of max(0, 1 − s).

    s is the mean over mask pairs of √(var + 1e-4), the unbiased variance over the predicted tokens of a sample. It needs
    only the samples themselves, so micro-batches of equal size are exact.

    Args:
        prediction: ``(pairs·B, K, D)``, B rows per pair. valid: ``(pairs·B, K)``, False on padding.
    """
    prediction = full_precision(prediction)
    weight = torch.ones_like(prediction[..., :1]) if valid is None else valid[..., None].to(prediction.dtype)
    count = weight.sum(dim=1)  # (pairs·B, 1)
    mean = (prediction * weight).sum(dim=1) / count
    spread = ((prediction - mean[:, None]).square() * weight).sum(dim=1) / (count - 1).clamp_min(1)
    deviation = (spread + 1e-4).sqrt().unflatten(0, (pairs, -1)).mean(dim=0)  # (B, D)
    return (1 - deviation).relu().mean()
