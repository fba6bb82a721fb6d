"""How fast the eigenvalues of features fall: α-ReQ."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from openjepa.features.rank import as_matrix

NOISE = 1e-12  # eigenvalues below this share of the largest are rounding: they belong to no power law


def singular_values(x: Tensor, *, centre: bool = True) -> Tensor:
    """Singular values ``(min(N, D),)`` of ``x (N, D)`` in float64, largest first; centred unless told otherwise."""
    x = as_matrix(x)
    return torch.linalg.svdvals(x - x.mean(0) if centre else x)


def alpha_req(x: Tensor, *, centre: bool = True, first: int = 1, last: int | None = None) -> float:
    """α of the power law λ_j ∝ j^−α that the covariance eigenvalues of ``x (N, D)`` follow best.

    α-ReQ, Agrawal et al. 2022 (NeurIPS, after Stringer et al. 2019): minus the slope of least squares of log λ_j against
    log j. Near 1 is reported best; far above 1 few directions hold everything; near 0 the features are white, like noise.

    Args:
        x: features ``(N, D)``; N should be several times D, else the tail is a matter of chance.
        centre: subtract the mean first, so that λ are eigenvalues of the covariance.
        first, last: range of indices j that is fitted, from 1, ends included; by default all eigenvalues above
            1e-12 of the largest.

    Returns:
        α; infinite where fewer than two eigenvalues are left (all features on one line).

    Raises:
        DataError: ``x`` is not a matrix of at least two finite rows.
    """
    return alpha_of(singular_values(x, centre=centre).square(), first, last)


def alpha_of(values: Tensor, first: int = 1, last: int | None = None) -> float:
    """:func:`alpha_req` from eigenvalues ``(K,)``, largest first."""
    index = torch.arange(1, len(values) + 1, dtype=torch.float64, device=values.device)
    used = (values > NOISE * values[0]) & (index >= first) & (index <= (last or len(values)))
    if int(used.sum()) < 2:
        return math.inf
    x, y = index[used].log(), values[used].log()
    x = x - x.mean()
    return float(-(x * (y - y.mean())).sum() / x.square().sum())
