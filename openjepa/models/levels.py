"""Deep supervision: the blocks whose outputs are joined, each through a norm of its own (V-JEPA 2.1, 2603.14482 §3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from openjepa.errors import ConfigError

PUBLISHED = {(48, 4): (11, 23, 37, 47)}  # the paper's third is 35; the published weights were trained with 37


def choose_taps(depth: int, levels: int, blocks: Sequence[int] | None = None) -> tuple[int, ...]:
    """Numbers of the ``levels`` blocks to join, from 0, the last block always among them.

    blocks: chosen ones; None: evenly spaced, as published (12: 2, 5, 8, 11; 24: 5, 11, 17, 23; 40: 9, 19, 29, 39), but
    11, 23, 37, 47 of 48.

    Raises:
        ConfigError: more levels than blocks, or chosen blocks that do not rise to the last one.
    """
    if levels > depth:
        raise ConfigError(f"model.taps {levels} is more than the encoder's {depth} blocks")
    if blocks is None:
        return PUBLISHED.get((depth, levels)) or tuple(depth * k // levels - 1 for k in range(1, levels + 1))
    found = tuple(blocks)
    rising = all(a < b for a, b in pairwise(found))
    if len(found) != levels or not rising or found[0] < 0 or found[-1] != depth - 1:
        raise ConfigError(
            f"model.tap_blocks {list(found)} are not {levels} rising block numbers that end with the last, {depth - 1}"
        )
    return found
