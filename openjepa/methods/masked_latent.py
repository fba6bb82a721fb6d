"""Masked latent prediction: the sentence every JEPA is (DESIGN §1), here for one encoder, one predictor, one target.

I-JEPA (2301.08243): target h = LN(θ̄(x)); context z = θ(visible patches of x); prediction ẑ = φ(z, positions of the
hidden patches); loss = Σ smooth-L1(ẑ, h at those positions) over blocks, tokens and channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from openjepa.config.schema import Recipe
from openjepa.errors import ConfigError
from openjepa.methods.base import Method, Panel
from openjepa.models import NarrowPredictor, TokenHead, build_predictor
from openjepa.models.transformer import gather_tokens
from openjepa.objectives import (
    average_layers,
    block_mean,
    distance,
    elements_per_token,
    masked_sum,
    regularise,
    standardise,
    token_variance,
    transform_target,
)
from openjepa.types import Batch, Ids, MaskGroup, Output, Progress, Tokens


def paired_targets(group: MaskGroup) -> list[Ids]:
    """The target of every pair, in the order of the predictions: target-major, inside each by context (official.md §2.1).

    Contexts and targets are paired all with all, or one to one; ``mask_tokens`` and ``weights`` follow this order.
    """
    everyone = [(i, j) for j in range(len(group.targets)) for i in range(len(group.contexts))]
    each = [(k, k) for k in range(len(group.targets))]
    assert sorted(group.pairs) in (sorted(everyone), each), (
        f"contexts and targets are paired neither way: {group.pairs}"
    )
    return [group.targets[j] for _, j in sorted(group.pairs, key=lambda pair: pair[::-1])]


def stack_targets(group: MaskGroup) -> Ids:
    """All paired target ids of a group as one query ``(R·B, K)``, padded with a validity mask where lengths differ."""
    return _stack(paired_targets(group))


def _stack(parts: list[Ids]) -> Ids:
    """Ids one below the other, the shorter padded."""
    longest = max(t.index.shape[1] for t in parts)
    if all(t.valid is None and t.index.shape[1] == longest for t in parts):
        return Ids(torch.cat([t.index for t in parts]))
    index, valid = [], []
    for t in parts:
        short = longest - t.index.shape[1]
        seen = torch.ones_like(t.index, dtype=torch.bool) if t.valid is None else t.valid
        index.append(torch.nn.functional.pad(t.index, (0, short), value=0))
        valid.append(torch.nn.functional.pad(seen, (0, short), value=False))
    return Ids(torch.cat(index), torch.cat(valid))


def weigh_pairs(elements: Tensor, group: MaskGroup) -> Tensor:
    """Distances ``(R·B, …)`` times the weight of the pair each row belongs to."""
    if not group.weights:
        return elements
    weights = torch.tensor(group.weights, dtype=elements.dtype, device=elements.device)
    return elements * weights.repeat_interleave(len(elements) // len(weights))[:, None, None]


class MaskedLatent(Method):
    """I-JEPA, V-JEPA, V-JEPA 2, data2vec and their kin; every part is exchangeable by name (DESIGN §1).

    Raises:
        ConfigError: the target averages more layers than the encoder has, or predictions are as wide as another
            encoder's features.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        if recipe.target.layers > self.online.depth:
            raise ConfigError(
                f"target.layers {recipe.target.layers} is more than the encoder's {self.online.depth} blocks: "
                f"use {self.online.depth} or less"
            )
        width = recipe.predictor.out_dim if recipe.predictor.kind == "narrow" else None
        if width not in (None, self.online.embed_dim):
            raise ConfigError(
                f"predictor.out_dim {width} is another encoder's width: predictions cannot be compared with features of "
                f"{self.online.embed_dim} channels"
            )
        self.predictor = build_predictor(recipe.predictor, self.online, recipe.model)
        self._finish()
        self.pooled_head = _pooled_head(self.online.embed_dim) if recipe.objective.pooled > 0 else None

    @property
    def batch_statistics(self) -> bool:
        """Whether the loss depends on which samples share a micro-batch (then accumulation is not exact)."""
        objective = self.recipe.objective
        terms = [objective.pooled, *(term.weight for term in objective.regularisers)]
        batched = objective.kind == "info_nce" or self.recipe.target.transform == "centred"
        return batched or any(weight > 0 for weight in terms)

    @property
    def synchronised(self) -> bool:
        """Regularisers see the rows of all processes; negatives and means over the batch those of one."""
        objective = self.recipe.objective
        return not (objective.pooled > 0 or objective.kind == "info_nce" or self.recipe.target.transform == "centred")

    def count(self, masks: Sequence[MaskGroup], rows: int) -> float:
        """Supervised elements: valid target tokens (or blocks) × paired contexts × elements the distance has per token."""
        targets = [group.targets[j] for group in masks for _, j in group.pairs]
        blocks = self.recipe.objective.granularity == "block"
        tokens = sum(len(ids.index) if blocks else ids.count() for ids in targets)
        return float(tokens * elements_per_token(self.recipe.objective, self.levels * self.online.embed_dim))

    @property
    def levels(self) -> int:
        """How many of the encoder's levels are read and predicted, joined (V-JEPA 2.1: 4)."""
        return self.predictor.levels if isinstance(self.predictor, NarrowPredictor) else 1

    def targets(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Target features of ``(B, C, H, W)``: as the network gives them, and transformed for comparison ``(B, N, D)``.

        With several levels both are ``(B, N, levels·D)``, each level transformed by itself.

        Without gradient, unless ``target.kind`` is none: then the online encoder learns from both sides.
        """
        target = self.recipe.target
        network = self.online if self.target is None else self.target
        with torch.set_grad_enabled(torch.is_grad_enabled() and target.kind == "none"):
            if self.levels > 1:
                raw = network.forward_levels(images, levels=self.levels)
            elif target.layers == 1 and target.layer_output == "block":
                raw = network.forward_features(images)
            else:
                taps = network.forward_intermediates(images, target.layers, norm="none", output=target.layer_output)
                raw = average_layers(taps, target.layer_norm)
            each = raw if self.levels == 1 else raw.unflatten(-1, (self.levels, -1))  # (B, N, levels, D)
            return raw, transform_target(each, target.transform).flatten(2)

    def predict(self, images: Tensor, group: MaskGroup) -> tuple[Tensor, Ids, Tokens]:
        """Encode what is visible and predict the hidden patches, all blocks in one predictor call.

        Returns:
            predictions ``(R·B, K, D)``, their ids, and the context tokens ``(contexts·B, K_c, D)``.
        """
        query = stack_targets(group)
        if isinstance(self.predictor, TokenHead):
            whole = [self._with_mask_tokens(images, ids, group) for ids in group.contexts]  # (B, N, D) each
            everywhere = torch.cat(whole)
            repeats = len(query.index) // len(everywhere)
            hidden = gather_tokens(everywhere.repeat(repeats, 1, 1), query.index)
            seen = [gather_tokens(z, ids.index) for z, ids in zip(whole, group.contexts, strict=True)]
            return self.predictor(hidden), query, join_contexts(seen, group)
        seen = [self._encode(images, ids) for ids in group.contexts]
        context = join_contexts(seen, group)
        assert isinstance(self.predictor, NarrowPredictor)
        tokens, whole_grid = group.mask_tokens, group.complement
        image = self.online.is_image(images)
        return self.predictor.predict(context, query, tokens, whole_grid, image), query, context

    def _encode(self, images: Tensor, keep: Ids) -> Tensor:
        """Visible tokens as the predictor reads them: ``(B, K_c, levels·D)``."""
        if self.levels > 1:
            return self.online.forward_levels(images, keep, self.levels)
        return self.online.forward_features(images, keep=keep)

    def _with_mask_tokens(self, images: Tensor, context: Ids, group: MaskGroup) -> Tensor:
        """Encode every position, the mask token standing where ``context`` does not name a patch."""
        assert isinstance(self.predictor, TokenHead)
        index, tokens = context.index, math.prod(group.grid)
        shown = torch.zeros(len(index), tokens, dtype=torch.uint8, device=index.device)
        valid = torch.ones_like(index, dtype=torch.uint8) if context.valid is None else context.valid.to(torch.uint8)
        shown.scatter_reduce_(1, index, valid, reduce="amax")
        return self.online.forward_features(images, replace=(shown == 0, self.predictor.token()))

    def forward(
        self, batch: Batch, masks: Sequence[MaskGroup], progress: Progress, count: float | None = None
    ) -> Output:
        """Loss of one micro-batch; see :meth:`Method.forward`."""
        objective = self.recipe.objective
        if isinstance(self.predictor, NarrowPredictor) and self.predictor.predictor_proj_context is not None:
            raise ConfigError("no loss here trains predictor.context_head: set predictor.context_head=false to train")
        total = torch.zeros((), device=batch.ids.device)
        if count is None:
            count = self.count(masks, len(batch))
        terms: dict[str, Tensor] = {}
        for group in masks:
            images = batch.inputs[group.group]
            prediction, query, context = self.predict(images, group)
            raw, full = self.targets(images)
            loss = self._compare(prediction, gather_tokens(tile_rows(full, query), query.index), query.valid, group)
            terms["prediction"] = terms.get("prediction", 0.0) + loss.detach() / count
            total = total + objective.weight * loss
            if objective.variance > 0:
                value = token_variance(prediction, query.valid, len(group.pairs))
                terms["variance"] = terms.get("variance", 0.0) + value.detach() / len(masks)
                total = total + objective.variance * value * (count / len(masks))
            for name, weight, value in self._batch_terms(context, raw, progress):
                terms[name] = terms.get(name, 0.0) + value.detach() / len(masks)
                total = total + weight * value * (count / len(masks))
        return Output(total, count, terms)

    def _compare(self, prediction: Tensor, target: Tensor, valid: Tensor | None, group: MaskGroup) -> Tensor:
        """Summed loss of ``(R·B, K, D)`` predictions against targets, by token or by the mean over each block."""
        objective = self.recipe.objective
        if objective.granularity == "block":
            prediction, target, valid = block_mean(prediction, valid), block_mean(target, valid), None
        return masked_sum(weigh_pairs(distance(objective, prediction, target, valid), group), valid)

    def _batch_terms(self, context: Tokens, raw: Tensor, progress: Progress) -> Iterator[tuple[str, float, Tensor]]:
        """Name, weight and value of every term with batch statistics, on mean-pooled context features ``(B', D)``."""
        objective = self.recipe.objective
        if self.pooled_head is None and not objective.regularisers:
            return
        pooled = _mean_tokens(context)
        if self.pooled_head is not None:
            answer = standardise(raw.float().mean(dim=1)).repeat(len(pooled) // len(raw), 1)
            yield "pooled", objective.pooled, (self.pooled_head(pooled).float() - answer).square().mean()
        for term in objective.regularisers:
            yield term.kind, term.weight, regularise(term, pooled, progress.step)

    @torch.no_grad()
    def panel(self, batch: Batch, masks: Sequence[MaskGroup]) -> Panel:
        """Measure predictions against :func:`cheats` on a fixed batch of at least two images (see :class:`Panel`)."""
        group = masks[0]
        images = batch.inputs[group.group]
        raw, full = self.targets(images)  # (B, N, D)
        prediction, query, _ = self.predict(images, group)
        target = gather_tokens(tile_rows(full, query), query.index)
        guesses = cheats(full, query, group)
        elements = self.count([group], len(images))
        valid = torch.ones_like(query.index, dtype=torch.bool) if query.valid is None else query.valid
        online = self.online.forward_features(images).float().mean(dim=1)
        deployed = online
        if self.recipe.target.averaged:
            alone = self.recipe.target.layers == 1 and self.recipe.target.layer_output == "block" and self.levels == 1
            deployed = (raw if alone else self.encoder.forward_features(images)).float().mean(dim=1)
        return Panel(
            loss=self._compare(prediction, target, query.valid, group) / elements,
            cheats={
                name: self._compare(guess, target, query.valid, group) / elements for name, guess in guesses.items()
            },
            prediction_std=prediction.float()[valid].std(dim=0).mean(),
            target_std=raw.float().flatten(0, 1).std(dim=0).mean(),
            features=deployed,
            online_features=online,
        )


def cheats(full: Tensor, query: Ids, group: MaskGroup) -> dict[str, Tensor]:
    """Predictions ``(R·B, K, D)`` that need no understanding, from the targets ``(B, N, D)`` of at least two images.

    ``mean_target`` predicts the mean target of the batch; ``position_only`` the mean over the *other* images at the
    same position; ``copy_nearest`` copies the target of the visible token nearest to the hidden one.
    """
    tiled = tile_rows(full, query)
    others = (full.sum(dim=0) - full) / max(len(full) - 1, 1)  # mean over the other images, per position
    nearest = _nearest_context(query, _stack(group.contexts), group.grid)
    return {
        "mean_target": full.mean(dim=(0, 1)).expand(*query.index.shape, -1),
        "position_only": gather_tokens(tile_rows(others, query), query.index),
        "copy_nearest": gather_tokens(tiled, nearest),
    }


def tile_rows(features: Tensor, query: Ids) -> Tensor:
    """Repeat ``(B, N, D)`` to the rows of a stacked query ``(R·B, K)`` without copying when R is 1."""
    repeats = len(query.index) // len(features)
    return features if repeats == 1 else features.repeat(repeats, 1, 1)


def join_contexts(seen: list[Tensor], group: MaskGroup) -> Tokens:
    """The contexts of the images: one as it is, several along the batch axis, padded to the longest."""
    if len(seen) == 1:
        return Tokens(seen[0], group.grid, group.contexts[0])
    longest = max(z.shape[1] for z in seen)
    values = [torch.nn.functional.pad(z, (0, 0, 0, longest - z.shape[1])) for z in seen]
    return Tokens(torch.cat(values), group.grid, _stack(group.contexts))


def _mean_tokens(context: Tokens) -> Tensor:
    """Mean over valid context tokens: ``(B, K, D)`` → ``(B, D)`` float32."""
    return block_mean(context.values, None if context.ids is None else context.ids.valid)[:, 0]


def _pooled_head(dim: int) -> nn.Sequential:
    """Two layers that turn the mean context feature into a guess of the mean target feature."""
    first, second = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
    for layer in (first, second):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.GELU(), second)


def _nearest_context(query: Ids, context: Ids, grid: tuple[int, ...]) -> Tensor:
    """For every queried token the id of the visible token nearest in the grid: ``(R·B, K)``."""
    axes = torch.cartesian_prod(*(torch.arange(side, device=query.index.device) for side in grid)).float()  # (N, A)
    repeats = len(query.index) // len(context.index)
    answer = torch.empty_like(query.index)
    for row, asked in enumerate(query.index):  # one at a time: all rows of a clip at once would need gigabytes
        other = row % len(context.index) if repeats > 1 else row
        seen = context.index[other]
        apart = torch.cdist(axes[asked], axes[seen], compute_mode="donot_use_mm_for_euclid_dist")  # (K, K_c)
        if context.valid is not None:
            apart = apart.masked_fill(~context.valid[other], float("inf"))
        answer[row] = seen[apart.argmin(dim=-1)]
    return answer
