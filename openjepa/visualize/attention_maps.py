"""Where attention goes, as maps on the patch grid: of the encoder over the whole image, of the predictor over what it sees.

Of clips the grid is ``(t, h, w)``, a map for each tubelet, and "image" below means clip. Numbers are shares of one query's
attention: all its keys together get 1. Maps of one sheet share one colour scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from openjepa.errors import ConfigError
from openjepa.types import Encoder, Ids, MaskGroup, Tokens
from openjepa.visualize.attention import Rollout, attentions, layer_index, watch
from openjepa.visualize.latent import token_id
from openjepa.visualize.maps import token_grid

CHUNK = 4  # images at a time: weights of a layer are (images, heads, tokens, tokens)
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AttentionMaps:
    """Maps of M images, T of each (heads or their mean).

    values: ``(M, T, h, w)`` (of clips ``(M, T, t, h, w)``) share of attention that goes to each patch, NaN at patches
    that are not there to be seen. names: what each of the T is. queries: row and column of the asking patch of each image
    (of clips tubelet, row and column), or None for the mean over all patches. elsewhere: ``(M, T)`` share that
    goes to other tokens (class, register or mask tokens). seen: ``(M, h, w)`` which patches could be seen. note: in one
    sentence what is drawn.
    """

    values: Floats
    names: tuple[str, ...]
    queries: tuple[tuple[int, ...], ...] | None
    elsewhere: Floats
    seen: npt.NDArray[np.bool_]
    note: str

    @property
    def even(self) -> float:
        """The share each visible patch would get if attention were spread evenly over them (mean over images)."""
        return float(1 / self.seen.reshape(len(self.seen), -1).sum(1).mean())


def encoder_attention(
    encoder: Encoder,
    images: Tensor,
    *,
    layer: int = -1,
    head: str = "mean",
    patch: tuple[int, int] | None = None,
    rollout: bool = False,
) -> AttentionMaps:
    """Attention of one block of an encoder over normalised ``images (M, C, H, W)``, or clips ``(M, C, T, H, W)``.

    Args:
        layer: block, negative from the end. head: ``mean``, ``all`` or a number. patch: row and column of the patch
            that asks (in a clip that of the middle tubelet); None for the mean over all patches, then a map says
            how much each is looked at. rollout: follow attention through all blocks up to ``layer`` (then heads are averaged).

    Raises:
        ConfigError: no such layer, head or patch, or an encoder whose attention cannot be shown.
    """
    network = _module(encoder)
    grid = token_grid(encoder, images)
    if patch is not None:
        patch = inside(patch, grid)
    if rollout and head != "mean":
        raise ConfigError(
            f"rollout averages the heads of every block, so --head {head} does not go with it: leave it out"
        )
    number = layer_index(layer, len(attentions(network)))
    rows = []
    chunk = CHUNK if images.ndim == 4 else 1
    for start in range(0, len(images), chunk):
        weights = _encoder_weights(encoder, network, images[start : start + chunk], number, rollout)
        rows.append(_over_patches(weights, grid, patch))
    maps, elsewhere = (torch.cat(parts) for parts in zip(*rows, strict=True))  # (M, heads, h, w), (M, heads)
    maps, elsewhere, names = _heads(maps, elsewhere, head)
    if rollout:
        names = ("rollout",)
    where = (
        f"from patch {patch[0]},{patch[1]} (framed)"
        if patch
        else "received by each patch, mean over all asking patches"
    )
    how = (
        f"Attention rollout through blocks 0 to {number} (2005.00928: half attention, half residual stream, heads averaged)"
        if rollout
        else f"Attention of encoder block {number}"
    )
    asking = None if patch is None else (place(token_id(patch, grid), grid),) * len(images)
    return AttentionMaps(
        maps.numpy(), names, asking, elsewhere.numpy(),
        np.ones((len(images), *grid), dtype=np.bool_), f"{how}, {where}.",
    )  # fmt: skip


def _read(encoder: Any, predictor: Any, images: Tensor, keep: Ids, prefix: bool) -> Tensor:
    """Visible tokens as a predictor reads them: the features, or several levels joined (V-JEPA 2.1)."""
    levels = getattr(predictor, "levels", 1)
    if levels > 1:
        joined: Tensor = encoder.forward_levels(images, keep, levels)
        return joined
    features: Tensor = encoder.forward_features(images, keep=keep, **({"prefix": True} if prefix else {}))
    return features


def predictor_attention(
    encoder: Any,
    predictor: Any,
    images: Tensor,
    group: MaskGroup,
    *,
    prefix: bool = False,
    layer: int = -1,
    head: str = "mean",
    patch: tuple[int, int] | None = None,
) -> AttentionMaps:
    """Attention of one predictor block from the mask token of a hidden patch to the visible patches.

    Args:
        encoder: makes the context from the visible patches. predictor: one that asks mask tokens (narrow or pixel).
        prefix: the predictor also reads the encoder's class token (MAE's decoder does).
        images: ``(M, C, H, W)``, or clips, normalised. group: masks of these images; context 0 and the targets paired with it.
        patch: the hidden patch that asks; None takes, in each image, the one nearest to the middle of its target.

    Raises:
        ConfigError: no such layer, head or patch, a patch that is not hidden, or a predictor without attention.
    """
    grid = group.grid
    number = layer_index(layer, len(attentions(predictor)))
    query, places = hidden_queries(group, len(images), patch)
    context = group.contexts[0]
    with torch.no_grad():
        visible = Tokens(_read(encoder, predictor, images, context, prefix), group.grid, context)
    found: list[Tensor] = []
    asked_with = {"mask_tokens": group.mask_tokens[:1]} if group.mask_tokens else {}
    watch(predictor, lambda: predictor.predict(visible, query, **asked_with), lambda _, w: found.append(w), [number])
    (weights,) = found  # (M, heads, Q, keys)
    asked, seen = query.index.shape[1], context.index.shape[1]
    before = weights.shape[-1] - asked - seen  # class tokens stand first
    rows = weights[:, :, -asked:]
    chosen = rows[torch.arange(len(images)), :, torch.tensor([column for column, _ in places])]  # (M, heads, keys)
    maps, cells = _in_place(chosen[..., before : before + seen], context, grid)
    elsewhere = 1 - maps.flatten(2).nansum(-1)
    maps, elsewhere, names = _heads(maps, elsewhere, head)
    cell = [place(token, grid) for _, token in places]
    share = float(1 - elsewhere.mean())
    note = (
        f"Attention of predictor block {number} from the mask token of the framed hidden patch to the visible patches "
        f"(grey: hidden). On average {share:.0%} of it goes to visible patches, the rest to {'class and ' if before else ''}mask tokens."
    )
    return AttentionMaps(maps.numpy(), names, tuple(cell), elsewhere.numpy(), cells.numpy(), note)


def hidden_queries(group: MaskGroup, count: int, patch: tuple[int, int] | None) -> tuple[Ids, list[tuple[int, int]]]:
    """For each of ``count`` images the target block to predict and the asking patch: its column in it and its token id.

    The block is the first, paired with context 0, that holds ``patch``; without ``patch`` simply the first.

    Raises:
        ConfigError: ``patch`` lies outside the grid or is not hidden in an image.
    """
    grid = group.grid
    token = None if patch is None else token_id(inside(patch, grid), grid)
    targets = [group.targets[j] for i, j in group.pairs if i == 0]
    picked: list[Ids] = []
    places: list[tuple[int, int]] = []
    for row in range(count):
        for ids in targets:
            index = ids.index[row] if ids.valid is None else ids.index[row][ids.valid[row]]
            if token is None or bool((index == token).any()):
                break
        else:
            raise ConfigError(
                f"patch {patch} is not hidden in image {row}, so no mask token asks there: choose another"
            )
        want = token if token is not None else _middle(index, grid)
        places.append((int((index == want).nonzero()[0]), want))
        picked.append(Ids(index[None]))
    longest = max(ids.index.shape[1] for ids in picked)
    if all(ids.index.shape[1] == longest for ids in picked):
        return Ids(torch.cat([ids.index for ids in picked])), places
    index = torch.stack([torch.cat([i.index[0], i.index[0][:1].expand(longest - i.index.shape[1])]) for i in picked])
    valid = torch.stack([torch.arange(longest) < ids.index.shape[1] for ids in picked])
    return Ids(index, valid), places


def place(token: int, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Row and column of a token in a grid ``(h, w)``; tubelet, row and column in ``(t, h, w)``."""
    return tuple(int(axis) for axis in np.unravel_index(token, grid))


