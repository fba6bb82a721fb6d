"""Parity of V-JEPA and V-JEPA 2: features, masked features, predictions, losses and gradients of the published programs.

Everything compared is computed by the code a run uses: the method on a video recipe, its loss per mask pair, its variance
term. This file reads meta.json and the masks and says which result is which (official.md §1.5–§1.8, §2.2–§2.3, §4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from openjepa.config.schema import (
    ClipConfig,
    DataConfig,
    ModelConfig,
    NarrowPredictorConfig,
    ObjectiveConfig,
    Recipe,
    TargetConfig,
    TubesMask,
)
from openjepa.errors import CheckpointError
from openjepa.hub.golden import Golden, Ledger, register_check
from openjepa.hub.keymaps import Dropped, KeyMap
from openjepa.hub.official import VJEPA2_OFFICIAL, VJEPA_OFFICIAL
from openjepa.hub.parity_parts import compare_gradients, compare_positions, describe, read_ids, read_size
from openjepa.hub.parity_probe import check_probe
from openjepa.hub.strict import load_strict
from openjepa.methods import MaskedLatent
from openjepa.models.transformer import gather_tokens
from openjepa.types import Batch, Ids, MaskGroup, Output, Progress

_SECTIONS = ("encoder", "predictor", "target_encoder")
_LOSS = "mean |z-h| per mask pair, averaged"
_USED = re.compile(r"([\d.]+) used for the gradients")


@dataclass(frozen=True)
class _System:
    """What meta.json does not say: names of the checkpoint and the kind of positions."""

    name: Literal["vjepa", "vjepa2"]
    keymap: KeyMap
    rotary: bool


@register_check("V-JEPA")
def check_vjepa(golden: Golden, ledger: Ledger) -> None:
    """Load the published checkpoint into our method, run it, and enter every result in ``ledger``.

    Raises:
        CheckpointError: the directory does not describe a V-JEPA our code can build.
    """
    _check(golden, ledger, _System("vjepa", VJEPA_OFFICIAL, rotary=False))


@register_check("V-JEPA 2")
def check_vjepa2(golden: Golden, ledger: Ledger) -> None:
    """The same for V-JEPA 2: rotary positions in the published pairing, other inputs and intermediate layers."""
    _check(golden, ledger, _System("vjepa2", VJEPA2_OFFICIAL, rotary=True))


def _check(golden: Golden, ledger: Ledger, system: _System) -> None:
    recipe = describe(golden, lambda: _recipe(golden, system))
    method = MaskedLatent(recipe)
    dropped = _load(golden, method, system)
    batch, group = _step(golden, ledger, method)
    if not system.rotary:
        compare_positions(method, dropped, ledger)
    _check_encoder(golden, method, batch, ledger)
    _check_pairs(method, batch, group, ledger)
    _check_loss(golden, method, batch, group, ledger)
    compare_gradients(method, system.keymap, ledger)
    check_probe(golden, ledger)


def _recipe(golden: Golden, system: _System) -> Recipe:
    """Our recipe of what meta.json describes."""
    video = golden.tensor("video")
    frames = golden.integer("frames")
    if video.ndim != 5 or video.shape[2] != frames:
        raise CheckpointError(
            f"'{golden.path}' is malformed: video has shape {tuple(video.shape)}, not (B, C, {frames}, H, W)"
        )
    channels = video.shape[1]
    model: dict[str, Any] = {"positions": "rope3d", "rope_pairing": "tiled"}
    if not system.rotary:
        model = {"positions": "sincos3d", "uniform_power": golden.need("uniform_power")}
    return Recipe(
        name="parity",
        system=system.name,
        data=DataConfig(
            image_size=read_size(golden),
            channels=channels,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
            clip=ClipConfig(frames=frames),
        ),
        mask=TubesMask(),
        model=ModelConfig(
            arch=None,
            patch_size=golden.integer("patch_size"),
            tubelet_size=golden.integer("tubelet_size"),
            dim=golden.integer("dim"),
            depth=golden.integer("depth"),
            heads=golden.integer("heads"),
            mlp_ratio=golden.number("mlp_ratio"),
            **model,
        ),
        predictor=NarrowPredictorConfig(
            dim=golden.integer("predictor_dim"),
            depth=golden.integer("predictor_depth"),
            heads=golden.integer("predictor_heads"),
            mask_tokens=golden.integer("mask_tokens"),
            mask_token_init="zero",
        ),
        objective=_objective(golden),
        target=TargetConfig(),
    )


def _objective(golden: Golden) -> ObjectiveConfig:
    """The loss and the weight of the variance term, from their sentences in meta.json."""
    text = str(golden.need("loss"))
    if not text.startswith(_LOSS):
        raise CheckpointError(f"'{golden.path}': unknown loss '{text[:40]}': it starts with '{_LOSS}'")
    weight = 0.0
    if "loss_reg" in golden.meta:
        used = _USED.search(str(golden.need("regulariser")))
        if used is None:
            raise CheckpointError(
                f"'{golden.path}' is malformed: 'regulariser' does not say which weight was used for the gradients"
            )
        weight = float(used[1])
    return ObjectiveConfig(kind="l1", reduction="pair", variance=weight)


def _load(golden: Golden, method: MaskedLatent, system: _System) -> Mapping[str, Dropped]:
    """Fill the method, strictly, from the published names; returns the position tables that came along."""
    found = {key: value for key, value in golden.checkpoint.items() if key.split(".")[0] in _SECTIONS}
    mapped = system.keymap.apply(found)
    load_strict(method, mapped.tensors)
    method.train()
    return mapped.dropped


def _step(golden: Golden, ledger: Ledger, method: MaskedLatent) -> tuple[Batch, MaskGroup]:
    """The clips and their mask pairs, declared as inputs."""
    video, listed = golden.tensor("video"), golden.need("masks")
    grid = method.online.grid_of(video)
    if grid != method.online.grid:
        raise CheckpointError(f"'{golden.path}' is malformed: video {tuple(video.shape)} is not of image_size")
    if not isinstance(listed, list) or not listed:
        raise CheckpointError(f"'{golden.path}' is malformed: masks lists no mask")
    pairs, tokens = range(len(listed)), grid[0] * grid[1] * grid[2]
    names = [[f"{kind}_mask.{k}" for k in pairs] for kind in ("context", "target")]
    contexts, targets = ([read_ids(golden, name, len(video), tokens) for name in kind] for kind in names)
    ledger.input("video", *names[0], *names[1])
    elements = [ids.index.numel() for ids in targets]
    group = MaskGroup(
        contexts,
        targets,
        [(k, k) for k in pairs],
        grid,
        group="video",
        mask_tokens=_mask_tokens(golden, len(listed)),
        weights=tuple(sum(elements) / (len(elements) * count) for count in elements),  # every pair weighs alike
        complement=all(_complete(c, t, tokens) for c, t in zip(contexts, targets, strict=True)),
    )
    order = torch.arange(len(video))
    return Batch({"video": video}, order, order), group


def _complete(context: Ids, target: Ids, tokens: int) -> bool:
    """Whether context and target are the whole grid, each token once, in every row."""
    both = torch.cat([context.index, target.index], dim=1).sort(dim=1).values
    return both.shape[1] == tokens and bool((both == torch.arange(tokens)).all())


def _mask_tokens(golden: Golden, pairs: int) -> tuple[int, ...]:
    """Which mask token every pair used."""
    listed, count = golden.need("mask_token_index"), golden.integer("mask_tokens")
    good = isinstance(listed, list) and len(listed) == pairs
    if not good or any(not isinstance(number, int) or not 0 <= number < count for number in listed):
        raise CheckpointError(
            f"'{golden.path}' is malformed: mask_token_index {listed} is not one of {count} mask tokens for each mask"
        )
    return tuple(listed)


@torch.no_grad()
def _check_encoder(golden: Golden, method: MaskedLatent, batch: Batch, ledger: Ledger) -> None:
    """Whole clips: features of both encoders, other shapes than the native one, intermediate layers."""
    video = batch.inputs["video"]
    ledger.compare("encoder_full", method.online.forward_features(video))
    ledger.compare("target_full", method.targets(video)[0])
    for name in golden.tensors:
        if name.startswith("video_"):  # video_wide → encoder_wide
            ledger.input(name)
            ledger.compare(
                f"encoder_{name.removeprefix('video_')}", method.online.forward_features(golden.tensor(name))
            )
    if "layers" in golden.meta:
        for number, layer in enumerate(_layers(golden, method.online.depth)):
            (found,) = method.online.forward_intermediates(video, [layer], norm="final")
            ledger.compare(f"layers.{number}", found)


def _layers(golden: Golden, depth: int) -> list[int]:
    """The blocks whose outputs the directory has."""
    listed = golden.need("layers")
    if not isinstance(listed, list) or any(not isinstance(i, int) or not 0 <= i < depth for i in listed):
        raise CheckpointError(f"'{golden.path}' is malformed: layers {listed} are not blocks of {depth}")
    return listed


@torch.no_grad()
def _check_pairs(method: MaskedLatent, batch: Batch, group: MaskGroup, ledger: Ledger) -> None:
    """Context features, predictions and targets of every mask pair, out of one call for all of them."""
    video, rows = batch.inputs["video"], len(batch)
    prediction, query, context = method.predict(video, group)
    _, target = method.targets(video)
    assert context.ids is not None
    gathered = gather_tokens(target.repeat(len(group.pairs), 1, 1), query.index)
    for number in range(len(group.pairs)):
        mine = slice(number * rows, (number + 1) * rows)
        ledger.compare(f"context.{number}", _unpad(context.values[mine], context.ids.rows(mine.start, mine.stop)))
        ledger.compare(f"prediction.{number}", _unpad(prediction[mine], query.rows(mine.start, mine.stop)))
        ledger.compare(f"target.{number}", _unpad(gathered[mine], query.rows(mine.start, mine.stop)))


def _unpad(values: Tensor, ids: Ids) -> Tensor:
    """``(B, K, D)`` without the padding that pairs of unequal sizes have; rows of one pair are equally long."""
    return values if ids.valid is None else values[ids.valid].view(len(values), -1, values.shape[-1])


def _check_loss(golden: Golden, method: MaskedLatent, batch: Batch, group: MaskGroup, ledger: Ledger) -> None:
    """The loss, its terms, and the backward pass that gradients are then read from."""
    output: Output = method(batch, [group], Progress(0, 1))
    loss = output.loss_sum / output.count
    loss.backward()
    weight = method.recipe.objective.variance
    wanted = golden.number("loss_jepa")
    ledger.compare_with("meta.loss_jepa", [float(output.terms["prediction"])], [wanted])
    if weight > 0:
        spread = golden.number("loss_reg")
        ledger.compare_with("meta.loss_reg", [float(output.terms["variance"])], [spread])
        wanted = wanted + weight * spread
    ledger.compare_with("meta.loss (sum)", [float(loss.detach())], [wanted])
