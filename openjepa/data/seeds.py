"""Counter-based randomness: every draw is a pure function of what it is for, never of what was drawn before.

Only integer arithmetic (SplitMix64, Steele et al. 2014, doi 10.1145/2660193.2660195), so values are the same in every
process, on every platform and with every version of numpy.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix(*keys: int) -> int:
    """One 64-bit unsigned hash of some integers; their order counts."""
    state = 0
    for key in keys:
        state = (state ^ (key & _MASK)) + _GOLDEN & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def mix_range(count: int, *keys: int) -> NDArray[np.uint64]:
    """``[mix(*keys, i) for i in range(count)]`` as a uint64 vector."""
    state = np.full(count, mix(*keys), np.uint64) ^ np.arange(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        state += np.uint64(_GOLDEN)
        state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)


def uniform(count: int, *keys: int) -> NDArray[np.float64]:
    """``count`` float64 in [0, 1) with 53 random bits each, named by ``keys``."""
    return (mix_range(count, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(count: int, *keys: int) -> NDArray[np.int64]:
    """A permutation of ``range(count)`` named by ``keys``: the order of ``count`` 64-bit hashes."""
    return np.argsort(mix_range(count, *keys), kind="stable").astype(np.int64, copy=False)


class Stream:
    """Uniform numbers from a named stream; draws of one name never move those of another.

    Args:
        name: what the numbers are for (``"pose"``, ``"background"``, ``"motion"``).
        keys: integers such as seed and index.
    """

    _BLOCK = 48  # one numpy call for as many numbers as a stream usually gives

    def __init__(self, name: str, *keys: int) -> None:
        self._key = mix(zlib.crc32(name.encode()), *keys)
        self._block = 0
        self._ready: list[float] = []

    def draw(self, count: int) -> list[float]:
        """The next ``count`` numbers in [0, 1)."""
        while len(self._ready) < count:
            self._ready += uniform(self._BLOCK, self._key, self._block).tolist()
            self._block += 1
        taken, self._ready = self._ready[:count], self._ready[count:]
        return taken

    def between(self, low: float, high: float) -> float:
        """One number in [low, high)."""
        return low + (high - low) * self.draw(1)[0]

    def below(self, count: int) -> int:
        """One integer in [0, count)."""
        return int(self.draw(1)[0] * count)
