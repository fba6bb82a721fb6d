"""The update: gradient norms, clipping, the finite guard, the optimizer and the EMA, without waiting for the device.

A gradient that is not finite skips the whole update. On CPU and MPS the host simply looks. On CUDA the fused AdamW is
told through ``found_inf`` (and the EMA through a momentum of 1), and the host reads the flag one step later, when the
device has long moved on. Under DDP and FSDP2 gradients are reduced before they are judged, so all processes agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openjepa.config import Recipe
from openjepa.errors import TrainingError
from openjepa.optim import build_optimizer, set_schedule
from openjepa.training.engine import Engine


@dataclass
class Skips:
    """Updates left out because a gradient was not finite: in all, and in a row until now."""

    total: int = 0
    in_row: int = 0


class Updater:
    """Applies gradients. ``norms``: the last step's gradient norms as device scalars (before clipping)."""

    def __init__(self, engine: Engine, recipe: Recipe, *, guard_on_device: bool | None = None) -> None:
        self.engine, self.recipe = engine, recipe
        self.optimizer = build_optimizer(engine.method, recipe.optim)
        self.skips = Skips()
        self.norms: dict[str, Tensor] = {}
        on_device = engine.device.type == "cuda" if guard_on_device is None else guard_on_device
        self._on_device = on_device
        learning = [(name, p) for name, p in engine.method.named_parameters() if p.requires_grad]
        self._parts = {
            "encoder": [p for name, p in learning if name.startswith("online.")],
            "predictor": [p for name, p in learning if not name.startswith("online.")],  # and further heads
        }
        self._bad = torch.zeros(())
        self._unread: tuple[Tensor, torch.cuda.Event | None] | None = None

    def step(self, lr: float, weight_decay: float) -> None:
        """Clip and apply the accumulated gradients, or skip when one of them is not finite; then forget them."""
        set_schedule(self.optimizer, lr, weight_decay)
        scaler = self.engine.scaler
        if scaler.is_enabled():
            scaler.unscale_(self.optimizer)
        self._measure()
        total = self.norms["total"]
        self._bad = ~torch.isfinite(total)
        self._clip(total)
        if self._on_device:
            self.optimizer.found_inf = self._bad.float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not bool(self._bad):
            self.optimizer.step()
        if scaler.is_enabled():
            scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def average(self, momentum: float) -> None:
        """Move the target towards the online encoder, unless the update was skipped."""
        if self._on_device:
            kept = torch.where(self._bad, 1.0, momentum)
            self.engine.method.after_step(kept)
        elif not bool(self._bad):
            self.engine.method.after_step(momentum)

    def count_skips(self) -> None:
        """Count the step's flag; on a device the *previous* step's, which is there already.

        Raises:
            TrainingError: ``health.on_nonfinite`` is stop, or more than ``health.max_skipped`` in a row.
        """
        if not self._on_device:
            self._count(bool(self._bad))
            return
        earlier, self._unread = self._unread, self._send(self._bad)
        self._receive(earlier)

    def flush(self) -> None:
        """Read the flag still under way (before saving, and at the end)."""
        earlier, self._unread = self._unread, None
        self._receive(earlier)

    def _receive(self, sent: tuple[Tensor, torch.cuda.Event | None] | None) -> None:
        if sent is not None:
            flag, event = sent
            if event is not None:
                event.synchronize()
            self._count(bool(flag))

    def _count(self, flag: bool) -> None:
        self.skips.in_row = self.skips.in_row + 1 if flag else 0
        self.skips.total += flag
        health = self.recipe.health
        remedy = "lower optim.lr, set optim.clip=1.0, or use train.precision=fp32"
        if flag and health.on_nonfinite == "stop":
            raise TrainingError(f"a gradient is not finite (health.on_nonfinite is stop): {remedy}")
        if self.skips.in_row > health.max_skipped:
            raise TrainingError(
                f"{self.skips.in_row} updates in a row had gradients that are not finite "
                f"(health.max_skipped is {health.max_skipped}): {remedy}"
            )

    def _send(self, flag: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """Start copying the flag to the host."""
        if flag.device.type != "cuda":
            return flag.clone(), None
        host = torch.empty((), dtype=torch.bool, pin_memory=True)
        host.copy_(flag, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return host, event

    def _measure(self) -> None:
        """Norms of the gradients of the encoder, of predictor and heads, and of all of them."""
        for name, part in self._parts.items():
            self.norms[name] = _norm(part)
        self.norms["total"] = torch.linalg.vector_norm(torch.stack([self.norms[name] for name in self._parts]))

    def _clip(self, total: Tensor) -> None:
        if self.recipe.optim.clip is None:
            return
        grads = [p.grad for p in self.engine.method.parameters() if p.grad is not None]
        scale = (self.recipe.optim.clip / (total + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([g.to_local() if hasattr(g, "to_local") else g for g in grads], scale)


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    """Euclidean norm of all gradients of ``parameters``, a plain device scalar."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(grads)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
