"""Images that Pillow does not hold: ``.npy`` arrays, and TIFF with many channels or more than 8 bits per colour."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openjepa.data.channels import Pixels, to_unit_range
from openjepa.errors import MissingExtra, require

_ALPHA = (1, 2)  # TIFF ExtraSamples: associated and unassociated alpha


def check_pixels(height: int, width: int, limit: int) -> None:
    """Raise ValueError for an empty image or one of more than ``limit`` pixels."""
    if height < 1 or width < 1:
        raise ValueError(f"is empty ({height}×{width} pixels)")
    if height * width > limit:
        raise ValueError(f"has {height * width / 1e6:.0f} megapixels, more than the limit of {limit / 1e6:.0f}")


def _npy_shape(data: bytes) -> tuple[int, ...]:
    """Shape from the header of a ``.npy`` file, so that a lying header cannot ask for terabytes."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("holds Python objects, which are never loaded: store a plain array")
    held, wanted = len(data) - stream.tell(), math.prod(shape) * dtype.itemsize
    if held < wanted:
        raise ValueError(f"is truncated: its header says {shape} {dtype}, {wanted} bytes, and it holds {held}")
    return shape


def channels_last(values: NDArray[Any], channels: int) -> NDArray[Any]:
    """An ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)`` array as ``(H, W, C)``.

    The rule for three axes: the last axis is channels when it equals ``channels``; else the first when it does; else
    the last when it is at most 4; else the first when it is at most 4.

    Raises:
        ValueError: another number of axes, or no axis that can be channels.
    """
    if values.ndim == 2:
        return values[..., None]
    if values.ndim != 3:
        raise ValueError(f"has shape {values.shape}: one image is (H, W), (H, W, C) or (C, H, W)")
    first, last = values.shape[0], values.shape[2]
    if last == channels or (first != channels and last <= 4):
        return values
    if first == channels or first <= 4:
        return np.moveaxis(values, 0, 2)
    raise ValueError(f"has shape {values.shape}, where no axis is data.channels={channels} or at most 4")


def read_npy(data: bytes, channels: int, limit: int) -> Pixels:
    """Pixels of a ``.npy`` file, no pickles. See :func:`channels_last` and :func:`to_unit_range` for the rules."""
    _npy_shape(data)
    values = channels_last(np.load(io.BytesIO(data), allow_pickle=False), channels)
    check_pixels(values.shape[0], values.shape[1], limit)
    return to_unit_range(values)


def read_tiff(data: bytes, channels: int, limit: int) -> tuple[Pixels, bool]:
    """Pixels of a TIFF of any depth and channel count, and whether the last channel is alpha. Needs tifffile.

    The first series is read; of a stack (time, depth) that is not ``channels`` planes, the first plane.

    Raises:
        ValueError: cannot be decoded, or tifffile is not installed (the message names the install command).
    """
    try:
        tifffile = require("tifffile", "images")
    except MissingExtra as error:
        raise ValueError(f"a TIFF Pillow cannot hold (many channels or 16 bits per colour); {error}") from error
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        page = series.keyframe
        check_pixels(page.imagelength, page.imagewidth, limit)
        values, axes = series.asarray(), series.axes
        extra = tuple(int(e) for e in page.extrasamples or ())
        alpha = axes[-1:] == "S" and page.samplesperpixel in (2, 4) and extra[-1:] != () and extra[-1] in _ALPHA
    while values.ndim > 3 or (values.ndim == 3 and axes[-1] != "S" and axes[0] not in "SC" and len(values) != channels):
        values, axes = values[0], axes[1:]
    if values.ndim == 3 and axes[-1] != "S":
        values = np.moveaxis(values, 0, 2)
    return to_unit_range(values if values.ndim == 3 else values[..., None]), alpha
