"""What a run says while it works: a progress bar on a terminal, plain lines in logs, events for programs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

_log = logging.getLogger(__name__)
_REFRESH = 0.1  # seconds between updates of the bar: each costs about a millisecond


@dataclass(frozen=True)
class Event:
    """Something that happened. kind: say, warning, step, row, checkpoint, probe or end; text: for people; data: the facts."""

    kind: str
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


class Reporter:
    """Speaks for the first process; in the others every method is silent.

    Args:
        log: ``train.log``. console: write to standard error as well (a bar on a terminal, plain lines elsewhere).
        on_event: receives every :class:`Event`.
    """

    def __init__(
        self, log: Path, *, speaks: bool, console: bool = True, on_event: Callable[[Event], None] | None = None
    ) -> None:
        self._log, self._speaks, self._on_event = log, speaks, on_event
        self._console = Console(stderr=True, soft_wrap=True, highlight=False) if console and speaks else None
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._drawn = 0.0

    def say(self, text: str, kind: str = "say", data: Mapping[str, Any] | None = None) -> None:
        """One line to the log, the console and the listener."""
        if not self._speaks:
            return
        prefix = "warning: " if kind == "warning" else ""
        self._write(prefix + text)
        if self._console is not None:
            self._console.print(prefix + text, style="yellow" if kind == "warning" else None, markup=False)
        _log.info(prefix + text)  # never WARNING: without handlers Python would print it a second time
        self._emit(Event(kind, text, data or {}))

    def warn(self, text: str) -> None:
        """One line that somebody should read."""
        self.say(text, "warning")

    def begin(self, total: int, done: int) -> None:
        """Show the bar, where there is a terminal."""
        if self._console is None or not self._console.is_terminal:
            return
        columns = (
            TextColumn("step"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._bar = Progress(*columns, console=self._console, auto_refresh=False, transient=True)
        self._bar.start()
        self._task = self._bar.add_task("", total=total, completed=done)

    def step(self, step: int, describe: Callable[[], str]) -> None:
        """A step is done; ``describe`` is asked for words only when the bar is drawn again."""
        if self._on_event is not None and self._speaks:
            self._emit(Event("step", "", {"step": step}))
        now = time.monotonic()
        if self._bar is not None and now - self._drawn > _REFRESH:
            self._drawn = now
            self._bar.update(self._task, completed=step, description=describe(), refresh=True)

    def row(self, text: str, row: Mapping[str, Any]) -> None:
        """A row of metrics: a plain line in the log, and on a console that is no terminal."""
        if not self._speaks:
            return
        self._write(text)
        if self._console is not None and self._bar is None:
            self._console.print(text, markup=False)
        _log.info(text)
        self._emit(Event("row", text, row))

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _emit(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _write(self, text: str) -> None:
        try:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        except OSError as error:
            _log.debug("train.log: %s", error)  # a full disk is reported by whoever saves numbers


def describe_row(row: Mapping[str, Any], total: int, seconds_left: float, unit: str = "images") -> str:
    """``step 500/2000 (25 %) · loss 0.312 · 212 images/s · 3:12 left · healthy``; unit: what samples are called."""
    step, loss = row["step"], row.get("loss")
    parts = [f"step {step}/{total} ({100 * step // total} %)"]
    if loss is not None or step > 0:  # before the first step a method without a loss on the panel has none
        parts.append(f"loss {loss:.4g}" if loss is not None else "loss not finite")
    if row.get("images_per_s"):
        parts += [f"{row['images_per_s']:.4g} {unit}/s", f"{clock_time(seconds_left)} left"]
    parts += [f"{name} {100 * value:.1f} %" for name, value in row.get("probes", {}).items() if 0 <= value <= 1]
    health = row.get("health", {})
    if health:
        parts.append(f"rank {health['rankme'] or float('nan'):.3g} of {health['width']}")
        parts.append(str(health["verdict"]).partition(":")[0])
    return " · ".join(parts)


def clock_time(seconds: float) -> str:
    """``3:12`` or ``1:04:09``."""
    whole = max(int(seconds), 0)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
