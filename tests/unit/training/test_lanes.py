"""Streams: how batches are shared, what each lane shows, and that together they are one exact step."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from fake_videos import FakeVideos
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import Generated, tiny_recipe
from tiny_videos import STREAMS, three_sources, video_recipe
from torch import Tensor

from openjepa.data import Normalise, Subset
from openjepa.errors import ConfigError, DataError
from openjepa.methods import MaskedLatent, build_method
from openjepa.models.transformer import gather_tokens
from openjepa.training.engine import Engine
from openjepa.training.feed import Feed, Share, Work, seats
from openjepa.training.lanes import deal, match_sources, plan_lanes, rounded_shares, weigh
from openjepa.types import Batch, Progress


def works(recipe, sources, share: Share = Share(), start: int = 0, total: int = 4) -> list[Work]:
    lanes = plan_lanes(recipe, recipe.train.batch_size)
    method = build_method(recipe)
    feed = Feed(recipe, lanes, sources, total=total, share=share, count=method.count, start=start)
    try:
        return [feed.next() for _ in range(start, total)]
    finally:
        feed.close()


@given(total=st.integers(1, 300), weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_dealt_numbers_are_near_their_weights(total: int, weights: list[float]) -> None:
    if total < len(weights):
        return
    dealt = deal(total, weights)
    assert sum(dealt) == total
    assert min(dealt) >= 1
    shares = [total * w / sum(weights) for w in weights]
    if min(shares) >= 1:
        assert all(abs(d - s) < 1 for d, s in zip(dealt, shares, strict=True))


def test_every_step_holds_the_share_of_each_stream() -> None:
    recipe = video_recipe(*STREAMS)
    for work in works(recipe, three_sources()):
        shapes = Counter()
        for micro in work.micros:
            ((name, pixels),) = micro.batch.inputs.items()
            assert [group.group for group in micro.masks] == [name]
            shapes[tuple(pixels.shape[1:])] += len(pixels)
        assert shapes == {(3, 4, 24, 24): 4, (3, 8, 24, 24): 2, (3, 24, 24): 2}
        assert [m.last for m in work.micros] == [False, False, True]
        assert work.count == sum(m.count for m in work.micros)
        assert [m.masks[0].grid for m in work.micros] == [(2, 3, 3), (4, 3, 3), (1, 3, 3)]


def test_rounding_that_moves_a_share_is_said_once() -> None:
    streams = "data.streams=[{weight: .335}, {weight: .1}, {weight: .565}]"
    assert rounded_shares(plan_lanes(video_recipe(streams, "train.batch_size=200"), 200)) == []
    (said,) = rounded_shares(plan_lanes(video_recipe(streams), 8))
    assert "data.streams[1] 1 of 8 (10.0% asked)" in said
    assert "\n" not in said


def test_mask_tokens_of_lanes_and_pairs() -> None:
    def numbers(*overrides: str) -> list[tuple[int, ...]]:
        recipe = video_recipe(STREAMS[0], *overrides)
        lanes = plan_lanes(recipe, 8)
        return [lane.masker(recipe)(torch.arange(2), 0, 0).mask_tokens for lane in lanes]

    assert numbers("predictor.mask_tokens=6") == [(0, 1), (2, 3), (4, 5)]
    assert numbers("predictor.mask_tokens=4") == [(0, 1), (2, 3), (0, 1)]
    assert numbers("predictor.mask_tokens=2") == [(0, 1)] * 3  # as many as pairs: lanes share them
    assert numbers("predictor.mask_tokens=6", "predictor.mask_token_index=release") == [(0, 0), (1, 1), (2, 2)]
    alike = video_recipe(
        "data.streams=[{}, {frames: 8}, {frames: 4}]", "predictor.mask_tokens=6", "predictor.mask_token_index=release"
    )
    found = [lane.masker(alike)(torch.arange(2), 0, 0).mask_tokens for lane in plan_lanes(alike, 8)]
    assert found == [(0, 0), (1, 1), (0, 0)]  # by clip length: equal lengths are one group, as published


def test_lanes_draw_apart() -> None:
    """The same videos in two lanes: other order, other clips, other masks."""
    recipe = video_recipe("data.streams=[{}, {}]", "train.batch_size=16")
    (work,) = works(recipe, (FakeVideos(24), FakeVideos(24)), total=1)
    a, b = work.micros
    assert not torch.equal(a.batch.ids, b.batch.ids)
    assert not torch.equal(a.masks[0].targets[0].index, b.masks[0].targets[0].index)


def test_the_first_lane_is_the_run_without_streams() -> None:
    alone = works(video_recipe("train.batch_size=4"), (FakeVideos(24),))
    beside = works(video_recipe(*STREAMS), three_sources())
    for a, b in zip(alone, beside, strict=True):
        assert torch.equal(a.micros[0].batch.inputs["video"], b.micros[0].batch.inputs["video"])
        assert torch.equal(a.micros[0].masks[0].contexts[0].index, b.micros[0].masks[0].contexts[0].index)


@pytest.mark.parametrize("overrides", [(), ("data.workers=2",)], ids=str)
def test_any_start_and_any_workers_give_the_same_steps(overrides: tuple[str, ...]) -> None:
    whole = works(video_recipe(*STREAMS), three_sources(), total=5)
    tail = works(video_recipe(*STREAMS, *overrides), three_sources(), start=2, total=5)
    for a, b in zip(whole[2:], tail, strict=True):
        assert (a.step, a.count, a.stats) == (b.step, b.count, b.stats)
        for x, y in zip(a.micros, b.micros, strict=True):
            assert all(torch.equal(x.batch.inputs[name], y.batch.inputs[name]) for name in x.batch.inputs)
            assert torch.equal(x.masks[0].targets[1].index, y.masks[0].targets[1].index)


@pytest.mark.parametrize("placement", ["mix", "ranks"])
def test_processes_share_one_global_batch(placement: str) -> None:
    """Rows of all processes together are those of one process, lane by lane, with the same masks and count."""
    recipe = video_recipe(*STREAMS, f"data.placement={placement}", "train.batch_size=16")
    world = 4 if placement == "ranks" else 3
    whole = works(video_recipe(*STREAMS, "train.batch_size=16"), three_sources(), total=2)
    shares = [works(recipe, three_sources(), Share(rank, world, 2), total=2) for rank in range(world)]
    for step, work in enumerate(whole):
        assert {mine[step].count for mine in shares} == {work.count}
        for part in work.micros:
            shape = next(iter(part.batch.inputs.values())).shape[1:]
            mine = [
                m
                for share in shares
                for m in share[step].micros
                if next(iter(m.batch.inputs.values())).shape[1:] == shape
            ]
            name = part.masks[0].group
            assert torch.equal(torch.cat([m.batch.inputs[name] for m in mine]), part.batch.inputs[name])
            assert torch.equal(torch.cat([m.masks[0].targets[0].index for m in mine]), part.masks[0].targets[0].index)
            assert {m.masks[0].weights for m in mine} == {part.masks[0].weights}
        if placement == "ranks":
            assert all(len({m.masks[0].group + str(m.masks[0].grid) for m in s[step].micros}) == 1 for s in shares)


def test_processes_are_dealt_by_weight() -> None:
    lanes = plan_lanes(video_recipe(*STREAMS), 8)
    crews = [[seat.world for seat in seats(lanes, Share(rank, 4), "ranks")] for rank in range(4)]
    assert crews == [[2, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 1]]
    with pytest.raises(ConfigError, match="needs a process for each of 3 data.streams, and there are 2"):
        seats(lanes, Share(0, 2), "ranks")
    with pytest.raises(ConfigError, match="too few for 3 processes"):
        seats(lanes, Share(0, 3), "mix")


def gradients(micro: int, *overrides: str) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the first step of three lanes, at most ``micro`` rows at once."""
    recipe = video_recipe(*STREAMS, f"train.micro_batch={micro}", *overrides)
    torch.manual_seed(0)
    engine = Engine(recipe.train)
    method = engine.prepare(build_method(recipe))
    normalise = Normalise.for_data(recipe.data)
    lanes = plan_lanes(recipe, 8)
    feed = Feed(recipe, lanes, three_sources(), total=1, share=Share(micro=micro), count=method.count)
    work = feed.next()
    feed.close()
    loss = 0.0
    for m in work.micros:
        inputs = {name: normalise(pixels) for name, pixels in m.batch.inputs.items()}
        output = engine.model(Batch(inputs, m.batch.ids, m.batch.places), m.masks, Progress(0, 1), m.count)
        engine.backward(output.loss_sum, work.count)
        loss += float(output.loss_sum.detach()) / work.count
    return loss, {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reduction", ["pair", "element"])
@pytest.mark.parametrize("micro", [1, 3])
def test_lanes_in_micro_batches_are_one_exact_step(micro: int, reduction: str) -> None:
    loss, whole = gradients(8, f"objective.reduction={reduction}")
    cut_loss, cut = gradients(micro, f"objective.reduction={reduction}")
    assert cut_loss == pytest.approx(loss, rel=1e-6)
    assert whole.keys() == cut.keys()
    scale = max(float(g.abs().max()) for g in whole.values())
    assert max(float((whole[name] - cut[name]).abs().max()) for name in whole) < 1e-6 * scale + 1e-9
    assert all(float(whole[f"predictor.mask_tokens.{k}"].abs().sum()) > 0 for k in range(6))


def test_pairs_weigh_alike() -> None:
    """The loss is the mean over all (lane, pair) of each pair's own mean, though sizes differ (official.md §4)."""
    recipe = video_recipe(*STREAMS)
    torch.manual_seed(0)
    method = build_method(recipe)
    assert isinstance(method, MaskedLatent)
    normalise = Normalise.for_data(recipe.data)
    (work,) = works(recipe, three_sources(), total=1)
    total, means, sizes = 0.0, [], set()
    for m in work.micros:
        (group,) = m.masks
        inputs = {name: normalise(pixels) for name, pixels in m.batch.inputs.items()}
        output = method(Batch(inputs, m.batch.ids, m.batch.places), m.masks, Progress(0, 1), m.count)
        total += float(output.loss_sum.detach()) / work.count
        prediction, query, _ = method.predict(inputs[group.group], group)
        _, full = method.targets(inputs[group.group])
        error = (prediction - gather_tokens(full.repeat(2, 1, 1), query.index)).abs()
        for pair, rows in enumerate(torch.arange(len(query.index)).chunk(2)):
            valid = torch.ones_like(query.index, dtype=torch.bool) if query.valid is None else query.valid
            means.append(float(error[rows][valid[rows]].mean().detach()))
            sizes.add(group.targets[pair].count())
    assert len(sizes) > 3
    assert total == pytest.approx(sum(means) / len(means), rel=1e-5)


def test_weights_of_one_pair_are_one() -> None:
    recipe = tiny_recipe("mask={kind: random}")
    group = plan_lanes(recipe, 8)[0].masker(recipe)(torch.arange(8), 0, 0)
    (weighed,) = weigh([group], build_method(recipe).count)
    assert weighed.weights == (1.0,)


def test_cheaper_samples_go_more_at_once_unless_asked() -> None:
    assert [lane.relief for lane in plan_lanes(video_recipe(*STREAMS), 8)] == [2, 1, 4]
    assert [lane.relief for lane in plan_lanes(video_recipe(*STREAMS, "train.micro_batch=4"), 8)] == [1, 1, 1]


def test_frames_of_videos_may_be_images() -> None:
    """A stream of images without data of its own shows single frames of the videos."""
    recipe = video_recipe("data.streams=[{}, {kind: images}]")
    sources = match_sources(recipe, FakeVideos(24))
    (work,) = works(recipe, sources, total=1)
    assert work.micros[1].batch.inputs["image"].shape == (4, 3, 24, 24)


@pytest.mark.parametrize(
    ("streams", "sources", "error", "words"),
    [
        (
            "[{weight: 9}, {kind: images}]",
            (FakeVideos(6), Generated()),
            DataError,
            r"data.streams\[0\]: fake videos has 6 clips",
        ),
        (
            "[{}, {}]",
            (FakeVideos(24), Generated()),
            DataError,
            r"data.streams\[1\]: generated holds images and clips are wanted",
        ),
        (
            "[{}, {image_size: 4}]",
            (FakeVideos(24),) * 2,
            ConfigError,
            "image_size 4 is smaller than model.patch_size 8",
        ),
        (
            "[{}, {}, {}, {}, {}, {}, {}, {}, {}]",
            (FakeVideos(24),) * 9,
            ConfigError,
            "8 samples per step are fewer than the 9",
        ),
    ],
)
def test_streams_that_cannot_be_say_so_in_one_line(streams, sources, error, words) -> None:
    with pytest.raises(error, match=words) as caught:
        works(video_recipe(f"data.streams={streams}"), sources)
    assert "\n" not in str(caught.value)


def test_sources_and_streams_must_match() -> None:
    recipe = video_recipe(*STREAMS)
    with pytest.raises(ConfigError, match="2 sources were given for 3 streams"):
        match_sources(recipe, [FakeVideos(4)] * 2)
    with pytest.raises(ConfigError, match=r"data.streams\[2\] has data of its own"):
        match_sources(recipe, FakeVideos(4))
    assert len(match_sources(video_recipe("data.streams=[{}, {frames: 8}]"), FakeVideos(4))) == 2


def test_images_where_clips_are_wanted_and_subsets_of_videos() -> None:
    with pytest.raises(DataError, match="data: generated holds images and clips are wanted"):
        works(video_recipe(), (Generated(),))
    (work,) = works(video_recipe(), (Subset(FakeVideos(24), range(3, 15)),), total=1)
    assert work.micros[0].batch.inputs["video"].shape == (8, 3, 4, 24, 24)
