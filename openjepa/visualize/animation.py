"""Moving pictures: panels of frames laid out like a sheet, written as GIF, MP4 (PyAV) or a PNG contact sheet of all frames.

``Frames`` are ``(T, H, W, 3)`` uint8. A :class:`Film` is a sheet whose tiles move together; a strip may stand under a row.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from openjepa.errors import ConfigError, require
from openjepa.visualize import canvas
from openjepa.visualize.canvas import Image

Frames = npt.NDArray[np.uint8]
Strip = Callable[[int | None], Image]  # the picture under a row while frame k is shown; None: without a mark

SUFFIXES = (".gif", ".mp4", ".png")
LINE = 16  # frames in one line of a contact sheet
SMALL = 96  # pixels of a frame there, at most
SHORTEST = 0.02  # seconds: players show a GIF frame of less than this for a tenth of a second
SAMPLED = 1 << 17  # pixels a GIF's palette is chosen from, at most


@dataclass(frozen=True)
class Film:
    """Panels that move together. rows: rows of panels, each ``(T, h, w, 3)`` with the same T.

    columns, captions, title, notes, legend: as in :func:`openjepa.visualize.canvas.sheet`. strips: one under each row.
    seconds: how long a frame is shown.
    """

    rows: Sequence[Sequence[Frames]]
    seconds: float
    columns: Sequence[str] = ()
    captions: Sequence[str] = ()
    title: str = ""
    notes: Sequence[str] = ()
    legend: Image | None = None
    strips: Sequence[Strip] = ()

    def __len__(self) -> int:
        return len(self.rows[0][0])

    def page(self, number: int) -> Image:
        """The whole sheet while frame ``number`` is shown."""
        rows = [[panel[number] for panel in row] for row in self.rows]
        made = canvas.sheet(
            rows, captions=self.captions, columns=self.columns, title=self.title, notes=self.notes, legend=self.legend,
            under=[strip(number) for strip in self.strips],
        )  # fmt: skip
        return np.asarray(made)

    def pages(self) -> Frames:
        """All of them, ``(T, H, W, 3)``."""
        return np.stack([self.page(number) for number in range(len(self))])

    def contact(self) -> Pillow.Image:
        """Every frame of every panel on one still sheet: a line for each panel (several for long ones)."""
        lines: list[list[Image]] = []
        captions: list[str] = []
        under: list[Image | None] = []
        for number, row in enumerate(self.rows):
            for place, panel in enumerate(row):
                name = self.columns[place] if place < len(self.columns) else ""
                for start in range(0, len(panel), LINE):
                    part = panel[start : start + LINE]
                    lines.append([canvas.fit(frame, SMALL) for frame in part])
                    captions.append(f"{name}{' · ' if name else ''}frames {start} to {start + len(part) - 1}")
                    under.append(None)
            if number < len(self.strips):
                under[-1] = self.strips[number](None)
            if number < len(self.captions):
                captions[-1] = f"{captions[-1]} · {self.captions[number]}"
        return canvas.sheet(
            lines, captions=captions, title=self.title, notes=self.notes, legend=self.legend, under=under, gap=4
        )

    def encode(self, suffix: str) -> bytes:
        """The file's content for ``.gif``, ``.mp4`` or ``.png``. Raises MissingExtra where MP4 needs PyAV."""
        if suffix == ".png":
            return canvas.png(self.contact())
        return (gif if suffix == ".gif" else mp4)(self.pages(), self.seconds)


def film_path(out: str | Path) -> Path:
    """``out``, which has to end in ``.gif``, ``.mp4`` or ``.png``.

    Raises:
        ConfigError: it does not. MissingExtra: MP4 without PyAV; before anything is computed.
    """
    path = Path(out)
    if path.suffix.lower() not in SUFFIXES:
        better = path.with_suffix(".png")
        raise ConfigError(
            f"pictures are written as .png, moving ones also as .gif or .mp4: '{path}' should be '{better}'"
        )
    if path.suffix.lower() == ".mp4":
        require("av", "video")
    return path


def gif(frames: Frames, seconds: float) -> bytes:
    """An endless GIF of ``frames``, each shown for ``seconds`` (whole hundredths, 0.02 at least).

    All frames share one palette and none is dithered: what stands still costs nothing.
    """
    whole = np.ascontiguousarray(frames).reshape(-1, 3)
    some = whole[:: max(1, len(whole) // SAMPLED)]
    house = np.asarray([canvas.PAPER, canvas.SLATE, canvas.INK, *canvas.PALETTE], dtype=np.uint8)
    some = np.concatenate([some, house.repeat(max(1, len(some) // 1000), axis=0)])  # lines are few pixels, but count
    palette = Pillow.fromarray(some[None]).quantize(256, method=Pillow.Quantize.MEDIANCUT, kmeans=3)
    first, *rest = [Pillow.fromarray(f).quantize(palette=palette, dither=Pillow.Dither.NONE) for f in frames]
    duration = round(max(seconds, SHORTEST) * 100) * 10
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=duration, loop=0, optimize=False, disposal=1)
    return buffer.getvalue()


def mp4(frames: Frames, seconds: float) -> bytes:
    """An H.264 file that every browser plays; odd sides get one more row or column of the last one.

    Raises:
        MissingExtra: PyAV is not installed.
    """
    av = require("av", "video")
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = file.add_stream(codec, rate=Fraction(1 / seconds).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *even.shape[1:3], "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": "16", "preset": "medium"}
        for frame in even:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()


def gif_uri(frames: Frames, seconds: float) -> str:
    """The GIF inside a ``data:`` address."""
    return f"data:image/gif;base64,{base64.b64encode(gif(frames, seconds)).decode()}"


def to_frames(clip: npt.NDArray[np.uint8], tile: int = canvas.TILE) -> Frames:
    """Frames enlarged by a whole factor, or averaged down, to about ``tile`` pixels on the longer side."""
    return np.stack([canvas.tile(frame, tile) for frame in clip])
