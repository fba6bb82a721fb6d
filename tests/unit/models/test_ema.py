"""The target: frozen, a slow average, buffers copied."""

from __future__ import annotations

import torch
from torch import nn

from openjepa.models import make_target, update_ema


def test_average_and_buffers() -> None:
    torch.manual_seed(0)
    online = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    target = make_target(online)
    start = [p.clone() for p in target.parameters()]
    with torch.no_grad():
        for p in online.parameters():
            p.add_(1.0)
    online(torch.randn(8, 3))  # moves the running statistics
    update_ema(target, online, 0.9)
    for now, before, fast in zip(target.parameters(), start, online.parameters(), strict=True):
        torch.testing.assert_close(now, 0.9 * before + 0.1 * fast)
    assert torch.equal(target[1].running_mean, online[1].running_mean)
    assert not any(p.requires_grad for p in target.parameters())
    assert not target.training
