"""Which transform a recipe's data asks for: one image, several random views of it (DESIGN §1), or clips of a video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from openjepa.config.schema import DataConfig
from openjepa.data.clip_transforms import ClipEvalTransform, ClipTransform
from openjepa.data.transforms import EvalTransform, TrainTransform, Transform
from openjepa.errors import ConfigError


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
    """What a training sample goes through: one image, the views in the order of ``data.views``, or a clip.

    Raises:
        ConfigError: an augmentation that cannot work, by its key.
    """
    if data.clip is not None:
        return ClipTransform(data)
    return Views(*_views(data)) if data.views else TrainTransform(data)


def eval_transform(data: DataConfig, views: int = 1) -> EvalTransform | ClipEvalTransform:
    """What a sample goes through where nothing is random: the evaluation crop of an image, or of a video's clips.

    Args:
        views: spatial views of every clip; images have one.

    Raises:
        ConfigError: several views of images.
    """
    if data.clip is not None:
        return ClipEvalTransform(data, views)
    if views != 1:
        raise ConfigError(f"{views} spatial views are for clips: images are seen once")
    return EvalTransform(data)


def panel_transform(data: DataConfig) -> EvalTransform | ClipEvalTransform | Views:
    """What a sample of the health panel goes through: the evaluation crop, and beside it the views where there are any."""
    if not data.views:
        return eval_transform(data)
    names, parts = _views(data)
    return Views(["image", *names], [EvalTransform(data), *parts])


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
