"""A few real samples, made into model inputs: what previews, maps and contact sheets are drawn on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from openjepa.config.schema import DataConfig
from openjepa.data import EvalTransform, Source, TrainTransform, eval_transform, train_transform, with_hint
from openjepa.data.clips import Clips
from openjepa.data.sources import with_clips
from openjepa.data.transforms import Transform
from openjepa.errors import DataError
from openjepa.types import Batch


@dataclass(frozen=True)
class Samples:
    """Model inputs before normalisation. images ``(M, C, H, W)``, or clips ``(M, C, T, H, W)``, uint8 or float in 0..1;
    names, labels of length M (label -1: none); indices into the source; classes by label, or None.
    """

    images: Tensor
    names: list[str]
    labels: list[int]
    indices: list[int]
    classes: list[str] | None

    def __len__(self) -> int:
        return len(self.names)


def spaced(total: int, count: int) -> list[int]:
    """``count`` indices spread evenly over ``range(total)`` (all of them when there are fewer)."""
    count = min(count, total)
    return [(2 * k + 1) * total // (2 * count) for k in range(count)]


def batches(images: Tensor, size: int) -> Iterator[Batch]:
    """Images ``(M, C, H, W)`` or clips ``(M, C, T, H, W)`` as evaluation batches of ``size``; ids are their places."""
    name = "image" if images.ndim == 4 else "video"
    for start in range(0, len(images), size):
        part = images[start : start + size]
        ids = torch.arange(start, start + len(part))
        yield Batch({name: part}, ids, ids)


def readable(source: Source, count: int, at_least: int = 0) -> Iterator[tuple[int, Tensor]]:
    """``count`` samples spread over ``source`` as they are: index and ``(C, h, w)``, each once.

    A sample that cannot be read is replaced by the next readable one. at_least: pixels needed on the short side; large
    JPEGs are decoded at that size.

    Raises:
        DataError: nothing can be read.
    """
    source = with_hint(source, at_least) if at_least else source
    taken: set[int] = set()
    for wanted in spaced(len(source), count):
        found = _readable(source, wanted, taken)
        if found is None:
            break
        taken.add(found[0])
        yield found
    if not taken:
        raise DataError(f"{source.name}: none of its {len(source)} samples can be read, so there is nothing to draw")


def gather(
    source: Source,
    data: DataConfig,
    count: int,
    *,
    seed: int = 0,
    augment: bool = False,
    transform: Transform | None = None,
) -> Samples:
    """Read ``count`` samples spread over ``source`` and transform them as ``data`` says (see :func:`readable`).

    ``augment`` applies the random training transforms under a generator seeded with ``seed``; the caller's random state
    is left as it was. ``transform``: this one instead, of an encoder that has no recipe. With ``data.clip`` samples are
    clips: placed as in training when augmented, else the middle one of each video.

    Raises:
        DataError: nothing can be read.
    """
    if data.clip is not None:
        source = with_clips(source, Clips.training(data.clip) if augment else Clips.evaluation(data.clip))
    transform = transform or _transform(data, augment)
    images: list[Tensor] = []
    names: list[str] = []
    labels: list[int] = []
    taken: list[int] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for index, raw in readable(source, count, transform.at_least):
            images.append(transform(raw))
            names.append(source.item_id(index))
            labels.append(source.label(index))
            taken.append(index)
    return Samples(torch.stack(images), names, labels, taken, source.classes)


def _transform(data: DataConfig, augment: bool) -> Transform:
    """What one sample goes through; of a recipe with several views the plain image."""
    if data.clip is not None:
        return cast(Transform, train_transform(data) if augment else eval_transform(data))
    return TrainTransform(data) if augment else EvalTransform(data)


def _readable(source: Source, wanted: int, taken: set[int]) -> tuple[int, Tensor] | None:
    """The first readable sample at or after ``wanted`` (going round once) that is not taken yet, or None."""
    for step in range(len(source)):
        index = (wanted + step) % len(source)
        if index in taken:
            continue
        try:
            return index, source.read(index)
        except DataError:
            continue
    return None
