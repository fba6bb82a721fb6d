"""95 % intervals of numbers that are no shares: bootstrap over samples, and the mean of several draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from openjepa.evaluation.score import Z95

RESAMPLES = 1000
_ROWS_AT_ONCE = 2_000_000  # drawn indices held at a time
CONFIDENCE = 0.95


def central_t(t: float, df: int) -> float:
    """P(|T| < t) for Student's t with an integer number of degrees of freedom (Abramowitz and Stegun 26.7.3-4)."""
    theta = math.atan2(t, math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = df % 2 == 1
    term, total = (cosine if odd else 1.0), 0.0
    for k in range((df - 1) // 2 if odd else df // 2):
        total += term
        term *= cosine * cosine * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    return 2 / math.pi * (theta + sine * total) if odd else sine * total


def t_quantile(df: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(|T| < t) = ``confidence``, by bisection to twelve digits; 4.303 for 2 degrees of freedom at 95 %."""
    low, high = 0.0, 1.0
    while central_t(high, df) < confidence:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if central_t(middle, df) < confidence else (low, middle)
    return (low + high) / 2


def bootstrap(
    count: int,
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    value: float,
    seed: int,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    """``value`` ± 1.96 bootstrap standard errors (Efron 1979), cut at ``bounds``: it always holds the value itself.

    Args:
        count: samples. statistic: from drawn indices ``(R, count)`` to the number of each row ``(R,)``; rows where it is
            not finite are left out. seed: of the 1000 draws.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, _ROWS_AT_ONCE // count)
    found: list[float] = []
    while len(found) < RESAMPLES:
        drawn = generator.integers(0, count, (min(rows, RESAMPLES - len(found)), count))
        found += statistic(drawn).tolist()
    return around(value, np.array(found), bounds)


def around(
    value: float, resampled: NDArray[np.float64], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, float]:
    """``value`` ± 1.96 standard deviations of its resampled values, cut at ``bounds``."""
    finite = resampled[np.isfinite(resampled)]
    half = Z95 * float(finite.std(ddof=1)) if len(finite) > 1 else 0.0
    return max(value - half, bounds[0]), min(value + half, bounds[1])


def mean_interval(draws: Sequence[float], samples: int = 0) -> tuple[float, float, float]:
    """``(spread, low, high)`` of the mean of several draws: their standard deviation (n − 1), and a 95 % interval.

    The interval adds, in squares, Student's t over the draws and, for shares of ``samples`` validation samples that all
    draws have in common, the normal error of that share; it stays in 0..1 then.
    """
    mean = sum(draws) / len(draws)
    if len(draws) < 2:
        spread = half = 0.0
    else:
        spread = math.sqrt(sum((d - mean) ** 2 for d in draws) / (len(draws) - 1))
        half = t_quantile(len(draws) - 1) * spread / math.sqrt(len(draws))
    if not samples:
        return spread, mean - half, mean + half
    half = math.hypot(half, Z95 * math.sqrt(mean * (1 - mean) / samples))
    return spread, max(mean - half, 0.0), min(mean + half, 1.0)
