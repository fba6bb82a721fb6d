"""Means with Student intervals, and the verdict on one comparison."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from openjepa.evaluation.intervals import t_quantile

Word = Literal["confirmed", "refuted", "undecided"]
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
