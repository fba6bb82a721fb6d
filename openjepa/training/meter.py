"""Means over the steps since the last row, kept on the device until somebody asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from openjepa.training.world import World
from openjepa.types import Output


class Meter:
    """Running sums of losses, terms and mask statistics. Nothing is read back from the device before :meth:`means`."""

    def __init__(self, world: World, device: torch.device) -> None:
        self._world, self._device = world, device
        self.reset()

    def reset(self) -> None:
        """Start a new window."""
        self._sums: dict[str, Tensor] = {}
        self._step: dict[str, Tensor] = {}
        self._finite: Tensor | None = None
        self._stats: dict[str, float] = {}
        self.steps = 0
        self.samples = 0

    def add(self, output: Output, total: float) -> None:
        """Add one micro-batch; ``total`` is the supervised element count of the whole step, over all processes."""
        self._put("loss", output.loss_sum.detach() / total)
        for name, term in output.terms.items():
            self._put(f"terms/{name}", term.detach() * (output.count / total))

    def end_step(self, samples: int, stats: Mapping[str, float]) -> None:
        """Close a step of ``samples`` images (over all processes). A loss that is not finite stays out of the mean."""
        finite = torch.isfinite(self._step["loss"])
        for name, value in self._step.items():
            value = torch.where(finite, value, torch.zeros_like(value))
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        one = finite.float()
        self._finite = one if self._finite is None else self._finite + one
        self._step = {}
        for name, share in stats.items():
            self._stats[name] = self._stats.get(name, 0.0) + share
        self.steps += 1
        self.samples += samples

    def means(self) -> tuple[float, dict[str, float], dict[str, float]]:
        """Loss, terms and mask statistics of the window. Every process must call; NaN when no step was finite."""
        names = sorted(self._sums)
        values = self._together(names)
        means = dict(zip(names, values, strict=True))
        loss = means.pop("loss", float("nan"))
        terms = {name.removeprefix("terms/"): value for name, value in means.items()}
        return loss, terms, {name: value / max(self.steps, 1) for name, value in self._stats.items()}

    def state(self) -> dict[str, Any]:
        """The window so far, summed over processes, for a checkpoint. Every process must call."""
        names = sorted(self._sums)
        sums = [self._sums[name] for name in names] + ([] if self._finite is None else [self._finite])
        total = self._world.sum(torch.stack(sums)).cpu().double().tolist() if sums else []
        finite = total.pop() / self._world.size if total else None
        return {
            "sums": dict(zip(names, total, strict=True)),
            "finite": finite,
            "stats": dict(self._stats),
            "steps": self.steps,
            "samples": self.samples,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue a saved window; the first process takes the sums over."""
        self.reset()
        if state["finite"] is not None:
            share = 1.0 if self._world.first else 0.0
            self._sums = {name: self._scalar(value * share) for name, value in state["sums"].items()}
            self._finite = self._scalar(state["finite"])
        self._stats = dict(state["stats"])
        self.steps, self.samples = state["steps"], state["samples"]

    def _scalar(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float32, device=self._device)

    def _put(self, name: str, value: Tensor) -> None:
        self._step[name] = self._step[name] + value if name in self._step else value

    def _together(self, names: list[str]) -> list[float]:
        """Means of the named sums over the window and all processes: one transfer."""
        if not names or self._finite is None:
            return []
        sums = torch.stack([*(self._sums[name] for name in names), self._finite])
        *values, finite = self._world.sum(sums).tolist()
        steps = finite / self._world.size
        return [value / steps if steps else float("nan") for value in values]
