"""Frames as they come out of a decoder, and the size they are converted to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Run:
    """Frames that come out of the decoder after one seek, with the last one seen."""

    def __init__(self, frames: Iterator[tuple[int, Any]]) -> None:
        self.frames = frames
        self.shown: tuple[int, Any] | None = None
        self.ahead: tuple[int, Any] | None = next(frames, None)

    def advance(self, tick: int) -> Any:
        """The frame shown at ``tick``: the last that begins then or before; None when all begin later."""
        while self.ahead is not None and self.ahead[0] <= tick:
            self.shown, self.ahead = self.ahead, next(self.frames, None)
        return None if self.shown is None else self.shown[1]

    @property
    def position(self) -> int:
        """Tick of the frame shown last."""
        return self.shown[0] if self.shown else -(1 << 62)


def smaller(height: int, width: int, at_least: int | None) -> tuple[int, int]:
    """Size halved as often as the short side keeps ``at_least`` pixels."""
    factor = 1
    while at_least and min(height, width) // (factor * 2) >= at_least:
        factor *= 2
    return height // factor, width // factor
