"""Features of long videos: a window slides over the video, each of its places is encoded as one clip, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openjepa.errors import ConfigError
from openjepa.features.extraction import Layers, Precision, TokenKind, extract
from openjepa.types import Batch, Encoder


class OpenVideo(Protocol):
    """An opened video, as ``source.video(index)`` gives it. duration: seconds. fps: on average."""

    duration: float
    fps: float

    def at(self, times: NDArray[np.float64]) -> Tensor:
        """The frames ``(T, C, h, w)`` uint8 shown at ``times`` in seconds."""
        ...


@dataclass(frozen=True)
class Window:
    """Features of one stretch of a video. values: ``(D,)``, or ``(T, D)`` patch tokens. start, end: seconds."""

    values: Tensor
    start: float
    end: float


@dataclass(frozen=True)
class WindowFeatures:
    """Features of a whole video. values: ``(N, D)``, or ``(N, T, D)`` patch tokens. start, end: ``(N,)`` float64 seconds."""

    values: Tensor
    start: Tensor
    end: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, windows: Iterable[Window]) -> WindowFeatures:
        """All windows in one table."""
        found = list(windows)
        seconds = [torch.tensor([getattr(w, name) for w in found], dtype=torch.float64) for name in ("start", "end")]
        return cls(torch.stack([window.values for window in found]), *seconds)


def window_starts(duration: float, window: float, hop: float) -> Iterator[float]:
    """Where windows begin, in seconds: every ``hop``, and a last one that ends with the video; 0 of shorter videos.

    Raises:
        ConfigError: a window or hop that is not above 0.
    """
    if not (window > 0 and hop > 0):
        raise ConfigError(f"window and hop are seconds above 0, got {window:g} and {hop:g}")
    last = max(duration - window, 0.0)
    count = int(last / hop + 1e-6) + 1
    for k in range(count):
        yield min(k * hop, last)
    if last - (count - 1) * hop > 1e-6 * max(window, 1.0):
        yield last


def sliding(
    video: OpenVideo,
    encoder: Encoder,
    *,
    frames: int,
    window: float,
    hop: float,
    transform: Any,
    normalise: nn.Module,
    device: str | torch.device = "cpu",
    tokens: TokenKind = "pooled",
    layers: Layers = "last",
    precision: Precision = "fp32",
    batch_size: int = 1,
) -> Iterator[Window]:
    """Features of a video of any length, window by window.

    A window's frames are ``window / frames`` seconds apart from its beginning on: what a clip at ``frames / window`` fps
    that starts there holds. Only ``batch_size`` windows are in memory at a time. Shorter videos repeat their last frame.

    Args:
        frames: of each clip. window, hop: seconds of a window and between the beginnings of two (less than ``window``
            makes them overlap). transform: evaluation transform of clips. Others as in
            :func:`openjepa.features.extraction.extract`.

    Raises:
        ConfigError: a window or hop that is not above 0. DataError: the video cannot be decoded.
    """
    offsets: NDArray[np.float64] = np.arange(frames, dtype=np.float64) * (window / frames)
    order, number = window_starts(video.duration, window, hop), 0
    while starts := list(islice(order, batch_size)):
        clips = [transform(video.at(start + offsets)) for start in starts]  # (C, T, H, W) each
        ids = torch.arange(number, number + len(clips))
        number += len(clips)
        found = extract(
            encoder,
            [Batch({"video": torch.stack(clips)}, ids, ids)],
            normalise=normalise,
            device=device,
            tokens=tokens,
            layers=layers,
            precision=precision,
        )
        for values, start in zip(found.values, starts, strict=True):
            yield Window(values, start, min(start + window, max(video.duration, start)))
