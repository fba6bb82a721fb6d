"""Small pictures as arrays: what every other file of this room draws with. Only numpy and Pillow, no optional extra.

An ``Image`` here is ``(H, W, 3)`` uint8. Colours are Okabe and Ito's set, told apart with every common colour vision.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from openjepa.errors import ConfigError

Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
_Kind = TypeVar("_Kind", bound=np.generic)

ORANGE: Colour = (230, 159, 0)
SKY: Colour = (86, 180, 233)
GREEN: Colour = (0, 158, 115)
BLUE: Colour = (0, 114, 178)
VERMILION: Colour = (213, 94, 0)
PURPLE: Colour = (204, 121, 167)
YELLOW: Colour = (240, 228, 66)
PALETTE: tuple[Colour, ...] = (ORANGE, SKY, GREEN, PURPLE, VERMILION, BLUE, YELLOW)
SLATE: Colour = (32, 36, 43)  # what is hidden is mixed towards this
PAPER: Colour = (255, 255, 255)
INK: Colour = (31, 35, 40)
MUTED: Colour = (101, 109, 118)

VIRIDIS = np.array(
    [(68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137), (53, 183, 121),
     (109, 205, 89), (180, 222, 44), (253, 231, 37)], dtype=np.float64,
)  # fmt: skip

TILE = 192  # pixels: small inputs are enlarged to about this


def to_rgb(image: Tensor) -> Image:
    """A sample ``(C, H, W)`` as an image: one channel becomes grey, of four or more the first three are shown.

    uint8 is shown as it is. Float (16-bit files and the like, 0..1) is stretched from its 1st to its 99th percentile
    when it uses less than half of the range, because microscopy and depth are otherwise black.

    Raises:
        ConfigError: ``image`` is not ``(C, H, W)``.
    """
    if image.ndim != 3:
        raise ConfigError(f"an image to draw has shape (C, H, W), this one {tuple(image.shape)}")
    x = image.detach().cpu()
    channels = x.shape[0]
    x = x.expand(3, -1, -1) if channels == 1 else x[:3]
    if channels == 2:  # two channels have no blue
        x = torch.cat([x, torch.zeros_like(x[:1])])
    if x.dtype != torch.uint8:
        x = (_stretch(x.float()) * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(x.permute(1, 2, 0).numpy())


def _stretch(x: Tensor) -> Tensor:
    """Spread a narrow float image over 0..1 (percentiles 1 and 99); leave one that uses the range alone."""
    x = torch.nan_to_num(x)
    sample = x.flatten()[:: max(1, x.numel() // 65536)]  # quantile has an upper size, and needs no more than this
    low, high = (float(v) for v in torch.quantile(sample, torch.tensor([0.01, 0.99])))
    if low >= 0 and high <= 1 and high - low >= 0.5:
        return x
    return ((x - low) / max(high - low, 1e-6)).clamp(0, 1)


def scale_for(height: int, width: int, tile: int = TILE) -> int:
    """Whole factor that brings the longer side near ``tile`` (1 when it is there already)."""
    return max(1, round(tile / max(height, width)))


def enlarge(image: npt.NDArray[_Kind], factor: int) -> npt.NDArray[_Kind]:
    """Repeat each pixel ``factor`` times in both directions: ``(H, W, …)`` to ``(fH, fW, …)``."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def spread(cells: npt.NDArray[_Kind], patch: tuple[int, int], height: int, width: int) -> npt.NDArray[_Kind]:
    """Grid cells ``(h, w, …)`` to pixels ``(height, width, …)``: each covers its patch; leftover pixels are 0."""
    full = np.zeros((height, width, *cells.shape[2:]), dtype=cells.dtype)
    blown = cells.repeat(patch[0], axis=0).repeat(patch[1], axis=1)[:height, :width]
    full[: blown.shape[0], : blown.shape[1]] = blown
    return full


def mix(image: Image, colour: Colour, share: float, where: npt.NDArray[np.bool_] | None = None) -> Image:
    """``image`` with ``share`` of it replaced by ``colour``, everywhere or only at the pixels ``where`` ``(H, W)``."""
    mixed = (image * (1.0 - share) + np.asarray(colour) * share).round().astype(np.uint8)
    return mixed if where is None else np.where(where[..., None], mixed, image)


