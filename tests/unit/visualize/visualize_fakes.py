"""Small stand-ins behind the same protocols, and run directories with plausible numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openjepa.errors import DataError
from openjepa.types import Ids

RECIPE = {
    "name": "ijepa-tiny",
    "data": {"source": "scenes", "image_size": 32, "scenes_count": 60},
    "mask": {"min_keep": 4},
    "model": {"arch": None, "dim": 32, "depth": 1, "heads": 2, "patch_size": 8},
    "predictor": {"dim": 16, "depth": 1},
}

VIDEO_RECIPE = {
    "name": "vjepa-tiny",
    "system": "vjepa",
    "data": {"source": "scenes", "image_size": 32, "scenes_count": 40, "clip": {"frames": 8, "stride": 2}},
    "mask": {"kind": "tubes"},
    "model": {"arch": None, "dim": 32, "depth": 2, "heads": 2, "patch_size": 8, "positions": "sincos3d"},
    "predictor": {"dim": 16, "depth": 1, "heads": 2, "mask_tokens": 2},
    "objective": {"kind": "l1"},
}


def ids_of(rows: list[list[int]]) -> Ids:
    """Token ids of each row, padded to the longest."""
    longest = max(map(len, rows))
    index = torch.tensor([row + row[:1] * (longest - len(row)) for row in rows])
    valid = torch.tensor([[k < len(row) for k in range(longest)] for row in rows])
    return Ids(index, None if valid.all() else valid)


class PatchMeans(nn.Module):
    """An encoder whose token is the mean colour of its patch and its square: exact to reason about."""

    def __init__(self, patch: int = 4, extra: int = 0) -> None:
        super().__init__()
        self.patch_size, self.embed_dim, self.extra = (patch, patch), 6, extra

    def forward_features(self, x: Tensor, keep: Any = None) -> Tensor:
        means = nn.functional.avg_pool2d(x, self.patch_size).flatten(2).transpose(1, 2)  # (B, N, C)
        tokens = torch.cat([means, means**2], dim=-1)
        return torch.cat([tokens[:, : self.extra], tokens], dim=1)


class Scale(nn.Module):
    """uint8 to 0..1."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float() / 255 if x.dtype == torch.uint8 else x


class ListSource:
    """Images in memory; ``broken`` indices cannot be read."""

    def __init__(
        self,
        images: list[Tensor],
        labels: list[int] | None = None,
        classes: list[str] | None = None,
        broken: tuple[int, ...] = (),
    ):
        self.images, self.labels, self.classes, self.broken, self.name = images, labels, classes, broken, "list"

    def __len__(self) -> int:
        return len(self.images)

    def label(self, index: int) -> int:
        return -1 if self.labels is None else self.labels[index]

    def item_id(self, index: int) -> str:
        return f"item {index}"

    def read(self, index: int) -> Tensor:
        if index in self.broken:
            raise DataError(f"item {index} is truncated")
        return self.images[index]

    def fingerprint(self) -> str:
        return "list"


def metric_rows(last: int = 400, every: int = 20, verdict: str = "healthy") -> list[dict[str, Any]]:
    """Rows as training writes them."""
    rows = []
    for step in [0, 1, *range(every, last + 1, every)]:
        t = step / 400
        loss = 0.12 + 0.3 * math.exp(-6 * t)
        rows.append(
            {
                "step": step, "epoch": step / 100, "samples": step * 64, "loss": loss, "terms": {"prediction": loss},
                "lr": 1e-3, "weight_decay": 0.04, "momentum": 0.99 + 0.01 * t, "skipped_updates": 0, "time": 1e9 + step,
                "grad_norm": {"encoder": 0.3, "predictor": 0.1, "total": 0.32}, "images_per_s": 100.0,
                "health": {
                    "target_std": 0.9, "prediction_std": 0.5, "feature_std": 0.4, "rankme": 20 + 40 * t,
                    "rankme_share": 0.2 + 0.4 * t,
                    "mean_cosine": 0.5, "loss_on_panel": loss, "context_share": 0.5, "context_kept": 1.0,
                    "total_steps": 400,
                    "cheats": {"mean_target": 0.4, "copy_nearest": 0.3, "position_only": None}, "verdict": verdict,
                },
            }
        )  # fmt: skip
    return rows


def score(subject: str, name: str, value: float, half: float = 0.02) -> dict[str, Any]:
    """A score as ``openjepa.evaluation`` writes it."""
    return {
        "name": name, "value": value, "n_train": 1000, "n_val": 200, "subject": subject,
        "protocol": {"k": 20}, "seed": 0,
        "classes": ["a", "b"], "per_class": {"a": 0.9}, "interval": [value - half, value + half],
    }  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
