"""Drawing shapes, textures and backgrounds on pixel grids.

Per pixel only + - × ÷, comparisons and table look-ups are used, which IEEE 754 fixes exactly; sines and cosines are
taken once per object and rounded. So the same scene has the same bytes on every platform.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from openjepa.data.scene_spec import Color, ObjectSpec, Texture
from openjepa.data.seeds import uniform

Plane = NDArray[np.float32]  # (h, w)


def _turn(angle: float) -> tuple[float, float]:
    """Cosine and sine, rounded past the digits in which mathematical libraries differ."""
    return round(math.cos(angle), 12), round(math.sin(angle), 12)


def _box(x: Plane, y: Plane, a: float, b: float) -> Plane:
    """Rectangle of half sides a, b."""
    return np.maximum(np.abs(x) - np.float32(a), np.abs(y) - np.float32(b))


def _fan(x: Plane, y: Plane, count: int) -> list[Plane]:
    """Distances along ``count`` directions evenly spread around the circle, the first pointing up."""
    turns = [_turn(2 * math.pi * k / count) for k in range(count)]
    return [np.float32(s) * x - np.float32(c) * y for c, s in turns]


def _radius(x: Plane, y: Plane) -> Plane:
    return np.sqrt(x * x + y * y)


def _ring(x: Plane, y: Plane) -> Plane:
    return np.abs(_radius(x, y) - np.float32(0.76)) - np.float32(0.2)


def _crescent(x: Plane, y: Plane) -> Plane:
    bite = np.float32(0.78) - _radius(x - np.float32(0.45), y)
    return np.maximum(_radius(x, y) - np.float32(0.98), bite)


def _triangle(x: Plane, y: Plane) -> Plane:
    a, b, c = _fan(x, -y, 3)
    return np.maximum(np.maximum(a, b), c) - np.float32(0.5)


def _frame(x: Plane, y: Plane) -> Plane:
    side = np.maximum(np.abs(x), np.abs(y))
    return np.maximum(side - np.float32(0.72), np.float32(0.42) - side)


def _star(x: Plane, y: Plane) -> Plane:
    """Pentagram: inside at least four of the five half-planes of its inner pentagon, so the second largest decides."""
    first, second = None, None
    for plane in _fan(x, -y, 5):
        if first is None:
            first = plane
        elif second is None:
            first, second = np.maximum(first, plane), np.minimum(first, plane)
        else:
            second = np.maximum(second, np.minimum(first, plane))
            first = np.maximum(first, plane)
    assert second is not None
    return second - np.float32(0.35)


def _cross(x: Plane, y: Plane) -> Plane:
    return np.minimum(_box(x, y, 0.26, 0.95), _box(x, y, 0.95, 0.26))


def _ell(x: Plane, y: Plane) -> Plane:
    return np.minimum(_box(x + np.float32(0.45), y, 0.22, 0.85), _box(x, y - np.float32(0.62), 0.67, 0.23))


def _wedge(x: Plane, y: Plane) -> Plane:
    """Right triangle."""
    return np.maximum(np.maximum(-x - np.float32(0.5), -y - np.float32(0.5)), (x + y) * np.float32(0.7))


#: Signed distance (negative inside, in object radii) of every shape, at coordinates with the shape in the unit circle.
DISTANCE: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": lambda x, y: _radius(x, y) - np.float32(0.9),
    "ring": _ring,
    "crescent": _crescent,
    "triangle": _triangle,
    "square": lambda x, y: _box(x, y, 0.7, 0.7),
    "frame": _frame,
    "star": _star,
    "cross": _cross,
    "ell": _ell,
    "bar": lambda x, y: _box(x, y, 0.94, 0.3),
    "sliver": lambda x, y: _box(x, y, 0.95, 0.16),
    "wedge": _wedge,
    "blob": lambda x, y: np.maximum(_radius(x, y) - np.float32(0.8), -y - np.float32(0.1)),
}


def lattice(key: int, cells: int, depth: int) -> NDArray[np.float32]:
    """``(depth, cells + 1, cells + 1)`` uniform values named by ``key``."""
    return uniform((cells + 1) ** 2 * depth, key, cells).astype(np.float32).reshape(depth, cells + 1, cells + 1)


@functools.lru_cache(maxsize=64)
def _steps(size: int, cells: int) -> tuple[NDArray[np.int64], Plane]:
    """Lattice row and smooth fraction for each of ``size`` pixels."""
    where = (np.arange(size) + 0.5) * cells / size
    low = np.minimum(where.astype(np.int64), cells - 1)
    part = where - low
    return low, (part * part * (3 - 2 * part)).astype(np.float32)


def value_noise(size: int, cells: int, key: int, depth: int) -> NDArray[np.float32]:
    """Smooth noise ``(depth, size, size)`` in [0, 1] with ``cells`` bumps per side."""
    table = lattice(key, cells, depth)
    low, part = _steps(size, cells)
    down = (table[:, 1:] - table[:, :-1]).take(low, axis=1)
    rows = table.take(low, axis=1) + down * part[:, None]  # (depth, size, cells + 1)
    across = (rows[..., 1:] - rows[..., :-1]).take(low, axis=2)
    across *= part
    across += rows.take(low, axis=2)
    return across


def paint_background(
    size: int, colors: tuple[Color, Color], direction: float, roughness: float, key: int
) -> NDArray[np.float32]:
    """``(3, size, size)`` in 0..1: a gradient between two colours, two octaves of coloured noise and a fine one of
    brightness.
    """
    first, second = (np.array(c, np.float32)[:, None, None] for c in colors)
    c, s = _turn(direction)
    axis = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    ramp = (axis * np.float32(c))[None, :] + (axis * np.float32(s))[:, None] + np.float32(0.5)  # (size, size)
    image = first + ramp.clip(0, 1) * (second - first)
    for cells, depth, weight in ((4, 3, 2.0), (9, 3, 1.2), (20, 1, 0.72)):
        noise = value_noise(size, cells, key, depth)
        noise -= np.float32(0.5)
        noise *= np.float32(weight * roughness)
        image += noise
    return image.clip(0, 1, out=image)


def _fraction(values: Plane) -> Plane:
    return values - np.floor(values)


def _noise_pattern(u: Plane, v: Plane, texture: Texture) -> Plane:
    """Value noise in object coordinates (bilinear look-up in an 8 × 8 lattice)."""
    table = lattice(texture.key, 8, 1)[0]
    a, b = (np.clip(p * np.float32(1.6 * texture.frequency) + np.float32(4), 0, 7.999) for p in (u, v))
    i, j = a.astype(np.int64), b.astype(np.int64)
    fa, fb = a - i, b - j
    top = table[j, i] + (table[j, i + 1] - table[j, i]) * fa
    low = table[j + 1, i] + (table[j + 1, i + 1] - table[j + 1, i]) * fa
    return np.clip((top + (low - top) * fb - np.float32(0.3)) * np.float32(2.5), 0, 1)


def pattern(u: Plane, v: Plane, texture: Texture) -> Plane | None:
    """Share of the second colour in 0..1 at object coordinates; None for a plain texture."""
    if texture.kind == "plain":
        return None
    if texture.kind == "noise":
        return _noise_pattern(u, v, texture)
    c, s = _turn(texture.direction)
    f, phase = np.float32(texture.frequency), np.float32(texture.phase)
    a = _fraction((u * np.float32(c) + v * np.float32(s)) * f + phase)
    if texture.kind == "stripes":
        return (a < np.float32(0.5)).astype(np.float32)
    b = _fraction((v * np.float32(c) - u * np.float32(s)) * f + phase)
    if texture.kind == "checker":
        return ((a < np.float32(0.5)) ^ (b < np.float32(0.5))).astype(np.float32)
    a, b = a - np.float32(0.5), b - np.float32(0.5)
    return (a * a + b * b < np.float32(0.09)).astype(np.float32)


def paint_object(
    image: NDArray[np.float32], thing: ObjectSpec, t: float
) -> tuple[tuple[slice, slice], NDArray[np.bool_]] | None:
    """Draw ``thing`` at time ``t`` onto ``image (3, size, size)`` in place, edges anti-aliased.

    Returns:
        the window it touches and, inside it, the pixels it covers by more than half; None when it is out of sight.
    """
    size = image.shape[-1]
    x, y, angle = thing.at(t)
    reach = thing.radius * max(thing.aspect, 1 / thing.aspect) + 1 / size
    left, right = max(int((x - reach) * size), 0), min(int((x + reach) * size) + 1, size)
    top, bottom = max(int((y - reach) * size), 0), min(int((y + reach) * size) + 1, size)
    if left >= right or top >= bottom:
        return None
    px = (((np.arange(left, right) + 0.5) / size - x) / thing.radius).astype(np.float32)[None, :]
    py = (((np.arange(top, bottom) + 0.5) / size - y) / thing.radius).astype(np.float32)[:, None]
    c, s = (np.float32(v) for v in _turn(angle))
    wide = np.float32(math.sqrt(thing.aspect))
    u, v = (px * c + py * s) / wide, (py * c - px * s) * wide  # object coordinates (h, w)
    cover = np.clip(np.float32(0.5) - DISTANCE[thing.shape](u, v) * np.float32(thing.radius * size), 0, 1)
    share = pattern(u, v, thing.texture)
    color, second = (np.array(v, np.float32)[:, None, None] for v in (thing.texture.color, thing.texture.second))
    paint = color if share is None else color + share * (second - color)
    patch = image[:, top:bottom, left:right]  # a view
    patch += cover * (paint - patch)
    return (slice(top, bottom), slice(left, right)), cover > np.float32(0.5)


def paint_track(
    frames: NDArray[np.uint8],
    thing: ObjectSpec,
    place: tuple[NDArray[np.float64], NDArray[np.float64]],
    angle: NDArray[np.float64],
    radius: NDArray[np.float64],
) -> list[tuple[int, tuple[slice, slice], NDArray[np.bool_]]]:
    """Draw ``thing`` through time onto ``frames (T, 3, size, size)`` in place, edges anti-aliased.

    All frames are computed at once in windows of one size, which makes clips several times faster than drawing objects
    one by one.

    Args:
        place: x and y of the centre, radius: both in shares of the side; angle: radians; each ``(T,)``.

    Returns:
        for every frame it shows in: the frame's number, its window, and the pixels there it covers by more than half.
    """
    size = frames.shape[-1]
    (x, y), stretch = place, max(thing.aspect, 1 / thing.aspect)
    reach = radius * stretch + 1 / size  # (T,)
    wide = int(2 * float(reach.max()) * size) + 2  # pixels of a window
    left, top = (np.floor((centre - reach) * size).astype(np.int64) for centre in (x, y))
    steps, across = np.arange(wide) + 0.5, radius[:, None]
    px = (((left[:, None] + steps) / size - x[:, None]) / across).astype(np.float32)[:, None, :]
    py = (((top[:, None] + steps) / size - y[:, None]) / across).astype(np.float32)[:, :, None]
    turns = np.array([_turn(a) for a in angle.tolist()], np.float32)
    c, s = turns[:, 0, None, None], turns[:, 1, None, None]
    squeeze = np.float32(math.sqrt(thing.aspect))
    u, v = (px * c + py * s) / squeeze, (py * c - px * s) * squeeze  # object coordinates (T, wide, wide)
    pixels = (radius * size).astype(np.float32)[:, None, None]
    cover = np.clip(np.float32(0.5) - DISTANCE[thing.shape](u, v) * pixels, 0, 1)
    share = pattern(u, v, thing.texture)
    color, second = (np.array(v, np.float32)[:, None, None] for v in (thing.texture.color, thing.texture.second))
    paint = color if share is None else color + share[:, None] * (second - color)
    added, kept = (cover[:, None] * paint) * np.float32(255) + np.float32(0.5), np.float32(1) - cover
    covered = cover > np.float32(0.5)
    shown = []
    for t in range(len(frames)):
        a, b = max(int(left[t]), 0), min(int(left[t]) + wide, size)
        e, f = max(int(top[t]), 0), min(int(top[t]) + wide, size)
        if a >= b or e >= f:
            continue
        inside = slice(e - int(top[t]), f - int(top[t])), slice(a - int(left[t]), b - int(left[t]))
        window = frames[t, :, e:f, a:b]  # a view
        window[...] = (window * kept[(t, *inside)] + added[(t, slice(None), *inside)]).astype(np.uint8)
        shown.append((t, (slice(e, f), slice(a, b)), covered[(t, *inside)]))
    return shown
