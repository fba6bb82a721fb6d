"""The hash generator: pure functions of their counters, and good enough as randomness."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.masking.draws import Purpose, bits, integers, key, ranks, uniforms


def test_splitmix64_reference_words():
    # The first words of the splitmix64 stream from state 1234567, as published with the algorithm.
    words = bits(np.array(1234567, dtype=np.uint64), 5)
    assert [int(word) for word in words] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_keys_depend_on_every_counter_and_on_order():
    words = {
        int(key(*counters)) for counters in [(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 0, 0), (0, 1, 0), (2**64 - 1, 0)]
    }
    assert len(words) == 8


@given(st.integers(0, 2**70), st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_vector_of_keys_equals_single_keys(seed, places):
    together = key(seed, Purpose.POSITION, 3, np.array(places))
    assert [int(k) for k in together] == [int(key(seed, Purpose.POSITION, 3, place)) for place in places]


def test_uniforms_are_uniform_and_uncorrelated():
    draws = uniforms(key(7, Purpose.POSITION, 0, np.arange(20_000)), 4)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.stack([np.histogram(column, bins=20, range=(0, 1))[0] for column in draws.T])
    chi2 = ((counts - 1000) ** 2 / 1000).sum(axis=1)  # 19 degrees of freedom: 99.99 % below 50
    assert (chi2 < 50).all(), chi2
    correlation = np.corrcoef(np.concatenate([draws[:-1], draws[1:]], axis=1).T)  # within a sample, and to the next
    assert np.abs(correlation - np.eye(8)).max() < 0.035  # 5 deviations of 1/sqrt(20000)


@given(st.integers(1, 5000), st.integers(0, 2**32))
def test_integers_stay_below_their_bound(bound, seed):
    values = integers(np.append(uniforms(key(seed), 50), np.nextafter(1.0, 0.0)), bound)
    assert values.min() >= 0
    assert values.max() == bound - 1


@given(st.integers(1, 1100), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_ranks_are_distinct_and_not_negative(count, seed):
    words = ranks(key(seed, np.arange(8)), count)
    assert (words >= 0).all()
    assert all(len(set(row)) == count for row in words.tolist())


def test_ranks_give_uniform_permutations():
    order = np.argsort(ranks(key(3, np.arange(24_000)), 4), axis=1)
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 1000) ** 2 / 1000).sum() < 60  # 23 degrees of freedom: 99.99 % below 57
