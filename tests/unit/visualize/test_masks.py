"""The mask preview shows exactly the ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from visualize_fakes import RECIPE, ListSource

from openjepa.config import build_recipe
from openjepa.data import open_source
from openjepa.errors import DataError
from openjepa.types import Ids, MaskGroup
from openjepa.visualize import canvas, mask_previews, mask_sheet, preview_masks
from openjepa.visualize.masks import DIM, token_cells

GRID, PATCH = (4, 6), (4, 4)


def _ids(rows: list[list[int]]) -> Ids:
    longest = max(map(len, rows))
    index = torch.tensor([row + row[:1] * (longest - len(row)) for row in rows])
    valid = torch.tensor([[k < len(row) for k in range(longest)] for row in rows])
    return Ids(index, None if valid.all() else valid)


def _group() -> MaskGroup:
    """Two samples: the first has three context tokens, the second one (padded)."""
    context = _ids([[0, 1, 23], [5]])
    blocks = [_ids([[8, 9, 14, 15], [8, 9, 14, 15]]), _ids([[9, 10], [21, 22]])]
    return MaskGroup([context], blocks, [(0, 0), (0, 1)], GRID)


def _images() -> torch.Tensor:
    return torch.randint(40, 200, (2, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _pixels(ids: list[int]) -> np.ndarray:
    cells = np.zeros(24, dtype=bool)
    cells[ids] = True
    factor = canvas.scale_for(16, 24)
    return canvas.enlarge(canvas.spread(cells.reshape(GRID), PATCH, 16, 24), factor)


@pytest.mark.parametrize(("row", "seen"), [(0, [0, 1, 23]), (1, [5])])
def test_context_shows_its_tokens_untouched_and_dims_the_rest(row: int, seen: list[int]) -> None:
    preview = preview_masks(_images(), _group(), PATCH)[row]
    shown = _pixels(seen)
    assert np.array_equal(preview.context[shown], preview.original[shown])
    dimmed = (preview.original * (1 - DIM) + np.asarray(canvas.SLATE) * DIM).round().astype(np.uint8)
    assert np.array_equal(preview.context[~shown], dimmed[~shown])


def test_each_target_is_outlined_in_its_own_colour() -> None:
    preview = preview_masks(_images(), _group(), PATCH)[1]
    for ids, colour in (([8, 9, 14, 15], canvas.ORANGE), ([21, 22], canvas.SKY)):
        region = _pixels(ids)
        painted = (preview.targets == colour).all(-1)
        assert painted[region].any()
        assert not painted[~region].any()
        rows, cols = np.nonzero(region)
        assert painted[rows.min(), cols.min() : cols.max() + 1].all()  # the whole upper edge
        assert painted[rows.min() : rows.max() + 1, cols.max()].all()


def test_blocks_are_tinted_and_what_is_no_target_is_not() -> None:
    preview = preview_masks(_images(), _group(), PATCH)[1]
    untouched = (preview.original * 0.55 + np.asarray(canvas.SLATE) * 0.45).round().astype(np.uint8)
    outside = ~_pixels([8, 9, 14, 15, 21, 22])
    assert np.array_equal(preview.targets[outside], untouched[outside])


def test_shares_count_tokens_once_and_leave_padding_out() -> None:
    first, second = preview_masks(_images(), _group(), PATCH, ["a", "b"])
    assert first.context_share == pytest.approx(3 / 24)
    assert second.context_share == pytest.approx(1 / 24)  # padded to three
    assert first.target_share == pytest.approx(5 / 24)  # token 9 is in both blocks
    assert second.target_share == pytest.approx(6 / 24)
    assert second.caption == "context 4 % of the tokens · 2 targets, together 25 % · b"


def test_padding_never_marks_a_token() -> None:
    ids = Ids(torch.tensor([[3, 7]]), torch.tensor([[True, False]]))
    assert token_cells(ids, 0, GRID).sum() == 1


def test_previews_of_real_samples_follow_the_recipe() -> None:
    recipe = build_recipe({**RECIPE, "mask": {"targets": 2, "min_keep": 4}})
    source = open_source("scenes", count=20)
    state = torch.random.get_rng_state()
    previews = mask_previews(source, recipe, count=5)
    again = mask_previews(source, recipe, count=5)
    assert torch.equal(state, torch.random.get_rng_state()), "drawing must not move the training's random state"
    assert [p.name for p in previews] == [source.item_id(k) for k in (2, 6, 10, 14, 18)]
    for a, b in zip(previews, again, strict=True):
        assert np.array_equal(a.targets, b.targets)
        assert a.blocks == 2
        assert 0 < a.context_share < 1
        assert a.context_share + a.target_share <= 1.0 + 1e-9  # targets are cut from the context
    assert mask_sheet(previews).size[1] > 5 * previews[0].original.shape[0]


def test_unreadable_samples_are_passed_over() -> None:
    recipe = build_recipe(RECIPE)
    images = [torch.full((3, 32, 32), k, dtype=torch.uint8) for k in range(6)]
    previews = mask_previews(ListSource(images, broken=(0, 1, 2)), recipe, count=6)
    assert {p.name for p in previews} == {"item 3", "item 4", "item 5"}
    with pytest.raises(DataError, match="none of its 6 samples"):
        mask_previews(ListSource(images, broken=tuple(range(6))), recipe, count=6)
