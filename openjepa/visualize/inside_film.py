"""Looks inside a model of clips that move with them: attention maps of every tubelet, reconstructions of masked tubes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from openjepa.visualize import inside
from openjepa.visualize.animation import Film, Frames
from openjepa.visualize.attention_maps import AttentionMaps
from openjepa.visualize.reconstruction import Reconstructions


def at_step(found: AttentionMaps, step: int) -> AttentionMaps:
    """The maps of one tubelet of clips as maps of images; the asking patch is framed in its own tubelet only."""
    queries = None
    if found.queries is not None:
        queries = tuple(place[1:] if place[0] == step else () for place in found.queries)
    return replace(found, values=found.values[:, :, step], seen=found.seen[:, step], queries=queries)


def attention_panels(
    clips: Tensor, found: AttentionMaps, patch: tuple[int, int], tubelet: int, top: float
) -> list[list[Frames]]:
    """For each of ``clips (M, C, T, H, W)`` its frames, what is visible of them where something is hidden, and a map for each
    head shown; ``top`` is drawn brightest.
    """
    masked = not bool(found.seen.all())
    pages: list[list[list[np.ndarray]]] = []
    for frame in range(found.values.shape[2] * tubelet):
        one = at_step(found, frame // tubelet)
        pages.append(inside.attention_tiles(clips[:, :, frame], one, patch, top, masked))
    return [
        [np.stack([page[row][column] for page in pages]) for column in range(len(pages[0][row]))]
        for row in range(len(clips))
    ]


def attention_film(
    clips: Tensor,
    found: AttentionMaps,
    patch: tuple[int, int],
    tubelet: int,
    *,
    title: str,
    seconds: float,
    captions: Sequence[str] = (),
) -> Film:
    """Clips with their attention maps, a map for each tubelet, one colour scale for all."""
    top = inside.attention_top(found)
    columns = ["clip", *([] if found.seen.all() else ["visible"]), *found.names]
    note = (
        f"{found.note} The scale is shared by all maps; one token covers {tubelet} frame{'s' if tubelet > 1 else ''}."
    )
    return Film(
        attention_panels(clips, found, patch, tubelet, top), seconds, columns=columns, captions=captions, title=title,
        notes=[note], legend=inside.attention_key(top, found.even),
    )  # fmt: skip


def reconstruction_film(made: Reconstructions, *, title: str, seconds: float) -> Film:
    """Rows of moving reconstructions, see :func:`openjepa.visualize.reconstruction.reconstruct`."""
    return Film(made.rows, seconds, columns=made.columns, captions=made.captions, title=title, notes=made.notes)