def outline(image: Image, region: npt.NDArray[np.bool_], colour: Colour, width: int) -> Image:
    """Draw the inner border of ``region`` ``(H, W)`` (any shape), ``width`` pixels thick, in ``colour``."""
    inside = functional.pad(torch.from_numpy(region.astype(np.float32))[None, None], [width] * 4)
    core = -functional.max_pool2d(-inside, 2 * width + 1, stride=1)  # erosion: 1 where the whole window is inside
    drawn = image.copy()
    drawn[region & (core[0, 0].numpy() < 0.5)] = colour
    return drawn


def frame(image: Image, colour: Colour, width: int, *, corner: bool = False) -> Image:
    """A border of ``width`` pixels around the image; ``corner`` also cuts a triangle of it into the top right corner,
    so that the frame can be told without its colour.
    """
    height, length = image.shape[:2]
    framed = np.full((height + 2 * width, length + 2 * width, 3), colour, dtype=np.uint8)
    framed[width:-width, width:-width] = image
    if corner:
        rows, cols = np.mgrid[:height, :length]
        inner = framed[width:-width, width:-width]
        inner[rows + (length - 1 - cols) < max(4, min(height, length) // 5)] = colour
    return framed


def fit(image: Image, longest: int) -> Image:
    """The image with its longer side at most ``longest`` pixels (averaged, never enlarged)."""
    side = max(image.shape[:2])
    if side <= longest:
        return image
    size = (max(1, round(image.shape[1] * longest / side)), max(1, round(image.shape[0] * longest / side)))
    return np.asarray(Pillow.fromarray(image).resize(size, Pillow.Resampling.LANCZOS))


def tile(image: Image, size: int) -> Image:
    """The image enlarged by a whole factor, or averaged down, to about ``size`` pixels (never more)."""
    return fit(enlarge(image, scale_for(image.shape[0], image.shape[1], size)), size)


def join(pictures: Sequence[Sequence[Image]], per_row: int) -> list[list[Image]]:
    """Groups of tiles laid side by side, ``per_row`` groups in a row."""
    return [list(chain.from_iterable(pictures[k : k + per_row])) for k in range(0, len(pictures), per_row)]


def png(image: Image | Pillow.Image) -> bytes:
    """The picture as PNG bytes."""
    return _encode(image, "PNG")


def _encode(image: Image | Pillow.Image, form: str, **options: object) -> bytes:
    picture = image if isinstance(image, Pillow.Image) else Pillow.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def data_uri(image: Image | Pillow.Image) -> str:
    """The picture inside a ``data:`` address: PNG, or JPEG where that is less than half as large (photographs)."""
    exact, small = png(image), _encode(image, "JPEG", quality=90, subsampling=0)
    kind, content = ("jpeg", small) if 2 * len(small) < len(exact) else ("png", exact)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def sheet(
    rows: Sequence[Sequence[Image]],
    *,
    captions: Sequence[str] = (),
    columns: Sequence[str] = (),
    title: str = "",
    notes: Sequence[str] = (),
    legend: Image | None = None,
    under: Sequence[Image | None] = (),
    gap: int = 8,
) -> Pillow.Image:
    """Tiles in rows on white paper: title above, ``columns`` over the columns, ``captions`` under rows, notes below.

    legend: a picture under the rows, such as a :func:`colour_bar`. under: a wide picture below each row, such as a chart.

    Tiles keep their pixels. Letters outside Latin-1 are drawn as ``?`` (Pillow's own font has no others).
    """
    head, small = ImageFont.load_default(size=17), ImageFont.load_default(size=13)
    widths = [max(row[c].shape[1] for row in rows if c < len(row)) for c in range(max(map(len, rows), default=0))]
    tall = [max((tile.shape[0] for tile in row), default=0) for row in rows]
    wide = [*under, *[None] * (len(rows) - len(under))]
    heights = [h + (0 if w is None else w.shape[0] + gap) for h, w in zip(tall, wide, strict=True)]
    margin, line = 20, 20
    below = line if any(captions) else 0
    lines = [part for note in notes for part in _wrap(note, small, max(sum(widths) + gap * len(widths), 480))]
    key_height, key_width = (0, 0) if legend is None else (legend.shape[0] + gap, legend.shape[1])
    text_width = max(
        [small.getlength(_latin(t)) for t in (*lines, *captions)] + [head.getlength(_latin(title))], default=0
    )
    widest = max((w.shape[1] for w in wide if w is not None), default=0)
    width = 2 * margin + max(sum(widths) + gap * max(len(widths) - 1, 0), int(text_width) + 1, key_width, widest)
    top = margin + (32 if title else 0) + (line if any(columns) else 0)
    height = (
        top + sum(h + below + gap for h in heights) + key_height + (line * len(lines) + gap if lines else 0) + margin
    )
    canvas = Pillow.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((margin, margin), _latin(title), INK, head)
    lefts = [margin + sum(widths[:c]) + gap * c for c in range(len(widths))]
    for left, name in zip(lefts, columns, strict=False):
        draw.text((left, top - line), _latin(name), MUTED, small)
    y = top
    for r, row in enumerate(rows):
        for left, tile in zip(lefts, row, strict=False):
            canvas.paste(Pillow.fromarray(tile), (left, y))
        below_row = wide[r]
        if below_row is not None:
            canvas.paste(Pillow.fromarray(below_row), (margin, y + tall[r] + gap))
        if r < len(captions):
            draw.text((margin, y + heights[r] + 2), _latin(captions[r]), MUTED, small)
        y += heights[r] + below + gap
    if legend is not None:
        canvas.paste(Pillow.fromarray(legend), (margin, y + gap))
        y += key_height
    for k, text in enumerate(lines):
        draw.text((margin, y + gap + k * line), _latin(text), MUTED, small)
    return canvas


def shades(shares: npt.NDArray[np.floating]) -> Image:
    """Shares ``(…)`` in 0..1 as colours ``(…, 3)`` of matplotlib's viridis (dark to bright, safe for colour blindness)."""
    place = np.clip(shares, 0, 1) * (len(VIRIDIS) - 1)
    left = np.minimum(place.astype(int), len(VIRIDIS) - 2)
    rest = (place - left)[..., None]
    return (VIRIDIS[left] * (1 - rest) + VIRIDIS[left + 1] * rest).round().astype(np.uint8)


def colour_bar(top: float, label: str, marks: Mapping[str, float], width: int = 420) -> Image:
    """The scale of :func:`shades` from 0 to ``top``: ``label`` above it, ``marks`` (text → value) under it."""
    small = ImageFont.load_default(size=13)
    pad = 24  # room for the outermost marks
    picture = Pillow.new("RGB", (max(width, int(small.getlength(_latin(label)))) + 2 * pad, 58), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((0, 0), _latin(label), MUTED, small)
    bar = shades(np.linspace(0, 1, width)[None].repeat(14, 0))
    picture.paste(Pillow.fromarray(bar), (0, 20))
    free = -1.0  # marks that would touch the one before them are left out
    for text, value in sorted(marks.items(), key=lambda item: item[1]):
        long = small.getlength(_latin(text))
        middle = min(max(value / max(top, 1e-12), 0), 1) * (width - 1)
        left = max(0.0, middle - long / 2)
        if left <= free:
            continue
        draw.line([(middle, 34), (middle, 38)], MUTED)
        draw.text((left, 40), _latin(text), MUTED, small)
        free = left + long + 6
    return np.asarray(picture)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break ``text`` at spaces so that no line is wider than ``width`` pixels."""
    lines, current = [], ""
    for word in text.split():
        trial = f"{current} {word}".strip()
        if current and font.getlength(_latin(trial)) > width:
            lines.append(current)
            trial = word
        current = trial
    return [*lines, current] if current else lines


def _latin(text: str) -> str:
    """Text with every letter the built-in font lacks replaced by ``?``."""
    return text.replace("×", "x").replace("→", "to").encode("latin-1", "replace").decode("latin-1")
