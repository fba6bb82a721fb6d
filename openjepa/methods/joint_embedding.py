"""Joint embedding: views of one image are embedded near each other, and something keeps all images from meeting there.

z_v = projector(mean over patches of encoder(view v)). What keeps images apart is a regulariser of z (VICReg 2105.04906,
LeJEPA 2511.08544), the other images of the batch (SimCLR 2002.05709), or a slow average as the target together with a
prediction head (BYOL 2006.07733).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from openjepa.config.schema import Recipe
from openjepa.methods.base import Method, Panel
from openjepa.models import BatchNorm, Projector, build_predictor, make_target, update_ema
from openjepa.models.vit import VisionTransformer
from openjepa.objectives import all_sum, alone, distance, full_precision, nt_xent, regularise
from openjepa.types import Batch, MaskGroup, Output, Progress


class JointEmbedding(Method):
    """VICReg, BYOL, SimCLR, LeJEPA and their kin; every part is exchangeable by name.

    ``predictor`` holds the projector and, where asked for, the prediction head. With an EMA target ``target`` is the slow
    encoder and ``target_projector`` the slow projector: together the target network.
    """

    predictor: Projector

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        projector = build_predictor(recipe.predictor, self.online, recipe.model)
        assert isinstance(projector, Projector)
        self.predictor = projector
        self._finish()
        self.target_projector: nn.Module | None = None
        if recipe.target.averaged:
            self.target_projector = make_target(projector.project)
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.total = all_sum
        self.names = tuple(recipe.inputs)
        sides = list(recipe.inputs.values())
        largest = max(height * width for height, width in sides)
        self.wholes = [number for number, (height, width) in enumerate(sides) if height * width == largest]

    @property
    def batch_statistics(self) -> bool:
        """Whether the loss depends on which samples share a micro-batch (then accumulation is not exact)."""
        objective, predictor = self.recipe.objective, self.recipe.predictor
        normed = predictor.kind == "projector" and predictor.norm == "batch"
        return normed or objective.kind == "info_nce" or any(term.weight > 0 for term in objective.regularisers)

    @property
    def synchronised(self) -> bool:
        """Batch norm, negatives and regularisers see the rows of all processes."""
        return True

    def count(self, masks: Sequence[MaskGroup], rows: int) -> float:
        """Supervised elements: images. The loss of one is the mean over its pairs of views."""
        return float(rows)

    def parts(self) -> list[nn.Module]:
        """Encoder, projector and both parts of the target."""
        return [*super().parts(), *([] if self.target_projector is None else [self.target_projector])]

    def after_step(self, momentum: float | Tensor) -> None:
        """Move the slow encoder and the slow projector."""
        super().after_step(momentum)
        if self.target_projector is not None:
            update_ema(self.target_projector, self.predictor.project, momentum)

    def after_loading(self) -> None:
        """The slow projector starts where the loaded projector is; a model directory does not keep it."""
        if self.target_projector is not None:
            self.target_projector.load_state_dict(self.predictor.project.state_dict())

    def forward(
        self, batch: Batch, masks: Sequence[MaskGroup], progress: Progress, count: float | None = None
    ) -> Output:
        """Loss of one micro-batch; see :meth:`Method.forward`."""
        rows = float(len(batch))
        projections, predictions, targets = self.embed(batch)
        loss = self._loss(predictions, targets)
        total = self.recipe.objective.weight * loss
        terms = {"prediction": loss.detach() / rows}
        for name, weight, value in self._terms(projections, progress):
            terms[name] = terms.get(name, 0.0) + value.detach()
            total = total + weight * value * rows
        return Output(total, rows, terms)

    def embed(self, batch: Batch) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Projections and predictions of all views, and the targets of the global ones: ``(B, P)`` each."""
        pooled = _pool(self.online, [batch.inputs[name] for name in self.names])
        projections = [self.predictor(features) for features in pooled]
        predictions = [self.predictor.predict(z) for z in projections]
        return projections, predictions, self._targets(batch, projections)

    def _targets(self, batch: Batch, projections: list[Tensor]) -> list[Tensor]:
        """What predictions are compared with ``(B, P)``: one per global view, in the order of ``wholes``."""
        match self.recipe.target.kind:
            case "none":
                return [projections[g] for g in self.wholes]
            case "self":
                return [projections[g].detach() for g in self.wholes]
            case _:
                assert self.target is not None
                assert self.target_projector is not None
                with torch.no_grad():
                    pooled = _pool(self.target, [batch.inputs[self.names[g]] for g in self.wholes])
                    return [self.target_projector(features) for features in pooled]

    def _loss(self, predictions: list[Tensor], targets: list[Tensor]) -> Tensor:
        """Mean over what each image's views are compared with, summed over the images."""
        objective = self.recipe.objective
        if objective.views == "centroid":
            centroid = torch.stack([full_precision(z) for z in targets]).mean(dim=0)
            losses = [self._rows(prediction, centroid) for prediction in predictions]
        elif objective.kind == "info_nce":
            whole = dict(zip(self.wholes, targets, strict=True))
            losses = [
                nt_xent(predictions[v], target, whole[v], objective.temperature)
                for v in self.wholes
                for g, target in whole.items()
                if v != g
            ]
        else:
            losses = [
                self._rows(prediction, target)
                for v, prediction in enumerate(predictions)
                for g, target in zip(self.wholes, targets, strict=True)
                if v != g
            ]
        return torch.stack(losses).mean(dim=0).sum()

    def _rows(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Distance of each row ``(B,)``, averaged over channels where it is one per channel."""
        return distance(self.recipe.objective, prediction[:, None], target[:, None]).flatten(1).mean(dim=1)

    def _terms(self, projections: list[Tensor], progress: Progress) -> Iterator[tuple[str, float, Tensor]]:
        """Name, weight and value of every regulariser over the joint batch: averaged over views, or summed over a pair."""
        for term in self.recipe.objective.regularisers:
            values = torch.stack([regularise(term, z, progress.step) for z in projections])
            yield term.kind, term.weight, values.mean() if term.kind == "sigreg" else 2 * values.mean()

    @torch.no_grad()
    def panel(self, batch: Batch, masks: Sequence[MaskGroup]) -> Panel:
        """Measure fixed views, and the features of the evaluation crop ``batch.inputs["image"]`` (see :class:`Panel`).

        There are no cheats: no prediction of a view is easy without understanding, but for the collapsed one, which
        ``target_std``, ``prediction_std`` and the rank of the features show.
        """
        with alone():  # every process measures the same images
            _, predictions, targets = self.embed(batch)
            loss = self._loss(predictions, targets) / len(batch)
        images = batch.inputs["image"]
        online = self.online.forward_features(images).float().mean(dim=1)
        deployed = self.encoder.forward_features(images).float().mean(dim=1) if self.target is not None else online
        return Panel(
            loss=loss,
            cheats={},
            prediction_std=_deviation(predictions),
            target_std=_deviation(targets),
            features=deployed,
            online_features=online,
        )


def _pool(encoder: VisionTransformer, views: list[Tensor]) -> list[Tensor]:
    """Mean patch feature of each view ``(B, D)`` float32; views of one size share a forward pass."""
    found: dict[int, Tensor] = {}
    for side in dict.fromkeys(view.shape[-2:] for view in views):
        same = [number for number, view in enumerate(views) if view.shape[-2:] == side]
        pooled = full_precision(encoder.forward_features(torch.cat([views[number] for number in same]))).mean(dim=1)
        found.update(zip(same, pooled.chunk(len(same)), strict=True))
    return [found[number] for number in range(len(views))]


def _deviation(views: list[Tensor]) -> Tensor:
    """Deviation over images, averaged over channels and views."""
    return torch.stack([full_precision(z).std(dim=0).mean() for z in views]).mean()
