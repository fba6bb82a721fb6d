"""How many directions the features use: numbers that tell a collapsed encoder without labels.

All are computed in float64 from ``(N, D)`` features and returned as Python floats. The issue protocol, and the default
here, is the effective rank of *centred*, mean-pooled features; the paper's RankMe does not centre (``centre=False``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from openjepa.errors import DataError

RANKME_EPSILON = 1e-7  # added to every share, as in the paper; bounds the rank of an all-zero matrix


def rankme(x: Tensor, *, centre: bool = True) -> float:
    """Effective rank exp(−Σ p·log p) with p = σ/Σσ + 1e-7 of the singular values σ of ``x`` (N, D).

    RankMe, Garrido et al. 2210.02885 eq. 1 (after Roy & Vetterli 2007). Between 1 (one direction) and min(N, D).

    Args:
        x: features ``(N, D)``.
        centre: subtract the mean first (default; without it a large common mean looks like rank 1). The paper does not.

    Raises:
        DataError: ``x`` is not a matrix of at least two finite rows.
    """
    x = as_matrix(x)
    return rankme_of(torch.linalg.svdvals(x - x.mean(0) if centre else x))


def rankme_of(values: Tensor) -> float:
    """:func:`rankme` from singular values ``(min(N, D),)``."""
    total = values.sum()
    if total == 0:  # all rows equal: nothing varies, which is one direction at most
        return 1.0
    share = values / total + RANKME_EPSILON
    return float(torch.exp(-(share * share.log()).sum()))


def participation_ratio(x: Tensor, *, centre: bool = True) -> float:
    """(Σλ)² / Σλ² of the covariance eigenvalues λ of ``x`` (N, D): a rank that small directions hardly move.

    Used for neural data by Gao et al. 2017 (doi 10.1101/214262). Between 1 and min(N, D); 1 when nothing varies.
    """
    x = as_matrix(x)
    x = x - x.mean(0) if centre else x
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x  # same non-zero eigenvalues, the smaller of the two
    square = gram.square().sum()
    return float(gram.diagonal().sum() ** 2 / square) if square > 0 else 1.0


def feature_std(x: Tensor, *, normalise: bool = False) -> float:
    """Mean over the D channels of the standard deviation over the N rows of ``x`` (population, not N − 1).

    Args:
        x: features ``(N, D)``.
        normalise: scale every row to length √D first, so that 1 means spread evenly over the sphere and 0 collapse
            (Chen & He 2011.10566 §4.1, there times 1/√D).
    """
    x = as_matrix(x)
    if normalise:
        x = torch.nn.functional.normalize(x, dim=1) * x.shape[1] ** 0.5
    return float(x.std(0, correction=0).mean())


def mean_cosine(x: Tensor, *, centre: bool = False) -> float:
    """Mean cosine over all pairs of different rows of ``x`` (N, D): 1 means all features point the same way.

    Exact and linear in N, from (‖Σu‖² − Σ‖u‖²) / (N(N − 1)) of the unit rows u; a zero row has cosine 0 with all.
    """
    x = as_matrix(x)
    unit = torch.nn.functional.normalize(x - x.mean(0) if centre else x, dim=1)
    count = len(unit)
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1)))


def as_matrix(x: Tensor) -> Tensor:
    """Float64 copy on a device that has float64, checked to be a finite matrix of two rows or more."""
    if x.ndim != 2 or len(x) < 2:
        raise DataError(f"rank measures need (N, D) features of at least 2 samples, got shape {tuple(x.shape)}")
    x = x.detach()
    x = (x.cpu() if x.device.type == "mps" else x).double()
    if not bool(torch.isfinite(x).all()):
        raise DataError(f"rank measures need finite features: {int((~torch.isfinite(x)).any(1).sum())} rows are not")
    return x
