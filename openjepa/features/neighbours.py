"""Exact cosine neighbours: the same answer for every chunk size, ties broken by the smaller index."""

from __future__ import annotations

import torch
from torch import Tensor

from openjepa.errors import DataError

_MARGIN = 32  # candidates beyond k that one query may keep before all its similarities are computed in float64
_RESCORE_BYTES = 8 * 2**20  # small enough to stay near the cache


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
        chunk: queries per product; bounds memory to about ``chunk · N`` floats and changes nothing else.

    Returns:
        ``(cosine (Q, k) float64, index (Q, k) int64)``, nearest first; equal cosines in ascending index order.

    Raises:
        DataError: shapes do not fit, or a row is not finite.
    """
    _check(queries, bank, k, exclude)
    exact = _unit(queries.double()), _unit(bank.double())
    # Float32 is a filter only; when the user has allowed TF32 or bf16 products it would be a poor one.
    coarse = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
    fast = exact[0].to(coarse), exact[1].to(coarse)
    cosine = torch.empty(len(queries), k, dtype=torch.float64, device=bank.device)
    index = torch.empty(len(queries), k, dtype=torch.int64, device=bank.device)
    for start in range(0, len(queries), chunk):
        rows = slice(start, min(start + chunk, len(queries)))
        similarity = fast[0][rows] @ fast[1].T  # (q, N)
        banned = None if exclude is None else exclude[rows]
        _ban(similarity, banned)
        cosine[rows], index[rows] = _exact_topk(similarity, exact[0][rows], exact[1], k, banned)
    return cosine, index


def _exact_topk(
    similarity: Tensor, queries: Tensor, bank: Tensor, k: int, banned: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Settle the order of float32 candidates in float64; queries with too many near-ties are done over the whole bank."""
    # Rounding error of a length-D product of unit vectors: 10·√D·u bounds it but for a chance of D·e^-50 (Higham & Mary
    # 2019), and 4u covers the rounding of the vectors; eps = 2u, so this is the error of both sides of a comparison.
    slack = (10 * bank.shape[1] ** 0.5 + 4) * torch.finfo(similarity.dtype).eps
    width = min(k + _MARGIN, len(bank))
    values, candidates = similarity.topk(width, dim=1)
    candidates, order = candidates.sort(dim=1)  # ascending index, which the stable sort below keeps among equals
    threshold = values[:, k - 1] - slack
    open_ = values.gather(1, order) >= threshold[:, None]  # the others cannot be among the nearest k
    cosine = torch.full(candidates.shape, -torch.inf, dtype=torch.float64, device=bank.device)
    owner = open_.nonzero()[:, 0]
    cosine[open_] = _rescore(queries, bank, owner, candidates[open_])
    _ban_found(cosine, candidates, banned)
    order = cosine.sort(dim=1, descending=True, stable=True).indices[:, :k]
    best, found = cosine.gather(1, order), candidates.gather(1, order)
    if width < len(bank):  # near-ties may lie outside the candidates
        everything = torch.arange(len(bank), device=bank.device)
        for row in (values[:, -1] >= threshold).nonzero().flatten().tolist():
            full = _rescore(queries, bank, torch.full_like(everything, row), everything)[None]
            _ban(full, None if banned is None else banned[row : row + 1])
            sorted_row = full[0].sort(descending=True, stable=True)
            best[row], found[row] = sorted_row.values[:k], sorted_row.indices[:k]
    return best, found


def _rescore(queries: Tensor, bank: Tensor, owner: Tensor, found: Tensor) -> Tensor:
    """Float64 cosines ``(P,)`` of the pairs (query ``owner``, bank row ``found``), without a blocked product."""
    cosine = torch.empty(len(owner), dtype=torch.float64, device=bank.device)
    step = max(1, _RESCORE_BYTES // (8 * bank.shape[1]))  # pairs at once
    for start in range(0, len(owner), step):
        pairs = slice(start, start + step)
        cosine[pairs] = (queries[owner[pairs]] * bank[found[pairs]]).sum(1)
    return cosine


def _unit(x: Tensor) -> Tensor:
    """Rows of length 1; zero rows stay zero."""
    length = x.norm(dim=1, keepdim=True)
    return x / torch.where(length > 0, length, torch.ones_like(length))


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
        if not bool(torch.isfinite(x).all()):
            raise DataError(f"{int((~torch.isfinite(x)).any(1).sum())} {name} features are not finite")
