"""Means with Student intervals, and the verdict on one comparison. Plain Python: scipy is not part of the base install."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Word = Literal["confirmed", "refuted", "undecided"]
CONFIDENCE = 0.95
RULE = (
    "paired difference per seed: confirmed when its 95 % t-interval lies above 0 (the expected side), refuted when it lies "
    "below 0, else undecided"
)


@dataclass(frozen=True)
class Interval:
    """Mean of ``n`` values, their standard deviation and the 95 % t-interval of the mean (None for one value)."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Verdict:
    """A comparison: the paired difference (better minus worse, in the score's unit) and what follows from it.

    effect: Cohen's d of paired samples, mean over deviation of the differences; None where they do not vary.
    """

    word: Word
    difference: Interval
    effect: float | None
    seeds: tuple[int, ...]
    why: str = ""


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


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % t-interval: mean ± t(n - 1) · sd / √n. One value has neither deviation nor interval."""
    count, mean = len(values), statistics.fmean(values)
    if count < 2:
        return Interval(count, mean, None, None, None)
    sd = statistics.stdev(values)
    half = t_quantile(count - 1) * sd / math.sqrt(count)
    return Interval(count, mean, sd, mean - half, mean + half)


def judge(better: Mapping[int, float], worse: Mapping[int, float]) -> Verdict | None:
    """Compare scores by seed (higher is better) by :data:`RULE`; None when no seed has both."""
    seeds = tuple(sorted(better.keys() & worse.keys()))
    if not seeds:
        return None
    found = interval([better[seed] - worse[seed] for seed in seeds])
    if found.low is None or found.high is None or found.sd is None:
        return Verdict("undecided", found, None, seeds, "one seed says nothing about the others")
    word: Word = "confirmed" if found.low > 0 else "refuted" if found.high < 0 else "undecided"
    effect = found.mean / found.sd if found.sd > 1e-12 else None
    return Verdict(word, found, effect, seeds)
