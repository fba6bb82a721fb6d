"""Masked latent prediction: the sentence every JEPA is (DESIGN §1), here for one encoder, one predictor, one EMA target.

I-JEPA (2301.08243): target h = LN(θ̄(x)); context z = θ(visible patches of x); prediction ẑ = φ(z, positions of the
hidden patches); loss = Σ smooth-L1(ẑ, h at those positions) over blocks, tokens and channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openjepa.config.schema import Recipe, RegulariserConfig
from openjepa.models import build_encoder, build_predictor, make_target, update_ema
from openjepa.models.predictor import NarrowPredictor
from openjepa.models.transformer import gather_tokens
from openjepa.models.vit import VisionTransformer
from openjepa.objectives import distance, masked_sum, sigreg, standardise, transform_target, variance, vicreg
from openjepa.types import Batch, Ids, MaskGroup, Output, Progress, Tokens


@dataclass(frozen=True)
class Panel:
    """What the health panel measures on one fixed batch; scalars unless a shape is given.

    loss: prediction loss per element. cheats: loss per element of predictions that need no understanding.
    prediction_std, target_std: deviation over tokens, averaged over channels. features: ``(B, D)`` mean-pooled target
    encoder output; online_features: the same of the online encoder.
    """

    loss: Tensor
    cheats: Mapping[str, Tensor]
    prediction_std: Tensor
    target_std: Tensor
    features: Tensor
    online_features: Tensor


def stack_targets(group: MaskGroup, batch: int) -> Ids:
    """All paired target ids of a group as one query ``(R·B, K)``: target-major, inside each by context (official.md §2.1).

    Ids of different lengths are padded with a validity mask.
    """
    targets = [
        group.targets[j] for j in range(len(group.targets)) for i in range(len(group.contexts)) if (i, j) in group.pairs
    ]
    longest = max(t.index.shape[1] for t in targets)
    if all(t.valid is None and t.index.shape[1] == longest for t in targets):
        return Ids(torch.cat([t.index for t in targets]))
    index, valid = [], []
    for t in targets:
        short = longest - t.index.shape[1]
        seen = torch.ones_like(t.index, dtype=torch.bool) if t.valid is None else t.valid
        index.append(torch.nn.functional.pad(t.index, (0, short), value=0))
        valid.append(torch.nn.functional.pad(seen, (0, short), value=False))
    return Ids(torch.cat(index), torch.cat(valid))


class MaskedLatent(nn.Module):
    """I-JEPA and its kin. ``online`` and ``predictor`` learn; ``target`` is the slow average and what is deployed."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        model = recipe.model
        self.online: VisionTransformer = build_encoder(model, recipe.image_hw, recipe.data.channels)
        self.predictor: NarrowPredictor = build_predictor(
            recipe.predictor,
            embed_dim=self.online.embed_dim,
            heads=self.online.heads,
            grid=self.online.grid,
            position_order=model.position_order,
            init=model.init,
        )
        self.target = make_target(self.online)
        self.pooled_head = _pooled_head(self.online.embed_dim) if recipe.objective.pooled > 0 else None
        if recipe.train.activation_checkpointing:
            self.online.set_grad_checkpointing()

    @property
    def encoder(self) -> nn.Module:
        """The deployable encoder: the EMA target."""
        return self.target

    @property
    def batch_statistics(self) -> bool:
        """Whether the loss depends on which samples share a micro-batch (then accumulation is not exact)."""
        objective = self.recipe.objective
        terms = [objective.pooled, *(term.weight for term in objective.regularisers)]
        return any(weight > 0 for weight in terms) or self.recipe.target.transform == "centred"

    def train(self, mode: bool = True) -> MaskedLatent:
        """Training mode for what learns; the target always runs as it will be deployed."""
        super().train(mode)
        self.target.eval()
        return self

    def count(self, masks: Sequence[MaskGroup]) -> float:
        """Supervised elements of a batch: valid target tokens × paired contexts × D. A host number; CPU ids only."""
        tokens = sum(group.targets[j].count() for group in masks for _, j in group.pairs)
        return float(tokens * self.online.embed_dim)

    def targets(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` → transformed target features ``(B, N, D)`` float32, without gradient."""
        with torch.no_grad():
            return transform_target(self.target.forward_features(images), self.recipe.target.transform)

    def predict(self, images: Tensor, group: MaskGroup) -> tuple[Tensor, Ids, Tensor]:
        """Encode the visible patches and predict the hidden ones, all blocks in one predictor call.

        Returns:
            predictions ``(R·B, K, D)``, their ids, and the context tokens ``(B·contexts, K_c, D)``.
        """
        seen = [self.online.forward_features(images, keep=ids) for ids in group.contexts]
        query = stack_targets(group, len(images))
        context = Tokens(seen[0], group.grid, group.contexts[0]) if len(seen) == 1 else _stack_contexts(seen, group)
        return self.predictor.predict(context, query), query, context.values

    def forward(
        self, batch: Batch, masks: Sequence[MaskGroup], progress: Progress, count: float | None = None
    ) -> Output:
        """Loss of one micro-batch.

        Args:
            batch: normalised inputs on the device. masks: its mask groups on the device.
            progress: where the run is (seeds SIGReg's directions). count: supervised elements of this micro-batch, as
                :meth:`count` says; given by the loop so that nothing is read back from the device.

        Returns:
            The summed loss, its element count, and detached terms per element.
        """
        objective = self.recipe.objective
        total = torch.zeros((), device=batch.ids.device)
        if count is None:
            count = self.count(masks)
        terms: dict[str, Tensor] = {}
        for group in masks:
            images = batch.inputs[group.group]
            prediction, query, context = self.predict(images, group)
            with torch.no_grad():
                raw = self.target.forward_features(images)  # (B, N, D)
            full = transform_target(raw, self.recipe.target.transform)
            target = gather_tokens(_tile(full, query), query.index)
            loss = masked_sum(distance(objective, prediction, target), query.valid)
            terms["prediction"] = terms.get("prediction", 0.0) + loss.detach() / count
            total = total + objective.weight * loss
            for name, weight, value in self._batch_terms(context, group, raw, progress):
                terms[name] = terms.get(name, 0.0) + value.detach() / len(masks)
                total = total + weight * value * (count / len(masks))
        return Output(total, count, terms)

    def _batch_terms(
        self, context: Tensor, group: MaskGroup, raw: Tensor, progress: Progress
    ) -> Iterator[tuple[str, float, Tensor]]:
        """Name, weight and value of every term with batch statistics, on mean-pooled context features ``(B', D)``."""
        objective = self.recipe.objective
        if self.pooled_head is None and not objective.regularisers:
            return
        pooled = _mean_tokens(context, group.contexts[0] if len(group.contexts) == 1 else None)
        if self.pooled_head is not None:
            answer = standardise(raw.float().mean(dim=1)).repeat(len(group.contexts), 1)
            yield "pooled", objective.pooled, (self.pooled_head(pooled).float() - answer).square().mean()
        for term in objective.regularisers:
            yield term.kind, term.weight, _regularise(term, pooled, progress)

    def after_step(self, momentum: float | Tensor) -> None:
        """Move the target towards the online encoder, after the optimizer's update (a device scalar: no host read)."""
        update_ema(self.target, self.online, momentum)

    @torch.no_grad()
    def panel(self, batch: Batch, masks: Sequence[MaskGroup]) -> Panel:
        """Measure predictions against cheats on a fixed batch of at least two images (see :class:`Panel`).

        ``mean_target`` predicts the mean target of the batch; ``position_only`` the mean over the *other* images at the
        same position; ``copy_nearest`` copies the target feature of the visible token nearest to the hidden one.
        """
        group = masks[0]
        images = batch.inputs[group.group]
        raw = self.target.forward_features(images)
        full = transform_target(raw, self.recipe.target.transform)  # (B, N, D)
        prediction, query, _ = self.predict(images, group)
        tiled = _tile(full, query)
        target = gather_tokens(tiled, query.index)
        others = (full.sum(dim=0) - full) / max(len(full) - 1, 1)  # mean over the other images, per position
        nearest = _nearest_context(query, group.contexts[0], group.grid)
        guesses = {
            "mean_target": full.mean(dim=(0, 1)).expand_as(target),
            "position_only": gather_tokens(_tile(others, query), query.index),
            "copy_nearest": gather_tokens(tiled, nearest),
        }
        valid = torch.ones_like(query.index, dtype=torch.bool) if query.valid is None else query.valid
        elements = valid.sum() * target.shape[-1]

        def loss(guess: Tensor) -> Tensor:
            return masked_sum(distance(self.recipe.objective, guess, target), query.valid) / elements

        return Panel(
            loss=loss(prediction),
            cheats={name: loss(guess) for name, guess in guesses.items()},
            prediction_std=prediction.float()[valid].std(dim=0).mean(),
            target_std=raw.float().flatten(0, 1).std(dim=0).mean(),
            features=raw.float().mean(dim=1),
            online_features=self.online.forward_features(images).float().mean(dim=1),
        )


def _tile(features: Tensor, query: Ids) -> Tensor:
    """Repeat ``(B, N, D)`` to the rows of a stacked query ``(R·B, K)`` without copying when R is 1."""
    repeats = len(query.index) // len(features)
    return features if repeats == 1 else features.repeat(repeats, 1, 1)


def _stack_contexts(seen: list[Tensor], group: MaskGroup) -> Tokens:
    """Several contexts of one image along the batch axis, padded to the longest."""
    longest = max(z.shape[1] for z in seen)
    values, index, valid = [], [], []
    for z, ids in zip(seen, group.contexts, strict=True):
        short = longest - z.shape[1]
        values.append(torch.nn.functional.pad(z, (0, 0, 0, short)))
        index.append(torch.nn.functional.pad(ids.index, (0, short), value=0))
        mask = torch.ones_like(ids.index, dtype=torch.bool) if ids.valid is None else ids.valid
        valid.append(torch.nn.functional.pad(mask, (0, short), value=False))
    return Tokens(torch.cat(values), group.grid, Ids(torch.cat(index), torch.cat(valid)))


def _mean_tokens(context: Tensor, ids: Ids | None) -> Tensor:
    """Mean over valid context tokens: ``(B, K, D)`` → ``(B, D)`` float32."""
    context = context.float()
    if ids is None or ids.valid is None:
        return context.mean(dim=1)
    weight = ids.valid[..., None].float()
    return (context * weight).sum(dim=1) / weight.sum(dim=1)


def _pooled_head(dim: int) -> nn.Sequential:
    """Two layers that turn the mean context feature into a guess of the mean target feature."""
    first, second = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
    for layer in (first, second):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.GELU(), second)


def _regularise(term: RegulariserConfig, z: Tensor, progress: Progress) -> Tensor:
    """A recipe's regulariser of ``z (B, D)`` float32."""
    if term.kind == "sigreg":
        return sigreg(z, seed=progress.step)
    return variance(z) if term.kind == "variance" else vicreg(z, term.covariance)


def _nearest_context(query: Ids, context: Ids, grid: tuple[int, ...]) -> Tensor:
    """For every queried token the id of the visible token nearest in the grid: ``(R·B, K)``."""
    width = grid[1]
    repeats = len(query.index) // len(context.index)
    seen = context.index.repeat(repeats, 1)  # (R·B, K_c)
    rows = (query.index // width)[..., None] - (seen // width)[:, None]
    columns = (query.index % width)[..., None] - (seen % width)[:, None]
    apart = (rows.square() + columns.square()).float()
    if context.valid is not None:
        apart = apart.masked_fill(~context.valid.repeat(repeats, 1)[:, None], float("inf"))
    return seen.gather(1, apart.argmin(dim=-1))
