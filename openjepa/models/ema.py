"""The slow average of an online network that serves as the target (I-JEPA §3; official.md §5.1)."""

from __future__ import annotations

import copy

import torch
from torch import nn


def make_target(online: nn.Module) -> nn.Module:
    """A frozen copy of ``online``, its weights equal at the start."""
    target = copy.deepcopy(online).requires_grad_(False)
    return target.eval()


@torch.no_grad()
def update_ema(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """θ̄ ← m θ̄ + (1 − m) θ for every parameter in one fused call; buffers (batch-norm statistics) are copied."""
    theirs, ours = list(target.parameters()), list(online.parameters())
    assert len(theirs) == len(ours)
    torch._foreach_lerp_(theirs, [p.detach() for p in ours], 1.0 - momentum)
    for mine, source in zip(target.buffers(), online.buffers(), strict=True):
        mine.copy_(source)
