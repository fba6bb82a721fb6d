"""What end-to-end fine-tuning needs of an encoder's blocks: a learning rate that decays with depth, and stochastic depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openjepa.errors import ConfigError
from openjepa.optim import decays


class DropPath(nn.Module):
    """Stochastic depth (1603.09382): a residual branch is left out for a sample with probability ``rate`` in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Any ``(B, …)``; kept branches are divided by 1 − rate."""
        if not self.training or self.rate == 0.0:
            return branch
        keep = 1 - self.rate
        coin = torch.empty(len(branch), *[1] * (branch.ndim - 1), dtype=branch.dtype, device=branch.device)
        return branch * coin.bernoulli_(keep) / keep


def blocks_of(encoder: Any) -> list[nn.Module]:
    """The encoder's transformer blocks, first to last.

    Raises:
        ConfigError: it is no module, or has no ``blocks``.
    """
    blocks = list(getattr(encoder, "blocks", ()))
    if not isinstance(encoder, nn.Module) or not blocks:
        raise ConfigError(f"{type(encoder).__name__} cannot be fine-tuned: that needs a torch module with 'blocks'")
    return blocks


def set_drop_path(blocks: Sequence[nn.Module], rate: float | None) -> float:
    """Stochastic depth from 0 in the first block to ``rate`` in the last; returns the rate used.

    ``None``: .1 where blocks know it (ours, timm's, some of Hugging Face's), else 0.

    Raises:
        ConfigError: a rate is asked for and the blocks do not know it, or it is not in [0, 1).
    """
    if rate is not None and not 0 <= rate < 1:
        raise ConfigError(f"drop_path {rate} is not in [0, 1)")
    able = all(hasattr(block, "drop_path") or hasattr(block, "drop_path1") for block in blocks)
    if not able:
        if rate:
            raise ConfigError(f"{type(blocks[0]).__name__} has no stochastic depth: set drop_path 0")
        return 0.0
    rate = 0.1 if rate is None else rate
    for i, block in enumerate(blocks):
        share = rate * i / max(len(blocks) - 1, 1)
        if hasattr(block, "drop_path1"):
            block.drop_path1, block.drop_path2 = DropPath(share), DropPath(share)
        elif isinstance(block.drop_path, nn.Module):  # Hugging Face's
            block.drop_path = DropPath(share)
        else:
            block.drop_path = share  # type: ignore[assignment]
    return rate


def depth_of_parameters(encoder: nn.Module, blocks: Sequence[nn.Module]) -> dict[str, int]:
    """Depth of each parameter: 0 for what comes before the blocks (patches, positions), i + 1 in block i, L + 1 after them.

    Before and after are the order in which the encoder's parameters are registered.
    """
    inside = {id(p): i + 1 for i, block in enumerate(blocks) for p in block.parameters()}
    depths, seen = {}, False
    for name, parameter in encoder.named_parameters():
        seen = seen or id(parameter) in inside
        depths[name] = inside.get(id(parameter), len(blocks) + 1 if seen else 0)
    return depths


def layer_groups(
    encoder: nn.Module, head: nn.Module, lr: float, decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW groups with peak rate lr · decay^(L + 1 − depth); the head has the full rate (BEiT 2106.08254 §3.2, MAE §A.2).

    Frozen parameters are in none. Norms, biases, positions and one-dimensional parameters do not decay. ``peak``
    is what a schedule multiplies.
    """
    blocks = blocks_of(encoder)
    depths = depth_of_parameters(encoder, blocks)
    named = [(name, p, depths[name]) for name, p in encoder.named_parameters()]
    named += [(name, p, len(blocks) + 1) for name, p in head.named_parameters()]
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter, depth in named:
        if not parameter.requires_grad:
            continue
        groups.setdefault((depth, decays(name, parameter)), []).append(parameter)
    return [
        {
            "params": params,
            "peak": lr * decay ** (len(blocks) + 1 - depth),
            "lr": lr * decay ** (len(blocks) + 1 - depth),
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (depth, decayed), params in sorted(groups.items(), key=lambda item: item[0])
    ]
