"""The predictor: every block on its own, all blocks in one call."""

from __future__ import annotations

import pytest
import torch

from openjepa.errors import ConfigError
from openjepa.models import NarrowPredictor
from openjepa.types import Ids, Tokens


def predictor() -> NarrowPredictor:
    torch.manual_seed(0)
    return NarrowPredictor(embed_dim=24, grid=(4, 4), dim=16, depth=2, heads=2).eval()


def context(rows: int = 2) -> Tokens:
    torch.manual_seed(1)
    ids = Ids(torch.stack([torch.randperm(16)[:5] for _ in range(rows)]))
    return Tokens(torch.randn(rows, 5, 24), (4, 4), ids)


def test_one_call_equals_one_call_per_block() -> None:
    model, seen = predictor(), context()
    blocks = [torch.tensor([[0, 1], [4, 5]]), torch.tensor([[10, 11], [14, 15]])]
    together = model.predict(seen, Ids(torch.cat(blocks)))
    apart = torch.cat([model.predict(seen, Ids(block)) for block in blocks])
    torch.testing.assert_close(together, apart)
    assert together.shape == (4, 2, 24)


def test_order_of_context_tokens_does_not_matter() -> None:
    model, seen = predictor(), context()
    query = Ids(torch.tensor([[0, 1, 2], [3, 4, 5]]))
    order = torch.randperm(5)
    shuffled = Tokens(seen.values[:, order], seen.grid, Ids(seen.ids.index[:, order]))
    torch.testing.assert_close(model.predict(seen, query), model.predict(shuffled, query), rtol=1e-4, atol=1e-5)


def test_padding_of_context_and_query_changes_nothing() -> None:
    model, seen = predictor(), context(1)
    plain = model.predict(seen, Ids(torch.tensor([[0, 7]])))
    valid = torch.tensor([[True] * 5 + [False] * 2])
    wide = Tokens(
        torch.cat([seen.values, torch.randn(1, 2, 24)], 1),
        (4, 4),
        Ids(torch.cat([seen.ids.index, torch.tensor([[3, 3]])], 1), valid),
    )
    query = Ids(torch.tensor([[0, 7, 9]]), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(model.predict(wide, query)[:, :2], plain)


def test_another_grid_than_trained() -> None:
    model = predictor()
    ids = Ids(torch.tensor([[0, 17]]))
    out = model.predict(Tokens(torch.randn(1, 2, 24), (3, 6), ids), Ids(torch.tensor([[5, 16]])))
    assert out.isfinite().all()


def test_width_must_fit_the_heads() -> None:
    with pytest.raises(ConfigError, match=r"predictor\.heads"):
        NarrowPredictor(embed_dim=24, grid=(4, 4), dim=20, depth=1, heads=3)
