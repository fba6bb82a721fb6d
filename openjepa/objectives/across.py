"""Batch statistics over all processes, with exact gradients: what a joint batch on one device would give.

The loop sums every process's share of the loss (``Engine.backward``), so the gradient of a shared statistic is the *sum*
of what all processes ask of it. That is what the backward passes here return.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_state = {"alone": False}


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, every process is by itself: for work that the others do not do at the same time (trying a batch size)."""
    before, _state["alone"] = _state["alone"], True
    try:
        yield
    finally:
        _state["alone"] = before


def together() -> bool:
    """Whether there are several processes to speak with."""
    return not _state["alone"] and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def this_rank() -> int:
    """Number of this process among those it speaks with; 0 when it is by itself."""
    return dist.get_rank() if together() else 0


def all_sum(x: Tensor) -> Tensor:
    """Sum of ``x`` over all processes, the same on each; alone, ``x`` itself. Every process must call."""
    return _Sum.apply(x) if together() else x


def all_rows(z: Tensor) -> Tensor:
    """Rows ``(B, …)`` of all processes in rank order ``(ΣB, …)``; alone, ``z`` itself. Every process must call.

    Processes may hold different numbers of rows. The numbers are exchanged first, which reads one small tensor back.
    """
    return _Rows.apply(z) if together() else z


class _Sum(torch.autograd.Function):
    """All-reduce whose backward pass is an all-reduce."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Sum over processes."""
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        """Sum of everybody's gradient."""
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _Rows(torch.autograd.Function):
    """All-gather of rows whose backward pass sums everybody's gradient and keeps the own rows."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        """Rows of all processes."""
        mine = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=z.device)
        mine[dist.get_rank()] = len(z)
        dist.all_reduce(mine)
        counts = mine.tolist()
        most = max(counts)
        padded = z.new_zeros(most, *z.shape[1:])
        padded[: len(z)] = z.detach()
        boxes = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(boxes, padded)
        ctx.start, ctx.rows = sum(counts[: dist.get_rank()]), len(z)
        return torch.cat([box[:count] for box, count in zip(boxes, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        """Everybody's gradient of the own rows, summed."""
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.rows]
