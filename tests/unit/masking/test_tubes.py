"""V-JEPA masks: what every mask must satisfy, the published numbers and rules, and what must not matter."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openjepa.config import list_recipes, load_recipe
from openjepa.config.schema import TubeGroup, TubesMask
from openjepa.errors import ConfigError
from openjepa.masking import build_masker
from openjepa.masking.draws import Purpose, integers, key, uniforms
from openjepa.masking.tubes import ATTEMPTS

CLIP = (8, 14, 14)
SIDES = st.integers(1, 8)
VOLUMES = st.tuples(SIDES, SIDES, SIDES)
SCALES = st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)).map(lambda pair: tuple(sorted(pair)))
GROUPS = st.builds(
    TubeGroup,
    blocks=st.integers(1, 8),
    spatial_scale=SCALES,
    temporal_scale=st.one_of(st.just((1.0, 1.0)), SCALES),
    aspect=st.sampled_from([(0.75, 1.5), (1.0, 1.0), (0.2, 5.0)]),
    keep_time=st.one_of(st.just(1.0), st.floats(0, 1)),
    max_keep=st.one_of(st.none(), st.integers(1, 40)),
)
MODES = st.sampled_from(["padded", "subset", "release"])
MASKS = st.builds(
    TubesMask,
    groups=st.one_of(
        st.just(TubesMask().groups),
        st.lists(GROUPS, min_size=1, max_size=3).map(tuple),
    ),
    union=st.booleans(),
    complement=st.sampled_from(["none", "target", "context"]),
    invert=st.booleans(),
    context_mode=MODES,
)


def rows_of(ids):
    """The valid ids of each row, as lists."""
    if ids.valid is None:
        return ids.index.tolist()
    return [index[valid].tolist() for index, valid in zip(ids.index, ids.valid, strict=True)]


def build(mask, grid, seed=0):
    """The masker, or pass over the example where the mask is rightly refused."""
    try:
        return build_masker(mask, grid, seed)
    except ConfigError as error:
        assert "\n" not in str(error)
        assume(False)


def plain(mask):
    """``mask`` without anything that could lose a token."""
    groups = tuple(group.model_copy(update={"max_keep": None}) for group in mask.groups)
    return mask.model_copy(update={"groups": groups, "context_mode": "padded", "complement": "none"})


@given(VOLUMES, MASKS, st.integers(0, 2**40), st.integers(0, 300), st.integers(1, 6))
@settings(max_examples=300, deadline=None)
def test_every_mask_is_sound(grid, mask, seed, epoch, batch):
    group = build(mask, grid, seed)(torch.arange(batch) + 1000, epoch=epoch, step=epoch)
    pairs = 1 if mask.union else len(mask.groups)
    assert (group.grid, group.group) == (grid, "video")
    assert group.pairs == [(number, number) for number in range(pairs)]
    assert group.mask_tokens == tuple(range(pairs))
    assert len(group.contexts) == len(group.targets) == pairs
    tokens, whole, shares = grid[0] * grid[1] * grid[2], True, []
    for context, target in zip(map(rows_of, group.contexts), map(rows_of, group.targets), strict=True):
        for shown, hidden in zip(context, target, strict=True):
            for row in (shown, hidden):
                assert row == sorted(set(row))  # ascending and unique
                assert row
                assert 0 <= row[0] <= row[-1] < tokens
            assert not set(shown) & set(hidden)
            whole &= len(shown) + len(hidden) == tokens
        if mask.context_mode != "padded":  # equal sizes: no padding
            assert len({len(row) for row in context}) == len({len(row) for row in target}) == 1
        shares.append((sum(map(len, context)) / batch / tokens, sum(map(len, target)) / batch / tokens))
    assert group.complement == whole
    assert group.complement or mask.complement == "none"
    assert group.stats["context_share"] == pytest.approx(np.mean([shown for shown, _ in shares]))
    assert group.stats["target_share"] == pytest.approx(np.mean([hidden for _, hidden in shares]))
    if pairs > 1:
        assert group.stats[f"context_share_{pairs - 1}"] == pytest.approx(shares[-1][0])
    assert 0 < group.stats["context_kept"] <= 1
    assert 0 < group.stats["target_kept"] <= 1


@given(VOLUMES, MASKS, st.integers(0, 2**40), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_padded_masks_lose_no_token(grid, mask, seed, batch):
    group = build(plain(mask), grid, seed)(torch.arange(batch), epoch=0, step=0)
    assert group.complement
    assert group.stats["context_kept"] == group.stats["target_kept"] == 1
    for context, target in zip(group.contexts, group.targets, strict=True):
        assert context.count() + target.count() == batch * grid[0] * grid[1] * grid[2]


@given(VOLUMES, MASKS, st.integers(0, 1000), st.permutations(range(8)), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_a_sample_does_not_depend_on_its_neighbours(grid, mask, seed, order, count):
    """Padded masks, capped ones too, are the same drawn alone, in any order, in any split of the batch."""
    masker = build(mask.model_copy(update={"context_mode": "padded"}), grid, seed)
    whole, part = masker(torch.arange(8), epoch=1, step=5), masker(torch.tensor(order[:count]), epoch=1, step=5)
    for many, few in zip([*whole.contexts, *whole.targets], [*part.contexts, *part.targets], strict=True):
        assert [rows_of(many)[place] for place in order[:count]] == rows_of(few)


# --- the published rules, once more in plain loops ---------------------------------------------------------------------


def loop_context(mask, members, sizes, grid, seed, epoch, place):
    """Context ids of one sample as published: draw every block, draw again while nothing is left."""
    for attempt in range(ATTEMPTS):
        allowed = set(range(grid[0] * grid[1] * grid[2]))
        for number in members:
            size = (sizes[number].tubelets, sizes[number].rows, sizes[number].columns)
            group = mask.groups[number]
            drawn = uniforms(key(seed, Purpose.POSITION, epoch, place, attempt, number), 3 * group.blocks)
            for block in range(group.blocks):
                room = np.array([g - s + 1 for g, s in zip(grid, size, strict=True)])
                a, b, c = (int(i) for i in integers(drawn[3 * block : 3 * block + 3], room))
                for tau in range(a, a + size[0]):
                    for row in range(b, b + size[1]):
                        for column in range(c, c + size[2]):
                            allowed.discard((tau * grid[1] + row) * grid[2] + column)
            frames = max(1, int(grid[0] * group.keep_time))
            allowed = {token for token in allowed if token < frames * grid[1] * grid[2]}
        if allowed:
            return sorted(allowed)
    return None


def loop_masks(mask, members, contexts, tokens):
    """Contexts and targets of a batch as published: cut to the batch minima by the first ids, complement, swap."""
    targets = [sorted(set(range(tokens)) - set(context)) for context in contexts]
    shown, hidden = min(map(len, contexts)), min(map(len, targets))
    for number in members:
        shown = min(shown, mask.groups[number].max_keep or shown)
    contexts, targets = [row[:shown] for row in contexts], [row[:hidden] for row in targets]
    if mask.complement == "target":
        targets = [sorted(set(range(tokens)) - set(row)) for row in contexts]
    if mask.complement == "context":
        contexts = [sorted(set(range(tokens)) - set(row)) for row in targets]
    return (targets, contexts) if mask.invert else (contexts, targets)


@given(VOLUMES, MASKS, st.integers(0, 2**30), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_release_masks_are_those_of_the_published_rules(grid, mask, seed, batch):
    mask = mask.model_copy(update={"context_mode": "release"})
    masker = build(mask, grid, seed)
    group = masker(torch.arange(batch) + 7, epoch=2, step=3)
    numbers = range(len(mask.groups))
    for pair, members in enumerate([tuple(numbers)] if mask.union else [(number,) for number in numbers]):
        sizes = masker.sizes(2, 3)
        drawn = [loop_context(mask, members, sizes, grid, seed, 2, 7 + sample) for sample in range(batch)]
        assume(None not in drawn)
        contexts, targets = loop_masks(mask, members, drawn, grid[0] * grid[1] * grid[2])
        assert rows_of(group.contexts[pair]) == contexts
        assert rows_of(group.targets[pair]) == targets


# context share before → after the cut, target share before → after (official.md §3.2)
STATISTICS = [
    ((8, 14, 14), 24, ((0.37, 0.23, 0.63, 0.48), (0.18, 0.06, 0.82, 0.70))),
    ((8, 16, 16), 24, ((0.38, 0.24, None, None), (0.19, 0.06, None, None))),
    ((32, 16, 16), 12, ((0.38, 0.27, None, None), (0.19, 0.08, None, None))),
    ((32, 24, 24), 6, ((0.38, 0.30, None, None), (0.19, 0.11, None, None))),
    ((8, 24, 24), 10, ((0.39, 0.28, None, None), (0.19, 0.09, None, None))),
]


@pytest.mark.parametrize(("grid", "batch", "published"), STATISTICS)
def test_published_truncation_statistics(grid, batch, published):
    masker, stats = build_masker(TubesMask(context_mode="release"), grid, 0), []
    for step in range(150):
        stats.append(masker(torch.arange(batch) + batch * step, epoch=0, step=step).stats)
    mean = {name: np.mean([s[name] for s in stats]) for name in stats[0]}
    for pair, (before, after, predicted, cut) in enumerate(published):
        share = np.mean([s[f"context_share_{pair}"] / s[f"context_kept_{pair}"] for s in stats])
        assert share == pytest.approx(before, abs=0.02)
        assert mean[f"context_share_{pair}"] == pytest.approx(after, abs=0.02)
        if predicted is not None:
            hidden = np.mean([s[f"target_share_{pair}"] / s[f"target_kept_{pair}"] for s in stats])
            assert hidden == pytest.approx(predicted, abs=0.02)
            assert mean[f"target_share_{pair}"] == pytest.approx(cut, abs=0.02)


# --- what each option is for -------------------------------------------------------------------------------------------


def cells(ids, grid):
    """Valid ids as ``(B, t, h, w)`` bool."""
    found = np.zeros((len(ids.index), grid[0] * grid[1] * grid[2]), dtype=bool)
    for row, tokens in zip(found, rows_of(ids), strict=True):
        row[tokens] = True
    return found.reshape(len(found), *grid)


def test_tubes_are_the_same_in_every_frame():
    group = build_masker(TubesMask(), CLIP, 0)(torch.arange(24), epoch=0, step=0)
    for target in group.targets:
        hidden = cells(target, CLIP)
        assert (hidden == hidden[:, :1]).all()
    short = TubesMask(groups=(TubeGroup(temporal_scale=(0.5, 0.5)),))
    hidden = cells(build_masker(short, CLIP, 0)(torch.arange(24), epoch=0, step=0).targets[0], CLIP)
    assert not (hidden == hidden[:, :1]).all(axis=(1, 2, 3)).any()


def test_short_range_hides_less_than_long_range():
    stats = build_masker(TubesMask(), CLIP, 0)(torch.arange(64), epoch=0, step=0).stats
    assert stats["target_share_0"] + 0.1 < stats["target_share_1"]
    assert stats["context_share_0"] + stats["target_share_0"] == pytest.approx(1)
    assert stats["gathered_share"] == 0


@pytest.mark.parametrize("mode", ["padded", "subset"])
def test_the_published_cut_loses_the_latest_frames_and_ours_does_not(mode):
    shown = {}
    for name in (mode, "release"):
        masker = build_masker(TubesMask(context_mode=name), CLIP, 0)
        seen = [cells(masker(torch.arange(24), epoch=0, step=step).contexts[0], CLIP) for step in range(20)]
        shown[name] = np.mean(seen, axis=(0, 1, 3, 4))  # share shown, by tubelet
    assert np.abs(shown[mode] / shown[mode].mean() - 1).max() < 0.05
    assert shown["release"][-1] < 0.1 * shown["release"][0]


def test_causal_masks_show_only_the_beginning_and_predict_all_that_follows():
    mask = TubesMask(groups=(TubeGroup(keep_time=0.5), TubeGroup(blocks=2, keep_time=0.0)))
    group = build_masker(mask, CLIP, 0)(torch.arange(16), epoch=0, step=0)
    first, second = (cells(context, CLIP) for context in group.contexts)
    assert first[:, :4].any(axis=(1, 2, 3)).all()
    assert not first[:, 4:].any()
    assert second[:, 0].any(axis=(1, 2)).all()  # at least one tubelet always is context
    assert not second[:, 1:].any()
    assert cells(group.targets[0], CLIP)[:, 4:].all()
    assert group.complement


def test_full_complement_predicts_what_the_cut_took_from_the_context():
    cut = build_masker(TubesMask(context_mode="subset"), CLIP, 0)(torch.arange(24), epoch=0, step=0)
    full = build_masker(TubesMask(context_mode="subset", complement="target"), CLIP, 0)(
        torch.arange(24), epoch=0, step=0
    )
    assert not cut.complement
    assert full.complement
    for a, b in zip(cut.contexts, full.contexts, strict=True):
        assert torch.equal(a.index, b.index)
    assert full.stats["target_share"] > cut.stats["target_share"] + 0.05


def test_max_keep_caps_only_the_contexts_that_are_larger():
    capped = TubesMask(groups=(TubeGroup(max_keep=500),))
    whole = build_masker(TubesMask(groups=(TubeGroup(),)), CLIP, 0)(torch.arange(64), epoch=0, step=0)
    part = build_masker(capped, CLIP, 0)(torch.arange(64), epoch=0, step=0)
    assert rows_of(part.targets[0]) == rows_of(whole.targets[0])
    sizes = {"capped": 0, "kept": 0}
    for before, after in zip(rows_of(whole.contexts[0]), rows_of(part.contexts[0]), strict=True):
        assert set(after) <= set(before)
        assert len(after) == min(len(before), 500)
        sizes["capped" if len(before) > 500 else "kept"] += 1
        assert len(before) <= 500 or after != before[:500]  # at random, not the first frames
    assert min(sizes.values()) > 5


def test_pairs_are_cut_independently():
    mask = TubesMask(groups=(TubeGroup(blocks=1, max_keep=100), TubeGroup(blocks=1, max_keep=100)))
    group = build_masker(mask, CLIP, 0)(torch.arange(24), epoch=0, step=0)
    shared = [len({*a} & {*b}) for a, b in zip(*map(rows_of, group.contexts), strict=True)]
    assert np.mean(shared) == pytest.approx(100 * 100 / (0.85 * 1568), abs=2)  # drawn alike it would be about 85


def test_the_document_form_predicts_the_union_of_all_blocks():
    apart = build_masker(TubesMask(), CLIP, 0)(torch.arange(16), epoch=0, step=0)
    union = build_masker(TubesMask(union=True), CLIP, 0)(torch.arange(16), epoch=0, step=0)
    assert (union.pairs, union.mask_tokens) == ([(0, 0)], (0,))
    both = [sorted({*a, *b}) for a, b in zip(*map(rows_of, apart.targets), strict=True)]
    same = [a == b for a, b in zip(both, rows_of(union.targets[0]), strict=True)]
    assert np.mean(same) > 0.8  # where the union hides everything it is drawn again
    assert "context_share_0" not in union.stats


def test_invert_swaps():
    plain = build_masker(TubesMask(), CLIP, 0)(torch.arange(8), epoch=0, step=0)
    swapped = build_masker(TubesMask(invert=True), CLIP, 0)(torch.arange(8), epoch=0, step=0)
    assert [rows_of(ids) for ids in plain.contexts] == [rows_of(ids) for ids in swapped.targets]
    assert [rows_of(ids) for ids in plain.targets] == [rows_of(ids) for ids in swapped.contexts]


@pytest.mark.parametrize("mode", ["padded", "subset", "release"])
@pytest.mark.parametrize(
    "grid", [(1, 14, 14), (14, 14), (2, 2, 2), (1, 2, 2), (2, 2), (2, 3, 9), (8, 1, 12), (1, 7, 4)]
)
def test_images_and_small_and_long_grids(grid, mode):
    masker, tokens = build_masker(TubesMask(context_mode=mode), grid, 0), int(np.prod(grid))
    for step in range(20):
        group = masker(torch.arange(12), epoch=0, step=step)
        assert group.grid == grid
        assert group.group == ("image" if len(grid) == 2 else "video")
        assert mode != "padded" or group.complement
        assert all(ids.index.shape[0] == 12 and 1 <= ids.index.shape[1] < tokens for ids in group.contexts)


def test_an_image_has_the_masks_of_a_clip_of_one_tubelet():
    image, clip = (build_masker(TubesMask(), grid, 3)(torch.arange(8), epoch=0, step=0) for grid in ((9, 7), (1, 9, 7)))
    for a, b in zip([*image.contexts, *image.targets], [*clip.contexts, *clip.targets], strict=True):
        assert torch.equal(a.index, b.index)


def test_one_context_token_is_enough():
    mask = TubesMask(groups=(TubeGroup(blocks=1, max_keep=1),), complement="target")
    group = build_masker(mask, (2, 4, 4), 0)(torch.arange(5), epoch=0, step=0)
    assert group.contexts[0].index.shape == (5, 1)
    assert group.targets[0].index.shape == (5, 31)
    assert group.contexts[0].valid is None  # equal sizes are not padded
    assert group.complement


# --- what must not matter, and what must -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["padded", "subset", "release"])
def test_masks_are_deterministic_and_leave_the_global_generators_alone(mode):
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state().clone(), np.random.get_state()[1].copy()
    first = build_masker(TubesMask(context_mode=mode), CLIP, 0)(torch.arange(16), epoch=2, step=9)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    masker = build_masker(TubesMask(context_mode=mode), CLIP, 0)
    masker(torch.arange(16) + 5, epoch=7, step=1)  # calls before do not matter
    again = masker(torch.arange(16), epoch=2, step=9)
    for a, b in zip([*first.contexts, *first.targets], [*again.contexts, *again.targets], strict=True):
        assert torch.equal(a.index, b.index)


def test_sizes_are_a_function_of_seed_epoch_and_step_and_positions_of_the_place():
    masker, places = build_masker(TubesMask(), CLIP, 0), torch.arange(32)
    assert masker.sizes(1, 2) == build_masker(TubesMask(context_mode="subset"), CLIP, 0).sizes(1, 2)
    assert len({masker.sizes(0, step) for step in range(50)}) > 20
    assert [masker.sizes(0, step) for step in range(5)] != [masker.sizes(1, step) for step in range(5)]
    same = next(step for step in range(1, 500) if masker.sizes(0, step) == masker.sizes(0, 0))
    reference = rows_of(masker(places, epoch=0, step=0).targets[0])
    assert rows_of(masker(places, epoch=0, step=same).targets[0]) == reference
    assert rows_of(masker(places + 32, epoch=0, step=0).targets[0]) != reference
    assert rows_of(build_masker(TubesMask(), CLIP, 1)(places, epoch=0, step=0).targets[0]) != reference
    assert len(set(map(tuple, reference))) == 32


def test_only_samples_without_context_are_drawn_again():
    """Two 2x1 columns hide all of a 2x2 frame when they differ; the others must not move."""
    mask = TubesMask(groups=(TubeGroup(blocks=2, spatial_scale=(0.5, 0.5), aspect=(2.0, 2.0)),))
    masker = build_masker(mask, (3, 2, 2), 0)
    first = masker._draw(0, np.arange(64), 0, 0, masker.sizes(0, 0))
    empty = ~first.any(axis=1)
    assert 10 < empty.sum() < 54
    context = rows_of(masker(torch.arange(64), epoch=0, step=0).contexts[0])
    assert all(len(row) == 6 for row in context)
    for row, redrawn, before in zip(context, empty, first, strict=True):
        assert redrawn or row == np.flatnonzero(before).tolist()


@pytest.mark.parametrize("union", [False, True])
@pytest.mark.parametrize(("spatial", "temporal"), [(0.5, 1.0), (1.0, 0.5)])
def test_when_redraws_are_used_up_blocks_are_laid_on_each_other(union, spatial, temporal):
    """The build check refuses such masks as a rule; where one still comes up, a context is guaranteed and counted."""
    crowd = TubeGroup(blocks=120, spatial_scale=(spatial,) * 2, temporal_scale=(temporal,) * 2, keep_time=0.2)
    other = crowd.model_copy(update={"aspect": (0.3, 0.4)})
    masker = build_masker(TubesMask(union=union), (5, 4, 4), 0)
    masker.mask = TubesMask(groups=(crowd, other), union=union)
    group = masker(torch.arange(32), epoch=0, step=0)
    assert group.stats["gathered_share"] > 0.9
    assert group.complement
    contexts = [cells(context, group.grid) for context in group.contexts]
    assert all(context.any(axis=(1, 2, 3)).all() and not context[:, 1:].any() for context in contexts)
    if temporal == 1:
        corners = [context[:, 0, row, column] for context in contexts for row in (0, -1) for column in (0, -1)]
        assert all(0 < corner.mean() < 1 for corner in corners)  # which corner of the frame, a coin says


@pytest.mark.parametrize(
    ("mask", "grid", "says"),
    [
        (TubesMask(), (1, 1), "patches"),
        (TubesMask(), (8, 1, 1), r"mask.groups\[0\]: a block may fill the whole 8x1x1 grid"),
        (TubesMask(), (1, 2), r"mask.groups\[0\] leaves no context in \d+% of the draws on a 1x2 grid"),
        (TubesMask(groups=(TubeGroup(), TubeGroup(spatial_scale=(0.7, 1.0)))), CLIP, r"mask.groups\[1\].*may fill"),
        (TubesMask(groups=(TubeGroup(blocks=2000),)), CLIP, "fewer or smaller blocks"),
        (
            TubesMask(groups=(TubeGroup(blocks=9), TubeGroup(blocks=90)), union=True),
            (2, 4, 4),
            "all mask.groups together",
        ),
        (TubesMask(groups=(TubeGroup(spatial_scale=(0, 0)),)), CLIP, r"mask.groups\[0\].spatial_scale.*high above 0"),
        (TubesMask(groups=(TubeGroup(temporal_scale=(0, 0)),)), CLIP, r"mask.groups\[0\].temporal_scale.*high above 0"),
        (TubesMask(groups=(TubeGroup(max_keep=9),), complement="context"), CLIP, "max_keep does nothing"),
        (
            TubesMask(groups=(TubeGroup(keep_time=0.5),), complement="context", context_mode="release"),
            CLIP,
            "would show the future; use mask.context_mode=padded",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(mask, grid, says):
    with pytest.raises(ConfigError, match=says) as caught:
        build_masker(mask, grid, 0)
    assert "\n" not in str(caught.value)


def test_every_recipe_for_clips_that_ships_gives_masks():
    found = 0
    for info in list_recipes():
        recipe = load_recipe(info.name)
        if recipe.video:
            for grid in {recipe.grid, (1, *recipe.grid[1:])}:  # clips, and images beside them
                group = build_masker(recipe.mask, grid, recipe.seed)(torch.arange(2), epoch=0, step=0)
                assert group.grid == grid
            found += 1
    assert found


def test_whether_a_mask_can_work_does_not_depend_on_the_seed():
    def works(seed):
        try:
            build_masker(TubesMask(), (1, 3), seed)
        except ConfigError:
            return False
        return True

    assert len({works(seed) for seed in range(12)}) == 1  # its first draws are empty about as often as is refused
