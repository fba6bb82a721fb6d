"""Low-shot: the right images are drawn, scikit-learn agrees, val chooses nothing, and too many shots are one clear line."""

import logging
import math

import numpy as np
import pytest
import torch

from openjepa.errors import ConfigError, DataError
from openjepa.evaluation import low_shot
from openjepa.evaluation.intervals import bootstrap, mean_interval
from openjepa.evaluation.low_shot import _draw, _folds, parse_shots
from openjepa.features import Features


def test_each_draw_equals_scikit_learn_on_the_same_images(make):
    from sklearn.linear_model import LogisticRegression

    train, val = make(300, d=8, seed=1), make(200, d=8, seed=2)
    (score,) = low_shot(train, val, [5], draws=2, seed=4)
    x = train.values.double().numpy()
    mean, std = x.mean(0), x.std(0)
    for draw, value in enumerate(score.draws):
        chosen = _draw(parse_shots([5])[0], train.labels, 4 + draw)
        assert torch.bincount(train.labels[chosen]).tolist() == [5, 5, 5]
        z = ((x - mean) / std)[chosen.numpy()]
        (alone,) = low_shot(train, val, [5], draws=1, seed=4 + draw)
        assert alone.draws == (value,)
        model = LogisticRegression(C=alone.protocol["c"], tol=1e-8, max_iter=5000).fit(z, train.labels[chosen])
        peer = model.score((val.values.double().numpy() - mean) / std, val.labels.numpy())
        assert abs(value - peer) <= 0.003
    assert score.value == pytest.approx(sum(score.draws) / 2)
    assert score.spread == pytest.approx(np.std(score.draws, ddof=1))
    assert score.interval[0] < score.value < score.interval[1]
    assert score.n_train == 15


def test_names_counts_and_more_labels_help(make):
    train, val = make(600, d=8, seed=1), make(300, d=8, seed=2)
    scores = low_shot(train, val, ["1", 5, "10%"], draws=4)
    assert [s.name for s in scores] == ["low-shot 1 per class", "low-shot 5 per class", "low-shot 10%"]
    assert [s.n_train for s in scores] == [3, 15, 60]
    assert scores[0].value < scores[1].value < scores[2].value
    assert [s.protocol["chosen_on"] for s in scores] == [
        "fixed",
        "cross-validation within the draw",
        "cross-validation within the draw",
    ]
    assert all(len(s.draws) == 4 for s in scores)


def test_draws_differ_and_are_seeded(make):
    train, val = make(300, seed=1), make(100, seed=2)
    first = low_shot(train, val, [2], draws=3)
    assert first == low_shot(train, val, [2], draws=3)
    assert first[0].draws != low_shot(train, val, [2], draws=3, seed=9)[0].draws
    assert low_shot(train, val, [2], draws=1)[0].spread is None


def test_val_labels_choose_nothing(make):
    train, val = make(300, seed=1), make(100, seed=2)
    wrong = Features(val.values, val.ids, (val.labels + 1) % 3, (), val.classes)
    assert low_shot(train, val, [6])[0].protocol == low_shot(train, wrong, [6])[0].protocol


def test_more_shots_than_images_is_one_line(make, caplog):
    labels = torch.tensor([0] * 20 + [1] * 20 + [2] * 4)
    train, val = make(44, labels=labels), make(40, seed=2)
    for shots, message in (
        ([5], "5 shots asked but class 'cat' has 4 training images: at most 4"),
        (["1%"], r"1% of 44 training images is 0, fewer than the 3 classes: at least 6.8%"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            low_shot(train, val, shots)
        assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        assert [s.name for s in low_shot(train, val, draws=2)] == ["low-shot 1 per class", "low-shot 10%"]
    assert "leaves out 10 per class" in caplog.text


@pytest.mark.parametrize("wrong", ["few", "0", "-1", "1.5", "0%", "101%", ""])
def test_shots_that_say_nothing(make, wrong):
    with pytest.raises(ConfigError, match="neither images per class"):
        low_shot(make(60), make(30), [wrong])
    with pytest.raises(ConfigError, match="no shots asked"):
        low_shot(make(60), make(30), [])
    with pytest.raises(ConfigError, match="at least one draw"):
        low_shot(make(60), make(30), [1], draws=0)


def test_folds_spread_every_class_evenly():
    y = torch.tensor([0] * 10 + [1] * 5)
    fold = _folds(y, 5, 0)
    assert all(torch.bincount(y[fold == f], minlength=2).tolist() == [2, 1] for f in range(5))


def test_interval_of_a_mean_equals_scipy():
    from scipy import stats

    draws = [0.4, 0.45, 0.38, 0.5]
    spread, low, high = mean_interval(draws)
    expected = stats.t.interval(0.95, 3, loc=np.mean(draws), scale=stats.sem(draws))
    assert (low, high) == pytest.approx(expected, abs=1e-4)
    assert spread == pytest.approx(np.std(draws, ddof=1))
    many = np.random.default_rng(0).normal(size=33).tolist()
    expected = stats.t.interval(0.95, 32, loc=np.mean(many), scale=stats.sem(many))
    assert mean_interval(many)[1:] == pytest.approx(expected, rel=1e-9)
    wide = mean_interval(draws, samples=100)
    assert wide[1] < low
    assert wide[2] > high


def test_bootstrap_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(400, lambda drawn: x[drawn].mean(1), float(x.mean()), 0)
    assert (high - low) / 2 == pytest.approx(1.96 * x.std() / math.sqrt(400), rel=0.1)
    assert low < x.mean() < high
