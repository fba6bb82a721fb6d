"""Surprise: the prediction error of a masked model at every place and time of a clip, in the space training compares in.

Every token is hidden at least once and predicted from what is left, in one of two ways:

* ``masked``: by masks as training draws them (those of the recipe, drawn again and again until every token was hidden in
  some pass). A token's error is the mean over the passes in which it was hidden. What is asked is what was trained.
* ``future``: from the past alone. The encoder sees the tubelets before τ, the predictor says tubelet τ. The first tubelet
  has no past and no error. Models trained on tubes that span the whole clip were never asked this, so errors are higher
  throughout; *where and when* they rise is what to look at.

The error of a token is the recipe's own distance (for V-JEPA the mean absolute difference) between the prediction and the
target the slow encoder makes of the whole clip, transformed as in training: summed over the masks of a training step it is
that step's loss. Clips longer than the model's are cut into windows that overlap by half, so that a token's place in the
window counts less. With ``target.transform: centred`` training centres targets by the statistics of each batch; here it is
those of many clips of the data (:func:`target_space`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from openjepa.config.schema import Recipe
from openjepa.data import Normalise
from openjepa.errors import ConfigError, nearest
from openjepa.hub.model_directory import LoadedModel
from openjepa.masking import build_masker
from openjepa.methods import MaskedLatent, MaskedPixel
from openjepa.methods.masked_latent import tile_rows
from openjepa.models.transformer import gather_tokens
from openjepa.objectives import distance
from openjepa.types import Ids, MaskGroup
from openjepa.visualize import latent
from openjepa.visualize.decoded import TargetSpace

MODES = ("masked", "future")
PASSES = 8  # draws of the recipe's masks, at least
MOST_PASSES = 64  # and at most: a token that no mask hides stays without an error
CHUNK = 4  # windows at a time


@dataclass(frozen=True)
class Surprise:
    """Prediction errors of one clip.

    error: ``(t, h, w)`` float32, NaN where nothing was predicted. times: ``(t, h, w)`` int64, how often each token was
    predicted. tubelet: frames of one token. mode, distance: how it was measured. missing: tokens never predicted.
    """

    error: Tensor
    times: Tensor
    tubelet: int
    mode: str
    distance: str

    @property
    def steps(self) -> Tensor:
        """Mean error of each time step ``(t,)``, NaN where nothing was predicted."""
        return self.error.nanmean((1, 2))

    @property
    def missing(self) -> int:
        """Tokens that were never predicted."""
        return int((self.times == 0).sum())


def token_errors(
    method: MaskedLatent | MaskedPixel, images: Tensor, group: MaskGroup, full: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Summed error and number of predictions of every token of normalised ``images (B, C, T, H, W)``.

    Args:
        group: masks of these clips; all its pairs are asked. full: their transformed targets ``(B, N, D)``, where the
            caller has them.

    Returns:
        ``(B, N)`` float64 sums of the objective's mean element, and ``(B, N)`` int64 counts. Σ sums / Σ counts is the
        loss that training computes of these masks, with every pair weighing by its tokens.
    """
    with torch.no_grad():
        found, query, *_ = method.predict(images, group)  # (R·B, K, D)
        if full is None:
            full = targets(method, images)
        wanted = gather_tokens(tile_rows(full, query), query.index)
        each = distance(method.recipe.objective, found, wanted, query.valid).mean(-1)  # (R·B, K)
    batch, tokens = len(images), math.prod(group.grid)
    valid = torch.ones_like(query.index, dtype=torch.bool) if query.valid is None else query.valid
    rows = torch.arange(len(query.index), device=query.index.device) % batch  # target-major: the clip is the fast index
    place = (rows[:, None] * tokens + query.index)[valid].cpu()
    total = torch.zeros(batch * tokens, dtype=torch.float64).index_add_(0, place, each[valid].double().cpu())
    times = torch.zeros(batch * tokens, dtype=torch.int64).index_add_(0, place, torch.ones_like(place))
    return total.view(batch, tokens), times.view(batch, tokens)


def targets(method: MaskedLatent | MaskedPixel, images: Tensor, space: TargetSpace | None = None) -> Tensor:
    """What is to be predicted of normalised ``images``, transformed as in training: ``(B, N, D)``.

    space: of recipes that centre targets; then its statistics count, not those of ``images``.
    """
    with torch.no_grad():
        if isinstance(method, MaskedPixel):
            return method.targets(images)
        raw, full = method.targets(images)
        return full if space is None else space(raw)


