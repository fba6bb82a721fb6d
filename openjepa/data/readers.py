"""One image file to one tensor. The content decides the format, not the name.

JPEG, PNG, WebP, BMP, TIFF, GIF (first frame), PNM and ``.npy``; gray, gray + alpha, palette, RGB, RGBA, 1-bit, 16-bit,
CMYK, n-channel; EXIF rotation applied. 8-bit data stays uint8, everything else becomes float32 in 0..1.
"""

from __future__ import annotations

import functools
import io
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from openjepa.data.arrays import check_pixels, read_npy, read_tiff
from openjepa.data.channels import Pixels, UnreadableImageError, fit_channels, orient, to_tensor, to_unit_range
from openjepa.errors import DataError

#: Files with these endings (any case) are images; others in a folder are ignored and counted.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".npy"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2"}
)
#: Largest image that is decoded, in pixels: where Pillow itself refuses by default, so that no global of Pillow's is
#: changed (a gigapixel file would otherwise take 3 GB per loader process).
MAX_PIXELS = 178_956_970

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")
_TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_ORIENTATION = 0x0112
_EXIF_KEYS = ("exif", "Raw profile type exif")


@functools.cache
def pillow_formats() -> tuple[str, ...]:
    """The formats we open that this Pillow knows. EPS and its like, which run other programs, are never tried."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def read_bytes(file: str | os.PathLike[str] | bytes | BinaryIO, name: str) -> bytes:
    """The whole file.

    Raises:
        UnreadableImageError: it cannot be opened, or is empty.
    """
    try:
        if isinstance(file, bytes | bytearray | memoryview):
            data = bytes(file)
        elif isinstance(file, str | os.PathLike):
            with open(file, "rb") as stream:
                data = stream.read()
        else:
            data = file.read()
    except OSError as error:
        raise UnreadableImageError(name, (error.strerror or str(error)).lower()) from error
    if not data:
        raise UnreadableImageError(name, "the file is empty")
    return data


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 when there is none or the EXIF block itself is damaged (the pixels are still good)."""
    if not any(key in image.info for key in _EXIF_KEYS):
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _pixels(image: Image.Image) -> tuple[Pixels, bool]:
    """``(H, W, C)`` pixels of a decoded Pillow image, and whether the last channel is alpha."""
    mode = image.mode
    if mode == "P" or mode == "PA":
        image = image.convert("RGBA" if mode == "PA" or "transparency" in image.info else "RGB")
    elif mode in ("L", "RGB") and "transparency" in image.info:
        image = image.convert("RGBA")  # a colour key (tRNS)
    elif mode in ("La", "RGBa"):
        image = image.convert(mode.upper())
    elif mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
    values = np.asarray(image)
    if mode == "I":  # 16 bits in a 32-bit mode (PGM, old PNG): the only such files Pillow hands to us
        values = np.clip(values, 0, 65535).astype(np.uint16)
    elif values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("="))
    values = to_unit_range(values)
    return (values[..., None] if values.ndim == 2 else values), image.mode in ("LA", "RGBA")


def _deep_png(data: bytes) -> bool:
    """A PNG with 16 bits per colour and more than one channel, of which Pillow would keep only the upper 8."""
    return data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 25 and data[24] == 16 and data[25] in (2, 4, 6)


def _read_deep_png(data: bytes) -> tuple[Pixels, bool]:
    """16-bit colour PNG through torchvision: ``(H, W, C)`` float32 and whether the last channel is alpha."""
    import torch
    from torchvision.io import ImageReadMode, decode_png

    # ours is a copy: libpng would otherwise see read-only memory
    stream = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        values = decode_png(stream, mode=ImageReadMode.UNCHANGED).numpy()
    except RuntimeError as error:  # its text names source files of torchvision
        raise ValueError("the 16-bit PNG data is damaged or truncated") from error
    return to_unit_range(values.transpose(1, 2, 0)), data[25] in (4, 6)


def _plain_tiff(image: Image.Image, channels: int) -> bool:
    """Pillow holds this TIFF without loss, and its pages are not the channels."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, samples = tags.get(258, (1,)), tags.get(277, 1)
    if samples == 1 and channels > 1 and getattr(image, "n_frames", 1) == channels:
        return False
    if samples == 1 and image.mode in ("I;16", "I;16B", "I;16L", "F"):
        return True
    return max(bits) <= 8 and samples <= 4


def _decode(data: bytes, channels: int, at_least: int | None) -> tuple[Pixels, bool]:
    """``(H, W, C)`` pixels in the file's own channels, upright, and whether the last one is alpha."""
    if data[:6] == b"\x93NUMPY":
        return read_npy(data, channels, MAX_PIXELS), False
    tiff = data[:4] in _TIFF_MAGIC
    try:
        image = Image.open(io.BytesIO(data), formats=pillow_formats())
    except Image.UnidentifiedImageError:
        if tiff:
            return read_tiff(data, channels, MAX_PIXELS)
        raise
    with image:
        check_pixels(image.height, image.width, MAX_PIXELS)
        if tiff and not _plain_tiff(image, channels):
            return read_tiff(data, channels, MAX_PIXELS)
        if at_least is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (at_least, at_least))
        code = _orientation(image)
        if _deep_png(data):
            values, alpha = _read_deep_png(data)
        else:
            image.load()
            values, alpha = _pixels(image)
        return orient(values, code), alpha


def read_picture(image: Image.Image, channels: int = 3) -> Tensor:
    """A Pillow image as :func:`read_image` would read its file: upright, alpha over white, 16 bits kept. ``(C, H, W)``.

    Raises:
        DataError: its channels are not those wanted.
    """
    values, alpha = _pixels(image)
    return to_tensor(fit_channels(orient(values, _orientation(image)), channels, alpha=alpha))


def read_image(
    file: str | os.PathLike[str] | bytes | BinaryIO,
    channels: int = 3,
    *,
    at_least: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Read one image.

    Args:
        file: path, the file's bytes, or an open binary file.
        channels: channels wanted. Gray and RGB convert into each other, alpha is composited over white (kept when
            ``channels`` counts it); any other difference is an error.
        at_least: the caller needs no more than this many pixels on the short side; a JPEG may then be decoded at 1/2,
            1/4 or 1/8 size as long as both sides stay at least this long (a 40-megapixel photograph 4-8× faster).
        name: how errors call the image; the path by default.

    Returns:
        ``(C, H, W)`` uint8, or float32 in 0..1 for 16-bit and float data.

    Raises:
        UnreadableImageError: a DataError of one line: missing, no permission, truncated, not an image, wrong channels.
    """
    if name is None:
        name = os.fspath(file) if isinstance(file, str | os.PathLike) else "image"
    data = read_bytes(file, name)
    try:
        values, alpha = _decode(data, channels, at_least)
        return to_tensor(fit_channels(values, channels, alpha=alpha))
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError(name, "not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(name, f"has more than {MAX_PIXELS / 1e6:.0f} megapixels") from error
    except DataError:
        raise
    except Exception as error:  # decoders raise anything on damaged bytes: SyntaxError, struct.error, zlib.error ...
        raise UnreadableImageError(name, str(error) or type(error).__name__) from error


def is_image_name(name: str | Path) -> bool:
    """The name ends like an image (any case) and is not hidden."""
    base = os.path.basename(name)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES
