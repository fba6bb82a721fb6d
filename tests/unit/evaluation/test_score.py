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


def test_scores_of_other_metrics_round_trip_and_old_files_load(tmp_path):
    import json

    new = Score(
        "scenes count",
        0.61234,
        10,
        5,
        metric="r2",
        interval=(-0.2, 0.9),
        spread=0.1,
        draws=(0.5, 0.7),
        grid_max=0.8,
        extra={"rmse": 1.5},
    )
    path = write_scores(tmp_path / "scores.json", [new])
    assert read_scores(path) == [new]
    old = {k: v for k, v in new.to_dict().items() if k not in ("metric", "higher_is_better", "grid_max", "spread")}
    old = {k: v for k, v in old.items() if k not in ("draws", "extra")}
    path.write_text(json.dumps([old]))
    assert read_scores(path)[0] == Score("scenes count", 0.61234, 10, 5, interval=(-0.2, 0.9))


def test_columns_for_spread_and_grid_only_where_they_are(make):
    plain = knn(make(60, seed=1), make(40, seed=2))
    grid = knn(make(60, seed=1), make(40, seed=2), k=(1, 5))
    drawn = Score("low-shot", 0.5, 10, 5, spread=0.02, draws=(0.48, 0.52), interval=(0.4, 0.6))
    table = format_table([plain])
    assert "spread" not in table
    assert "optimistic" not in table
    table = format_table([plain, grid, drawn])
    assert "spread over draws" in table
    assert "best on val (optimistic)" in table
    assert "2.0 % of 2" in table
    r2 = Score("scenes count", 0.5, 10, 5, metric="r2", interval=(-0.1, 0.7), extra={"rmse": 1.25})
    text = format_table([r2])
    assert "scenes count r2" in text
    assert "-0.1 to 0.7" in text
    assert "encoder, scenes count r2: rmse 1.25" in text
    assert "%" not in text.splitlines()[2].replace("95 %", "")
