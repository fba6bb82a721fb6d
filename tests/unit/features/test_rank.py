"""Rank measures against numpy in float64 and against cases whose answer is known."""

import numpy as np
import pytest
import torch

from openjepa.errors import DataError
from openjepa.features import feature_std, mean_cosine, participation_ratio, rankme


def _features(n=60, d=24, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * torch.logspace(0, -3, d) + 2


def _oracle(x, centre):
    x = x.double().numpy()
    s = np.linalg.svd(x - x.mean(0) if centre else x, compute_uv=False)
    p = s / s.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("shape", [(60, 24), (10, 24)])
def test_rankme_equals_numpy(centre, shape):
    x = _features(*shape)
    assert rankme(x, centre=centre) == pytest.approx(_oracle(x, centre), rel=1e-9)


def test_rankme_of_known_spectra():
    x = torch.zeros(64, 16)
    x[:32, :8] = torch.eye(8).repeat(4, 1)
    x[32:, :8] = -torch.eye(8).repeat(4, 1)
    assert rankme(x) == pytest.approx(8, rel=1e-4)  # eight equal directions
    assert rankme(torch.outer(torch.arange(10.0), torch.ones(5))) == pytest.approx(1, rel=1e-4)
    assert rankme(torch.ones(10, 5)) == 1.0  # nothing varies


def test_centring_is_what_tells_a_large_mean_from_collapse():
    x = torch.randn(200, 32, generator=torch.Generator().manual_seed(0)) + 100
    assert rankme(x) > 28
    assert rankme(x, centre=False) < 4


@pytest.mark.parametrize("shape", [(60, 24), (10, 24)])
def test_participation_ratio_equals_numpy(shape):
    x = _features(*shape)
    values = np.linalg.svd((x - x.mean(0)).double().numpy(), compute_uv=False) ** 2
    assert participation_ratio(x) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-5)
    assert participation_ratio(torch.ones(4, 3)) == 1.0


def test_mean_cosine_equals_all_pairs():
    x = _features(20, 6)
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    pairs = unit @ unit.T
    expected = (pairs.sum() - pairs.diagonal().sum()) / (20 * 19)
    assert mean_cosine(x) == pytest.approx(float(expected), rel=1e-9)
    assert mean_cosine(torch.ones(5, 3)) == pytest.approx(1)


def test_feature_std():
    x = _features()
    assert feature_std(x) == pytest.approx(float(x.double().std(0, correction=0).mean()), rel=1e-9)
    white = torch.randn(5000, 64, generator=torch.Generator().manual_seed(1))
    assert feature_std(white * 7, normalise=True) == pytest.approx(1, rel=0.01)
    assert feature_std(torch.ones(5, 3), normalise=True) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("measure", [rankme, participation_ratio, mean_cosine, feature_std])
def test_bad_features_are_named(measure):
    with pytest.raises(DataError, match="2 rows are not"):
        measure(torch.tensor([[1.0, 2], [float("nan"), 1], [float("inf"), 0]]))
    with pytest.raises(DataError, match="at least 2 samples"):
        measure(torch.ones(1, 4))
