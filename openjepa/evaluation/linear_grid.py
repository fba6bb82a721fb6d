"""Linear accuracy in the published way: a grid of learning rate × weight decay, all heads trained at once by gradient."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from openjepa.errors import ConfigError, TrainingError, nearest
from openjepa.evaluation.choice import HELD_OUT, Outcome, at_edge, best, hold_out
from openjepa.evaluation.heads import HeadGrid, Heads, OnEpoch, train_heads
from openjepa.evaluation.labels import align, feature_protocol, score_of
from openjepa.evaluation.request import Request
from openjepa.evaluation.score import Score
from openjepa.features import Features

log = logging.getLogger(__name__)

NAME = "linear-grid"
T = TypeVar("T")


def linear_grid(
    train: Features,
    val: Features,
    *,
    grid: HeadGrid | None = None,
    refit: bool = True,
    seed: int = 0,
    subject: str = "encoder",
    device: str | torch.device = "cpu",
    on_epoch: OnEpoch | None = None,
) -> Score:
    """Accuracy of the head that a held-out part of ``train`` chose among a grid (official.md §7.3, §7.5).

    Twice: all heads on four fifths of ``train``, the best on the held-out fifth is chosen; then (``refit``) all heads
    again on the whole of it. ``value`` is the chosen head on val, ``grid_max`` the best of all on val, which chose itself
    by the labels it is measured on: optimistic, and what published grids report.

    Args:
        train, val: pooled features with labels; classes are matched by name.
        grid: heads and optimizer. refit: False scores the heads of the first round.
        device: where the heads are trained. on_epoch: called after each epoch of either round.

    Raises:
        DataError: labels or features do not allow a score, or none can be held out.
        TrainingError: every head diverged.
    """
    grid = grid or HeadGrid()
    data = align(train, val)
    fitted, held = hold_out(data.y, seed)
    x, y, classes = data.x.to(device), data.y.to(device), len(data.classes)
    heads = train_heads(x[fitted], y[fitted], classes, grid, seed=seed, on_epoch=on_epoch)
    tried = _outcomes(heads, x[held], y[held])
    chosen = best(tried, grid.pairs)
    if refit:
        heads = train_heads(x, y, classes, grid, seed=seed, on_epoch=on_epoch)
    val_x, val_y = data.val_x.to(device), data.val_y.to(device)
    on_val = _outcomes(heads, val_x, val_y)
    if on_val[chosen].diverged:
        raise TrainingError(
            f"{NAME}: the chosen head (lr {grid.pairs[chosen][0]:g}) diverged when trained on all of train: use smaller lrs"
        )
    predicted = heads.logits(val_x, chosen).argmax(1).cpu()
    edge = at_edge(grid.pairs[chosen], grid.rates)
    if edge is not None:
        log.warning("%s chose the %s learning rate of its grid (%g): widen it", NAME, edge, grid.pairs[chosen][0])
    protocol = _protocol(train, grid, grid.pairs[chosen], tried[chosen], refit, x.device)
    score = score_of(NAME, predicted, data, protocol=protocol, seed=seed, subject=subject)
    return with_grid(score, [outcome.accuracy for outcome in on_val], sum(o.diverged for o in tried))


def with_grid(score: Score, on_val: list[float], diverged: int) -> Score:
    """``score`` with the best accuracy any head of the grid has on val, and how many diverged."""
    return replace(score, grid_max=max(on_val), extra={**score.extra, "heads": len(on_val), "diverged": diverged})


def run(request: Request) -> list[Score]:
    """The evaluator: ``Settings.options["linear-grid"]`` may set ``refit`` and every field of :class:`HeadGrid`."""
    options = dict(request.settings.options.get(NAME, {}))
    refit = bool(options.pop("refit", True))
    train, val = request.pair
    device = "cpu" if request.bench is None else request.bench.device
    grid = grid_from(HeadGrid, NAME, options)
    seed = request.settings.seed
    about: dict[str, Any] = {"seed": seed, "subject": request.subject, "device": device, "on_epoch": request.on_epoch}
    return [linear_grid(train, val, grid=grid, refit=refit, **about)]


def grid_from(kind: type[T], name: str, options: Mapping[str, Any]) -> T:
    """A dataclass of settings from plain options; lists become tuples. Raises ConfigError for a name it has not."""
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in options:
        if key not in known:
            raise ConfigError(f"{name} has no option '{key}': {', '.join(known)}{nearest(key, known)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})


def _outcomes(heads: Heads, x: Tensor, y: Tensor) -> list[Outcome]:
    return [Outcome.of(heads.logits(x, i), y) for i in range(len(heads.pairs))]


def _protocol(
    train: Features, grid: HeadGrid, chosen: tuple[float, float], held: Outcome, refit: bool, device: torch.device
) -> dict[str, object]:
    return {
        **feature_protocol(train),
        "model": "linear head by gradient" + (", batch norm" if grid.batch_norm else ""),
        "optimizer": grid.optimizer,
        "lr": chosen[0],
        "weight_decay": chosen[1],
        "grid": f"{len(grid.rates)} lr × {len(grid.weight_decays)} wd",
        "epochs": grid.epochs,
        "batch": grid.batch_size,
        "products": "bf16" if grid.uses_bf16(device) else "fp32",
        "chosen_on": f"held-out {HELD_OUT:.0%} of train",
        "held_out_accuracy": held.accuracy,
        "refit": "all of train" if refit else "no",
    }
