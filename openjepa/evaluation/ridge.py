"""Ridge regression in closed form: can a number be read off frozen features with one matrix product?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openjepa.errors import DataError
from openjepa.evaluation import logistic
from openjepa.evaluation.intervals import bootstrap

# Per-sample penalties on standardised channels: scikit-learn's alpha is penalty · N.
PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(4, -17, -1))
HELD_OUT = 0.2


@dataclass(frozen=True)
class Regression:
    """How well numbers ``y`` of validation samples were predicted. r2: 1 − squared error / variance around val's own mean,
    with a bootstrap interval; rmse: in the unit of ``y``, and of always saying train's mean; penalty: the chosen one;
    predicted: ``(M,)``.
    """

    r2: float
    interval: tuple[float, float]
    rmse: float
    rmse_of_mean: float
    penalty: float
    predicted: Tensor


def ridge(x: Tensor, y: Tensor, val_x: Tensor, val_y: Tensor, *, seed: int = 0) -> Regression:
    """Fit ``y (N,)`` from ``x (N, D)``, minimising mean squared error + λ‖w‖², and predict ``val_y (M,)`` from ``val_x``.

    Channels are standardised by ``x``; the mean of ``y`` is not penalised; float64. λ has the least squared error on a
    held-out fifth of the training samples, drawn by ``seed``; then all of them are fitted (Hoerl & Kennard 1970).

    Raises:
        DataError: fewer than ten training or two validation samples, or a target that does not vary.
    """
    if len(x) < 10 or len(val_x) < 2:
        raise DataError(f"a regression probe needs 10 train and 2 val samples, got {len(x)} and {len(val_x)}")
    y, val_y = y.double(), val_y.double()
    if not (float(y.std()) > 0 and float(val_y.std()) > 0):
        raise DataError("a regression probe needs targets that vary")
    basis = logistic.standardise(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    held, fitted = order[: round(HELD_OUT * len(x))], order[round(HELD_OUT * len(x)) :]
    tried = _solutions(basis.rows[fitted], y[fitted], basis.rows[held])  # (P, held)
    errors = (tried - y[held]).square().mean(1)
    penalty = PENALTIES[int(errors.argmin())]
    predicted = _solutions(basis.rows, y, basis.coordinates(val_x), (penalty,))[0]
    return _measured(predicted, y, val_y, penalty, seed)


def _solutions(rows: Tensor, y: Tensor, others: Tensor, penalties: tuple[float, ...] = PENALTIES) -> Tensor:
    """Predictions ``(P, M)`` for ``others (M, R)`` of the minimum at each penalty, from one eigendecomposition."""
    mean, centre = rows.mean(0), y.mean()
    z, t = rows - mean, y - centre
    values, axes = torch.linalg.eigh(z.T @ z / len(z))  # (R,), (R, R)
    aim = axes.T @ (z.T @ t) / len(z)  # (R,)
    seen = (others - mean) @ axes
    scale = values.clamp_min(0)[:, None] + torch.tensor(penalties, dtype=torch.float64)  # (R, P)
    return (seen @ (aim[:, None] / scale)).T + centre


def _measured(predicted: Tensor, y: Tensor, val_y: Tensor, penalty: float, seed: int) -> Regression:
    truth, errors = val_y.numpy(), (predicted - val_y).square().numpy()

    def r2(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        variance = truth[drawn].var(1)
        return np.where(variance > 0, 1 - errors[drawn].mean(1) / np.where(variance > 0, variance, 1), np.nan)

    value = float(1 - errors.mean() / truth.var())
    return Regression(
        value,
        bootstrap(len(truth), r2, value, seed, (-np.inf, 1.0)),
        float(np.sqrt(errors.mean())),
        float(np.sqrt(np.square(truth - float(y.mean())).mean())),
        penalty,
        predicted,
    )
