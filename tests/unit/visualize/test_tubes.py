"""Mask tubes over clips show exactly the ids, in exactly the frames their tubelets cover."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from visualize_fakes import VIDEO_RECIPE, ids_of

from openjepa.config import build_recipe
from openjepa.data import open_source
from openjepa.data.clips import Clips
from openjepa.masking import build_masker
from openjepa.types import MaskGroup
from openjepa.visualize import canvas
from openjepa.visualize.tubes import over_time, pair_names, preview_tubes, tube_film, tube_previews

GRID, PATCH, TUBELET = (3, 2, 4), (4, 4), 2


def _clips(frames: int = 6) -> torch.Tensor:
    return torch.randint(60, 200, (2, 3, frames, 8, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _group() -> MaskGroup:
    """Two pairs; the second context of the first clip is padded."""
    contexts = [ids_of([[0, 9, 23], [1, 2, 3]]), ids_of([[4], [5, 6]])]
    targets = [ids_of([[8, 16], [10, 11]]), ids_of([[0, 1], [7, 15]])]
    return MaskGroup(contexts, targets, [(0, 0), (1, 1)], GRID, group="video")


def _pixels(ids: list[int], frames: int = 6) -> np.ndarray:
    cells = np.zeros(24, dtype=bool)
    cells[ids] = True
    shown = np.zeros((frames, 8, 16), dtype=bool)
    for frame in range(6):
        shown[frame] = canvas.spread(cells.reshape(GRID)[frame // 2], PATCH, 8, 16)
    factor = canvas.scale_for(8, 16)
    return shown.repeat(factor, 1).repeat(factor, 2)


def test_context_is_untouched_and_nothing_else_is() -> None:
    for row, pairs in ((0, ([0, 9, 23], [4])), (1, ([1, 2, 3], [5, 6]))):
        preview = preview_tubes(_clips(), _group(), PATCH, TUBELET)[row]
        for frames, seen in zip(preview.pairs, pairs, strict=True):
            where = _pixels(seen)
            assert np.array_equal(frames[where], preview.original[where])
            assert (frames[~where] != preview.original[~where]).any(-1).mean() > 0.99


def test_hidden_tokens_are_outlined_in_the_colour_of_their_pair_in_their_frames_only() -> None:
    preview = preview_tubes(_clips(), _group(), PATCH, TUBELET)[0]
    for frames, hidden, colour in zip(preview.pairs, ([8, 16], [0, 1]), (canvas.ORANGE, canvas.SKY), strict=True):
        painted = (frames == colour).all(-1)
        where = _pixels(hidden) & ~_pixels([0] if hidden == [8, 16] else [4])
        assert not painted[~where].any()
        assert np.array_equal(painted.any((1, 2)), where.any((1, 2))), "every frame of its tubelets, no other"


def test_shares_are_of_all_tokens_and_leave_padding_out() -> None:
    first, second = preview_tubes(_clips(), _group(), PATCH, TUBELET, ["a", "b"])
    assert first.context_shares == pytest.approx((3 / 24, 1 / 24))
    assert second.context_shares == pytest.approx((3 / 24, 2 / 24))
    assert first.target_shares == pytest.approx((2 / 24, 2 / 24))
    assert first.caption(["short", "long"]) == ("short: 12 % seen, 8 % to predict · long: 4 % seen, 8 % to predict · a")


def test_frames_without_a_token_are_neither_seen_nor_hidden() -> None:
    cells = np.ones((2, 2, 4), dtype=bool)
    shown = over_time(cells, 5, 2, (4, 4), (9, 16))  # one frame and one row of pixels are left over
    assert shown[:4, :8].all()
    assert not shown[4].any()
    assert not shown[:, 8].any()


def test_pairs_are_called_by_their_blocks() -> None:
    recipe = build_recipe(VIDEO_RECIPE)
    group = build_masker(recipe.mask, recipe.grid, 0)(torch.arange(1), epoch=0, step=0)
    assert pair_names(recipe, group) == ["short range: 8 × 0.15", "long range: 2 × 0.7"]
    tube = build_recipe({**VIDEO_RECIPE, "mask": {"kind": "random_tube", "ratio": 0.5}})
    group = build_masker(tube.mask, tube.grid, 0)(torch.arange(1), epoch=0, step=0)
    assert pair_names(tube, group) == ["masked"]


def test_previews_of_scenes_are_repeatable_and_whole() -> None:
    recipe = build_recipe(VIDEO_RECIPE)
    assert recipe.data.clip is not None
    source = open_source("scenes", count=9, clip=Clips.training(recipe.data.clip), scene_size=32)
    state = torch.random.get_rng_state()
    previews, names = tube_previews(source, recipe, count=3)
    again, _ = tube_previews(source, recipe, count=3)
    assert torch.equal(state, torch.random.get_rng_state()), "drawing must not move the training's random state"
    assert [p.name for p in previews] == [source.item_id(k) for k in (1, 4, 7)]
    for a, b in zip(previews, again, strict=True):
        assert np.array_equal(a.original, b.original)
        assert all(np.array_equal(x, y) for x, y in zip(a.pairs, b.pairs, strict=True))
        assert all(s + h == pytest.approx(1) for s, h in zip(a.context_shares, a.target_shares, strict=True))
    assert any((p.original[0] != p.original[-1]).any() for p in previews), "clips move"
    film = tube_film(previews, names, "Masks", 0.1)
    assert len(film) == 8
    assert "Dark: neither" not in " ".join(film.notes)
