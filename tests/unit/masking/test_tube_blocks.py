"""Geometry of blocks in space and time: published sizes, and the cells that blocks cover."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.config.schema import TubeGroup
from openjepa.masking.draws import integers, key, uniforms
from openjepa.masking.tube_blocks import TubeSize, block_counts, covered_volume, largest_size, tube_size

SHORT, LONG = TubeGroup(), TubeGroup(blocks=2, spatial_scale=(0.7, 0.7))
# Sizes the published sampler draws with torch CPU generator seeds 0..7 (official.md §3.2), all 8 tubelets long.
PUBLISHED = {
    14: (
        [(5, 6), (6, 5), (6, 5), (5, 5), (5, 6), (6, 5), (7, 4), (6, 5)],
        [(11, 13), (12, 11), (13, 11), (11, 12), (11, 13), (14, 10), (14, 10), (13, 10)],
    ),
    16: (
        [(6, 7), (6, 6), (7, 6), (6, 6), (6, 7), (7, 5), (8, 5), (7, 6)],
        [(12, 15), (14, 13), (15, 12), (13, 14), (12, 15), (16, 11), (16, 11), (15, 12)],
    ),
}
SIDES = st.integers(1, 9)
VOLUMES = st.tuples(SIDES, SIDES, SIDES)
SCALES = st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)).map(lambda pair: tuple(sorted(pair)))
GROUPS = st.builds(
    TubeGroup,
    blocks=st.integers(1, 9),
    spatial_scale=SCALES,
    temporal_scale=SCALES,
    aspect=st.sampled_from([(0.75, 1.5), (1.0, 1.0), (0.2, 5.0), (2.0, 3.0)]),
)
UNIT = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("borders", ["clip", "full"])
@pytest.mark.parametrize("side", PUBLISHED)
@pytest.mark.parametrize("seed", range(8))
def test_published_sizes(side, seed, borders):
    generator = torch.Generator().manual_seed(seed)
    draws = tuple(torch.rand(1, generator=generator).item() for _ in range(3))  # temporal, spatial, aspect
    for group, sizes in zip((SHORT, LONG), PUBLISHED[side], strict=True):
        assert tube_size(draws, group, (8, side, side), borders) == TubeSize(8, *sizes[seed])


def test_length_of_a_block():
    half = TubeGroup(temporal_scale=(0.5, 0.5))
    assert [tube_size((0, 0, 0), half, (t, 8, 8), "full").tubelets for t in (1, 2, 3, 8)] == [1, 1, 1, 4]
    some = TubeGroup(temporal_scale=(0.25, 1.0))
    assert [tube_size((draw, 0, 0), some, (8, 8, 8), "full").tubelets for draw in (0, 0.5, 0.999999)] == [2, 5, 7]


def test_wide_frames_get_the_area_asked_for_unless_published():
    assert tube_size((0, 0, 0.3), LONG, (4, 4, 32), "full") == TubeSize(4, 4, 22)  # 89 of 128 patches
    assert tube_size((0, 0, 0.3), LONG, (4, 4, 32), "clip") == TubeSize(4, 4, 10)  # the published code simply cuts


@given(VOLUMES, GROUPS, UNIT, UNIT, UNIT, st.sampled_from(["full", "clip"]))
@settings(max_examples=300, deadline=None)
def test_sizes_fit_and_the_largest_knows_whether_a_block_can_fill_the_grid(grid, group, a, b, c, borders):
    size = tube_size((a, b, c), group, grid, borders)
    assert all(1 <= side <= most for side, most in zip((size.tubelets, size.rows, size.columns), grid, strict=True))
    assert min(block_counts(size, grid)) >= 1
    assert largest_size(group, grid, borders).fills(grid) or not size.fills(grid)


def test_a_block_that_can_fill_the_grid_is_found():
    assert largest_size(TubeGroup(spatial_scale=(0.7, 1.0)), (8, 14, 14), "full").fills((8, 14, 14))
    assert not largest_size(TubeGroup(spatial_scale=(0.7, 0.9)), (8, 14, 14), "full").fills((8, 14, 14))
    whole_frames = TubeGroup(spatial_scale=(1.0, 1.0), temporal_scale=(0.5, 1.0))
    assert largest_size(whole_frames, (8, 14, 14), "full") == TubeSize(7, 14, 14)  # a uniform never is 1


@given(VOLUMES, st.integers(1, 6), st.integers(0, 2**40), st.data())
@settings(max_examples=100, deadline=None)
def test_cells_of_blocks_agree_with_a_loop(grid, blocks, seed, data):
    size = TubeSize(*(data.draw(st.integers(1, side)) for side in grid))
    drawn = uniforms(key(seed, np.arange(3)), 3 * blocks).reshape(3, blocks, 3)
    expected = np.zeros((3, *grid), dtype=bool)
    for sample in range(3):
        for block in range(blocks):
            t, r, c = integers(drawn[sample, block], np.array(block_counts(size, grid)))
            expected[sample, t : t + size.tubelets, r : r + size.rows, c : c + size.columns] = True
    assert np.array_equal(covered_volume(drawn, size, grid), expected)


def test_blocks_begin_everywhere():
    size, grid = TubeSize(2, 3, 5), (4, 6, 6)
    first = covered_volume(uniforms(key(1, np.arange(6000)), 3).reshape(6000, 1, 3), size, grid).reshape(6000, -1)
    counts = np.bincount(first.argmax(axis=1), minlength=144).reshape(grid)
    assert counts[:3, :4, :2].sum() == 6000  # inclusive of the last position, as published
    assert ((counts[:3, :4, :2] - 250) ** 2 / 250).sum() < 60  # 23 degrees of freedom: 99.99 % below 57
