"""Which parameters decay, and the AdamW that updates them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from openjepa.config.schema import OptimConfig


def decays(name: str, parameter: nn.Parameter, decay_mask_tokens: bool = False) -> bool:
    """Whether weight decay applies: not to biases and 1-D parameters (official.md §5.2), nor to positions and mask tokens.

    The published code let mask tokens decay, because theirs are (1, 1, P): ``decay_mask_tokens``.
    """
    if parameter.ndim <= 1 or name.endswith("bias"):
        return False
    if "mask_token" in name:
        return decay_mask_tokens
    return "pos_embed" not in name


def param_groups(named: Iterable[tuple[str, nn.Parameter]], decay_mask_tokens: bool = False) -> list[dict[str, Any]]:
    """Two AdamW groups, with and without decay; ``decay`` in each tells the schedule which one it moves."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in named:
        if parameter.requires_grad:
            groups[decays(name, parameter, decay_mask_tokens)].append(parameter)
    return [{"params": params, "decay": decay, "weight_decay": 0.0} for decay, params in groups.items() if params]


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of ``module``, fused where the device has it (CPU and CUDA)."""
    groups = param_groups(module.named_parameters(), config.decay_mask_tokens)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    fused = devices <= {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=0.0, fused=fused)


def set_schedule(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Put this step's learning rate and decay into the groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decay"] else 0.0
