"""How well one list of numbers orders another: rank correlations, without scipy (which the base install lacks)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's ρ: Pearson's correlation of ranks, ties sharing their mean rank. NaN where one list does not vary."""
    return _pearson(ranks(a), ranks(b))


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's τ-b: (concordant − discordant pairs) over √((n₀ − ties in a)(n₀ − ties in b)). NaN as above."""
    assert len(a) == len(b)
    score = pairs_a = pairs_b = 0
    for i in range(len(a)):
        for j in range(i):
            left, right = _sign(a[i] - a[j]), _sign(b[i] - b[j])
            score += left * right
            pairs_a += left != 0
            pairs_b += right != 0
    scale = math.sqrt(pairs_a * pairs_b)
    return score / scale if scale else math.nan


def ranks(values: Sequence[float]) -> list[float]:
    """1 for the smallest; equal values share the mean of their places."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for place in order[start:stop]:
            found[place] = (start + 1 + stop) / 2
        start = stop
    return found


def _pearson(a: Sequence[float], b: Sequence[float]) -> float:
    assert len(a) == len(b)
    if len(a) < 2:
        return math.nan
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    product = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread = math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))
    return product / spread if spread else math.nan


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)
