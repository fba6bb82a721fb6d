"""Several random views of one image, for joint embedding: what ``data.views`` asks for (DESIGN §1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from openjepa.config.schema import DataConfig
from openjepa.data.transforms import EvalTransform, TrainTransform, Transform


class Views:
    """One image to several: each part transforms the same decoded image and draws on its own.

    Draws follow each other in torch's global RNG, which the loader seeds per sample, so views are as independent of
    workers, ranks and micro-batches as a single image is.

    Attributes:
        names: of the results, keys of ``Batch.inputs``. at_least: pixels the most demanding part needs on the short side.
        size: height and width of the largest result.
    """

    def __init__(self, names: Sequence[str], parts: Sequence[Transform]) -> None:
        self.names, self.parts = tuple(names), tuple(parts)
        self.at_least = max(part.at_least for part in parts)
        self.size: tuple[int, int] = max((_size(part) for part in parts), key=lambda size: size[0] * size[1])

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        """``(C, h, w)`` to one ``(C, H, W)`` per name, dtype kept."""
        return tuple(part(image) for part in self.parts)

    def __repr__(self) -> str:
        return "Views(" + ", ".join(f"{n}={p}" for n, p in zip(self.names, self.parts, strict=True)) + ")"


def train_transform(data: DataConfig) -> TrainTransform | Views:
    """What a training image goes through: one transform, or the views in the order of ``data.views``.

    Raises:
        ConfigError: an augmentation that cannot work, by its key.
    """
    return Views(*_views(data)) if data.views else TrainTransform(data)


def panel_transform(data: DataConfig) -> EvalTransform | Views:
    """What an image of the health panel goes through: the evaluation crop, and beside it the views where there are any."""
    image = EvalTransform(data)
    if not data.views:
        return image
    names, parts = _views(data)
    return Views(["image", *names], [image, *parts])


def _views(data: DataConfig) -> tuple[list[str], list[Transform]]:
    """Names and transforms of all views; those of one kind share a transform."""
    parts: list[Transform] = []
    for number, view in enumerate(data.views):
        changes: dict[str, Any] = {"augment": view.augment}
        if view.image_size is not None:
            changes["image_size"] = view.image_size
        part = TrainTransform(data.model_copy(update=changes), key=f"data.views[{number}].augment")
        parts += [part] * view.count
    return [f"view{number}" for number in range(len(parts))], parts


def _size(part: Any) -> tuple[int, int]:
    return part.size
