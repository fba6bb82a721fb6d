"""Random tubes, and the masks of images on grids with time."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openjepa.config.schema import BlockMask, MultiblockMask, NoMask, RandomMask, RandomTubeMask
from openjepa.errors import ConfigError
from openjepa.masking import build_masker

SIDES = st.integers(1, 10)


@given(st.tuples(SIDES, SIDES, SIDES), st.floats(0.05, 0.99), st.integers(0, 2**40), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_the_same_patches_are_hidden_in_every_tubelet(grid, ratio, seed, batch):
    try:
        masker = build_masker(RandomTubeMask(ratio=ratio), grid, seed)
    except ConfigError:
        assume(False)
    group = masker(torch.arange(batch), epoch=1, step=2)
    patches = grid[1] * grid[2]
    assert group.complement
    assert (group.pairs, group.grid, group.group) == ([(0, 0)], grid, "video")
    assert group.contexts[0].valid is group.targets[0].valid is None
    for shown, hidden in zip(group.contexts[0].index.tolist(), group.targets[0].index.tolist(), strict=True):
        assert sorted(shown + hidden) == list(range(grid[0] * patches))
        assert (shown, hidden) == (sorted(shown), sorted(hidden))
        first = [token for token in hidden if token < patches]
        assert 0 < len(first) == masker.hidden_count < patches
        assert hidden == [token + patches * tau for tau in range(grid[0]) for token in first]


@pytest.mark.parametrize(("side", "ratio", "hidden"), [(14, 0.9, 176), (16, 0.9, 230), (10, 0.29, 29), (2, 0.9, 3)])
def test_exact_count(side, ratio, hidden):
    assert build_masker(RandomTubeMask(ratio=ratio), (8, side, side), 0).hidden_count == hidden


def test_tubes_are_anywhere_and_a_sample_does_not_depend_on_its_neighbours():
    masker = build_masker(RandomTubeMask(ratio=0.5), (2, 4, 5), 0)
    group = masker(torch.arange(20_000), epoch=0, step=0)
    share = np.bincount(group.targets[0].index.reshape(-1).numpy(), minlength=40) / 20_000
    assert np.abs(share - 0.5).max() < 0.02
    order = torch.tensor([31, 2, 17])
    part = masker(order, epoch=0, step=9)
    assert torch.equal(part.targets[0].index, group.targets[0].index[order])
    assert masker(order, epoch=1, step=0).targets[0].index.tolist() != part.targets[0].index.tolist()


@pytest.mark.parametrize("grid", [(4, 5, 3), (1, 4, 4), (4, 4)])
def test_random_masks_know_time(grid):
    group = build_masker(RandomMask(ratio=(0.75, 0.75)), grid, 0)(torch.arange(6), epoch=0, step=0)
    tokens = int(np.prod(grid))
    assert group.grid == grid
    assert group.complement
    assert group.group == ("image" if len(grid) == 2 else "video")
    assert group.targets[0].index.shape == (6, tokens - int(tokens * 0.25))
    both = torch.cat([group.contexts[0].index, group.targets[0].index], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(tokens).expand(6, -1))


def test_no_mask_shows_and_predicts_all_of_a_clip():
    group = build_masker(NoMask(), (2, 3, 4), 0)(torch.arange(2), epoch=0, step=0)
    assert group.contexts[0].index.tolist() == group.targets[0].index.tolist() == [list(range(24))] * 2
    assert not group.complement  # each token is there twice


@pytest.mark.parametrize(
    ("mask", "grid", "says"),
    [
        (RandomTubeMask(ratio=1.0), (4, 8, 8), "hides 64 of 64 patches a frame: choose it from 0.016 to below 1"),
        (RandomTubeMask(ratio=0.1), (4, 3, 3), "choose it from 0.112"),
        (RandomTubeMask(), (8, 1, 1), "two patches a frame, not a 8x1x1 grid"),
        (RandomTubeMask(), (1, 1, 1), "1x1x1 grid"),
        (MultiblockMask(), (4, 8, 8), "multiblock is for images, not for a 4x8x8 grid: choose tubes"),
        (BlockMask(), (4, 8, 8), "block is for images"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(mask, grid, says):
    with pytest.raises(ConfigError, match=says) as caught:
        build_masker(mask, grid, 0)
    assert "\n" not in str(caught.value)


def test_the_advice_of_the_refusal_works():
    assert build_masker(RandomTubeMask(ratio=0.112), (4, 3, 3), 0).hidden_count == 1
