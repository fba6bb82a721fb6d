"""Random numbers that are a pure function of what they are for: a counter-based hash generator.

A number is the hash of ``(seed, purpose, epoch, place, …)``, so masks do not depend on the global generator, on workers,
ranks or micro-batches, nor on the order of calls. The hash is the splitmix64 finaliser (Steele, Lea & Flood 2014,
"Fast splittable pseudorandom number generators"), folded once per counter and vectorised over whole batches.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

UInts = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: the increment of splitmix64
_START = np.uint64(0x243F6A8885A308D3)  # the first 64 fraction bits of pi: any constant other than 0, a fixed point
_WORD = (1 << 64) - 1


class Purpose(IntEnum):
    """What a draw is for. Each purpose is a stream of its own: adding one never moves the others."""

    SIZE = 1  # per global batch
    POSITION = 2  # per sample
    CUT = 3  # per sample and token
    PERMUTATION = 4  # per sample and token
    PROBE = 5  # trial draws when a masker is built


def _mix(x: UInts) -> UInts:
    """The splitmix64 finaliser, in place: a bijection of words in which every input bit moves every output bit."""
    high = np.empty_like(x)  # the only temporary: these arrays are large, and fresh memory is what costs
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= np.right_shift(x, np.uint64(shift), out=high)
        x *= np.uint64(factor)
    x ^= np.right_shift(x, np.uint64(31), out=high)
    return x


def key(*counters: int | npt.ArrayLike) -> UInts:
    """Fold counters (integers or integer arrays, broadcast together) into 64-bit keys of the broadcast shape.

    The order of counters matters; equal counters give equal keys, always.
    """
    state = np.asarray(_START)
    with np.errstate(over="ignore"):  # wrapping is the arithmetic meant here
        for counter in counters:
            word = np.uint64(counter & _WORD) if isinstance(counter, int) else np.asarray(counter).astype(np.uint64)
            state = _mix(np.asarray(state + _STEP * (word + np.uint64(1))))
    return state


def bits(keys: UInts, count: int) -> UInts:
    """``count`` 64-bit words per key, shape ``keys.shape + (count,)``: the splitmix64 stream that starts at the key."""
    with np.errstate(over="ignore"):
        return _mix(np.asarray(keys[..., None] + _STEP * np.arange(1, count + 1, dtype=np.uint64)))


def uniforms(keys: UInts, count: int) -> Floats:
    """``count`` uniforms in [0, 1) per key, 53 random bits each, shape ``keys.shape + (count,)``."""
    return (bits(keys, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(uniform: Floats, bound: int | Integers) -> Integers:
    """Turn uniforms in [0, 1) into integers in ``[0, bound)``."""
    return (uniform * bound).astype(np.int64)


def ranks(keys: UInts, count: int) -> Integers:
    """``count`` distinct non-negative random words per key, shape ``keys.shape + (count,)``; their order is a permutation.

    The low bits hold the position itself, so that two words are never equal and a cut by value is exact.
    """
    width = max(count - 1, 1).bit_length()
    words = bits(keys, count)
    words >>= np.uint64(width + 1)
    words <<= np.uint64(width)
    words |= np.arange(count, dtype=np.uint64)
    return words.view(np.int64)  # the top bit is clear: signed comparison is safe
