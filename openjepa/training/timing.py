"""Where the wall-clock of a run goes: the step, waiting for data, health panels, probes, and everything else (host)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

PARTS = ("step", "data", "panel", "probe")


class Clock:
    """Adds up seconds per part; what is in none of :data:`PARTS` is host overhead (schedules, logging, saving).

    On an accelerator kernels run on while the host goes ahead. The loop reads last step's flag inside the step, so the
    step's seconds still include the time the device needs.
    """

    def __init__(self) -> None:
        self.before = 0.0  # training seconds of earlier windows and sittings
        self._open()

    def restart(self, *, count: bool = True) -> None:
        """Start a new window; ``count``: the one before was training."""
        if count:
            self.before = self.trained()
        self._open()

    def trained(self) -> float:
        """Wall-clock spent on training so far, panels and probes left out."""
        return self.before + self.elapsed() - self.seconds["panel"]

    def _open(self) -> None:
        self.began = time.perf_counter()
        self.samples = 0  # images seen in the window, by all processes
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside the block to ``name``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began

    def shares(self) -> dict[str, float]:
        """``data_share``, ``panel_share`` and ``host_share`` of the window's wall-clock without probes."""
        wall = max(self.elapsed(), 1e-9)
        host = wall - self.seconds["step"] - self.seconds["data"] - self.seconds["panel"]
        return {
            "data_share": round(self.seconds["data"] / wall, 5),
            "panel_share": round(self.seconds["panel"] / wall, 5),
            "host_share": round(max(host, 0.0) / wall, 5),
        }

    def elapsed(self) -> float:
        """Seconds of the window, probes left out."""
        return time.perf_counter() - self.began - self.seconds["probe"]
