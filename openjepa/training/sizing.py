"""How the global batch is cut: into ranks, and each rank's share into micro-batches that fit in memory."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass

import torch

from openjepa.config.schema import Recipe
from openjepa.models import VisionTransformer

# Floats kept per token, channel and block for the backward pass: two norms, qkv (3), attention in and out (2), two
# residuals, MLP hidden twice (2 × 4), rounded up.
_ACTIVATIONS = 20
_MEMORY_SHARE = 0.4  # of what is free: the rest is for data, other processes and what the estimate leaves out


@dataclass(frozen=True)
class Cut:
    """Row ranges ``[start, stop)`` inside this rank's rows, one per micro-batch; every rank has equally many."""

    parts: tuple[tuple[int, int], ...]

    @property
    def largest(self) -> int:
        """Rows of the largest micro-batch."""
        return max(stop - start for start, stop in self.parts)


def cut_rows(rows: int, *, most: int, fewest: int, micro: int) -> Cut:
    """Cut this rank's ``rows`` into near-equal micro-batches of at most ``micro``.

    ``most`` and ``fewest`` are the rows of the fullest and the emptiest rank (they differ by one at most). All ranks get
    the same number of parts, because FSDP2 gathers weights in every forward pass; so a part may hold ``micro + 1`` rows
    where the emptiest rank has too few to cut further.
    """
    return _split(rows, max(min(-(-most // micro), fewest), 1))


def _split(rows: int, count: int) -> Cut:
    edges = [rows * i // count for i in range(count + 1)]
    return Cut(tuple(itertools.pairwise(edges)))


def micro_bound(recipe: Recipe, tokens: int, encoder: VisionTransformer, device: torch.device) -> int | None:
    """Samples of so many ``tokens`` whose activations fit comfortably into free memory; None on CUDA, where it is tried."""
    if device.type == "cuda":
        return None
    free = _free_memory()
    if free is None:
        return 256
    predictor = recipe.predictor
    narrow = predictor.depth * predictor.dim if predictor.kind in ("narrow", "pixel") else 0
    floats = tokens * _ACTIVATIONS * (encoder.depth * encoder.embed_dim + 4 * narrow)
    return max(int(free * _MEMORY_SHARE / (4 * floats)), 1)


def _free_memory() -> int | None:
    """Bytes of memory that can be used without swapping, None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError, AttributeError):
        return None