def target_space(method: MaskedLatent | MaskedPixel, clips: Tensor) -> TargetSpace | None:
    """The space targets are compared in where a recipe centres them, by the statistics of raw ``clips (M, C, T, H, W)``.

    None for recipes that look at one clip alone.

    Raises:
        ConfigError: fewer than two clips have no statistics.
    """
    if method.recipe.target.transform != "centred":
        return None
    if len(clips) < 2:
        raise ConfigError(
            "target.transform centred needs more than one clip to centre by: give a folder, or more --frames"
        )
    normalise = Normalise.for_data(method.recipe.data)
    device = next(method.parameters()).device
    with torch.no_grad():
        raw = torch.cat([method.targets(normalise(part).to(device))[0].float() for part in clips.split(CHUNK)])
    return TargetSpace.measure("centred", raw, directions=False)


def subject(loaded: LoadedModel) -> MaskedLatent | MaskedPixel:
    """The loaded model as its method.

    Raises:
        ConfigError: it predicts nothing of single tokens, or is one for images.
    """
    recipe = loaded.config
    if not recipe.video:
        raise ConfigError(f"surprise is for video models, and recipe {recipe.name} is for images: see visualize decode")
    if recipe.objective.kind == "info_nce":
        raise ConfigError("objective.kind info_nce compares clips with each other: one clip alone has no surprise")
    return latent.rebuild_pixel(loaded) if recipe.method == "masked_pixel" else latent.rebuild(loaded)


def centres(loaded: LoadedModel) -> bool:
    """Whether the model's recipe centres targets, so that other clips are needed to compare with."""
    return loaded.config.target.transform == "centred"


def surprise(
    loaded: LoadedModel, clip: Tensor, mode: str = "masked", *, others: Tensor | None = None, device: str = "cpu"
) -> Surprise:
    """Prediction errors of one raw clip ``(C, L, H, W)`` of any length of at least one tubelet (two for ``future``).

    others: raw clips ``(M, C, T, H, W)`` of the same data, for recipes that centre targets; none: the windows of ``clip``.

    Raises:
        ConfigError: an unknown mode, a model that predicts nothing, masks that hide nothing, or a clip that is too short.
    """
    check_mode(loaded.config, mode)
    method = subject(loaded).to(device)
    clean = Normalise.for_data(loaded.config.data)(clip[None])[0]
    if others is None:
        others = cut(clip, loaded.config.frames or 1, loaded.config.model.tubelet_size)
    others = others[:, :, : clip.shape[1]]  # a clip shorter than the model's has fewer places
    return measure(method, clean.to(device), mode, target_space(method, others))


def cut(clip: Tensor, frames: int, tubelet: int) -> Tensor:
    """The windows of a clip ``(C, L, H, W)`` that are measured, ``(M, C, T, H, W)`` with T frames or, if shorter, all."""
    steps, size = clip.shape[1] // tubelet, min(clip.shape[1], frames) // tubelet
    starts = windows(steps, size, _stride(size)) if size else []
    return torch.stack([clip[:, s * tubelet : (s + size) * tubelet] for s in starts]) if starts else clip[None]


def check_mode(recipe: Recipe, mode: str) -> None:
    """Refuse a mode that there is not, or that asks a model what it cannot answer.

    Raises:
        ConfigError: so.
    """
    if mode not in MODES:
        raise ConfigError(f"--mode {mode} is not one of {', '.join(MODES)}{nearest(mode, MODES)}")
    if mode == "masked" and recipe.mask.kind == "none":
        raise ConfigError("mask.kind none hides nothing, so training's masks ask nothing: use --mode future")
    if mode == "future" and recipe.predictor.kind in ("linear", "none"):
        raise ConfigError(f"predictor.kind {recipe.predictor.kind} lets the encoder see mask tokens: use --mode masked")


