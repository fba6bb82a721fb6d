"""Intervals and verdicts against tables, scipy and sums done by hand."""

from __future__ import annotations

import math

import pytest

from openjepa.experiments.ablate import interval, judge, t_quantile


@pytest.mark.parametrize(("df", "expected"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622)])
def test_quantiles_are_those_of_the_printed_table(df: int, expected: float) -> None:
    assert t_quantile(df) == pytest.approx(expected, abs=5e-5)


def test_quantiles_equal_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for df in range(1, 60):
        for confidence in (0.5, 0.9, 0.95, 0.999):
            assert t_quantile(df, confidence) == pytest.approx(stats.t.ppf((1 + confidence) / 2, df), rel=1e-9)


def test_interval_by_hand() -> None:
    # 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, sd √7, half width 4.3027 · √7 / √3 = 6.5725
    found = interval([1.0, 2.0, 6.0])
    assert (found.n, found.mean, found.sd) == (3, 3.0, pytest.approx(math.sqrt(7)))
    assert (found.low, found.high) == (pytest.approx(-3.5725, abs=1e-4), pytest.approx(9.5725, abs=1e-4))


def test_one_value_has_no_interval() -> None:
    found = interval([5.0])
    assert (found.mean, found.sd, found.low, found.high) == (5.0, None, None, None)


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ((2.0, 3.0, 4.0), "confirmed"),  # 3 ± 4.3027 · 1 / √3 = 3 ± 2.484: above 0
        ((-2.0, -3.0, -4.0), "refuted"),
        ((1.0, 2.0, 6.0), "undecided"),  # 3 ± 6.57
        ((2.5, 2.5, 2.5), "confirmed"),
        ((0.0, 0.0, 0.0), "undecided"),
    ],
)
def test_the_rule_on_paired_differences(differences: tuple[float, ...], word: str) -> None:
    worse = {0: 10.0, 1: 40.0, 2: 70.0}  # a spread between seeds that pairing takes out
    verdict = judge({seed: worse[seed] + d for seed, d in enumerate(differences)}, worse)
    assert verdict is not None
    assert verdict.word == word
    assert verdict.difference.mean == pytest.approx(sum(differences) / 3)


def test_effect_size_is_mean_over_deviation() -> None:
    verdict = judge({0: 2.0, 1: 3.0, 2: 4.0}, {0: 0.0, 1: 0.0, 2: 0.0})
    assert verdict is not None
    assert verdict.effect == pytest.approx(3.0)


def test_only_shared_seeds_count_and_one_decides_nothing() -> None:
    verdict = judge({0: 5.0, 1: 9.0}, {1: 1.0, 2: 2.0})
    assert verdict is not None
    assert (verdict.word, verdict.seeds, verdict.difference.mean) == ("undecided", (1,), 8.0)
    assert judge({0: 1.0}, {1: 1.0}) is None
