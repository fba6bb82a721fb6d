"""Sheets that look inside a model: attention maps, decoded features, and reconstructions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as Pillow
from torch import Tensor

from openjepa.types import MaskGroup
from openjepa.visualize import canvas, latent, maps, masks
from openjepa.visualize.attention_maps import AttentionMaps
from openjepa.visualize.canvas import Image
from openjepa.visualize.decoded import Instrument, Subject
from openjepa.visualize.decoder import fidelity, unit

DECODED = ("image", "context shown", "decoded from true target", "decoded from prediction")
UNSEEN = (222, 226, 231)  # of hidden patches in a map: no colour of the scale
MEAN_ONLY = (
    "A plain regressor, one patch at a time: it shows the mean of what a feature allows, so blur is what the feature "
    "leaves open (or what this small decoder cannot read), and detail is never invented."
)


def attention_tiles(
    images: Tensor, found: AttentionMaps, patch: tuple[int, int], top: float, masked: bool = False
) -> list[list[Image]]:
    """For each of ``images (M, C, H, W)`` its tile and a map for each head shown; ``top`` is drawn brightest.

    Where patches are hidden (or anyway when ``masked``), a tile of what is visible stands between them.
    """
    height, width = images.shape[-2:]
    factor = canvas.scale_for(height, width)
    rows = []
    for k, image in enumerate(maps.tiles(images)):
        hidden = canvas.enlarge(canvas.spread(~found.seen[k], patch, height, width), factor)
        tiles = [canvas.mix(image, canvas.SLATE, masks.DIM, hidden) if hidden.any() else image]
        for values in found.values[k]:
            unseen = np.isnan(values)[..., None]
            cells = np.where(unseen, np.asarray(UNSEEN), canvas.shades(np.nan_to_num(values) / top))
            tiles.append(maps.map_tile(cells.astype(np.uint8), patch, height, width))
        if found.queries is not None and found.queries[k]:
            mark = np.zeros(found.seen.shape[1:], dtype=bool)
            mark[found.queries[k]] = True
            where = canvas.enlarge(canvas.spread(mark, patch, height, width), factor)
            tiles = [
                canvas.outline(canvas.outline(t, where, canvas.PAPER, 4), where, canvas.VERMILION, 2) for t in tiles
            ]
        rows.append([image, *tiles] if masked or hidden.any() else tiles)
    return rows


def attention_top(found: AttentionMaps) -> float:
    """The share drawn brightest: the largest of the sheet."""
    return max(float(np.nanmax(found.values)), found.even)


def attention_key(top: float, even: float) -> Image:
    """The colour bar of a sheet whose brightest share is ``top``; ``even`` marks evenly spread attention."""
    marks = {"0": 0.0, f"{100 * top:.3g}": top, f"{100 * even:.2g} = even": even}
    return canvas.colour_bar(top, "share of the asking patch's attention, %", marks)


def attention_sheet(images: Tensor, found: AttentionMaps, patch: tuple[int, int], title: str) -> Pillow.Image:
    """Images with their attention maps, one colour scale for all."""
    top = attention_top(found)
    units = attention_tiles(images, found, patch, top)
    size = canvas.TILE if len(units[0]) <= 5 else 112
    units = [[canvas.fit(tile, size) for tile in unit_] for unit_ in units]
    names = ["image", *(["visible"] if len(units[0]) > len(found.names) + 1 else []), *found.names]
    per_row = max(1, 6 // len(names))
    notes = [f"{found.note} The scale is shared by all maps of this sheet.", *_elsewhere(found)]
    return canvas.sheet(
        canvas.join(units, per_row), columns=names * min(per_row, len(units)), title=title, notes=notes,
        legend=attention_key(top, found.even),
    )  # fmt: skip


def _elsewhere(found: AttentionMaps) -> list[str]:
    """What class and register tokens get, where there are such."""
    share = float(found.elsewhere.mean())
    if share < 0.005 or not found.seen.all():
        return []
    return [f"{share:.0%} of the attention goes to tokens that are no patches (class or register tokens), not drawn."]


def as_bytes(images: Tensor) -> Tensor:
    """Images in 0..1 or uint8 as uint8, without stretching: decoded and real pixels stay comparable."""
    return (unit(images).clamp(0, 1) * 255).round().to(torch.uint8)


def in_place(
    shown: Image, drawn: Image, hidden: npt.NDArray[np.bool_], seen: npt.NDArray[np.bool_], patch: tuple[int, int]
) -> Image:
    """``drawn`` at the ``hidden`` cells; the image, faded, at the ``seen`` ones; dark where neither. Tiles in pixels."""
    height, width = shown.shape[:2]
    faded = canvas.mix(shown, canvas.PAPER, 0.72)
    at = [canvas.spread(cells, patch, height, width)[..., None] for cells in (hidden, seen)]
    return np.where(at[0], drawn, np.where(at[1], faded, np.asarray(canvas.SLATE))).astype(np.uint8)


def decoded_tiles(subject: Subject, tool: Instrument, images: Tensor) -> tuple[list[list[Image]], list[str]]:
    """Rows of :data:`DECODED` (the first and third alone where no latents are predicted) and a caption for each row."""
    truth = tool.space(subject.raw(images))
    whole = as_bytes(tool.decoder.images(truth))
    plain = as_bytes(images)
    height, width = whole.shape[-2:]
    plain = plain[..., :height, :width]  # leftover pixels have no token
    if subject.method is None:
        captions = [
            f"decoded: {fidelity(tool.decoder, truth[k : k + 1], images[k : k + 1])}" for k in range(len(images))
        ]
        return [enlarged([canvas.to_rgb(a), canvas.to_rgb(b)]) for a, b in zip(plain, whole, strict=True)], captions
    guess, where, group = subject.predict(images)
    guess = tool.space.fit_length(guess)
    predicted = as_bytes(tool.decoder.images(torch.where(where[..., None], guess, truth)))
    rows, captions = [], []
    seen, patch = _context(group, truth.shape[1]), (tool.decoder.patch,) * 2
    for k in range(len(images)):
        image = canvas.to_rgb(plain[k])
        cells = where[k].view(subject.recipe.grid).numpy(), seen[k].view(subject.recipe.grid).numpy()
        context = canvas.mix(image, canvas.SLATE, masks.DIM, ~canvas.spread(cells[1], patch, height, width))
        last = in_place(image, canvas.to_rgb(predicted[k]), *cells, patch)
        rows.append(enlarged([image, context, canvas.to_rgb(whole[k]), last]))
        one = slice(k, k + 1)
        told = [fidelity(tool.decoder, x[one], images[one], where[one]).r2 for x in (truth, guess)]
        captions.append(
            f"hidden patches, R2 against the mean patch: true target {told[0]:.2f}, prediction {told[1]:.2f}"
        )
    return rows, captions


def _context(group: MaskGroup, tokens: int) -> Tensor:
    """Which patches the encoder saw, ``(B, N)`` bool."""
    return latent.cells(group.contexts[0], tokens)


def enlarged(tiles: Sequence[Image]) -> list[Image]:
    """Tiles enlarged by one whole factor."""
    factor = canvas.scale_for(*tiles[0].shape[:2])
    return [canvas.enlarge(tile, factor) for tile in tiles]


def decoded_notes(tool: Instrument, recipe_notes: Sequence[str] = ()) -> list[str]:
    """What the decoder is and reached, in sentences."""
    about, scores = tool.about, tool.scores
    fitted = f"{about['steps']:,} steps on {about['fitted_on']:,} images of {about['source']}"
    lines = [
        f"Decoder fitted for {fitted}. On {about['judged_on']:,} held-out images, all patches: {scores['targets']}."
    ]
    if "hidden predictions" in scores:
        lines.append(
            f"Hidden patches there, from true targets: {scores['hidden targets']}; "
            f"from predictions: {scores['hidden predictions']}."
        )
    return [*lines, *recipe_notes, MEAN_ONLY]


def space_notes(subject: Subject) -> list[str]:
    """What to know about the space predictions are decoded from."""
    recipe = subject.recipe
    if subject.method is None:
        return [f"Method {recipe.method} predicts no features of hidden patches, so only true features are decoded."]
    notes = []
    if recipe.target.transform == "centred":
        notes.append(
            "Targets are centred here by the statistics of all fitting images; training uses those of each batch."
        )
    if recipe.objective.kind in latent.DIRECTIONS:
        notes.append(f"Objective {recipe.objective.kind} compares directions: predictions were given the mean length.")
    if recipe.objective.granularity == "block":
        notes.append("The objective compares block means only: single predicted patches were never asked to be right.")
    if recipe.objective.weight == 0:
        notes.append("objective.weight is 0: the predictor was never trained.")
    return notes


def decoded_columns(subject: Subject) -> tuple[str, ...]:
    """What each tile of a row of :func:`decoded_tiles` is."""
    return DECODED if subject.method is not None else (DECODED[0], "decoded from its features")


def decoded_sheet(subject: Subject, tool: Instrument, images: Tensor, title: str) -> Pillow.Image:
    """Rows: image, context, decoded from the true target features, decoded from predicted ones at hidden patches."""
    rows, captions = decoded_tiles(subject, tool, images)
    return canvas.sheet(
        rows,
        columns=decoded_columns(subject),
        captions=captions,
        title=title,
        notes=decoded_notes(tool, space_notes(subject)),
    )
