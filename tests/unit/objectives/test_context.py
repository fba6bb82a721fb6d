"""The weights of the context loss, against one distance after the other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.config.schema import ObjectiveConfig
from openjepa.objectives import context_sum, context_weights, distance_to_hidden
from openjepa.types import Ids

GRIDS = st.one_of(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
)


def places(grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [tuple(int(i) for i in row) for row in torch.cartesian_prod(*(torch.arange(s) for s in grid)).tolist()]


@given(grid=GRIDS, seed=st.integers(0, 1000), batch=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_distances_are_exact_on_any_grid_with_any_padding(grid: tuple[int, ...], seed: int, batch: int) -> None:
    torch.manual_seed(seed)
    tokens = math.prod(grid)
    kept = int(torch.randint(1, tokens + 1, ()))
    index = torch.stack([torch.randperm(tokens)[:kept] for _ in range(batch)])
    valid = torch.rand(batch, kept) < 0.6
    valid[:, 0] = True
    found = distance_to_hidden(Ids(index, valid), grid)
    where = places(grid)
    for row, ids, real in zip(found, index, valid, strict=True):
        hidden = [where[i] for i in ids[real].tolist()]
        wanted = [min(math.dist(here, there) for there in hidden) for here in where]
        assert torch.allclose(row, torch.tensor(wanted), rtol=1e-6, atol=0)


def test_weights_are_one_beside_what_is_hidden_and_fall_with_the_root_of_the_distance() -> None:
    grid, hidden = (1, 1, 10), Ids(torch.tensor([[0]]))
    seen = Ids(torch.tensor([[1, 4, 9, 0]]))
    weights = context_weights(seen, hidden, grid)
    assert weights.tolist()[0] == pytest.approx([1, 1 / 2, 1 / 3, 1])
    assert context_weights(seen, hidden, grid, unit=4.0).tolist()[0] == pytest.approx([2, 1, 2 / 3, 2])


def test_a_sample_that_hides_nothing_has_no_weight() -> None:
    hidden = Ids(torch.tensor([[3], [0]]), torch.tensor([[True], [False]]))
    weights = context_weights(Ids(torch.tensor([[0, 1], [0, 1]])), hidden, (2, 2))
    assert weights[1].tolist() == [0, 0]
    assert torch.isfinite(weights).all()


def test_the_sum_weighs_tokens_and_leaves_padding_out() -> None:
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    weights, valid = torch.rand(2, 3), torch.tensor([[True, True, False], [True, True, True]])
    apart = (prediction - target).abs().sum(dim=-1)
    config = ObjectiveConfig(kind="l1")
    assert torch.allclose(context_sum(config, prediction, target, weights, valid), (apart * weights * valid).sum())
    assert torch.allclose(context_sum(config, prediction, target, None), apart.sum())