def inside(patch: tuple[int, int], grid: tuple[int, ...]) -> tuple[int, int]:
    """``patch`` in a grid ``(h, w)`` or ``(t, h, w)`` with row and column counted from 0 (negative ones from the end).

    Raises:
        ConfigError: it lies outside the grid.
    """
    rows, columns = grid[-2:]
    if not (-rows <= patch[0] < rows and -columns <= patch[1] < columns):
        raise ConfigError(
            f"patch {patch[0]},{patch[1]} lies outside the grid of {rows} rows and {columns} columns: "
            f"use 0,0 to {rows - 1},{columns - 1}"
        )
    return patch[0] % rows, patch[1] % columns


def _middle(index: Tensor, grid: tuple[int, ...]) -> int:
    """The id nearest to the middle of the ids."""
    places = torch.stack(torch.unravel_index(index, grid), dim=1).float()
    return int(index[(places - places.mean(0)).square().sum(1).argmin()])


def _encoder_weights(encoder: Any, network: nn.Module, images: Tensor, number: int, rollout: bool) -> Tensor:
    """``(B, heads, N, N)`` of block ``number``, or the rollout up to it as one head."""
    if rollout:
        follow = Rollout()
        watch(network, lambda: encoder.forward_features(images), follow.add, range(number + 1))
        assert follow.value is not None
        return follow.value[:, None]
    found: list[Tensor] = []
    watch(network, lambda: encoder.forward_features(images), lambda _, weights: found.append(weights), [number])
    return found[0]


