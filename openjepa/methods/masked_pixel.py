"""Masked pixel prediction: MAE (2111.06377) and VideoMAE (2203.12602), the baselines that predict in pixel space.

Visible patches (and a class token) are encoded; a decoder with mask tokens at the hidden places predicts the pixels of
every hidden patch, each patch normalised by its own mean and deviation; the loss is their squared error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openjepa.config.schema import Recipe
from openjepa.errors import ConfigError
from openjepa.methods.base import Method, Panel
from openjepa.methods.masked_latent import cheats, join_contexts, stack_targets, tile_rows, weigh_pairs
from openjepa.models import PixelDecoder, build_predictor
from openjepa.models.transformer import gather_tokens
from openjepa.objectives import distance, elements_per_token, masked_sum, patchify, pixel_target
from openjepa.types import Batch, Ids, MaskGroup, Output, Progress


class MaskedPixel(Method):
    """MAE and its variants: any mask family, any per-token distance, normalised or plain pixels.

    Raises:
        ConfigError: the recipe asks for something that pixel targets do not have.
    """

    predictor: PixelDecoder

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        _check(recipe)
        predictor = build_predictor(recipe.predictor, self.online, recipe.model)
        assert isinstance(predictor, PixelDecoder)
        self.predictor = predictor
        self._finish()

    @property
    def batch_statistics(self) -> bool:
        """Never: every hidden patch counts for itself."""
        return False

    def count(self, masks: Sequence[MaskGroup], rows: int) -> float:
        """Supervised elements: hidden patches × paired contexts × elements the distance has per patch."""
        tokens = sum(group.targets[j].count() for group in masks for _, j in group.pairs)
        values = self.predictor.predictor_proj.out_features
        return float(tokens * elements_per_token(self.recipe.objective, values))

    def targets(self, images: Tensor) -> Tensor:
        """What is to be predicted of normalised images or clips: ``(B, N, V)`` float32 pixels of each token, no gradient."""
        with torch.no_grad():
            normalised = self.recipe.target.transform != "none"
            if not self.online.video:
                return pixel_target(patchify(images, self.online.patch_size[0]), normalised=normalised)
            tubelet = self.online.tubelet_size
            clips = images if images.ndim == 5 else images[:, :, None].expand(-1, -1, tubelet, -1, -1)
            patches = patchify(clips, self.online.patch_size[0], tubelet)
            return pixel_target(patches, normalised=normalised, channels=self.online.channels)

    def predict(self, images: Tensor, group: MaskGroup) -> tuple[Tensor, Ids]:
        """Encode the visible patches and decode the hidden ones.

        Returns:
            predictions ``(R·B, K, p·p·C)`` and their ids.
        """
        seen = [self.online.forward_features(images, keep=ids, prefix=True) for ids in group.contexts]
        query = stack_targets(group)
        return self.predictor.predict(join_contexts(seen, group), query, complement=group.complement), query

    def forward(
        self, batch: Batch, masks: Sequence[MaskGroup], progress: Progress, count: float | None = None
    ) -> Output:
        """Loss of one micro-batch; see :meth:`Method.forward`."""
        total = torch.zeros((), device=batch.ids.device)
        if count is None:
            count = self.count(masks, len(batch))
        for group in masks:
            images = batch.inputs[group.group]
            prediction, query = self.predict(images, group)
            total = total + self._compare(prediction, self.targets(images), query, group)
        return Output(self.recipe.objective.weight * total, count, {"prediction": total.detach() / count})

    def _compare(self, prediction: Tensor, full: Tensor, query: Ids, group: MaskGroup) -> Tensor:
        """Summed distance of ``(R·B, K, V)`` predictions to the queried ones of all targets ``(B, N, V)``."""
        target = gather_tokens(tile_rows(full, query), query.index)
        elements = distance(self.recipe.objective, prediction, target, query.valid)
        return masked_sum(weigh_pairs(elements, group), query.valid)

    @torch.no_grad()
    def panel(self, batch: Batch, masks: Sequence[MaskGroup]) -> Panel:
        """Measure predictions against cheats in pixel space on a fixed batch of at least two images."""
        group = masks[0]
        images = batch.inputs[group.group]
        full = self.targets(images)
        prediction, query = self.predict(images, group)
        elements = self.count([group], len(images))
        valid = torch.ones_like(query.index, dtype=torch.bool) if query.valid is None else query.valid
        features = self.online.forward_features(images).float().mean(dim=1)
        guesses = cheats(full, query, group)
        return Panel(
            loss=self._compare(prediction, full, query, group) / elements,
            cheats={name: self._compare(guess, full, query, group) / elements for name, guess in guesses.items()},
            prediction_std=prediction.float()[valid].std(dim=0).mean(),
            target_std=full.flatten(0, 1).std(dim=0).mean(),
            features=features,
            online_features=features,
        )


def _check(recipe: Recipe) -> None:
    """Raise ConfigError, in one line, for parts that pixel targets do not have."""
    objective = recipe.objective
    wrong = {
        "target.layers above 1": recipe.target.layers > 1,
        "target.transform=centred": recipe.target.transform == "centred",
        "objective.granularity=block": objective.granularity == "block",
        "objective.pooled": objective.pooled > 0,
        "objective.variance": objective.variance > 0,
        "objective.regularisers": bool(objective.regularisers),
    }
    asked = [name for name, used in wrong.items() if used]
    if asked:
        raise ConfigError(f"method masked_pixel predicts the pixels of each patch and has no {' and no '.join(asked)}")
