"""Steps name samples: no state, no overlap, no matter how many ranks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openjepa.data import Sampler
from openjepa.errors import DataError


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 2**31), st.integers(1, 8))
def test_an_epoch_sees_each_sample_at_most_once_on_all_ranks_together(length, batch, seed, world):
    if length < batch or batch < world:
        with pytest.raises(DataError):
            Sampler(length, batch, seed, world=world)
        return
    ranks = [Sampler(length, batch, seed, rank=r, world=world) for r in range(world)]
    steps = ranks[0].steps_per_epoch
    assert steps == length // batch
    parts = [r.batch(s) for s in range(steps) for r in ranks]
    seen = torch.cat([p.indices for p in parts]).tolist()
    assert len(seen) == len(set(seen)) == steps * batch
    assert set(seen) <= set(range(length))
    places = torch.cat([p.places for p in parts]).tolist()
    assert places == list(range(steps * batch))
    sizes = [len(r.batch(0).indices) for r in ranks]
    assert max(sizes) - min(sizes) <= 1


def test_steps_can_be_asked_in_any_order():
    forward, backward = Sampler(50, 8, 1), Sampler(50, 8, 1)
    steps = [forward.batch(s) for s in range(20)]
    for s in reversed(range(20)):
        found = backward.batch(s)
        assert found.epoch == steps[s].epoch == s // 6
        assert torch.equal(found.indices, steps[s].indices)


def test_epochs_and_seeds_differ():
    sampler = Sampler(100, 100, 1)
    assert not torch.equal(sampler.batch(0).indices, sampler.batch(1).indices)
    assert not torch.equal(sampler.batch(0).indices, Sampler(100, 100, 2).batch(0).indices)


def test_places_of_the_whole_batch_hold_those_of_the_rank():
    sampler = Sampler(103, 10, 0, rank=1, world=3)
    places = sampler.global_places(13)
    assert places.tolist() == list(range(30, 40))
    assert torch.equal(sampler.batch(13).places, places[sampler.rank_slice])


def test_too_few_images_is_one_line_with_both_numbers():
    with pytest.raises(DataError, match=r"batch size 64 .* there are 2: use --batch-size 2"):
        Sampler(2, 64, 0)
