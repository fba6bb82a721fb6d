"""Choosing one of many trained heads on training samples that were held out, never on val."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openjepa.errors import DataError, TrainingError
from openjepa.evaluation.labels import stratified

HELD_OUT = 0.2


@dataclass(frozen=True)
class Outcome:
    """How one head does on some samples. accuracy 0..1; log_loss: mean −log p of the right class, in nats."""

    accuracy: float
    log_loss: float

    @classmethod
    def of(cls, logits: Tensor, y: Tensor) -> Outcome:
        """From logits ``(n, K)`` and labels ``(n,)``. Logits that are not finite are never right."""
        logits = logits.double()
        finite = torch.isfinite(logits).all(1)
        right = (logits.argmax(1) == y) & finite
        loss = -logits.log_softmax(1).gather(1, y[:, None]).mean() if bool(finite.all()) else torch.tensor(torch.inf)
        return cls(float(right.double().mean()), float(loss))

    @property
    def diverged(self) -> bool:
        """Whether the head's logits were not finite."""
        return not self.log_loss < float("inf")


def split(y: Tensor, seed: int, share: float = HELD_OUT) -> tuple[Tensor, Tensor]:
    """Indices to fit on and to choose on: a stratified ``share`` is held out, never the last sample of a class."""
    held = stratified(y, round(share * len(y)), seed)
    mask = torch.zeros(len(y), dtype=torch.bool)
    mask[held] = True
    counts = torch.bincount(y)
    for label in (counts > 0).nonzero().flatten().tolist():
        members = (y == label).nonzero().flatten()
        if bool(mask[members].all()):
            mask[members[0]] = False
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def hold_out(y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """:func:`split`, for a choice that cannot be made without it.

    Raises:
        DataError: nothing can be held out, because every class has one sample.
    """
    fitted, held = split(y, seed)
    if len(held) == 0:
        raise DataError("one training sample per class: none can be held out to choose a head; use 'linear' or 'knn'")
    return fitted, held


def best(outcomes: Sequence[Outcome], pairs: Sequence[tuple[float, float]]) -> int:
    """The head with the best held-out accuracy; equal ones: lower log-loss, then smaller learning rate, larger decay.

    Raises:
        TrainingError: every head diverged.
    """
    alive = [i for i, outcome in enumerate(outcomes) if not outcome.diverged]
    if not alive:
        raise TrainingError(f"all {len(outcomes)} heads of the grid diverged: use smaller learning rates")
    return max(alive, key=lambda i: (outcomes[i].accuracy, -outcomes[i].log_loss, -pairs[i][0], pairs[i][1]))


def at_edge(chosen: tuple[float, float], lrs: Sequence[float]) -> str | None:
    """``lowest`` or ``highest`` when the chosen learning rate is an end of a grid of several: the best may lie beyond."""
    if len(lrs) < 2:
        return None
    return {min(lrs): "lowest", max(lrs): "highest"}.get(chosen[0])
