"""Numbers as words, the same on the page, the sheets and in captions."""

from __future__ import annotations


def percent(value: float | None, digits: int = 0) -> str:
    """A share as ``45 %``; ``–`` when unknown."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
