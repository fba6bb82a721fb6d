"""The approximate index: an inverted file over 8-bit codes (faiss ``IVF{lists},SQ8``), its answers ordered again exactly.

k-means cuts the space into lists; a query is compared with the codes of the rows in the ``probes`` lists nearest to it only,
and the best of those are scored again on the float32 vectors. How many lists a query reads is not guessed: when the index is
built, rows of its own are asked for and the fewest probes are taken that find nearly all of their true neighbours.

Codes are a quarter of the vectors' size and read from disk by pages as they are needed, so opening the index costs little.
Sivic & Zisserman 2003 (inverted files); Jégou et al. 2011, "Product quantization for nearest neighbor search" (IVFADC).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openjepa.errors import require
from openjepa.searching.exact import Floats, Rows, exact_topk, rescore

SMALLEST = 20_000  # rows; fewer are searched exactly in a few milliseconds
Say = Callable[[str], None]

_PER_LIST = 64  # rows that k-means sees per list
_ADDED = 65_536  # rows coded at once
_ASKED = 256  # rows asked for when the number of probes is chosen
_NEIGHBOURS = 10
_AIM = 0.98  # of their neighbours to be found; twice the probes are then used, since real queries lie further out
_SEED = 0


@dataclass(frozen=True)
class Tuning:
    """What was measured when the index was built. lists: of the inverted file. probes: lists a query reads.

    recall: share of the 10 nearest found for rows of the index itself, at that many probes.
    """

    lists: int
    probes: int
    recall: float


class Approximate:
    """An inverted file over unit vectors, ready for queries.

    Args:
        index: faiss's. tuning: what was measured. unit: the ``(N, D)`` float32 vectors it was built from.
    """

    def __init__(self, index: Any, tuning: Tuning, unit: Floats) -> None:
        self.index, self.tuning, self.unit = index, tuning, unit

    def topk(
        self, queries: Floats, k: int, *, allowed: NDArray[np.bool_] | None = None, probes: int | None = None
    ) -> tuple[NDArray[np.float64], Rows]:
        """About the ``k`` rows most like each query.

        Args:
            queries: ``(Q, D)`` float32 of length 1. allowed: ``(N,)`` rows that may answer. probes: lists to read; by
                default as tuned, and more the fewer rows may answer.

        Returns:
            cosines ``(Q, k)`` float64 and rows ``(Q, k)``; row −1 and cosine −∞ where the lists read held fewer.
        """
        wide = min(4 * k + 32, len(self.unit))
        _, found = self.candidates(queries, wide, allowed=allowed, probes=probes)
        return rescore(self.unit, queries, found, k)

    def candidates(
        self, queries: Floats, k: int, *, allowed: NDArray[np.bool_] | None = None, probes: int | None = None
    ) -> tuple[Floats, Rows]:
        """As :meth:`topk`, by the codes alone: cosines ``(Q, k)`` float32 are off by some thousandths."""
        faiss = require("faiss", "search")
        reads = probes or self.tuning.probes
        settings: dict[str, Any] = {}
        if allowed is not None:
            share = max(float(allowed.mean()), 1e-9)
            reads = min(self.tuning.lists, max(reads, int(reads / share)))
            settings["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        parameters = faiss.SearchParametersIVF(nprobe=reads, **settings)
        cosine, found = self.index.search(np.ascontiguousarray(queries), k, params=parameters)
        found[found >= len(self.unit)] = -1  # a damaged file must not end in a crash
        return cosine, found

    def save(self, path: Path) -> None:
        """Write the inverted file. Raises OSError when the disk is full."""
        faiss = require("faiss", "search")
        try:
            faiss.write_index(self.index, str(path))
        except RuntimeError as error:  # faiss's own, for a write that came up short
            raise OSError(f"{path.name} could not be written whole: {error}".splitlines()[0]) from error


def open_approximate(path: Path, tuning: Tuning, unit: Floats) -> Approximate:
    """A saved inverted file, its lists left on disk. Raises RuntimeError (faiss's) when the file is damaged."""
    faiss = require("faiss", "search")
    return Approximate(faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY), tuning, unit)


def lists_for(rows: int) -> int:
    """How many lists for so many rows: the power of two nearest to 2·√N."""
    return 2 ** round(np.log2(2 * max(rows, 1) ** 0.5))


def build_approximate(unit: Floats, *, say: Say = lambda sentence: None) -> Approximate:
    """Cluster, code and tune an index over ``unit (N, D)``. Memory beyond the codes: the rows k-means sees.

    Args:
        say: hears one sentence per stage.

    Raises:
        MissingExtra: faiss is not installed.
    """
    faiss = require("faiss", "search")
    count, width = unit.shape
    lists = lists_for(count)
    generator = np.random.default_rng(_SEED)
    index = faiss.index_factory(width, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.seed, index.cp.spherical = 10, _SEED, True
    index.cp.min_points_per_centroid = 1
    say(f"clustering into {lists:,} lists")
    seen = np.sort(generator.choice(count, min(count, _PER_LIST * lists), replace=False))
    index.train(np.ascontiguousarray(unit[seen]))
    say(f"coding {count:,} vectors")
    for start in range(0, count, _ADDED):
        index.add(np.ascontiguousarray(unit[start : start + _ADDED]))
    say("choosing how many lists a query reads")
    asked = np.sort(generator.choice(count, min(count, _ASKED), replace=False))
    return Approximate(index, _tune(Approximate(index, Tuning(lists, 1, 0.0), unit), asked), unit)


def recall(found: Rows, true: Rows) -> float:
    """Share of the true neighbours that were found, over all queries; both ``(Q, k)``."""
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, true, strict=True)]))


def _tune(built: Approximate, asked: Rows) -> Tuning:
    """The probes to use: twice the fewest (a power of two) that reach the aim, and the recall they have."""
    queries = np.ascontiguousarray(built.unit[asked])
    k = min(_NEIGHBOURS, len(built.unit))
    _, true = exact_topk(built.unit, queries, k)
    lists, probes = built.tuning.lists, 1
    while probes < lists and recall(built.topk(queries, k, probes=probes)[1], true) < _AIM:
        probes *= 2
    probes = min(2 * probes, lists)
    return Tuning(lists, probes, recall(built.topk(queries, k, probes=probes)[1], true))