def _over_patches(weights: Tensor, grid: tuple[int, ...], patch: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    """Maps ``(B, heads, h, w)`` and the share that goes to other tokens ``(B, heads)``; patches are the last tokens."""
    cells = math.prod(grid)
    extra = weights.shape[-1] - cells
    if extra < 0:
        raise ConfigError(f"the encoder attends over {weights.shape[-1]} tokens for a grid of {cells} patches")
    rows = weights[:, :, extra:].mean(2) if patch is None else weights[:, :, extra + token_id(patch, grid)]
    return rows[..., extra:].reshape(*rows.shape[:2], *grid).cpu(), rows[..., :extra].sum(-1).cpu()


def _in_place(rows: Tensor, context: Ids, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Shares of visible tokens ``(M, heads, K)`` at their places ``(M, heads, h, w)``, NaN elsewhere; and who is seen."""
    maps = torch.full((*rows.shape[:2], math.prod(grid)), float("nan"))
    for row, index in enumerate(context.index):
        good = slice(None) if context.valid is None else context.valid[row]
        maps[row][:, index[good]] = rows[row][:, good].cpu()
    maps = maps.view(*rows.shape[:2], *grid)
    return maps, ~maps[:, 0].isnan()


def _heads(maps: Tensor, elsewhere: Tensor, head: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The heads asked for: ``(M, T, h, w)``, ``(M, T)`` and their names."""
    count = maps.shape[1]
    if head == "mean":
        named = (f"mean of {count} heads" if count > 1 else "its one head",)
        return maps.mean(1, keepdim=True), elsewhere.mean(1, keepdim=True), named
    if head == "all":
        return maps, elsewhere, tuple(f"head {k}" for k in range(count))
    if not head.isdecimal() or int(head) >= count:
        raise ConfigError(f"--head {head} does not exist: there are {count}, so use mean, all or 0 to {count - 1}")
    number = int(head)
    return maps[:, [number]], elsewhere[:, [number]], (f"head {number}",)


def _module(encoder: object) -> nn.Module:
    """The encoder as a network with hooks."""
    if not isinstance(encoder, nn.Module):
        raise ConfigError(f"attention maps need a torch module, {type(encoder).__name__} is none")
    return encoder
