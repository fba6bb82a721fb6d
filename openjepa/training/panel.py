"""The health panel: what is measured on a fixed set of training images with fixed masks (DESIGN §4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from openjepa.config import Recipe
from openjepa.data import EvalTransform, Normalise, Source, Subset, read_batches
from openjepa.errors import DataError
from openjepa.features import feature_std, mean_cosine, rankme
from openjepa.masking import build_masker
from openjepa.training.engine import Engine
from openjepa.types import Batch, MaskGroup

# The panel's masks are those of an epoch no run reaches, so that no training batch shares them.
PANEL_EPOCH = 1 << 30


class HealthPanel:
    """Measures a method on ``log.health_samples`` training images, spread evenly over the source, seen as in evaluation."""

    def __init__(self, recipe: Recipe, source: Source, engine: Engine, normalise: Normalise) -> None:
        self._engine, self._normalise = engine, normalise
        wanted = min(recipe.log.health_samples, len(source))
        indices = [len(source) * i // wanted for i in range(wanted)]
        bad: dict[str, str] = {}
        batches = list(
            read_batches(Subset(source, indices), EvalTransform(recipe.data), batch_size=wanted, workers=0, bad=bad)
        )
        if not batches:
            name, reason = next(iter(bad.items()), ("the source", "it is empty"))
            raise DataError(f"none of {wanted} sampled images can be read; {name}: {reason}")
        self.batch: Batch = batches[0].to(engine.device)
        masks = build_masker(recipe.mask, recipe.grid, recipe.seed)(
            torch.arange(len(self.batch)), epoch=PANEL_EPOCH, step=0
        )
        self.stats: Mapping[str, float] = masks.stats
        self._masks: list[MaskGroup] = [masks.to(engine.device)]

    @torch.no_grad()
    def measure(self) -> dict[str, Any]:
        """The ``health`` part of a row, but for the verdict. Every process must call (sharded weights are gathered)."""
        method = self._engine.method
        inputs = {name: self._normalise(value) for name, value in self.batch.inputs.items()}
        batch = Batch(inputs, self.batch.ids, self.batch.places)
        method.eval()
        try:
            with self._engine.autocast():
                panel = method.panel(batch, self._masks)
        finally:
            method.train()
        features = panel.features.float().cpu()
        numbers = {name: float(value) for name, value in panel.cheats.items()}
        samples, width = features.shape
        return {
            "target_std": float(panel.target_std),
            "prediction_std": float(panel.prediction_std),
            **rank_numbers(features),
            "cheats": numbers,
            "loss_on_panel": None if panel.loss is None else float(panel.loss),
            "online_rankme": rank_numbers(panel.online_features.float().cpu())["rankme"],
            "samples": samples,
            "width": width,
        }


def rank_numbers(features: Tensor) -> dict[str, float]:
    """Spread of mean-pooled features ``(N, D)``; NaN where they are not finite or fewer than two.

    ``rankme_share`` is the effective rank over the largest one possible for N samples of D channels.
    """
    samples, width = features.shape
    if samples < 2 or not bool(torch.isfinite(features).all()):
        return dict.fromkeys(("feature_std", "rankme", "rankme_share", "mean_cosine"), math.nan)
    rank = rankme(features)
    return {
        "feature_std": feature_std(features),
        "rankme": rank,
        "rankme_share": rank / min(samples, width),
        "mean_cosine": mean_cosine(features),
    }
