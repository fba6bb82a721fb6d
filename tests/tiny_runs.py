"""A run so small that a step takes milliseconds, on generated images: what the tests of training and of faults share."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openjepa.config import Recipe, build_recipe
from openjepa.hub.checkpoint import load_last
from openjepa.training import read_rows

# What may differ between two runs of the same numbers: clocks.
CLOCKS = ("time", "seconds", "images_per_s", "data_share", "host_share", "panel_share")


class Generated:
    """``count`` seeded images of 24 × 24: a coloured ramp with noise, so that there is something to learn."""

    name = "generated"
    classes: list[str] | None = None

    def __init__(self, count: int = 40, seed: int = 0, channels: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)
        ramp = torch.linspace(0, 160, 24)
        tilt = torch.rand(count, channels, 2, generator=generator)
        images = tilt[..., :1, None] * ramp[:, None] + tilt[..., 1:, None] * ramp
        self.images = (images + 60 * torch.rand(count, channels, 24, 24, generator=generator)).clamp(0, 255).byte()

    def __len__(self) -> int:
        return len(self.images)

    def label(self, index: int) -> int:
        return -1

    def item_id(self, index: int) -> str:
        return f"generated/{index:03d}"

    def read(self, index: int) -> Tensor:
        return self.images[index].clone()

    def fingerprint(self) -> str:
        return f"generated {len(self)}"


def tiny_recipe(*overrides: str) -> Recipe:
    """Width 16, two blocks, a 4 × 4 grid, float32, no TensorBoard."""
    raw: dict[str, Any] = {
        "name": "tiny-test",
        "data": {"image_size": 16, "workers": 0, "cache": "none"},
        "mask": {"kind": "multiblock", "targets": 2, "min_keep": 2},
        "model": {"arch": None, "dim": 16, "depth": 2, "heads": 2, "patch_size": 4},
        "predictor": {"dim": 12, "depth": 1, "heads": 1},
        "train": {"length": "12 steps", "batch_size": 8, "precision": "fp32", "device": "cpu"},
        "log": {"every": "3 steps", "health_samples": 24, "tensorboard": False},
        "checkpoint": {"every": "4 steps"},
        "probe": {"every": None},
    }
    return build_recipe(raw, overrides)


def numbers(run: Path) -> list[dict[str, Any]]:
    """Rows of a run without clocks."""
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in read_rows(run / "metrics.jsonl")]


def saved_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Every tensor of the newest checkpoint by ``part/name``, and the loop's state without clocks."""
    found = load_last(run / "checkpoints")
    tensors = {f"{part}/{name}": value for part, table in found.tensors.items() for name, value in table.items()}
    loop = {key: value for key, value in found.states["loop"].items() if key not in ("seconds", "history")}
    return tensors, loop


def differences(a: Path, b: Path) -> list[str]:
    """What is not equal bit for bit between the newest checkpoints and the rows of two runs."""
    (left, left_loop), (right, right_loop) = saved_state(a), saved_state(b)
    wrong = sorted(left.keys() ^ right.keys())
    wrong += [name for name in left.keys() & right.keys() if not torch.equal(left[name], right[name])]
    wrong += [f"loop/{key}" for key in left_loop if left_loop[key] != right_loop[key]]
    if numbers(a) != numbers(b):
        wrong.append("metrics rows")
    return wrong


def largest_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Largest absolute difference over tensors of the same names."""
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def in_child(work: Callable[[], None]) -> int:
    """Fork, run ``work`` in the child (exit code 1 on an exception), return its process id."""
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work()
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)
