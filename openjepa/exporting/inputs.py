"""What an exported encoder is given: which axes may vary, an example to capture it with, shapes to check it on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.export import Dim

from openjepa.data.transforms import sides
from openjepa.errors import ConfigError, nearest
from openjepa.model import AnyModel, Model
from openjepa.models.vit import VisionTransformer

Dynamic = Literal["auto", "size", "batch", "none"]
CHECKED_TOKENS = 4096  # of one input where lengths vary; of 8,192 in 16 heads ONNX Runtime's attention takes 4 GB
_SIZED = ("sincos2d", "sincos3d", "sinusoid", "rope3d", "learned")  # positions that any rows and columns have
_LENGTHS = ("sincos3d", "sinusoid", "rope3d")  # positions that go on in time


@dataclass(frozen=True)
class InputPlan:
    """The one input of an exported graph.

    size: ``(H, W)`` in pixels. frames: of a clip, None for images. patch, tubelet: what one token covers. preprocessing:
    pixels come as uint8 and are normalised inside. dynamic: the axes that may vary (``batch``, ``frames``, ``height``,
    ``width``); others are fixed. notes: what cannot vary, and why.
    """

    channels: int
    size: tuple[int, int]
    frames: int | None
    patch: tuple[int, int]
    tubelet: int
    preprocessing: bool
    dynamic: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``images`` or ``clips``."""
        return "images" if self.frames is None else "clips"

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes in order."""
        return ("batch", "channels", *(() if self.frames is None else ("frames",)), "height", "width")

    def shape(self, batch: int, size: tuple[int, int] | None = None, frames: int | None = None) -> tuple[int, ...]:
        """``(B, C, H, W)`` or ``(B, C, T, H, W)``; what is not given is as planned."""
        clip = () if self.frames is None else (frames or self.frames,)
        return (batch, self.channels, *clip, *(size or self.size))

    def dims(self) -> dict[int, Any]:
        """What may vary as torch.export wants it; at least two patches and two tubelets, below which shapes broadcast."""
        least = {"frames": 2 * self.tubelet, "height": 2 * self.patch[0], "width": 2 * self.patch[1]}
        made = {name: Dim(name, min=least[name]) if name in least else Dim(name) for name in self.dynamic}
        return {place: made[name] for place, name in enumerate(self.axes) if name in made}

    def example(self) -> Tensor:
        """An input to capture the graph with. Where sizes vary it is unlike the network's own, so that none is bound."""
        size, frames, batch = self.size, self.frames, 1
        if "batch" in self.dynamic:
            batch = 2
        if "height" in self.dynamic:
            size = (3 * self.patch[0] + 1, 4 * self.patch[1] + 3)
        if "frames" in self.dynamic:
            frames = 3 * self.tubelet + 1
        return self.draw(self.shape(batch, size, frames))

    def short_of(self, tokens: int = CHECKED_TOKENS) -> int | None:
        """Frames of a clip as planned, or as many as give so many tokens where it has more; None for images."""
        if self.frames is None:
            return None
        plane = (self.size[0] // self.patch[0]) * (self.size[1] // self.patch[1])
        return min(self.frames, max(tokens // max(plane, 1), 2) * self.tubelet)

    def checks(self) -> tuple[tuple[int, ...], ...]:
        """Shapes to check on: the planned one, then another batch, then a small wide and a tall input where these vary.

        Where lengths vary, long clips are cut to :data:`CHECKED_TOKENS`.
        """
        first = self.shape(1, frames=self.short_of() if "frames" in self.dynamic else None)
        if "batch" not in self.dynamic:
            return (first,)
        if "height" not in self.dynamic:
            return (first, self.shape(2))
        (p, q), longer = self.patch, None if self.frames is None else first[2] + self.tubelet
        frames = longer if "frames" in self.dynamic else self.frames
        wide = self.shape(3, (2 * p + p // 2, self.size[1] // 2 // q * q + 3 * q), frames)
        return (first, wide, self.shape(2, (self.size[0] + p, 2 * q), first[2] if self.frames is not None else None))

    def draw(self, shape: tuple[int, ...], seed: int = 0) -> Tensor:
        """A random input: uint8 pixels, or what normalised pixels are like."""
        generator = torch.Generator().manual_seed(seed)
        if self.preprocessing:
            return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return torch.randn(shape, generator=generator)

    def describe(self) -> str:
        """Such as ``images (batch, 3, height, width) float32, normalised``."""
        numbers = dict(zip(self.axes, self.shape(1), strict=True))
        names = [name if name in self.dynamic else str(numbers[name]) for name in self.axes]
        return f"{self.name} ({', '.join(names)}) {'uint8' if self.preprocessing else 'float32, normalised'}"


def plan_input(
    model: AnyModel,
    *,
    preprocessing: bool = False,
    dynamic: Dynamic = "auto",
    size: int | tuple[int, int] | None = None,
    frames: int | None = None,
) -> InputPlan:
    """The input of ``model``, with as many axes that vary as ``dynamic`` asks for and the network allows.

    Args:
        dynamic: ``auto``: batch, and size (and length of clips) for our encoders; ``size``: the same, refused where the
            network cannot; ``batch``; ``none``. size, frames: those that are checked, and fixed where they do not vary; by
            default the model's own.

    Raises:
        ConfigError: an unknown choice, or a size or length the network cannot take.
    """
    if dynamic not in get_args(Dynamic):
        raise ConfigError(f"no dynamic '{dynamic}'{nearest(dynamic, get_args(Dynamic))}: auto, size, batch or none")
    data = model.reading.data
    if data.points is not None:
        raise ConfigError(f"{model.name} takes groups of points: only encoders of images and clips are exported")
    encoder: Any = model.encoder
    patch, tubelet = tuple(encoder.patch_size), int(getattr(encoder, "tubelet_size", 1) or 1)
    chosen = sides(data.image_size if size is None else size)
    length = None if data.clip is None else frames or data.clip.frames
    if frames is not None and data.clip is None:
        raise ConfigError(f"{model.name} takes images: --frames is for encoders of video")
    if min(chosen) < 1 or (isinstance(model, Model) and (chosen[0] < patch[0] or chosen[1] < patch[1])):
        raise ConfigError(f"a size of {chosen[0]}×{chosen[1]} px is smaller than one patch of {patch[0]}×{patch[1]} px")
    if length is not None and length < tubelet:
        raise ConfigError(f"a clip of {length} frames is shorter than a tubelet of {tubelet}")
    axes, notes = _axes(model, dynamic, length is not None)
    return InputPlan(model.channels, chosen, length, (patch[0], patch[1]), tubelet, preprocessing, axes, notes)


def _axes(model: AnyModel, dynamic: Dynamic, clips: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The axes that vary, and notes about those that do not."""
    if dynamic in ("none", "batch"):
        return (() if dynamic == "none" else ("batch",)), ()
    encoder = model.encoder
    ours = isinstance(encoder, VisionTransformer)
    kind = encoder.positions.kind if isinstance(encoder, VisionTransformer) else ""
    whole: tuple[str, ...] = ("batch", *(("frames",) if clips else ()), "height", "width")
    if ours and (kind in _LENGTHS if clips else kind in _SIZED):
        return whole, ()
    if dynamic == "size":
        if ours:
            raise ConfigError(f"{kind} positions of clips have no other length: export with --dynamic batch")
        return whole, ()  # tried; capturing says where it fails
    why = (
        f"{kind} positions of clips have one length"
        if ours
        else "somebody else's network, which may know one size only"
    )
    return ("batch",), (f"size is fixed: {why}",)
