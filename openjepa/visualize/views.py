"""The random views of a joint-embedding recipe, drawn on real samples: what has to be embedded near each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image as Pillow

from openjepa.config.schema import DataConfig
from openjepa.data import Source, panel_transform
from openjepa.data.views import Views
from openjepa.errors import ConfigError
from openjepa.visualize import canvas, samples
from openjepa.visualize.canvas import Image

MOST = 8  # views shown of each image


@dataclass(frozen=True)
class ViewPreview:
    """One sample: its evaluation crop and its views, as pictures of the sizes the encoder gets (enlarged when small)."""

    name: str
    original: Image
    views: tuple[Image, ...]
    sizes: tuple[int, ...]


def view_previews(source: Source, data: DataConfig, *, count: int = 6, seed: int = 0) -> list[ViewPreview]:
    """Views of ``count`` samples spread over ``source``, drawn under a generator seeded with ``seed``.

    Raises:
        ConfigError: the recipe names no views. DataError: no sample can be read.
    """
    transform = panel_transform(data)
    if not isinstance(transform, Views):
        raise ConfigError("data.views is empty: this recipe draws no views")
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for index, raw in samples.readable(source, count, transform.at_least):
            original, *views = transform(raw)
            shown = views[:MOST]
            pictures = tuple(canvas.tile(canvas.to_rgb(view), 128) for view in shown)
            sizes = tuple(view.shape[-1] for view in shown)
            found.append(ViewPreview(source.item_id(index), canvas.tile(canvas.to_rgb(original), 128), pictures, sizes))
    return found


def columns(preview: ViewPreview) -> list[str]:
    """What each picture of a row is."""
    return ["image", *(f"view {k}, {size} px" for k, size in enumerate(preview.sizes))]


def view_sheet(previews: Sequence[ViewPreview], title: str = "Views") -> Pillow.Image:
    """One row per image: its evaluation crop, then its views."""
    rows = [[p.original, *p.views] for p in previews]
    note = "Each view is cropped and changed on its own; training pulls the embeddings of one row together."
    return canvas.sheet(rows, columns=columns(previews[0]), title=title, notes=[note])
