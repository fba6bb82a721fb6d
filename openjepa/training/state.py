"""Run state: everything a run needs to go on as if it had never stopped, and nothing else.

Saved: weights (online, predictor, target), optimizer moments by parameter name, the generators of Python, NumPy, torch
and CUDA, and the loop's own numbers. Order, masks and augmentation are pure functions of the step and need no state.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openjepa.data.seeds import mix
from openjepa.errors import CheckpointError, RunError
from openjepa.training.engine import Engine


@dataclass
class LoopState:
    """Where the loop stands.

    step: finished updates (skipped ones count). samples: images seen. total, batch, images: the plan it was made for.
    fingerprint: identity of the data. skipped, skipped_in_row: updates left out. lr_factor: below 1 after a rollback.
    rollbacks: how many there were. bad: unreadable files. history: the rows the verdict needs when metrics are lost.
    meter: the open window of means. seconds: training time of all sessions, panels and probes left out.
    padded: videos shorter than their clip. scaler: loss scale of fp16. micro: rows per forward pass, kept because free
    memory may differ when the run goes on.
    """

    step: int = 0
    samples: int = 0
    total: int = 0
    batch: int = 0
    images: int = 0
    fingerprint: str = ""
    skipped: int = 0
    skipped_in_row: int = 0
    lr_factor: float = 1.0
    rollbacks: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    meter: dict[str, Any] | None = None
    seconds: float = 0.0
    scaler: dict[str, Any] | None = None
    micro: int = 0
    padded: dict[str, int] = field(default_factory=dict)

    def pack(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return asdict(self)

    @classmethod
    def unpack(cls, state: Mapping[str, Any]) -> LoopState:
        """Back from a checkpoint. Raises CheckpointError when it is of another version."""
        try:
            return cls(**state)
        except TypeError as error:
            raise CheckpointError(f"the checkpoint's loop state is of another version of openjepa ({error})") from error

    def check_data(self, images: int, fingerprint: str, batch: int, unit: str = "images") -> list[str]:
        """Refuse to go on with other data; returns a warning when files merely changed.

        Raises:
            RunError: another number of images or another batch, so the order of samples would be another.
        """
        if images != self.images or batch != self.batch:
            raise RunError(
                f"the run was started on {self.images} {unit} in batches of {self.batch}, now there are {images} in batches of {batch}: "
                "its order of samples would change; start a new run with --init"
            )
        if fingerprint != self.fingerprint:
            return [
                "the data has changed since the last checkpoint (names, sizes or times of files): the run goes on with it"
            ]
        return []


def gather_model(engine: Engine) -> dict[str, Tensor]:
    """Whole weights by name; every process must call when they are sharded."""
    return {name: engine.whole(value) for name, value in engine.method.state_dict().items()}


def spread_model(engine: Engine, saved: Mapping[str, Tensor]) -> None:
    """Put whole weights back into a method that may be sharded already (a rollback)."""
    mine = engine.method.state_dict()
    if mine.keys() != saved.keys():
        raise CheckpointError("the checkpoint's weights do not fit the model")
    with torch.no_grad():
        for name, value in mine.items():
            value.copy_(_like(saved[name], value))


def gather_optimizer(engine: Engine, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimizer moments as ``<parameter name>/<moment>``, the same whatever the strategy."""
    out: dict[str, Tensor] = {}
    for name, parameter in engine.method.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            out[f"{name}/{moment}"] = engine.whole(value)
    return out


def restore_optimizer(engine: Engine, optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Put saved moments back, spread as their parameters are.

    Raises:
        CheckpointError: moments of parameters this method does not have, or missing ones.
    """
    names = {name: p for name, p in engine.method.named_parameters() if p.requires_grad}
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in saved.items():
        name, _, moment = key.rpartition("/")
        found.setdefault(name, {})[moment] = value
    if saved and found.keys() != names.keys():
        odd = sorted(found.keys() ^ names.keys())[0]
        raise CheckpointError(f"the checkpoint's optimizer state does not fit the model: '{odd}' is on one side only")
    for name, moments in found.items():
        parameter = names[name]
        optimizer.state[parameter] = {moment: _like(value, parameter) for moment, value in moments.items()}


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """``value`` on the parameter's device, sharded like it; step counters stay whole."""
    placements = getattr(parameter, "placements", None)
    if value.ndim == 0 or placements is None:
        # A fresh allocation: memory maps and slices may be aligned otherwise, and then sums differ in the last digit.
        return torch.empty_like(value, device=parameter.device).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, placements)  # type: ignore[attr-defined]


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generators() -> dict[str, Any]:
    """States of all global generators as plain data."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_generators(state: Mapping[str, Any]) -> None:
    """Set all global generators; CUDA only where the number of devices is the same."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step (stochastic depth): what a step draws depends on nothing that happened before it."""
    torch.manual_seed(mix(seed, step, rank) >> 1)
