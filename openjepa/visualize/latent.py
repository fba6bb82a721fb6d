"""A loaded model put together again as its method, to ask it what training asked: targets, and predictions of them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from openjepa.config.schema import Recipe
from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.model_directory import LoadedModel
from openjepa.masking import build_masker
from openjepa.methods import MaskedLatent, MaskedPixel, Method, build_method
from openjepa.types import Ids, MaskGroup

DIRECTIONS = ("cosine", "normalised_cosine", "info_nce")  # objectives that leave the length of a prediction free


def rebuild(loaded: LoadedModel) -> MaskedLatent:
    """The method of a latent-predicting model, in evaluation mode, with the loaded networks as its parts.

    Raises:
        ConfigError: the model predicts no latents. CheckpointError: a network it needs was not saved.
    """
    if loaded.config.method != "masked_latent":
        raise ConfigError(f"method {loaded.config.method} predicts no features of hidden patches")
    method = _assemble(loaded)
    assert isinstance(method, MaskedLatent)
    method.pooled_head = None  # trains only: no prediction of patches needs it
    return method.eval()


def rebuild_pixel(loaded: LoadedModel) -> MaskedPixel:
    """The method of a pixel-predicting model (MAE), as :func:`rebuild` does it for latents."""
    if loaded.config.method != "masked_pixel":
        other = "surprise' shows where it errs" if loaded.config.video else "decode' shows what its features hold"
        raise ConfigError(f"method {loaded.config.method} reconstructs no pixels: 'openjepa visualize {other}")
    method = _assemble(loaded)
    assert isinstance(method, MaskedPixel)
    return method.eval()


def _assemble(loaded: LoadedModel) -> Method:
    """A method with the loaded networks in the places of its own."""
    recipe = loaded.config
    keeps = recipe.target.kind in ("ema", "frozen")
    names = ["online", "predictor", *(["target"] if keeps else [])]
    missing = [name for name in names if getattr(loaded, name) is None]
    if missing:
        raise CheckpointError(f"'{loaded.source}' has no {' and no '.join(missing)} network: nothing can be predicted")
    with (
        torch.random.fork_rng(devices=[]),
        torch.device("meta"),
    ):  # no weights are drawn, the loaded ones take their place
        method = build_method(recipe)
    for name in names:
        setattr(method, name, getattr(loaded, name))
    return method


def draw_masks(recipe: Recipe, count: int) -> MaskGroup:
    """Masks of ``count`` images as step 0 of training would draw them, reduced to the first context and its targets."""
    group = build_masker(recipe.mask, recipe.grid, recipe.seed)(torch.arange(count), epoch=0, step=0)
    return first_context(group)


def masks_hiding(recipe: Recipe, count: int, patch: tuple[int, int], tries: int = 512) -> MaskGroup:
    """Masks of ``count`` images that all hide ``patch`` (row, column): those of the first places where it is hidden.

    Raises:
        ConfigError: no drawn mask hides it, or the patch lies outside the grid.
    """
    token = token_id(patch, recipe.grid)
    group = draw_masks(recipe, tries)
    held = torch.zeros(tries, dtype=torch.bool)
    for ids in group.targets:
        match = ids.index == token
        held |= (match if ids.valid is None else match & ids.valid).any(1)
    rows = held.nonzero().flatten()[:count]
    if len(rows) < count:
        raise ConfigError(
            f"{tries} masks of this recipe hide patch {patch[0]},{patch[1]} {len(rows)} times: choose another"
        )
    return replace(
        group, contexts=[_rows(c, rows) for c in group.contexts], targets=[_rows(t, rows) for t in group.targets]
    )


def first_context(group: MaskGroup) -> MaskGroup:
    """``group`` with context 0 and the targets paired with it."""
    places = [k for k, (i, _) in enumerate(group.pairs) if i == 0]
    return replace(
        group,
        contexts=group.contexts[:1],
        targets=[group.targets[group.pairs[k][1]] for k in places],
        pairs=[(0, k) for k in range(len(places))],
        mask_tokens=tuple(group.mask_tokens[k] for k in places) if group.mask_tokens else (),
        weights=(),
    )


def token_id(patch: tuple[int, int], grid: tuple[int, ...]) -> int:
    """Id of the patch (row, column); in a clip, of the tubelet in its middle."""
    plane = patch[0] * grid[-1] + patch[1]
    return plane if len(grid) == 2 else grid[0] // 2 * grid[1] * grid[2] + plane


def _rows(ids: Ids, rows: Tensor) -> Ids:
    return Ids(ids.index[rows], None if ids.valid is None else ids.valid[rows])


def cells(ids: Ids, tokens: int) -> Tensor:
    """Which of ``tokens`` tokens are named: ``(B, tokens)`` bool, padding left out."""
    valid = torch.ones_like(ids.index, dtype=torch.bool) if ids.valid is None else ids.valid
    found = torch.zeros(len(ids.index), tokens, dtype=torch.uint8)
    return found.scatter_reduce_(1, ids.index, valid.to(torch.uint8), reduce="amax").bool()


def predictions(method: MaskedLatent | MaskedPixel, images: Tensor, group: MaskGroup) -> tuple[Tensor, Tensor]:
    """What the predictor says of every hidden patch of normalised ``images (B, C, H, W)`` or clips ``(B, C, T, H, W)``.

    Returns:
        Predictions in place ``(B, N, D)`` float32, averaged where target blocks overlap and 0 where nothing is
        predicted; and where they are ``(B, N)`` bool.
    """
    with torch.no_grad():
        found, query, *_ = method.predict(images, group)  # (R·B, K, D)
    batch, tokens = len(images), math.prod(group.grid)
    valid = torch.ones_like(query.index, dtype=torch.bool) if query.valid is None else query.valid
    rows = torch.arange(len(query.index)) % batch  # target-major: image is the fast index
    place = (rows[:, None] * tokens + query.index)[valid]
    total = torch.zeros(batch * tokens, found.shape[-1]).index_add_(0, place, found.float()[valid])
    times = torch.zeros(batch * tokens).index_add_(0, place, torch.ones(len(place)))
    mean = total / times.clamp_min(1)[:, None]
    return mean.view(batch, tokens, -1), (times > 0).view(batch, tokens)
