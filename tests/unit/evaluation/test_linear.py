"""Logistic regression against scikit-learn, also on nearly collapsed features; the penalty never sees val."""

import warnings

import numpy as np
import pytest
import torch

from openjepa.errors import ConfigError
from openjepa.evaluation import linear, logistic
from openjepa.evaluation.choice import split
from openjepa.evaluation.linear import choose_penalty
from openjepa.features import Features


def _sklearn(x, y, c):
    from sklearn.linear_model import LogisticRegression

    x = x.double().numpy()
    std = x.std(0)
    z = (x - x.mean(0)) / np.where(std > 0, std, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=c, tol=1e-9, max_iter=10_000).fit(z, y.numpy())
    return model, lambda v: (v.double().numpy() - x.mean(0)) / np.where(std > 0, std, 1)


@pytest.mark.parametrize("c", [1e-4, 0.01, 1.0, 30.0])
@pytest.mark.parametrize("d", [10, 80])  # fewer and more channels than samples
def test_probabilities_equal_scikit_learn(make, c, d):
    train, val = make(60, d=d, seed=1), make(50, d=d, seed=2)
    model, to_z = _sklearn(train.values, train.labels, c)
    basis = logistic.standardise(train.values)
    found = logistic.fit(basis.rows, train.labels, 3, 1 / (c * 60), basis.power)
    assert found.converged
    mine = found.logits(basis.coordinates(val.values)).softmax(1).numpy()
    np.testing.assert_allclose(mine, model.predict_proba(to_z(val.values)), atol=2e-4)


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_score_equals_scikit_learn(make, c):
    train, val = make(500, d=20, seed=1), make(400, d=20, seed=2)
    model, to_z = _sklearn(train.values, train.labels, c)
    score = linear(train, val, c=c)
    assert abs(score.value - model.score(to_z(val.values), val.labels.numpy())) <= 0.003
    assert score.protocol["c"] == pytest.approx(c)


def test_nearly_collapsed_features_still_converge(make):
    """Channels of rank 3 plus float32 noise: standardising makes them nearly equal columns, the hardest case."""
    generator = torch.Generator().manual_seed(0)
    base = make(400, d=3, seed=1, spread=0.8)
    mix = torch.randn(3, 64, generator=generator)
    x = (base.values - 30) @ mix + 1e-4 * torch.randn(400, 64, generator=generator)
    basis = logistic.standardise(x)
    for penalty in (1e-1, 1e-4, 1e-7):
        found = logistic.fit(basis.rows, base.labels, 3, penalty, basis.power)
        assert found.converged, penalty
        assert found.steps < 300


def test_chosen_penalty_is_close_to_the_best_one(make):
    train, val = make(120, d=60, seed=1, spread=3.0), make(2000, d=60, seed=2, spread=3.0)
    chosen = linear(train, val)
    every = [linear(train, val, c=1 / (10.0**p * 120)).value for p in range(1, -8, -2)]
    assert chosen.value >= max(every) - 0.03
    assert chosen.value > min(every) + 0.01  # so the choice mattered here
    assert chosen.protocol["chosen_on"] == "held-out 20% of train"


def test_the_choice_never_sees_val(make):
    train, val = make(120, d=30, seed=1), make(60, d=30, seed=2)
    wrong = Features(val.values, val.ids, (val.labels + 1) % 3, (), val.classes)
    assert linear(train, val).protocol["c"] == linear(train, wrong).protocol["c"]


def test_deterministic_and_independent_of_global_random_state(make):
    train, val = make(120, d=30, seed=1), make(60, d=30, seed=2)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = linear(train, val)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert linear(train, val) == first


def test_constant_and_repeated_channels_are_harmless(make):
    train, val = make(150, d=6, seed=1), make(100, d=6, seed=2)

    def widen(f):
        return Features(
            torch.cat([f.values, f.values, torch.full((len(f), 3), 7.3)], 1), f.ids, f.labels, (), f.classes
        )

    wide = linear(widen(train), widen(val), c=1.0)
    # A repeated channel halves the price of its weight: the same as twice the C.
    assert wide.value == pytest.approx(linear(train, val, c=2.0).value)


def test_split_keeps_every_class_in_the_fitted_part():
    y = torch.tensor([0] * 30 + [1] * 9 + [2])
    fitted, held = split(y, seed=3)
    assert sorted(fitted.tolist() + held.tolist()) == list(range(40))
    assert set(y[fitted].tolist()) == {0, 1, 2}
    assert set(y[held].tolist()) == {0, 1}


def test_one_sample_per_class_still_gives_a_score(make):
    train = make(3, d=5, labels=torch.tensor([0, 1, 2]))
    choice = choose_penalty(logistic.standardise(train.values), train.labels, 3, 0)
    assert choice.tried == 0
    assert 0 <= linear(train, make(20, d=5, seed=2)).value <= 1


def test_wrong_c(make):
    with pytest.raises(ConfigError, match="c > 0"):
        linear(make(30), make(30), c=0.0)
