"""Neighbours equal brute force in float64, whatever the chunk, with ties by index."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.errors import DataError
from openjepa.features import cosine_topk, neighbours


def _random(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def _brute(queries, bank, k, exclude=None):
    """Pair by pair in float64, stable sort: the definition."""
    q, b = queries.double().numpy(), bank.double().numpy()
    unit = [x / np.where((n := np.linalg.norm(x, axis=1, keepdims=True)) > 0, n, 1) for x in (q, b)]
    cosine = np.stack([(unit[0][i] * unit[1]).sum(1) for i in range(len(q))])
    if exclude is not None:
        cosine[np.arange(len(q)), exclude.numpy()] = -np.inf
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosine, order, 1), order


@pytest.mark.parametrize("k", [1, 5, 300])
def test_equals_brute_force(k):
    queries, bank = _random(70, 48, 0) + 1, _random(300, 48, 1) + 1
    cosine, index = cosine_topk(queries, bank, k, chunk=32)
    expected, order = _brute(queries, bank, k)
    assert np.array_equal(index.numpy(), order)
    np.testing.assert_allclose(cosine.numpy(), expected, atol=1e-14)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(2, 90), st.sampled_from([1, 4, 16]), st.integers(0, 1000), st.integers(1, 50))
def test_quantised_features_with_many_ties(q, n, d, seed, chunk):
    """Signs in 1, 4 or 16 dimensions have lengths 1, 2 or 4, so that equal cosines are equal in floating point too."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(0, 2, (q, d), generator=generator).float() * 2 - 1
    bank = torch.randint(0, 2, (n, d), generator=generator).float() * 2 - 1
    bank[0] = 0
    k = 1 + seed % n
    _, index = cosine_topk(queries, bank, k, chunk=chunk)
    assert np.array_equal(index.numpy(), _brute(queries, bank, k)[1])


def test_more_near_ties_than_candidates_fall_back_to_the_whole_bank():
    """Differences far below float32: only the float64 pass over everything can order them."""
    base = _random(1, 32, 3)
    bank = base + _random(400, 32, 4) * 1e-5  # cosines differ by 1e-10: all 1 in float32
    bank[350] = base[0]
    _, index = cosine_topk(base, bank, 10)
    assert np.array_equal(index.numpy(), _brute(base, bank, 10)[1])


def test_equal_rows_come_in_index_order_and_chunks_change_nothing():
    bank = _random(5, 16, 0).repeat(40, 1)
    queries = _random(33, 16, 1)
    first = cosine_topk(queries, bank, 60, chunk=1)
    for chunk in (7, 1024):
        other = cosine_topk(queries, bank, 60, chunk=chunk)
        assert torch.equal(first[0], other[0])
        assert torch.equal(first[1], other[1])
    index = first[1]
    assert torch.equal(index[:, :40], index[:, :1] % 5 + 5 * torch.arange(40))


def test_leave_one_out_never_finds_itself():
    x = _random(50, 8, 0)
    own = torch.arange(50)
    _, index = cosine_topk(x, x, 49, exclude=own)
    assert not bool((index == own[:, None]).any())
    assert np.array_equal(index.numpy(), _brute(x, x, 49, own)[1])


def test_reduced_precision_products_are_not_trusted(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    queries, bank = _random(9, 24, 0), _random(80, 24, 1)
    assert np.array_equal(cosine_topk(queries, bank, 7)[1].numpy(), _brute(queries, bank, 7)[1])


def test_long_rescoring_is_chunked(monkeypatch):
    queries, bank = _random(9, 24, 0), _random(80, 24, 1)
    whole = cosine_topk(queries, bank, 7)
    monkeypatch.setattr(neighbours, "_RESCORE_BYTES", 8 * 24 * 3)
    parts = cosine_topk(queries, bank, 7)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_mistakes():
    x = _random(4, 3, 0)
    with pytest.raises(DataError, match="between 1 and 3"):
        cosine_topk(x, x, 4, exclude=torch.arange(4))
    with pytest.raises(DataError, match=r"\(4, 3\), \(2, 5\)"):
        cosine_topk(x, _random(2, 5, 0), 1)
    with pytest.raises(DataError, match="1 bank features are not finite"):
        cosine_topk(x, x.clone().index_fill_(0, torch.tensor([2]), float("nan")), 1)
