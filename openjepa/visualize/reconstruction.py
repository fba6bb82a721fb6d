"""Reconstructions of hidden patches by a masked-pixel model (MAE 2111.06377, VideoMAE 2203.12602), beside what is given away.

Such a model mostly predicts each patch normalised by its own mean and deviation. To draw it, both have to be taken from
the true patch: brightness and contrast are then *given*, only structure and colour inside patches are predicted. So every
row also shows the true patch means alone: one number for all channels, of clips one for each channel of a tubelet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

from openjepa.data import Normalise
from openjepa.hub.model_directory import LoadedModel
from openjepa.objectives import patchify, unpatchify
from openjepa.objectives.pixels import PIXEL_EPS
from openjepa.visualize import canvas, inside, latent, masks
from openjepa.visualize.canvas import Image

GIVEN = (
    "The model predicts each hidden patch normalised by its own mean and deviation; both are taken from the true patch "
    "here. Brightness and contrast are therefore given away, as the column of patch means shows: only what lies beyond it is "
    "predicted."
)
PLAIN = "The model predicts pixels as they are; nothing of a hidden patch is given away."


@dataclass(frozen=True)
class Reconstructions:
    """Rows of pictures with the names of their columns, a caption for each row, and notes in sentences.

    rows: pictures ``(H, W, 3)``, of clips frames ``(T, H, W, 3)``. pixels: ``(M, C, H, W)`` or ``(M, C, T, H, W)`` in 0..1,
    predictions pasted into the visible image. explained: ``(M)`` share of the variance inside hidden patches that is
    predicted (0: as good as the patch's mean; below: worse).
    """

    rows: list[list[Image]]
    columns: tuple[str, ...]
    captions: list[str]
    notes: list[str]
    pixels: Tensor
    explained: Tensor


def reconstruct(loaded: LoadedModel, images: Tensor, *, device: str = "cpu") -> Reconstructions:
    """Hide patches of ``images (M, C, H, W)``, or of clips ``(M, C, T, H, W)``, as training does and predict them.

    Raises:
        ConfigError: the model predicts no pixels. CheckpointError: it was saved without its decoder.
    """
    method = latent.rebuild_pixel(loaded).to(device)
    recipe = loaded.config
    grid, patch = recipe.grid, recipe.model.patch_size
    tubelet = recipe.model.tubelet_size if recipe.video else None
    group = latent.draw_masks(recipe, len(images))
    normalise = Normalise.for_data(recipe.data)
    x = normalise(images)
    guess, hidden = latent.predictions(method, x.to(device), group.to(device))
    truth = patchify(x, patch, tubelet)
    own = recipe.target.transform != "none"
    mean, spread = _given(truth, recipe.data.channels if recipe.video else None)
    drawn = guess.cpu() * spread + mean if own else guess.cpu()
    hidden = hidden.cpu()
    back = [part.view(-1, *[1] * (images.ndim - 2)) for part in (normalise.std, normalise.mean)]

    def shown(patches: Tensor) -> Tensor:
        filled = unpatchify(torch.where(hidden[..., None], patches, truth), grid, patch, tubelet)
        return (filled * back[0] + back[1]).clamp(0, 1)

    pasted, real = shown(drawn), shown(truth)
    explained = _explained(drawn, truth, mean, hidden)  # in the space of the prediction, before anything is cut to 0..1
    pictures = {"image": real, "patch means": shown(mean), "pasted": pasted}
    seen = latent.cells(group.contexts[0], truth.shape[1])
    rows = []
    for k in range(len(images)):
        parts = {name: inside.as_bytes(part)[k] for name, part in pictures.items()}
        cells = hidden[k].view(grid).numpy(), seen[k].view(grid).numpy()
        rows.append(
            _moving_row(parts, *cells, patch, tubelet, own) if tubelet else _still_row(parts, *cells, patch, own)
        )
    columns = ("clip" if recipe.video else "image", "visible", *(["true patch means"] if own else []),
               "reconstruction", "with visible patches")  # fmt: skip
    captions = [f"inside hidden patches, share of variance explained: {value:.2f}" for value in explained.tolist()]
    what = "clips" if recipe.video else "images"
    average = f"Inside hidden patches {float(explained.mean()):.2f} of the variance is explained, on average over these {what}."
    share = float(hidden.float().mean())
    notes = [f"{share:.0%} of the patches hidden. {average}", GIVEN if own else PLAIN]
    return Reconstructions(rows, columns, captions, notes, pasted, explained)


def _given(truth: Tensor, channels: int | None) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each true patch ``(M, N, V)``, both of its shape, as :func:`pixel_target` takes them.

    channels: of each so many channels of a token by itself (clips).
    """
    if channels is None:
        mean, variance = truth.mean(-1, keepdim=True), truth.var(-1, keepdim=True)
        return mean.expand_as(truth), (variance + PIXEL_EPS).sqrt().expand_as(truth)
    split = truth.unflatten(-1, (-1, channels))  # (M, N, tubelet·p·p, C)
    mean, variance = split.mean(-2, keepdim=True), split.var(-2, keepdim=True)
    return mean.expand_as(split).flatten(-2), (variance.sqrt() + PIXEL_EPS).expand_as(split).flatten(-2)


def _still_row(parts: dict[str, Tensor], hidden: np.ndarray, seen: np.ndarray, patch: int, own: bool) -> list[Image]:
    """Tiles of one image, parts ``(C, H, W)``."""
    return _row({name: canvas.to_rgb(part) for name, part in parts.items()}, hidden, seen, patch, own)


def _moving_row(
    parts: dict[str, Tensor], hidden: np.ndarray, seen: np.ndarray, patch: int, tubelet: int, own: bool
) -> list[Image]:
    """Panels ``(T, H, W, 3)`` of one clip, parts ``(C, T, H, W)``; cells ``(t, h, w)``."""
    rows = [
        _still_row({name: part[:, frame] for name, part in parts.items()}, hidden[frame // tubelet],
                   seen[frame // tubelet], patch, own)
        for frame in range(len(hidden) * tubelet)
    ]  # fmt: skip
    return [np.stack(tiles) for tiles in zip(*rows, strict=True)]


def _row(pictures: dict[str, Image], hidden: np.ndarray, seen: np.ndarray, patch: int, own: bool) -> list[Image]:
    """Tiles of one image: image, visible, (means,) reconstruction, pasted."""
    image = pictures["image"]
    side = (patch, patch)
    visible = canvas.mix(image, canvas.SLATE, masks.DIM, ~canvas.spread(seen, side, *image.shape[:2]))
    made = inside.in_place(image, pictures["pasted"], hidden, seen, side)
    tiles = [
        image,
        visible,
        *([inside.in_place(image, pictures["patch means"], hidden, seen, side)] if own else []),
        made,
    ]
    return inside.enlarged([*tiles, pictures["pasted"]])


def _explained(guess: Tensor, truth: Tensor, mean: Tensor, hidden: Tensor) -> Tensor:
    """Per image, 1 − squared error / squared deviation from each patch's own ``mean``, over ``hidden`` patches: ``(M)``."""
    error = ((guess - truth).square().sum(-1) * hidden).sum(-1)
    inner = ((truth - mean).square().sum(-1) * hidden).sum(-1)
    return 1 - error / inner.clamp_min(1e-9)


def reconstruction_sheet(made: Reconstructions, title: str) -> Pillow.Image:
    """All rows on one sheet."""
    rows: Sequence[Sequence[Image]] = made.rows
    return canvas.sheet(rows, columns=made.columns, captions=made.captions, title=title, notes=made.notes)
