"""Parity of I-JEPA: features, predictions, loss, gradients and a few training steps against the published program.

Everything compared is computed by the code a run uses: the method, its loss and EMA, the parameter groups, AdamW and
the schedules. This file only reads masks and says which result is which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openjepa.config.duration import Duration
from openjepa.config.schema import (
    DataConfig,
    ModelConfig,
    NarrowPredictorConfig,
    ObjectiveConfig,
    OptimConfig,
    Recipe,
    TargetConfig,
)
from openjepa.errors import CheckpointError
from openjepa.hub.golden import Golden, Ledger, register_check
from openjepa.hub.keymaps import Dropped
from openjepa.hub.official import IJEPA_OFFICIAL
from openjepa.hub.parity_parts import compare_gradients, compare_positions, describe, published, read_ids, read_size
from openjepa.hub.strict import load_strict
from openjepa.methods import MaskedLatent
from openjepa.models.transformer import gather_tokens
from openjepa.optim import Schedule, build_optimizer, set_schedule
from openjepa.types import Batch, MaskGroup, Progress

_SECTIONS = ("encoder", "predictor", "target_encoder")


@dataclass(frozen=True)
class _Step:
    """Images ``(B, C, H, W)`` and masks of one training step."""

    batch: Batch
    group: MaskGroup


@register_check("I-JEPA")
def check_ijepa(golden: Golden, ledger: Ledger) -> None:
    """Load the published checkpoint into our method, run it, and enter every result in ``ledger``.

    Raises:
        CheckpointError: the directory does not describe an I-JEPA our code can build.
    """
    recipe = _recipe(golden)
    method = MaskedLatent(recipe)
    dropped = _load(golden, method)
    steps = [_step(golden, ledger, number, method) for number in range(max(_count_steps(golden), 1))]
    compare_positions(method, dropped, ledger)
    _check_forward(method, steps[0], ledger)
    _check_training(golden, method, steps, ledger)


def _recipe(golden: Golden) -> Recipe:
    """Our recipe of what meta.json describes."""
    first = golden.tensor("images.0")
    if first.ndim != 4:
        raise CheckpointError(
            f"'{golden.path}' is malformed: images.0 has shape {tuple(first.shape)}, not (B, C, H, W)"
        )
    channels = first.shape[1]
    return describe(
        golden,
        lambda: Recipe(
            name="parity",
            data=DataConfig(
                image_size=read_size(golden), channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels
            ),
            model=ModelConfig(
                arch=None,
                patch_size=golden.integer("patch_size"),
                dim=golden.integer("dim"),
                depth=golden.integer("depth"),
                heads=golden.integer("heads"),
                mlp_ratio=golden.number("mlp_ratio"),
            ),
            predictor=NarrowPredictorConfig(
                dim=golden.integer("predictor_dim"),
                depth=golden.integer("predictor_depth"),
                heads=golden.integer("predictor_heads"),
            ),
            objective=_objective(golden),
            optim=_optim(golden),
            target=_target(golden),
        ),
    )


def _objective(golden: Golden) -> ObjectiveConfig:
    """The loss, from its sentence in meta.json."""
    text = str(golden.need("loss"))
    name = re.match(r"\w+", text)
    beta = re.search(r"beta ([\d.]+\d|\d+)", text)
    if name is None or name[0] not in ("smooth_l1", "l1", "l2"):
        raise CheckpointError(f"'{golden.path}': unknown loss '{text[:40]}': it starts with smooth_l1, l1 or l2")
    return ObjectiveConfig(kind=name[0], beta=float(beta[1]) if beta else 1.0)


def _optim(golden: Golden) -> OptimConfig:
    """Optimizer and schedules. The published code lets the mask token decay, because it is not one-dimensional."""
    if not _count_steps(golden):
        return OptimConfig(decay_mask_tokens=True)
    span, total = _span(golden), golden.integer("schedule.T_max")
    text = str(golden.meta.get("optimizer", ""))
    betas = re.search(r"betas \(([\d.]+), ?([\d.]+)\)", text)
    eps = re.search(r"eps ([\d.e+-]+)", text)
    return OptimConfig(
        lr=golden.number("schedule.ref_lr"),
        start_lr=golden.number("schedule.start_lr"),
        final_lr=golden.number("schedule.final_lr"),
        warmup=Duration(golden.integer("schedule.warmup_steps", least=0), "steps"),
        stretch=span / total,
        weight_decay=golden.number("schedule.ref_wd"),
        final_weight_decay=golden.number("schedule.final_wd"),
        betas=(float(betas[1]), float(betas[2])) if betas else (0.9, 0.999),
        eps=float(eps[1]) if eps else 1e-8,
        decay_mask_tokens=True,
    )


def _target(golden: Golden) -> TargetConfig:
    """The momentum schedule. meta.json lists momenta only: the last one of a whole run follows from their slope."""
    if not _count_steps(golden):
        return TargetConfig()
    first, slope = golden.need("ema")[0], _momentum_slope(golden)
    return TargetConfig(momentum=(first, min(first + slope * _span(golden), 1.0)))


def _momentum_slope(golden: Golden) -> float:
    """Momentum gained per step."""
    listed = golden.need("ema")
    if not isinstance(listed, list) or len(listed) != _count_steps(golden):
        raise CheckpointError(f"'{golden.path}' is malformed: ema does not list one momentum for each step")
    return (listed[-1] - listed[0]) / max(len(listed) - 1, 1)


def _span(golden: Golden) -> float:
    """Length of the schedules in steps, with its fraction.

    The published code uses int(span) for learning rate and decay (``T_max``), and span itself for the momentum, which
    reaches 1 there.
    """
    slope, total = _momentum_slope(golden), golden.integer("schedule.T_max")
    span = round((1.0 - golden.need("ema")[0]) / slope, 6) if slope > 0 else float(total)
    return span if int(span) == total else float(total)


def _count_steps(golden: Golden) -> int:
    """Optimizer steps the directory holds; 0 when it holds a forward pass only."""
    return golden.integer("steps", least=0) if "steps" in golden.meta else 0


def _load(golden: Golden, method: MaskedLatent) -> Mapping[str, Dropped]:
    """Fill the method, strictly, from the published names; returns the position tables that came along."""
    found = {key: value for key, value in golden.checkpoint.items() if key.split(".")[0] in _SECTIONS}
    mapped = IJEPA_OFFICIAL.apply(found)
    load_strict(method, mapped.tensors)
    method.train()
    return mapped.dropped


def _step(golden: Golden, ledger: Ledger, number: int, method: MaskedLatent) -> _Step:
    """Read images and masks of one step and declare them as inputs."""
    images = golden.tensor(f"images.{number}")
    names = [
        [f"{kind}_mask.{number}.{i}" for i in range(golden.integer(f"{kind}_masks"))] for kind in ("context", "target")
    ]
    tokens = method.online.grid[0] * method.online.grid[1]
    contexts, targets = ([read_ids(golden, name, len(images), tokens) for name in kind] for kind in names)
    ledger.input(f"images.{number}", *names[0], *names[1])
    pairs = [(i, j) for j in range(len(targets)) for i in range(len(contexts))]
    order = torch.arange(len(images))
    return _Step(Batch({"image": images}, order, order), MaskGroup(contexts, targets, pairs, method.online.grid))


@torch.no_grad()
def _check_forward(method: MaskedLatent, step: _Step, ledger: Ledger) -> None:
    """Encoder, masked encoder, target and predictor on the first step's input."""
    images, group = step.batch.inputs["image"], step.group
    prediction, query, context = method.predict(images, group)
    raw, target = method.targets(images)  # (B, N, D)
    ledger.compare("encoder_full", method.online.forward_features(images))
    ledger.compare("context", context.values)
    ledger.compare("target_full", raw)
    ledger.compare("target", gather_tokens(target.repeat(len(query.index) // len(target), 1, 1), query.index))
    ledger.compare("prediction", prediction)


def _check_training(golden: Golden, method: MaskedLatent, steps: list[_Step], ledger: Ledger) -> None:
    """Loss and gradients of the first step; then all steps, their schedules and the weights they end with."""
    count, optim, target = _count_steps(golden), method.recipe.optim, method.recipe.target
    optimizer = build_optimizer(method, optim)
    total = golden.integer("schedule.T_max") if count else 1
    schedule = Schedule(optim, target, total=total, steps_per_epoch=total, batch_size=len(steps[0].batch))
    losses: list[float] = []
    for number, step in enumerate(steps):
        if count:
            set_schedule(optimizer, schedule.lr(number), schedule.weight_decay(number))
        output = method(step.batch, [step.group], Progress(number, total))
        optimizer.zero_grad()
        (output.loss_sum / output.count).backward()
        losses.append(float(output.loss_sum.detach()) / output.count)
        if number == 0:
            compare_gradients(method, IJEPA_OFFICIAL, ledger)
        if count:
            optimizer.step()
            method.after_step(schedule.momentum(number))
    _check_lists(golden, ledger, losses, schedule)
    if count:
        _check_weights(method, ledger)


def _check_weights(method: MaskedLatent, ledger: Ledger) -> None:
    """Every ``final.*`` of the file, position tables too, by the published names."""
    ours = published(IJEPA_OFFICIAL, method.state_dict(), dict(method.named_buffers()))
    for name in ledger.golden.tensors:
        if name.startswith("final."):
            ledger.compare(name, ours.get(name.removeprefix("final.")))


def _check_lists(golden: Golden, ledger: Ledger, losses: list[float], schedule: Schedule) -> None:
    """Loss, learning rate, decay and momentum of every step, as listed in meta.json."""
    count = _count_steps(golden)
    if "loss_value" in golden.meta:
        ledger.compare_with("meta.loss_value", losses[:1], [golden.number("loss_value")])
    if count:
        ours = {
            "losses": losses,
            "lr": [schedule.lr(step) for step in range(count)],
            "weight_decay": [schedule.weight_decay(step) for step in range(count)],
            "ema": [schedule.momentum(step) for step in range(count)],
        }
        for name, values in ours.items():
            ledger.compare_with(f"meta.{name}", torch.tensor(values, dtype=torch.float64), _numbers(golden, name))


def _numbers(golden: Golden, name: str) -> Tensor:
    """A list of numbers in meta.json."""
    values: Any = golden.need(name)
    try:
        return torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"'{golden.path}' is malformed: meta.json's '{name}' is no list of numbers") from error
