"""Exact cosine neighbours: the same answer for every chunk size, ties broken by the smaller index.

Memory beyond the inputs is one float32 copy of the bank (float64 when float32 products are not exact here) and a chunk of
similarities: no float64 copy of either side is ever held whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from openjepa.errors import DataError

_MARGIN = 32  # candidates beyond k that one query may keep before all its similarities are computed in float64
_RESCORE_BYTES = 8 * 2**20  # small enough to stay near the cache
_SIMILARITY_BYTES = 128 * 2**20  # of one chunk of queries against the bank
_ROWS = 4096  # rows widened to float64 at once


def cosine_topk(
    queries: Tensor, bank: Tensor, k: int, *, exclude: Tensor | None = None, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """The ``k`` rows of ``bank`` with the largest cosine to each query, by brute force.

    A float32 product proposes candidates with the worst case of its rounding error as a margin; their cosines are then
    computed in float64, one pair at a time, so that equal rows have equal cosines wherever they stand.

    Args:
        queries: ``(Q, D)``. bank: ``(N, D)`` on the same device. A zero row has cosine 0 with everything.
        k: neighbours per query, at most N (N − 1 with ``exclude``).
        exclude: ``(Q,)`` row of the bank each query must not find (itself, in leave-one-out), -1 for none.
        chunk: queries per product at most (fewer against a large bank); changes nothing but memory.

    Returns:
        ``(cosine (Q, k) float64, index (Q, k) int64)``, nearest first; equal cosines in ascending index order.

    Raises:
        DataError: shapes do not fit, or a row is not finite.
    """
    _check(queries, bank, k, exclude)
    # Float32 is a filter only; when the user has allowed TF32 or bf16 products it would be a poor one.
    coarse = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
    lengths, fast = _lengths(bank), torch.empty(bank.shape, dtype=coarse, device=bank.device)
    for part in _slices(len(bank), _ROWS):
        fast[part] = bank[part].double() / lengths[part, None]
    cosine = torch.empty(len(queries), k, dtype=torch.float64, device=bank.device)
    index = torch.empty(len(queries), k, dtype=torch.int64, device=bank.device)
    most = max(1, _SIMILARITY_BYTES // (fast.element_size() * len(bank)))
    for rows in _slices(len(queries), min(chunk, most)):
        exact = queries[rows].double() / _lengths(queries[rows])[:, None]
        similarity = exact.to(coarse) @ fast.T  # (q, N)
        banned = None if exclude is None else exclude[rows]
        _ban(similarity, banned)
        cosine[rows], index[rows] = _exact_topk(similarity, exact, _Bank(bank, lengths), k, banned)
    return cosine, index


def broken_rows(x: Tensor) -> Tensor:
    """Indices of the rows of ``x (N, …)`` that hold a number which is not finite; ``(n,)`` int64 on the device of ``x``."""
    found = [(~torch.isfinite(x[part])).flatten(1).any(1) for part in _slices(len(x), _ROWS)]
    return torch.cat(found).nonzero().flatten() if found else torch.empty(0, dtype=torch.int64, device=x.device)


class _Bank:
    """The bank as given, and the length of each row: unit rows in float64 are made when they are needed."""

    def __init__(self, rows: Tensor, lengths: Tensor) -> None:
        self.rows, self.lengths = rows, lengths

    def __len__(self) -> int:
        return len(self.rows)

    def unit(self, index: Tensor) -> Tensor:
        """``(P, D)`` float64."""
        return self.rows[index].double() / self.lengths[index, None]


def _exact_topk(
    similarity: Tensor, queries: Tensor, bank: _Bank, k: int, banned: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Settle the order of float32 candidates in float64; queries with too many near-ties are done over the whole bank."""
    # Rounding error of a length-D product of unit vectors: 10·√D·u bounds it but for a chance of D·e^-50 (Higham & Mary
    # 2019), and 4u covers the rounding of the vectors; eps = 2u, so this is the error of both sides of a comparison.
    slack = (10 * queries.shape[1] ** 0.5 + 4) * torch.finfo(similarity.dtype).eps
    width = min(k + _MARGIN, len(bank))
    values, candidates = similarity.topk(width, dim=1)
    candidates, order = candidates.sort(dim=1)  # ascending index, which the stable sort below keeps among equals
    threshold = values[:, k - 1] - slack
    open_ = values.gather(1, order) >= threshold[:, None]  # the others cannot be among the nearest k
    cosine = torch.full(candidates.shape, -torch.inf, dtype=torch.float64, device=queries.device)
    owner = open_.nonzero()[:, 0]
    cosine[open_] = _rescore(queries, bank, owner, candidates[open_])
    _ban_found(cosine, candidates, banned)
    order = cosine.sort(dim=1, descending=True, stable=True).indices[:, :k]
    best, found = cosine.gather(1, order), candidates.gather(1, order)
    if width < len(bank):  # near-ties may lie outside the candidates
        everything = torch.arange(len(bank), device=queries.device)
        for row in (values[:, -1] >= threshold).nonzero().flatten().tolist():
            full = _rescore(queries, bank, torch.full_like(everything, row), everything)[None]
            _ban(full, None if banned is None else banned[row : row + 1])
            sorted_row = full[0].sort(descending=True, stable=True)
            best[row], found[row] = sorted_row.values[:k], sorted_row.indices[:k]
    return best, found


def _rescore(queries: Tensor, bank: _Bank, owner: Tensor, found: Tensor) -> Tensor:
    """Float64 cosines ``(P,)`` of the pairs (query ``owner``, bank row ``found``), without a blocked product."""
    cosine = torch.empty(len(owner), dtype=torch.float64, device=queries.device)
    step = max(1, _RESCORE_BYTES // (8 * queries.shape[1]))  # pairs at once
    for pairs in _slices(len(owner), step):
        cosine[pairs] = (queries[owner[pairs]] * bank.unit(found[pairs])).sum(1)
    return cosine


def _lengths(x: Tensor) -> Tensor:
    """Length of each row in float64, ``(N,)``; 1 for a zero row, which so stays zero when divided by it."""
    lengths = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for part in _slices(len(x), _ROWS):
        lengths[part] = x[part].double().norm(dim=1)
    return torch.where(lengths > 0, lengths, torch.ones_like(lengths))


def _slices(count: int, step: int) -> Iterator[slice]:
    """``0:step``, ``step:2·step``, … up to ``count``."""
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _ban(similarity: Tensor, banned: Tensor | None) -> None:
    """Put −∞ at each query's excluded row."""
    if banned is not None:
        rows = (banned >= 0).nonzero().flatten()
        similarity[rows, banned[rows]] = -torch.inf


def _ban_found(cosine: Tensor, candidates: Tensor, banned: Tensor | None) -> None:
    """Put −∞ where a candidate is the excluded row."""
    if banned is not None:
        cosine[candidates == banned[:, None]] = -torch.inf


def _check(queries: Tensor, bank: Tensor, k: int, exclude: Tensor | None) -> None:
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise DataError(f"neighbours need (Q, D) and (N, D) features, got {tuple(queries.shape)}, {tuple(bank.shape)}")
    most = len(bank) - (exclude is not None)
    if not 1 <= k <= most:
        raise DataError(f"k={k} neighbours asked of {most} samples: choose k between 1 and {most}")
    for name, x in (("query", queries), ("bank", bank)):
        if len(broken := broken_rows(x)):
            raise DataError(f"{len(broken)} {name} features are not finite")
