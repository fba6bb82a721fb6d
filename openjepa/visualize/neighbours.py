"""Nearest neighbours as a contact sheet: held-out images, and the training images whose features are most alike.

Where labels exist a neighbour of the same class has a green frame, one of another class an orange frame with a cut
corner, so that the sheet reads without colour.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from openjepa.config.schema import DataConfig
from openjepa.data import Source, Subset, eval_transform, read_batches, with_hint
from openjepa.data.clips import Clips
from openjepa.data.sources import with_clips
from openjepa.features.extraction import extract
from openjepa.features.neighbours import cosine_topk
from openjepa.types import Batch, Encoder
from openjepa.visualize import canvas, samples
from openjepa.visualize.canvas import Image
from openjepa.visualize.clips import middle
from openjepa.visualize.words import percent

RIGHT, WRONG, UNKNOWN = canvas.GREEN, canvas.VERMILION, (208, 215, 222)


@dataclass(frozen=True)
class Neighbour:
    """One training image near a query. right: same class as the query, None without labels."""

    image: Image
    name: str
    class_name: str
    similarity: float
    right: bool | None


@dataclass(frozen=True)
class QueryRow:
    """A held-out image and its nearest training images, the nearest first."""

    image: Image
    name: str
    class_name: str
    neighbours: tuple[Neighbour, ...]


def nearest(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities and indices, both ``(Q, k)``, of the ``k`` rows of ``bank`` most like each query.

    Features are centred by the mean of ``bank`` first, as the kNN score does. Ties go to the lower index.
    """
    mean = bank.double().mean(0)
    return cosine_topk(queries.double() - mean, bank.double() - mean, k)


def neighbour_rows(
    encoder: Encoder,
    normalise: nn.Module,
    data: DataConfig,
    bank: Source,
    held_out: Source,
    *,
    queries: int = 8,
    k: int = 6,
    most: int = 2000,
    seconds: float = math.inf,
    device: str = "cpu",
    batch_size: int = 32,
) -> tuple[list[QueryRow], int]:
    """The ``k`` nearest images in ``bank`` for ``queries`` images spread over ``held_out``, and how many were searched.

    Args:
        encoder: any :class:`openjepa.types.Encoder`; its patch features are mean-pooled.
        normalise: from raw images to what the encoder expects.
        data: image size and evaluation crop; of clips the middle one of each video counts, and its middle frame is shown.
        bank: training images; ``most`` of them, spread evenly, are searched (fewer when that takes over ``seconds``).
        held_out: where the queries come from; images that are also in ``bank`` are not told apart.
        queries, k: rows and neighbours per row.
        device, batch_size: where and how features are computed.

    Raises:
        DataError: either source has no readable image.
    """
    transform: Any = eval_transform(data)
    if data.clip is not None:
        bank = with_clips(bank, Clips.evaluation(data.clip))
    asked = samples.gather(held_out, data, queries)
    order = torch.randperm(min(most, len(bank)), generator=torch.Generator().manual_seed(0))  # a cut bank stays spread
    searched = Subset(with_hint(bank, transform.at_least), torch.tensor(samples.spaced(len(bank), most))[order])
    batches = _within(read_batches(searched, transform, batch_size=batch_size), seconds)
    found = extract(encoder, batches, normalise=normalise, device=device)
    query = extract(encoder, samples.batches(asked.images, batch_size), normalise=normalise, device=device)
    similar, places = nearest(query.values, found.values, min(k, len(found)))
    rows = []
    for q, name in enumerate(asked.names):
        own = class_name(held_out, asked.labels[q])
        row = []
        for place, value in zip(places[q].tolist(), similar[q].tolist(), strict=True):
            index = int(found.ids[place])
            label = searched.label(index)
            image = canvas.to_rgb(middle(transform(searched.read(index))))
            theirs = class_name(searched, label)
            right = None if min(label, asked.labels[q]) < 0 else theirs == own
            row.append(Neighbour(image, searched.item_id(index), theirs, value, right))
        rows.append(QueryRow(canvas.to_rgb(middle(asked.images[q])), name, own, tuple(row)))
    return rows, len(found)


def _within(batches: Iterable[Batch], seconds: float) -> Iterator[Batch]:
    """Batches until ``seconds`` have passed; always at least one."""
    end = time.monotonic() + seconds
    for batch in batches:
        yield batch
        if time.monotonic() > end:
            return


def class_name(source: Source, label: int) -> str:
    """The class of a label in words; empty without a label."""
    if label < 0:
        return ""
    return source.classes[label] if source.classes and label < len(source.classes) else f"class {label}"


def right_share(rows: Sequence[QueryRow]) -> float | None:
    """Share of neighbours of the query's own class; None where nothing has labels."""
    marks = [n.right for row in rows for n in row.neighbours if n.right is not None]
    return sum(marks) / len(marks) if marks else None


def framed(image: Image, right: bool | None, size: int = 96) -> Image:
    """A neighbour's tile with its frame: green right, orange with a cut corner wrong, grey unknown."""
    shown = canvas.tile(image, size)
    colour = UNKNOWN if right is None else RIGHT if right else WRONG
    return canvas.frame(shown, colour, 4, corner=right is False)


def contact_sheet(rows: Sequence[QueryRow], title: str = "Nearest training images") -> Pillow.Image:
    """Queries on the left (dark frame), their neighbours from the nearest on."""
    lines = []
    for row in rows:
        query = canvas.tile(row.image, 96)
        lines.append([canvas.frame(query, canvas.INK, 4), *(framed(n.image, n.right) for n in row.neighbours)])
    share = right_share(rows)
    notes = ["Cosine similarity of mean-pooled, centred features; nearest first."]
    if share is not None:
        notes.append(f"Green: same class as the query ({percent(share)}). Orange with a cut corner: another class.")
    captions = [f"{row.class_name + ': ' if row.class_name else ''}{row.name}" for row in rows]
    return canvas.sheet(lines, captions=captions, columns=["query", "nearest"], title=title, notes=notes)
