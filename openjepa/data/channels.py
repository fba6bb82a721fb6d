"""Pixel arrays on their way to a tensor: value range, orientation and number of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openjepa.errors import DataError

Pixels = NDArray[Any]  # (H, W, C), uint8 or float32 in 0..1
_LUMA = (19595, 38470, 7471)  # ITU-R 601 weights .299 .587 .114 in 1/65536, as Pillow's convert("L")


class UnreadableImageError(DataError):
    """One image cannot be used. ``str()`` is ``"name: reason"``; ``reason`` alone is what lists of bad files show."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = " ".join(str(reason).split())[:240] or "cannot be decoded"
        super().__init__(f"{name}: {self.reason}")

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[str, str]]:
        return UnreadableImageError, (self.name, self.reason)


def to_unit_range(values: Pixels) -> Pixels:
    """Values as uint8 (kept), or float32 in 0..1: bool and unsigned integers over their type's maximum, floats as they
    are.

    Raises:
        ValueError: floats that are not finite or outside 0..1, or a type whose range says nothing (signed, complex).
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u":
        wide = np.float64 if values.dtype.itemsize > 2 else np.float32
        return np.divide(values, wide(np.iinfo(values.dtype).max), dtype=wide).astype(np.float32)
    if values.dtype.kind != "f":
        raise ValueError(f"holds {values.dtype} values: store uint8, uint16 or floats in 0..1")
    low, high = float(values.min()), float(values.max())  # NaN shows in both
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(f"holds floats from {low:g} to {high:g}: they must be finite and lie in 0..1")
    return np.clip(values, 0, 1).astype(np.float32)


def orient(values: Pixels, code: int) -> Pixels:
    """Undo EXIF orientation ``code`` (1..8; others mean 1) of ``(H, W, C)`` pixels; returns a view."""
    if code in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if code in (2, 3, 6, 7):
        values = values[:, ::-1]
    if code in (3, 4, 7, 8):
        values = values[::-1]
    return values


def _over_white(values: Pixels) -> Pixels:
    """Composite ``(H, W, C + 1)`` pixels, alpha last, over white."""
    color, alpha = values[..., :-1], values[..., -1:]
    if values.dtype == np.uint8:
        wide = color.astype(np.uint16) * alpha + np.uint16(255) * (255 - alpha).astype(np.uint16)
        return ((wide.astype(np.uint32) + 127) // 255).astype(np.uint8)
    return color * alpha + (1 - alpha)


def _luma(values: Pixels) -> Pixels:
    """``(H, W, 3)`` to ``(H, W, 1)`` brightness."""
    if values.dtype == np.uint8:
        red, green, blue = (values[..., c : c + 1].astype(np.uint32) * np.uint32(w) for c, w in enumerate(_LUMA))
        return ((red + green + blue + 0x8000) >> 16).astype(np.uint8)
    return (values @ (np.array(_LUMA, np.float32) / 65536))[..., None]


def fit_channels(values: Pixels, channels: int, *, alpha: bool = False) -> Pixels:
    """Convert ``(H, W, c)`` pixels to ``channels``.

    Equal counts are kept (RGBA stays RGBA for 4 channels). Otherwise alpha is composited over white, what viewers show,
    since hidden pixels hold anything; then gray is repeated to RGB, or RGB reduced to ITU-R 601 luma.

    Args:
        alpha: the last channel is transparency.

    Raises:
        ValueError: no conversion exists.
    """
    count = values.shape[2]
    if count == channels:
        return values
    if alpha:
        values = _over_white(values)
    if values.shape[2] == channels:
        return values
    if values.shape[2] == 1 and channels == 3:
        return np.repeat(values, 3, axis=2)
    if values.shape[2] == 3 and channels == 1:
        return _luma(values)
    raise ValueError(f"the file has {count} channel{'s' * (count != 1)} and data.channels says {channels}")


def to_tensor(values: Pixels) -> Tensor:
    """``(H, W, C)`` pixels to a contiguous ``(C, H, W)`` tensor that owns its memory."""
    return torch.from_numpy(np.array(values.transpose(2, 0, 1), order="C"))
