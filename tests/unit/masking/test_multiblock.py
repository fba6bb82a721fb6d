"""Multi-block masks: what every mask must satisfy, what the published numbers say, and what must not matter."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openjepa.config.schema import MultiblockMask
from openjepa.errors import ConfigError
from openjepa.masking import build_masker

RELEASE = MultiblockMask(context_mode="release", borders="release", size_draw="release")
GRIDS = st.tuples(st.integers(3, 32), st.integers(3, 32))
SCALES = st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)).map(lambda pair: tuple(sorted(pair)))
MASKS = st.builds(
    MultiblockMask,
    targets=st.integers(1, 5),
    target_scale=SCALES,
    target_aspect=st.sampled_from([(0.75, 1.5), (1.0, 1.0), (0.3, 3.0)]),
    context_scale=SCALES,
    min_keep=st.integers(1, 10),
    overlap=st.booleans(),
    context_mode=st.sampled_from(["padded", "subset", "release"]),
    borders=st.sampled_from(["full", "release"]),
    size_draw=st.sampled_from(["independent", "release"]),
)


def build(mask, grid=(16, 16), seed=0):
    return build_masker(mask, grid, seed)


def shares(mask, grid, batch, batches, seed=0):
    """Stats of several batches, and how often each grid cell was shown and predicted."""
    masker, stats = build(mask, grid, seed), []
    shown, predicted = np.zeros(grid[0] * grid[1]), np.zeros(grid[0] * grid[1])
    for step in range(batches):
        group = masker(torch.arange(batch) + batch * step, epoch=0, step=step)
        stats.append(group.stats)
        for ids, counts in [(group.contexts[0], shown), *((target, predicted) for target in group.targets)]:
            index = ids.index if ids.valid is None else ids.index[ids.valid]
            counts += np.bincount(index.reshape(-1).numpy(), minlength=len(counts))
    return {name: np.mean([s[name] for s in stats]) for name in stats[0]}, shown.reshape(grid), predicted.reshape(grid)


def rows_of(ids):
    """The valid ids of each row, as lists."""
    if ids.valid is None:
        return ids.index.tolist()
    return [index[valid].tolist() for index, valid in zip(ids.index, ids.valid, strict=True)]


@given(GRIDS, MASKS, st.integers(0, 2**40), st.integers(0, 300), st.integers(0, 10**6), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_every_mask_is_sound(grid, mask, seed, epoch, step, batch):
    try:
        masker = build(mask, grid, seed)
    except ConfigError:
        assume(False)
    group = masker(torch.arange(batch) + 1000, epoch=epoch, step=step)
    assert group.grid == grid
    assert group.pairs == [(0, target) for target in range(mask.targets)]
    assert len(group.contexts) == 1
    assert len({tuple(target.index.shape) for target in group.targets}) == 1
    assert all(target.valid is None for target in group.targets)
    context, targets = rows_of(group.contexts[0]), [rows_of(target) for target in group.targets]
    for row in [*context, *(row for target in targets for row in target)]:
        assert row == sorted(set(row))  # ascending and unique
        assert row[0] >= 0
        assert row[-1] < grid[0] * grid[1]
    if not mask.overlap and group.stats["relaxed_share"] == 0:
        for sample, row in enumerate(context):
            assert not set(row) & {token for target in targets for token in target[sample]}
    assert all(len(row) > mask.min_keep for row in context)
    assert group.stats["context_share"] == pytest.approx(np.mean([len(row) for row in context]) / (grid[0] * grid[1]))
    assert group.stats["context_kept"] <= 1
    if mask.context_mode == "padded":
        assert group.stats["context_kept"] == 1
    else:
        assert len({len(row) for row in context}) == 1


@given(GRIDS, MASKS, st.integers(0, 1000), st.permutations(range(8)), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_a_sample_does_not_depend_on_its_neighbours(grid, mask, seed, order, count):
    """Padded contexts and all targets are the same drawn alone, in any order, in any split of the batch."""
    mask = mask.model_copy(update={"context_mode": "padded"})
    try:
        masker = build(mask, grid, seed)
    except ConfigError:
        assume(False)
    whole = masker(torch.arange(8), epoch=1, step=5)
    part = masker(torch.tensor(order[:count]), epoch=1, step=5)
    for many, few in zip([*whole.contexts, *whole.targets], [*part.contexts, *part.targets], strict=True):
        assert [rows_of(many)[place] for place in order[:count]] == rows_of(few)


@pytest.mark.parametrize("mode", ["padded", "subset", "release"])
def test_masks_are_deterministic_and_leave_the_global_generators_alone(mode):
    places = torch.arange(16)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state().clone(), np.random.get_state()[1].copy()
    first = build(MultiblockMask(context_mode=mode))(places, epoch=2, step=9)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    torch.manual_seed(99)
    masker = build(MultiblockMask(context_mode=mode))
    masker(places + 5, epoch=7, step=1)  # calls before do not matter
    again = masker(places, epoch=2, step=9)
    assert torch.equal(first.contexts[0].index, again.contexts[0].index)
    assert all(torch.equal(a.index, b.index) for a, b in zip(first.targets, again.targets, strict=True))


def test_seed_epoch_place_and_step_all_matter():
    places = torch.arange(64)
    reference = build(MultiblockMask())(places, epoch=0, step=0)
    others = {
        "seed": build(MultiblockMask(), seed=1)(places, epoch=0, step=0),
        "epoch": build(MultiblockMask())(places, epoch=1, step=0),
        "place": build(MultiblockMask())(places + 64, epoch=0, step=0),
    }
    for name, other in others.items():
        assert rows_of(reference.contexts[0]) != rows_of(other.contexts[0]), name
    sizes = {build(MultiblockMask()).sizes(0, step) for step in range(50)}
    assert len(sizes) > 5  # sizes vary from step to step
    assert len(set(map(tuple, rows_of(reference.targets[0])))) > 30  # positions vary from sample to sample
    assert rows_of(reference.targets[0]) != rows_of(reference.targets[1])  # and from target to target


def test_published_truncation_statistics():
    """16-grid, batch 128 (official.md §3.1): the context shrinks from 110.8 to 69.3 tokens, and to the top of the image."""
    stats, shown, _ = shares(RELEASE, (16, 16), 128, 120)
    assert stats["context_share"] * 256 / stats["context_kept"] == pytest.approx(110.8, abs=2.0)
    assert stats["context_share"] * 256 == pytest.approx(69.3, abs=2.5)
    by_row = shown.sum(axis=1) / (120 * 128 * 16)
    published = [0.81, 0.67, 0.55, 0.46, 0.36, 0.27, 0.23, 0.21, 0.21, 0.21, 0.21, 0.18, 0.12, 0.05, 0.01, 0.0]
    assert np.abs(by_row - published).max() < 0.04


def test_release_never_touches_the_last_row_and_column():
    for mode in ("release", "padded"):
        _, shown, predicted = shares(RELEASE.model_copy(update={"context_mode": mode}), (16, 16), 64, 20)
        for counts in (shown, predicted):
            assert counts[-1].max() == counts[:, -1].max() == 0
        assert predicted[:-1, :-1].min() > 0


@pytest.mark.parametrize("grid", [(16, 16), (8, 8), (6, 20), (24, 5)])
@pytest.mark.parametrize("mode", ["padded", "subset"])
def test_every_cell_is_shown_and_predicted(grid, mode):
    _, shown, predicted = shares(MultiblockMask(context_mode=mode, min_keep=4), grid, 64, 40)
    assert shown.min() > 0
    assert predicted.min() > 0


@pytest.mark.parametrize("mode", ["padded", "subset"])
def test_contexts_are_not_biased_to_the_top(mode):
    """The published cut shows the top left corner far more often than the bottom right; ours shows them alike."""
    quarters = {}
    for name, mask in {"ours": MultiblockMask(context_mode=mode), "release": RELEASE}.items():
        _, shown, _ = shares(mask, (16, 16), 128, 60)
        quarters[name] = shown[:8, :8].sum() / shown[8:, 8:].sum()
    assert quarters["ours"] == pytest.approx(1, abs=0.06)
    assert quarters["release"] > 2


def test_target_positions_are_uniform():
    masker = build(MultiblockMask(targets=1))
    group = masker(torch.arange(40_000), epoch=0, step=0)
    size = masker.sizes(0, 0).target
    corner = group.targets[0].index[:, 0].numpy()
    for side, values in ((size[0], corner // 16), (size[1], corner % 16)):
        observed = np.bincount(values, minlength=17 - side)
        assert len(observed) == 17 - side  # every position, the last included
        expected = 40_000 / (17 - side)
        assert ((observed - expected) ** 2 / expected).sum() < 50  # at most 15 degrees of freedom: 99.999 % below 50


def test_scales_and_aspects_are_spread_over_their_ranges():
    masker = build(MultiblockMask(target_scale=(0.15, 0.2), target_aspect=(0.5, 2.0)), (64, 64))
    sizes = [masker.sizes(0, step) for step in range(4000)]
    area = np.array([s.target[0] * s.target[1] for s in sizes]) / 4096
    aspect = np.array([s.target[0] / s.target[1] for s in sizes])
    context = np.array([s.context[0] * s.context[1] for s in sizes]) / 4096
    assert area.mean() == pytest.approx(0.175, abs=0.002)
    assert area.min() == pytest.approx(0.15, abs=0.01)
    assert area.max() == pytest.approx(0.20, abs=0.01)
    assert aspect.mean() == pytest.approx(1.25, abs=0.03)
    assert np.std(aspect) == pytest.approx(1.5 / 12**0.5, abs=0.02)
    assert context.mean() == pytest.approx(0.925, abs=0.005)
    assert abs(np.corrcoef(area, aspect)[0, 1]) < 0.06
    assert abs(np.corrcoef(area, context)[0, 1]) < 0.06


def test_release_ties_scale_to_aspect():
    masker = build(RELEASE, (64, 64))
    sizes = [masker.sizes(0, step).target for step in range(500)]
    areas, aspects = zip(*((rows * columns, rows / columns) for rows, columns in sizes), strict=True)
    assert np.corrcoef(areas, aspects)[0, 1] > 0.95


def test_samples_that_keep_too_little_are_drawn_again_and_the_others_are_not():
    strict, loose = MultiblockMask(min_keep=85), MultiblockMask(min_keep=1)
    many, few = (build(mask)(torch.arange(512), epoch=0, step=0) for mask in (strict, loose))
    kept = few.contexts[0].valid.sum(dim=1)
    redrawn = kept <= 85
    assert 0.01 < redrawn.float().mean() < 0.9  # the test sees both kinds
    assert many.stats["relaxed_share"] == 0
    assert (many.contexts[0].valid.sum(dim=1) > 85).all()
    for a, b in zip(many.targets, few.targets, strict=True):
        assert torch.equal(a.index[~redrawn], b.index[~redrawn])
    assert not torch.equal(many.targets[0].index[redrawn], few.targets[0].index[redrawn])


def test_redraws_move_only_the_context_as_published():
    loose = RELEASE.model_copy(update={"min_keep": 1, "context_scale": (0.3, 0.5), "target_scale": (0.05, 0.1)})
    places = torch.arange(256)
    whole = build(loose.model_copy(update={"context_mode": "padded"}))(places, epoch=0, step=0)
    kept = whole.contexts[0].valid.sum(dim=1)
    enough = int(kept.float().quantile(0.2))
    many, few = (build(loose.model_copy(update={"min_keep": n}))(places, epoch=0, step=0) for n in (enough, 1))
    assert all(torch.equal(a.index, b.index) for a, b in zip(many.targets, few.targets, strict=True))
    shown, before = many.contexts[0].index, few.contexts[0].index
    assert shown.shape[1] > enough >= before.shape[1]
    same = (shown[:, : before.shape[1]] == before).all(dim=1)
    assert torch.equal(same, kept > enough)


def test_when_redraws_are_used_up_targets_are_let_into_the_context_last_first():
    # Two 6x6 targets on a 10x10 grid leave 64 cells or fewer; one alone always leaves 64. To keep more than 62 the second
    # must lie on the first, or be let in.
    mask = MultiblockMask(
        targets=2, target_scale=(0.4, 0.4), target_aspect=(1.0, 1.0), context_scale=(1.0, 1.0), min_keep=30
    )
    masker = build(mask, (10, 10))
    masker.mask = mask.model_copy(update={"min_keep": 62})  # the build check rightly refuses this as a rule
    group = masker(torch.arange(32), epoch=0, step=0)
    first, second = (rows_of(target) for target in group.targets)
    context = rows_of(group.contexts[0])
    assert masker.sizes(0, 0).target == (6, 6)
    relaxed = [sample for sample in range(32) if first[sample] != second[sample]]
    assert len(relaxed) > 5
    assert group.stats["relaxed_share"] == len(relaxed) / 32
    for sample in range(32):
        assert len(context[sample]) == 64
        assert not set(context[sample]) & set(first[sample])  # the first target is still kept out
        assert set(second[sample]) - set(first[sample]) <= set(context[sample])


def test_overlap_leaves_targets_in_the_context():
    group = build(MultiblockMask(overlap=True, context_scale=(1.0, 1.0)))(torch.arange(8), epoch=0, step=0)
    assert group.stats["context_share"] == 1.0
    assert "relaxed_share" not in group.stats


def test_subset_cuts_at_random_and_only_cuts():
    padded, subset = (
        build(MultiblockMask(context_mode=m))(torch.arange(64), epoch=0, step=3) for m in ("padded", "subset")
    )
    whole, cut = rows_of(padded.contexts[0]), rows_of(subset.contexts[0])
    shortest = min(len(row) for row in whole)
    for before, after in zip(whole, cut, strict=True):
        assert len(after) == shortest
        assert set(after) <= set(before)
    kept = sum(len(row) for row in cut) / sum(len(row) for row in whole)
    assert subset.stats["context_kept"] == pytest.approx(kept)
    assert padded.stats["context_share"] * kept == pytest.approx(subset.stats["context_share"])
    assert sum(after != before[:shortest] for before, after in zip(whole, cut, strict=True)) > 55


def test_target_share_is_the_union_of_the_targets():
    group = build(MultiblockMask())(torch.arange(32), epoch=0, step=0)
    union = [len(set().union(*(target.index[sample].tolist() for target in group.targets))) for sample in range(32)]
    assert group.stats["target_share"] == pytest.approx(np.mean(union) / 256)


@pytest.mark.parametrize(
    ("mask", "grid", "says"),
    [
        (MultiblockMask(), (4, 4), "lower mask.min_keep|use mask.min_keep"),
        (MultiblockMask(borders="release"), (4, 4), "lower mask.min_keep"),
        (MultiblockMask(min_keep=60), (8, 8), "mask.min_keep"),
        (MultiblockMask(borders="release"), (1, 30), "2 a side"),
        (MultiblockMask(min_keep=1), (1, 1), "patches"),
        (MultiblockMask(target_scale=(0.0, 0.0)), (16, 16), "mask.target_scale.*high above 0"),
        (MultiblockMask(context_scale=(0.0, 0.0)), (16, 16), "mask.context_scale.*high above 0"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(mask, grid, says):
    with pytest.raises(ConfigError, match=says) as caught:
        build(mask, grid)
    assert "\n" not in str(caught.value)


def test_the_advice_of_the_refusal_works():
    with pytest.raises(ConfigError, match=r"use mask.min_keep 4 or less"):
        build(MultiblockMask(), (4, 4))
    group = build(MultiblockMask(min_keep=4), (4, 4))(torch.arange(256), epoch=0, step=0)
    assert group.stats["relaxed_share"] == 0
