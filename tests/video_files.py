"""Small videos written with PyAV, whose frames carry their number as twelve black and white blocks.

``read_numbers`` reads it back from decoded pixels, after any codec, crop-free resize or colour conversion.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

ROWS, COLUMNS = 3, 4  # 12 bits: numbers up to 4095
CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".ts": "mpeg2video", ".avi": "mpeg4"}
CODECS |= {".webm": "libvpx-vp9", ".gif": "gif", ".asf": "wmv2", ".mpg": "mpeg2video", ".flv": "libx264"}
FORMATS = {"gif": "rgb8", "mjpeg": "yuvj420p", "ffv1": "yuv444p", "rawvideo": "rgb24"}


def draw_number(number: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """``(height, width, 3)`` picture of a number: bit k is block (k // 4, k % 4), white for 1."""
    bits = np.array([number >> k & 1 for k in range(ROWS * COLUMNS)], np.uint8).reshape(ROWS, COLUMNS)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    return np.repeat((bits[rows][:, columns] * 215 + 20)[..., None], 3, axis=2).astype(np.uint8)


def read_numbers(frames: object) -> list[int]:
    """Numbers of ``(N, C, H, W)`` frames (tensor or array)."""
    values = np.asarray(frames).astype(float).mean(axis=1)  # (N, H, W)
    height, width = values.shape[1:]
    found = []
    for picture in values:
        number = 0
        for k in range(ROWS * COLUMNS):
            top, left = k // COLUMNS, k % COLUMNS
            y, x = int((top + 0.5) * height / ROWS), int((left + 0.5) * width / COLUMNS)
            block = picture[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
            number |= int(block.mean() > 127) << k
        found.append(number)
    return found


def write_video(
    path: Path,
    frames: int | Sequence[NDArray[np.uint8]] = 50,
    *,
    fps: float | Fraction = 25,
    size: tuple[int, int] = (48, 64),
    codec: str | None = None,
    gop: int = 12,
    times: Sequence[float] | None = None,
    rotate: int = 0,
    pixels: str | None = None,
    audio: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video and return its path.

    Args:
        frames: how many numbered pictures, or the pictures ``(H, W, 3)`` themselves. size: height and width of numbers.
        codec: by default what the file's ending usually holds. gop: frames from key frame to key frame.
        times: seconds at which the frames are shown (variable frame rate); by default k / fps.
        rotate: degrees the picture must be turned counter-clockwise to stand upright, kept as metadata.
        pixels: pixel format. audio: add a silent track.
    """
    av = pytest.importorskip("av")
    pictures = [draw_number(k, *size) for k in range(frames)] if isinstance(frames, int) else list(frames)
    codec = codec or CODECS[path.suffix.lower()]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels or FORMATS.get(codec, "yuv420p")
        stream.gop_size = gop
        stream.thread_count = 1
        base = Fraction(1, 1000) if times is not None else 1 / rate
        stream.codec_context.time_base = base
        if rotate:
            stream.set_display_rotation(rotate)
        if audio:
            _add_silence(container, len(pictures) / float(rate))
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = (k if times is None else round(times[k] * 1000)), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _add_silence(container: object, seconds: float) -> None:
    """A silent AAC track."""
    import av

    stream = container.add_stream("aac", rate=16000)  # type: ignore[attr-defined]
    for start in range(0, int(seconds * 16000) + 1024, 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        container.mux(stream.encode(frame))  # type: ignore[attr-defined]
    container.mux(stream.encode(None))  # type: ignore[attr-defined]


def write_audio(path: Path, seconds: float = 1.0) -> Path:
    """A file with sound and no picture."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        _add_silence(container, seconds)
    return path


def write_frames(
    folder: Path, count: int = 12, size: tuple[int, int] = (48, 64), name: str = "frame_{:04d}.png"
) -> Path:
    """A folder of numbered images that show their number (0 first)."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.fromarray(draw_number(k, *size)).save(folder / name.format(k + 1))
    return folder
