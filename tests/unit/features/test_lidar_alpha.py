"""LiDAR and α-ReQ against numpy in float64, and against cases whose answer is known."""

import math

import numpy as np
import pytest
import torch

from openjepa.errors import DataError
from openjepa.features import alpha_req, lidar, rankme


def views(n=30, q=6, d=12, noise=0.3, seed=0):
    """Features ``(n·q, d)`` of q views of n samples, shuffled, and their sample ids."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(n, 1, d, generator=g) * torch.logspace(0, -2, d) + 2
    x = (centres + noise * torch.randn(n, q, d, generator=g)).flatten(0, 1)
    order = torch.randperm(n * q, generator=g)
    return x[order], torch.arange(n).repeat_interleave(q)[order] * 7 - 3


def lidar_oracle(x, ids, delta=1e-4, eps=1e-8):
    x, ids = x.double().numpy(), ids.numpy()
    groups = [x[ids == i] for i in np.unique(ids)]
    means = np.stack([g.mean(0) for g in groups])
    d = x.shape[1]
    within = sum((g - m).T @ (g - m) for g, m in zip(groups, means)) / sum(len(g) - 1 for g in groups)
    values, vectors = np.linalg.eigh(within + delta * np.eye(d))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    eigen = np.linalg.eigvalsh(root @ np.cov(means.T) @ root).clip(0)
    p = eigen / eigen.sum() + eps
    return float(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize(("n", "q", "d"), [(30, 6, 12), (6, 10, 20), (40, 2, 8), (5, 2, 40)])
def test_lidar_equals_numpy(n, q, d):
    x, ids = views(n, q, d)
    assert lidar(x, ids) == pytest.approx(lidar_oracle(x, ids), rel=1e-6)
    assert lidar(x, ids, delta=0.1, epsilon=1e-4) == pytest.approx(lidar_oracle(x, ids, 0.1, 1e-4), rel=1e-6)


def test_lidar_of_unequal_numbers_of_views():
    x, ids = views()
    keep = torch.ones(len(x), dtype=torch.bool)
    keep[:40] = False
    assert lidar(x[keep], ids[keep]) == pytest.approx(lidar_oracle(x[keep], ids[keep]), rel=1e-6)


def test_lidar_is_not_raised_by_what_views_of_one_image_differ_in():
    g = torch.Generator().manual_seed(0)
    ids = torch.arange(100).repeat_interleave(8)
    signal = torch.zeros(800, 64)
    signal[:, :4] = torch.randn(100, 4, generator=g)[ids] * 10
    noisy = signal + torch.randn(800, 64, generator=g)  # sixty directions hold nothing but noise
    assert rankme(noisy) > 30
    assert lidar(noisy, ids) < 8
    assert lidar(signal, ids) == pytest.approx(4, rel=0.1)


def test_lidar_of_features_that_say_nothing_of_the_sample():
    assert lidar(torch.ones(20, 5), torch.arange(20) // 2) == 1.0


@pytest.mark.parametrize(
    ("x", "ids", "message"),
    [
        (torch.randn(6, 3), torch.arange(6), "two views"),
        (torch.randn(6, 3), torch.zeros(6), "two samples"),
        (torch.randn(6, 3), torch.arange(5) // 2, "one sample id per row"),
        (torch.full((6, 3), float("nan")), torch.arange(6) // 2, "finite"),
        (1e9 * torch.randn(60, 2) @ torch.randn(2, 40), torch.arange(60) // 2, "moderate size"),
    ],
)
def test_lidar_says_what_is_missing(x, ids, message):
    with pytest.raises(DataError, match=message):
        lidar(x, ids)


def alpha_oracle(x, centre=True, first=0, last=None):
    x = x.double().numpy()
    values = np.linalg.eigvalsh((x - x.mean(0) if centre else x).T @ (x - x.mean(0) if centre else x))[::-1]
    values = values[: min(len(x) - 1, x.shape[1])][first:last]
    return -np.polyfit(np.log(np.arange(len(values)) + 1 + first), np.log(values), 1)[0]


@pytest.mark.parametrize("shape", [(200, 24), (20, 24)])
def test_alpha_equals_numpy(shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1)) + 3
    assert alpha_req(x) == pytest.approx(alpha_oracle(x), rel=1e-6)
    assert alpha_req(x, first=3, last=15) == pytest.approx(alpha_oracle(x, first=2, last=15), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_alpha_of_a_power_law_is_its_exponent(alpha):
    basis = torch.linalg.qr(torch.randn(64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    x = basis * torch.arange(1, 17, dtype=torch.float64) ** (-alpha / 2)
    assert alpha_req(x, centre=False) == pytest.approx(alpha, rel=1e-6)


def test_alpha_of_one_line_is_infinite():
    assert alpha_req(torch.outer(torch.arange(10.0), torch.ones(5))) == math.inf
    assert alpha_req(torch.ones(10, 5)) == math.inf


def test_lidar_of_nothing_but_noise_is_high():
    """The measure's own limit, which the docs state: with no signal at all every direction is worth the same."""
    x = torch.randn(800, 64, generator=torch.Generator().manual_seed(0))
    assert lidar(x, torch.arange(100).repeat_interleave(8)) > 40
