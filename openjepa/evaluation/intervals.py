"""95 % intervals of numbers that are no shares: bootstrap over samples, and the mean of several draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from openjepa.evaluation.score import Z95

RESAMPLES = 1000
_ROWS_AT_ONCE = 2_000_000  # drawn indices held at a time

# Two-sided 95 % quantiles of Student's t for 1..30 degrees of freedom; the normal one is within 2 % beyond.
T95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
    2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
    2.0452, 2.0423,
)  # fmt: skip


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
        t = T95[len(draws) - 2] if len(draws) - 2 < len(T95) else Z95
        half = t * spread / math.sqrt(len(draws))
    if not samples:
        return spread, mean - half, mean + half
    half = math.hypot(half, Z95 * math.sqrt(mean * (1 - mean) / samples))
    return spread, max(mean - half, 0.0), min(mean + half, 1.0)