def measure(method: MaskedLatent | MaskedPixel, clip: Tensor, mode: str, space: TargetSpace | None = None) -> Surprise:
    """Prediction errors of one normalised clip ``(C, L, H, W)`` on the method's device; see :func:`surprise`."""
    recipe, least = method.recipe, 2 if mode == "future" else 1
    tubelet = recipe.model.tubelet_size
    steps = clip.shape[1] // tubelet
    if steps < least:
        raise ConfigError(f"a clip of {clip.shape[1]} frames is too short: --frames {tubelet * least} or more")
    size = min(steps, max(recipe.grid[0], least))  # tubelets of a window
    cells = clip.shape[-2] // recipe.model.patch_size, clip.shape[-1] // recipe.model.patch_size
    grid = (size, *cells)
    total, times = torch.zeros(steps, *cells, dtype=torch.float64), torch.zeros(steps, *cells, dtype=torch.int64)
    starts = windows(steps, size, _stride(size))
    for begin in range(0, len(starts), CHUNK):
        chosen = starts[begin : begin + CHUNK]
        parts = torch.stack([clip[:, s * tubelet : (s + size) * tubelet] for s in chosen])
        full = targets(method, parts, space)
        found = (
            _masked(method, parts, full, grid, begin)
            if mode == "masked"
            else _future(method, parts, full, grid, chosen)
        )
        for start, error, often in zip(chosen, *found, strict=True):
            total[start : start + size] += error.view(grid)
            times[start : start + size] += often.view(grid)
    error = torch.where(times > 0, total / times.clamp_min(1), float("nan")).float()
    return Surprise(error, times, tubelet, mode, recipe.objective.kind)


def windows(steps: int, size: int, stride: int) -> list[int]:
    """Where windows of ``size`` begin so that all ``steps`` are covered; the last one ends with the clip.

    >>> windows(10, 4, 4)
    [0, 4, 6]
    """
    regular = list(range(0, steps - size + 1, stride))
    return regular if regular[-1] + size == steps else [*regular, steps - size]


def _stride(size: int) -> int:
    """Tubelets from one window to the next: half of it, which is all past for what the next window predicts."""
    return max(size // 2, 1)


def _masked(
    method: MaskedLatent | MaskedPixel, parts: Tensor, full: Tensor, grid: tuple[int, ...], first: int
) -> tuple[Tensor, Tensor]:
    """Errors under the recipe's masks of windows ``(B, C, T, H, W)``, targets ``full (B, N, D)``, from place ``first`` on."""
    recipe = method.recipe
    masker = build_masker(recipe.mask, grid, recipe.seed)
    places = torch.arange(first, first + len(parts))
    tokens = math.prod(grid)
    total, times = (
        torch.zeros(len(parts), tokens, dtype=torch.float64),
        torch.zeros(len(parts), tokens, dtype=torch.int64),
    )
    for number in range(MOST_PASSES):
        if number >= PASSES and bool((times > 0).all()):
            break
        group = masker(places, epoch=number, step=number).to(parts.device)
        error, often = token_errors(method, parts, group, full)
        total += error
        times += often
    return total, times


def _future(
    method: MaskedLatent | MaskedPixel, parts: Tensor, full: Tensor, grid: tuple[int, ...], starts: list[int]
) -> tuple[Tensor, Tensor]:
    """Errors of every tubelet of windows ``(B, C, T, H, W)`` from the tubelets before it.

    A window that begins in the middle of the clip predicts only what the window before it does not reach.
    """
    size, tokens = grid[0], math.prod(grid)
    total, times = (
        torch.zeros(len(parts), tokens, dtype=torch.float64),
        torch.zeros(len(parts), tokens, dtype=torch.int64),
    )
    late = torch.tensor([1 if start == 0 else size - _stride(size) for start in starts])
    for group in future_masks(grid, len(parts), _long_range(method.recipe)):
        step = int(group.targets[0].index[0, 0]) // (tokens // size)
        rows = (late <= step).nonzero().flatten()
        if not len(rows):
            continue
        chosen = group.rows(0, len(rows)).to(parts.device)
        error, often = token_errors(method, parts[rows], chosen, full[rows])
        total[rows] += error
        times[rows] += often
    return total, times


def future_masks(grid: tuple[int, ...], batch: int, token: int = 0) -> Iterator[MaskGroup]:
    """For every tubelet τ but the first: the tubelets before it as context, itself as target, for ``batch`` clips.

    token: which of the predictor's mask tokens asks.
    """
    plane = math.prod(grid[1:])
    for step in range(1, grid[0]):
        context = torch.arange(step * plane).repeat(batch, 1)
        target = torch.arange(step * plane, (step + 1) * plane).repeat(batch, 1)
        yield MaskGroup([Ids(context)], [Ids(target)], [(0, 0)], grid, group="video", mask_tokens=(token,))


def _long_range(recipe: Recipe) -> int:
    """The mask token that was trained on the largest hidden regions: that of the last mask pair."""
    return getattr(recipe.predictor, "mask_tokens", 1) - 1
