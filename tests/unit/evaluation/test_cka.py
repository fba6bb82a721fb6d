"""CKA against its definition with explicit kernels, in float64; what it must not notice and what it must."""

import math

import numpy as np
import pytest
import torch

from openjepa.data import open_source
from openjepa.errors import ConfigError, DataError
from openjepa.evaluation import Bench, cka_interval, linear_cka
from openjepa.evaluation.cka import compare


def _random(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _kernels(x, y):
    """1905.00414 eq. 3 with HSIC(K, L) = tr(KHLH)."""
    n = len(x)
    centre = np.eye(n) - 1 / n
    k, m = (centre @ (z @ z.T).numpy() @ centre for z in (x, y))
    return np.trace(k @ m) / math.sqrt(np.trace(k @ k) * np.trace(m @ m))


def _unbiased(x, y):
    """Song et al. 2012 eq. 5, element by element."""

    def hsic(a, b):
        n = len(a)
        k, m = (a @ a.T).numpy().copy(), (b @ b.T).numpy().copy()
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        one = np.ones(n)
        outer = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + outer - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


@pytest.mark.parametrize(("n", "d", "e"), [(60, 7, 12), (20, 30, 50), (40, 10, 90)])
def test_equals_the_definition(n, d, e):
    x, y = _random(n, d, 0) + 2, _random(n, e, 1)
    y[:, : min(d, e)] += 1.5 * x[:, : min(d, e)]
    assert linear_cka(x, y) == pytest.approx(_kernels(x, y), rel=1e-10)
    assert linear_cka(x, y, unbiased=True) == pytest.approx(_unbiased(x, y), rel=1e-8)


def test_invariances():
    x, y = _random(50, 8, 0), _random(50, 6, 1)
    turn = torch.linalg.qr(_random(8, 8, 2)).Q
    assert linear_cka(x, 3 * x @ turn + 5) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), rel=1e-12)
    assert linear_cka(x, x @ torch.diag(10.0 ** torch.arange(8, dtype=torch.float64))) < 0.9
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert linear_cka(x, x[order]) < 0.5


def test_unbiased_is_near_zero_for_unrelated_features_of_few_images():
    x, y = _random(30, 200, 0), _random(30, 200, 1)
    assert linear_cka(x, y) > 0.7
    assert abs(linear_cka(x, y, unbiased=True)) < 0.1


def test_interval_holds_the_value_and_shrinks():
    x = _random(400, 6, 0)
    y = x + _random(400, 6, 1)
    wide, narrow = cka_interval(x[:60], y[:60]), cka_interval(x, y)
    assert narrow[0] < linear_cka(x, y) < narrow[1]
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_mistakes():
    x = _random(10, 3, 0)
    for a, b, message in (
        (x, x[:5], "of the same images"),
        (x[:1], x[:1], "at least 2 images"),
        (x, torch.ones(10, 2), "same features"),
        (x, x * torch.nan, "10 of 10 features of the second encoder are not finite"),
    ):
        with pytest.raises(DataError, match=message):
            linear_cka(a, b)


def test_compare_encoders(tmp_path, write, encoder, normalise, transform):
    source = open_source(write(tmp_path / "a", ("blue", "red"), 10))
    first = Bench(encoder, normalise, transform, source, source)
    second = Bench(type(encoder)(seed=4), normalise, transform, source, source)
    same, other = compare(first, first, ("a", "a")), compare(first, second, ("a", "b"))
    assert same.scores[0].value == pytest.approx(1)
    assert other.scores[0].value < 0.999
    assert (other.scores[0].subject, other.scores[0].label, other.scores[0].n_val) == ("a and b", "cka", 20)
    with pytest.raises(ConfigError, match="TinyEncoder lacks"):
        compare(first, second, ("a", "b"), per_layer=True)


def test_matrix_of_layers(tmp_path, write, encoder, normalise, transform):
    source = open_source(write(tmp_path / "a", ("blue", "red"), 10))

    class Deep(type(encoder)):
        def forward_intermediates(self, x, indices=None):
            tokens = self.forward_features(x)
            return [tokens, tokens.square(), tokens]

    bench = Bench(Deep(), normalise, transform, source, source)
    matrix = compare(bench, bench, ("a", "a"), per_layer=True).matrix
    assert len(matrix) == 3
    assert matrix[0][2] == pytest.approx(1)
    assert matrix[0][1] == pytest.approx(matrix[1][0])
    assert matrix[0][1] < 0.99
