"""Scores: interval, JSON round trip, table, stratified draws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.errors import DataError
from openjepa.evaluation import Score, format_table, knn, read_scores, wilson, write_scores
from openjepa.evaluation.labels import stratified


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (10, 10), (394, 1000), (1, 3)])
def test_wilson_equals_scipy(correct, total):
    from scipy.stats import binomtest

    expected = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert wilson(correct, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_json_round_trip_and_table(make, tmp_path):
    scores = [knn(make(60, seed=1), make(40, seed=2), subject=s) for s in ("encoder", "raw pixels")]
    path = write_scores(tmp_path / "deep" / "scores.json", scores)
    assert read_scores(path) == scores
    text = format_table(scores)
    assert f"{100 * scores[0].value:.1f} %" in text
    assert "knn (encoder, raw pixels): metric=cosine, centred=train mean, k=20" in text
    low, high = scores[0].interval
    assert low < scores[0].value < high


def test_files_that_are_no_scores(tmp_path):
    for name, text in (("a.json", "{"), ("b.json", "{}"), ("c.json", '[{"name": "knn"}]')):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError):
            read_scores(tmp_path / name)
    with pytest.raises(DataError, match="no scores"):
        read_scores(tmp_path / "missing.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_scores(tmp_path / "file" / "scores.json", [Score("knn", 0.5, 1, 2)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-1, 4), min_size=1, max_size=80), st.integers(1, 90), st.integers(0, 5))
def test_stratified_draws(labels, count, seed):
    chosen = stratified(labels, count, seed)
    y = torch.tensor(labels)
    assert len(chosen) == min(count, len(labels))
    assert len(set(chosen.tolist())) == len(chosen)
    assert torch.equal(chosen, stratified(labels, count, seed))
    kinds, sizes = torch.unique(y, return_counts=True)
    for kind, size in zip(kinds.tolist(), sizes.tolist(), strict=True):
        got = int((y[chosen] == kind).sum())
        share = size * min(count, len(labels)) / len(labels)
        assert got <= size
        assert abs(got - share) <= len(kinds)
        if count >= len(kinds):
            assert got >= 1


def test_stratified_draws_depend_on_the_seed():
    labels = [0, 1] * 50
    assert not torch.equal(stratified(labels, 20, 0), stratified(labels, 20, 1))
    assert torch.tensor(labels)[stratified(labels, 20, 0)].sum() == 10
