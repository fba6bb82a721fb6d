"""The health panel: what is measured on a fixed set of training images with fixed masks (DESIGN §4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from openjepa.config import Recipe
from openjepa.data import Normalise, Source, Subset, read_batches
from openjepa.errors import DataError
from openjepa.models import VisionTransformer
from openjepa.training.depth import layer_numbers, rank_numbers, view_lidar
from openjepa.training.engine import Engine
from openjepa.training.lanes import Lane, weigh
from openjepa.types import Batch, MaskGroup

# The panel's masks are those of an epoch no run reaches, so that no training batch shares them.
PANEL_EPOCH = 1 << 30
MOST_TOKENS = 1 << 16  # of a panel of clips: 256 images of 16 × 16 patches
AT_ONCE = 8  # clips whose features of every block are held
FEWEST = 32  # clips, whatever they cost: below, ranks and deviations mean little


class HealthPanel:
    """Measures a method on ``log.health_samples`` training samples, spread evenly over the source, seen as in evaluation.

    With several lanes the first is measured. Of clips there are fewer where so many would not fit: as many as have the
    tokens of some hundred large images, and at least :data:`FEWEST`.
    """

    def __init__(self, recipe: Recipe, lane: Lane, source: Source, engine: Engine, normalise: Normalise) -> None:
        self._engine, self._normalise = engine, normalise
        wanted = min(recipe.log.health_samples, len(source))
        if recipe.video:
            wanted = min(wanted, max(MOST_TOKENS // lane.tokens, FEWEST))
        indices = [len(source) * i // wanted for i in range(wanted)]
        seen, transform = lane.judging(source)
        bad: dict[str, str] = {}
        batches = list(read_batches(Subset(seen, indices), transform, batch_size=wanted, workers=0, bad=bad))
        if not batches:
            name, reason = next(iter(bad.items()), ("the source", "it is empty"))
            raise DataError(f"none of {wanted} sampled {lane.unit} can be read; {name}: {reason}")
        self.batch: Batch = batches[0].to(engine.device)
        masks = lane.masker(recipe)(torch.arange(len(self.batch)), PANEL_EPOCH, 0)
        if recipe.objective.reduction == "pair":
            (masks,) = weigh([masks], engine.method.count)
        self.stats: Mapping[str, float] = masks.stats
        self._masks: list[MaskGroup] = [masks.to(engine.device)]

    @torch.no_grad()
    def measure(self, deep: bool = True) -> dict[str, Any]:
        """The ``health`` part of a row, but for the verdict. Every process must call (sharded weights are gathered).

        deep: also look at every block and at views of the same images (:mod:`openjepa.training.depth`).
        """
        method = self._engine.method
        inputs = {name: self._normalise(value) for name, value in self.batch.inputs.items()}
        batch = Batch(inputs, self.batch.ids, self.batch.places)
        method.eval()
        try:
            with self._engine.autocast():
                panel = method.panel(batch, self._masks)
                more = self._deep(next(iter(inputs.values()))) if deep else {}
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
            **more,
        }

    def _deep(self, images: Tensor) -> dict[str, Any]:
        """LiDAR, and numbers of every block of the deployed encoder."""
        encoder = self._engine.method.encoder
        return {
            "lidar": view_lidar(encoder, images),
            "layers": layer_numbers(_layers(encoder, images)),
        }


def _layers(encoder: VisionTransformer, inputs: Tensor) -> list[Tensor]:
    """Output of every block: ``(B, N, D)`` of images; of clips, few at a time, the mean over tokens ``(B, 1, D)``."""
    if inputs.ndim < 5:
        return encoder.forward_intermediates(inputs, norm="none")
    parts = [
        [tap.float().mean(dim=1, keepdim=True) for tap in encoder.forward_intermediates(few, norm="none")]
        for few in inputs.split(AT_ONCE)
    ]
    return [torch.cat(taps) for taps in zip(*parts, strict=True)]
