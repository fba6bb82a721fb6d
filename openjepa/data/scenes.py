"""The built-in ``scenes``: procedural images with exact class, mask, boxes and object parameters.

``plan_scene`` says what is in a scene, ``draw`` shows it at a size and a time, ``render`` does both. Everything is a
function of (seed, index), the same bytes in every process and on every platform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openjepa.data.channels import fit_channels, to_tensor
from openjepa.data.scene_paint import paint_background, paint_object
from openjepa.data.scene_spec import SHAPES, ObjectSpec, SceneSpec, SceneStyle, plan_scene, scene_label
from openjepa.data.seeds import mix
from openjepa.errors import ConfigError, DataError

#: Part of every fingerprint: raise it when the same seed draws other pictures, so that caches notice.
VERSION = 1
_SPLIT_KEYS = {"train": 0, "val": 1}


@dataclass(frozen=True)
class ObjectState:
    """One object as drawn: its description and its pose at the scene's time, in shares of the image side and
    radians.
    """

    spec: ObjectSpec
    x: float
    y: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    image: ``(3, size, size)`` uint8. label: class of the labelled object. mask: ``(size, size)`` int64, 0 background, k
    the visible pixels of object k - 1. boxes: ``(n, 4)`` float32 pixels (x0, y0, x1, y1) around those, zeros for an
    object out of sight. objects: states in the order of mask ids; the first is the labelled one.
    """

    image: Tensor
    label: int
    class_name: str
    mask: Tensor
    boxes: Tensor
    objects: tuple[ObjectState, ...]
    spec: SceneSpec
    time: float


def _boxes(mask: NDArray[np.int64], count: int) -> Tensor:
    """Boxes around ids 1..count of a mask."""
    boxes = torch.zeros(count, 4)
    for k in range(count):
        rows, columns = np.nonzero(mask == k + 1)
        if len(rows):
            boxes[k] = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return boxes


def draw(spec: SceneSpec, size: int = 64, t: float = 0.0) -> Scene:
    """Draw a scene at ``size`` × ``size`` pixels and time ``t`` in frames (every object moves on from its state at
    0).
    """
    if size < 1:
        raise ConfigError(f"scenes cannot be drawn at {size} pixels: at least 1")
    image = paint_background(size, spec.background, spec.direction, spec.roughness, spec.key)
    mask = np.zeros((size, size), np.int64)
    numbered = [(k + 1, thing) for k, thing in enumerate(spec.objects)]
    layers = [(0, f) for f in spec.behind] + numbered[::-1] + [(0, f) for f in spec.front]
    for number, thing in layers:
        touched = paint_object(image, thing, t)
        if touched is not None:
            window, covered = touched
            mask[window][covered] = number
    pixels = (image * np.float32(255) + np.float32(0.5)).astype(np.uint8)  # (3, size, size)
    states = tuple(ObjectState(o, *o.at(t)) for o in spec.objects)
    boxes = _boxes(mask, len(spec.objects))
    return Scene(
        torch.from_numpy(pixels), spec.label, SHAPES[spec.label], torch.from_numpy(mask), boxes, states, spec, t
    )


def render(seed: int, index: int, size: int = 64, *, t: float = 0.0, style: SceneStyle | None = None) -> Scene:
    """Scene ``index`` of generator ``seed``; see :func:`draw` and :func:`openjepa.data.scene_spec.plan_scene`."""
    return draw(plan_scene(seed, index, style), size, t)


class SceneSource:
    """``count`` scenes as a labelled source.

    Args:
        count: number of scenes. size: side in pixels. seed: of the generator.
        split: ``val`` draws from other seeds, so it shares no scene with ``train``.
        channels: 3, or 1 for brightness.
    """

    def __init__(
        self,
        count: int,
        size: int = 64,
        seed: int = 0,
        *,
        split: Literal["train", "val"] = "train",
        channels: int = 3,
        style: SceneStyle | None = None,
    ) -> None:
        if count < 1:
            raise DataError(f"scenes needs a count of at least 1, not {count}")
        if channels not in (1, 3):
            raise DataError(f"scenes has 3 channels (or 1 for gray) and data.channels says {channels}")
        self.name = "scenes" if split == "train" else "scenes-val"
        self.classes: list[str] | None = list(SHAPES)
        self.note = ""
        self.count, self.size, self.channels, self.style = count, size, channels, style or SceneStyle()
        self.generator_seed = mix(seed, _SPLIT_KEYS[split])
        self._about = f"{self.name} v{VERSION} seed {seed} count {count} size {size} channels {channels} {self.style}"

    def __len__(self) -> int:
        return self.count

    def _check(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        return index

    def label(self, index: int) -> int:
        """Class of a scene."""
        return scene_label(self.generator_seed, self._check(index))

    def item_id(self, index: int) -> str:
        """``scenes/00012``."""
        return f"{self.name}/{index:05d}"

    def scene(self, index: int, t: float = 0.0) -> Scene:
        """The whole truth about a scene: image, mask, boxes, object states."""
        return render(self.generator_seed, self._check(index), self.size, t=t, style=self.style)

    def read(self, index: int) -> Tensor:
        """``(channels, size, size)`` uint8."""
        image = self.scene(index).image
        if self.channels == 3:
            return image
        return to_tensor(fit_channels(image.permute(1, 2, 0).numpy(), 1))

    def fingerprint(self) -> str:
        """Generator version, seed, count, size and style."""
        return self._about
