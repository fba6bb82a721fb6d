"""Surprise drawn: the clip, its errors as heat over every frame, and under both a strip with the error of each time step."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from openjepa.visualize import canvas
from openjepa.visualize.animation import Film, Frames, Strip
from openjepa.visualize.canvas import Image
from openjepa.visualize.surprise import Surprise

Floats = npt.NDArray[np.floating[Any]]

UNKNOWN = (150, 156, 164)  # where nothing was predicted: no colour of the scale
HEAT = 0.62  # share of the heat's colour mixed into a frame
STRIP = 96  # pixels, height of the strip
CUT = (2.0, 99.5)  # percentiles of the errors that are drawn darkest and brightest
READ = {
    "masked": "Every token was hidden by masks as training draws them and predicted from what was left, on average "
    "{passes:.0f} times.",
    "future": "Every time step was predicted from the frames before it; the first has none (grey).",
}


@dataclass(frozen=True)
class Shown:
    """One clip with its errors. frames ``(L, H, W, 3)`` as the encoder saw them; seconds: how long one of them lasts."""

    name: str
    frames: Frames
    found: Surprise
    seconds: float


@dataclass(frozen=True)
class Scale:
    """Errors drawn darkest and brightest."""

    low: float
    high: float

    @classmethod
    def of(cls, parts: Sequence[Floats]) -> Scale:
        """One scale for all: percentiles of every error that is a number."""
        whole = np.concatenate([part[np.isfinite(part)].ravel() for part in parts])
        low, high = np.percentile(whole, CUT) if len(whole) else (0.0, 1.0)
        return cls(float(low), float(max(high, low + 1e-9)))

    def colours(self, values: Floats) -> Image:
        """Errors ``(…)`` as colours ``(…, 3)``; grey where there is none."""
        unit = (np.nan_to_num(values) - self.low) / (self.high - self.low)
        return np.where(np.isfinite(values)[..., None], canvas.shades(unit), np.asarray(UNKNOWN)).astype(np.uint8)


def heat_frames(frames: Frames, error: Floats, tubelet: int, scale: Scale) -> Frames:
    """Errors ``(t, h, w)`` over frames ``(L, H, W, 3)``; a token covers its tubelet and its patch."""
    height, width = frames.shape[1:3]
    patch = height // error.shape[1], width // error.shape[2]
    colours = scale.colours(error)
    made = []
    for number, frame in enumerate(frames):
        grey = np.asarray(Pillow.fromarray(frame).convert("L"))[..., None].repeat(3, axis=2)
        step = number // tubelet
        if step >= len(colours):  # frames without a token
            made.append(grey)
            continue
        cells = canvas.spread(colours[step], patch, height, width)
        covered = canvas.spread(np.ones(colours[step].shape[:2], dtype=np.bool_), patch, height, width)
        over = (grey * (1 - HEAT) + cells * HEAT).round().astype(np.uint8)
        made.append(np.where(covered[..., None], over, grey))
    return np.stack(made)


def strip(steps: Floats, seconds: float, width: int, scale: Scale, frames_per_step: int) -> Strip:
    """The error of each time step ``(t,)`` as bars, ``width`` pixels wide; frame k's place is marked.

    seconds: of one time step.
    """
    known = steps[np.isfinite(steps)]
    top = float(known.max()) if len(known) else 1.0
    base = float(known.min()) if len(known) else 0.0
    base = max(
        0.0, base - 0.25 * (top - base)
    )  # bars start a little below the lowest: differences are what is looked at
    left, right, head, foot = 52, 6, 16, 18
    inner, tall = width - left - right, STRIP - head - foot
    small = ImageFont.load_default(size=12)
    picture = Pillow.new("RGB", (width, STRIP), canvas.PAPER)
    draw = ImageDraw.Draw(picture)
    edges = [left + round(inner * k / len(steps)) for k in range(len(steps) + 1)]
    colours = scale.colours(steps)
    for k, value in enumerate(steps):
        share = (value - base) / max(top - base, 1e-12) if math.isfinite(value) else 0.0
        upper = head + round(tall * (1 - min(max(share, 0), 1)))
        fill = tuple(int(c) for c in colours[k])
        draw.rectangle([edges[k], min(upper, head + tall - 1), max(edges[k + 1] - 2, edges[k]), head + tall], fill=fill)
    draw.line([(left, head + tall + 1), (width - right, head + tall + 1)], canvas.MUTED)
    draw.text((left, 0), "mean error of each time step", canvas.MUTED, small)
    for value, y in ((top, head), (base, head + tall)):
        draw.text((left - 6, y), f"{value:.3g}", canvas.MUTED, small, anchor="rm")
    draw.text((left, STRIP - foot + 3), "0 s", canvas.MUTED, small)
    draw.text((width - right, STRIP - foot + 3), f"{seconds * len(steps):.3g} s", canvas.MUTED, small, anchor="ra")
    still = np.asarray(picture)

    def at(frame: int | None) -> Image:
        if frame is None or frame // frames_per_step >= len(steps):
            return still
        marked = still.copy()
        x = left + round(inner * (frame + 0.5) / (len(steps) * frames_per_step))
        marked[head - 2 : head + tall + 4, x - 1 : x + 1] = canvas.VERMILION
        return marked

    return at


def surprise_film(shown: Sequence[Shown], title: str, tile: int = canvas.TILE) -> Film:
    """A row per clip: frames, errors over them, and the strip, by the clip's own clock. One colour scale for all.

    All are shown at the rate of the first.
    """
    errors = [each.found.error.numpy() for each in shown]
    scale = Scale.of(errors)
    rows, strips, captions = [], [], []
    for each, error in zip(shown, errors, strict=True):
        tubelet = each.found.tubelet
        whole = each.frames[: len(error) * tubelet]
        panels = [_sized(whole, tile), _sized(heat_frames(whole, error, tubelet, scale), tile)]
        width = sum(panel.shape[2] for panel in panels) + 8
        rows.append(panels)
        strips.append(strip(each.found.steps.numpy(), each.seconds * tubelet, width, scale, tubelet))
        captions.append(caption(each))
    return Film(
        rows, shown[0].seconds, columns=["clip", "prediction error"], captions=captions, title=title, notes=notes(shown),
        legend=key(scale, shown[0].found.distance), strips=strips,
    )  # fmt: skip


def key(scale: Scale, distance: str, width: int = 300) -> Image:
    """The colour bar of the heat."""
    span = scale.high - scale.low
    marks = {f"{scale.low + share * span:.3g}": share for share in (0.0, 0.5, 1.0)}
    return canvas.colour_bar(1.0, f"error of a token ({distance})", marks, width)


def caption(each: Shown) -> str:
    """Mean and peak of a clip in words."""
    steps = each.found.steps.numpy()
    if not np.isfinite(steps).any():
        return f"nothing was predicted · {each.name}"
    peak = int(np.nanargmax(steps))
    at = peak * each.found.tubelet * each.seconds
    return f"mean {np.nanmean(steps):.3g}, highest {steps[peak]:.3g} at {at:.2f} s · {each.name}"


def notes(shown: Sequence[Shown]) -> list[str]:
    """How it was measured, in sentences."""
    found = [each.found for each in shown]
    passes = sum(float(f.times.sum()) for f in found) / max(sum(int((f.times > 0).sum()) for f in found), 1)
    lines = [READ[found[0].mode].format(passes=passes)]
    missing = sum(f.missing for f in found)
    if missing and found[0].mode == "masked":
        lines.append(f"{missing} tokens were never hidden by these masks (grey).")
    return lines


def _sized(frames: Frames, tile: int) -> Frames:
    return np.stack([canvas.tile(frame, tile) for frame in frames])


def numbers(shown: Sequence[Shown], model: str) -> dict[str, Any]:
    """All errors as plain numbers; None where nothing was predicted."""
    return {
        "model": model,
        "mode": shown[0].found.mode,
        "distance": shown[0].found.distance,
        "tubelet_frames": shown[0].found.tubelet,
        "videos": [
            {
                "name": each.name,
                "grid": list(each.found.error.shape),
                "seconds_per_step": each.seconds * each.found.tubelet,
                "mean": _plain(each.found.error.nanmean().item()),
                "steps": [_plain(value) for value in each.found.steps.tolist()],
                "error": [[[_plain(v) for v in row] for row in step] for step in each.found.error.tolist()],
                "times": each.found.times.tolist(),
            }
            for each in shown
        ],
    }


def as_json(told: dict[str, Any]) -> bytes:
    """The numbers as one JSON object."""
    return (json.dumps(told) + "\n").encode()


def as_csv(told: dict[str, Any]) -> bytes:
    """The numbers as a table, a line per token: video, step, seconds, row, column, error (empty: not predicted), times."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["video", "step", "seconds", "row", "column", "error", "times"])
    for video in told["videos"]:
        for step, (plane, often) in enumerate(zip(video["error"], video["times"], strict=True)):
            for row, (values, counts) in enumerate(zip(plane, often, strict=True)):
                for column, (value, count) in enumerate(zip(values, counts, strict=True)):
                    begin = f"{step * video['seconds_per_step']:.6g}"
                    table.writerow([video["name"], step, begin, row, column, "" if value is None else value, count])
    return text.getvalue().encode()


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
