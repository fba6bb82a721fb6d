"""Random and block-wise masks."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openjepa.config.schema import BlockMask, RandomMask
from openjepa.errors import ConfigError
from openjepa.masking import build_masker

GRIDS = st.tuples(st.integers(1, 32), st.integers(1, 32))
RATIOS = st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: tuple(sorted(pair)))
MASKS = st.one_of(
    st.builds(RandomMask, ratio=RATIOS),
    st.builds(
        BlockMask,
        ratio=st.floats(0.05, 0.95),
        min_block=st.integers(1, 16),
        aspect=st.sampled_from([(0.3, 1 / 0.3), (1.0, 1.0), (0.05, 0.1)]),
    ),
)


@given(GRIDS, MASKS, st.integers(0, 2**40), st.integers(0, 100), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_context_and_target_split_the_grid(grid, mask, seed, epoch, batch):
    try:
        masker = build_masker(mask, grid, seed)
    except ConfigError:
        assume(False)
    group = masker(torch.arange(batch), epoch=epoch, step=epoch)
    context, target = group.contexts[0], group.targets[0]
    assert group.pairs == [(0, 0)]
    assert context.valid is None
    assert target.valid is None
    for shown, hidden in zip(context.index.tolist(), target.index.tolist(), strict=True):
        assert shown == sorted(shown)
        assert hidden == sorted(hidden)
        assert sorted(shown + hidden) == list(range(grid[0] * grid[1]))
    assert group.stats["context_share"] + group.stats["target_share"] == pytest.approx(1)
    assert group.stats["context_kept"] == 1


@pytest.mark.parametrize("mask", [RandomMask(), BlockMask()])
def test_a_sample_does_not_depend_on_its_neighbours(mask):
    masker = build_masker(mask, (9, 13), 4)
    whole = masker(torch.arange(32), epoch=3, step=8)
    order = torch.tensor([31, 2, 17, 5])
    part = masker(order, epoch=3, step=8)
    assert torch.equal(whole.contexts[0].index[order], part.contexts[0].index)
    assert torch.equal(whole.targets[0].index[order], part.targets[0].index)
    assert len({tuple(row) for row in whole.targets[0].index.tolist()}) == 32
    later = masker(torch.arange(32), epoch=4, step=8)
    assert later.targets[0].index.tolist() != whole.targets[0].index.tolist()


def test_random_ratio_is_drawn_per_batch_over_its_range():
    masker = build_masker(RandomMask(ratio=(0.4, 0.6)), (16, 16), 0)
    hidden = np.array([masker.hidden_count(0, step) for step in range(2000)]) / 256
    assert hidden.min() == pytest.approx(0.4, abs=0.01)
    assert hidden.max() == pytest.approx(0.6, abs=0.01)
    assert hidden.mean() == pytest.approx(0.5, abs=0.006)


def test_random_hides_every_cell_equally_often():
    group = build_masker(RandomMask(ratio=(0.5, 0.5)), (4, 5), 0)(torch.arange(20_000), epoch=0, step=0)
    share = np.bincount(group.targets[0].index.reshape(-1).numpy(), minlength=20) / 20_000
    assert np.abs(share - 0.5).max() < 0.02


def test_block_hides_exactly_the_ratio_in_clumps():
    grid, batch = (16, 16), 2000
    masker = build_masker(BlockMask(ratio=0.4), grid, 0)
    group = masker(torch.arange(batch), epoch=0, step=0)
    assert group.targets[0].index.shape == (batch, round(0.4 * 256))
    hidden = np.zeros((batch, 256), dtype=bool)
    np.put_along_axis(hidden, group.targets[0].index.numpy(), True, axis=1)
    hidden = hidden.reshape(batch, *grid)
    alike = (hidden[:, 1:] == hidden[:, :-1]).mean()
    assert alike > 0.8  # random patches: 0.52
    share = hidden.mean(axis=0)
    assert share.min() > 0.03  # the corners too, if less often: blocks lie wholly inside the grid
    assert np.abs(share - share[::-1]).max() < 0.07  # top and bottom, left and right alike (blocks are cut by a coin)
    assert np.abs(share - share[:, ::-1]).max() < 0.07


def test_block_mask_of_nearly_everything_still_comes_to_an_end():
    group = build_masker(BlockMask(ratio=0.995, min_block=1), (32, 32), 0)(torch.arange(16), epoch=0, step=0)
    assert group.contexts[0].index.shape == (16, 1024 - round(0.995 * 1024))


@pytest.mark.parametrize(
    ("mask", "grid", "says"),
    [
        (BlockMask(ratio=1.0), (8, 8), "choose it between"),
        (BlockMask(ratio=0.0), (8, 8), "choose it between"),
        (BlockMask(ratio=0.1, min_block=9), (8, 8), "use mask.min_block 6 or less"),
        (RandomMask(ratio=(0.0, 0.0)), (8, 8), "high above 0"),
        (RandomMask(ratio=(1.0, 1.0)), (8, 8), "low below 1"),
        (RandomMask(), (1, 1), "patches"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(mask, grid, says):
    with pytest.raises(ConfigError, match=says) as caught:
        build_masker(mask, grid, 0)
    assert "\n" not in str(caught.value)
