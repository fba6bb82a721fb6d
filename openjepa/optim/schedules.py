"""Learning-rate, weight-decay and momentum schedules as pure functions of the step (official.md §5.1)."""

from __future__ import annotations

import math

from openjepa.config.schema import OptimConfig, TargetConfig


class Schedule:
    """All schedules of a run. Steps are 0-based here; the published counters start at 1, so step s uses s + 1 inside.

    Args:
        total: optimizer steps of the run; schedules are laid out over ``stretch × total`` of them.
        steps_per_epoch, batch_size: to convert durations.

    Attributes:
        notes: sentences about settings that could not be used as given.
    """

    def __init__(
        self, optim: OptimConfig, target: TargetConfig, *, total: int, steps_per_epoch: int, batch_size: int
    ) -> None:
        self.optim, self.target, self.total = optim, target, total
        self.span = optim.stretch * total
        units = {"total": total, "steps_per_epoch": steps_per_epoch, "batch_size": batch_size}
        self.warmup = optim.warmup.steps(**units)
        self.decay = optim.decay.steps(**units)
        self.notes: list[str] = []
        if self.warmup >= total and total > 1:
            shorter = max(total // 10, 1)
            self.notes.append(
                f"optim.warmup ({optim.warmup} = {self.warmup} steps) is not shorter than the run ({total} steps): "
                f"the learning rate would never peak, so {shorter} warm-up steps are used"
            )
            self.warmup = shorter

    def lr(self, step: int) -> float:
        """Learning rate of update ``step``."""
        o, s = self.optim, step + 1
        if s < self.warmup:
            return o.start_lr + s / self.warmup * (o.lr - o.start_lr)
        if o.schedule == "constant":
            return o.lr
        if o.schedule == "wsd":
            left = (self.total - s) / max(self.decay, 1)
            return o.final_lr + (o.lr - o.final_lr) * min(left, 1.0)
        share = (s - self.warmup) / max(int(self.span) - self.warmup, 1)
        if o.schedule == "linear":  # V-JEPA 2's cooldown: with optim.stretch 1.25 it stops at 80 % of its way
            return o.lr + min(share, 1.0) * (o.final_lr - o.lr)
        return max(o.final_lr, o.final_lr + (o.lr - o.final_lr) * 0.5 * (1 + math.cos(math.pi * share)))

    def weight_decay(self, step: int) -> float:
        """Weight decay of update ``step``: cosine from the first to the final value, or constant."""
        start, final = self.optim.weight_decay, self.optim.final_weight_decay
        if final is None:
            return start
        share = (step + 1) / max(int(self.span), 1)
        value = final + (start - final) * 0.5 * (1 + math.cos(math.pi * share))
        return min(value, final) if final >= start else max(value, final)

    def momentum(self, step: int) -> float:
        """EMA momentum used after update ``step``."""
        first, last = self.target.momentum
        share = min(step / self.span, 1.0) if self.span else 0.0
        if self.target.momentum_schedule == "constant":
            return first
        if self.target.momentum_schedule == "cosine":
            return last - (last - first) * 0.5 * (1 + math.cos(math.pi * share))
        return first + (last - first) * share
