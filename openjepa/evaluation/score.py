"""One score with everything needed to repeat and to doubt it: protocol, counts, seed and a 95 % interval."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from openjepa.errors import DataError

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
SHARES = ("accuracy", "top-1", "mAP", "recall@1", "recall@5", "recall@10")  # metrics in 0..1 that are read as per cent


@dataclass(frozen=True)
class Score:
    """A number. name: the evaluator (``knn``, ``linear``). value: in the unit of ``metric``. subject: what was judged.

    protocol: settings that define the number. per_class: accuracy of each class that has validation samples. seed: of
    held-out draws. n_train, n_val: labelled samples used. classes: class names. interval: 95 % interval of ``value``
    over the ``n_val`` samples of this one split (Wilson for an accuracy, bootstrap else; over draws where there are
    several); it says nothing about other training runs. metric: ``accuracy`` (0..1), ``mAP``, ``nmi``, ``r2``, ….
    grid_max: the best value over a grid *measured on val*; optimistic, never the score itself. draws, spread: value of
    each draw or seed, and their standard deviation (n - 1). extra: further numbers of the same measurement.
    """

    name: str
    value: float
    n_train: int
    n_val: int
    subject: str = "encoder"
    protocol: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    per_class: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] = (0.0, 1.0)
    seed: int = 0
    metric: str = "accuracy"
    higher_is_better: bool = True
    grid_max: float | None = None
    spread: float | None = None
    draws: tuple[float, ...] = ()
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def percent(self) -> str:
        """``39.4 % (37.3–41.6)``."""
        return f"{100 * self.value:.1f} % ({100 * self.interval[0]:.1f}–{100 * self.interval[1]:.1f})"

    @property
    def label(self) -> str:
        """The evaluator, and the metric where it is no accuracy: ``knn``, ``retrieval mAP``."""
        return self.name if self.metric in ("accuracy", self.name) else f"{self.name} {self.metric}"

    def shown(self, number: float) -> str:
        """A number of this metric as text: shares in per cent, others with three digits."""
        return f"{100 * number:.1f} %" if self.metric in SHARES else f"{number:.3g}"

    @property
    def shown_interval(self) -> str:
        """The interval without its unit, ``37.3–41.6``; ends that may be negative stand apart."""
        low, high = self.interval
        if self.metric in SHARES:
            return f"{100 * low:.1f}–{100 * high:.1f}"
        return f"{low:.3g} to {high:.3g}"

    @property
    def protocol_line(self) -> str:
        """The protocol as one line of ``key=value``."""
        return ", ".join(f"{key}={_short(value)}" for key, value in self.protocol.items() if value is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Score:
        """Inverse of :meth:`to_dict`, also after JSON. Raises DataError when a field is missing or unknown."""
        try:
            low, high = raw["interval"]
            tuples = {"classes": tuple(raw["classes"]), "interval": (low, high), "draws": tuple(raw.get("draws", ()))}
            return cls(**{**raw, **tuples})
        except (TypeError, KeyError, ValueError) as error:
            raise DataError(f"this is not a score: {error}") from error


def wilson(correct: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927), which unlike ±1.96·σ stays inside 0..1 and has no zero width."""
    if total <= 0:
        return 0.0, 1.0
    share = correct / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def write_scores(path: str | Path, scores: Sequence[Score]) -> Path:
    """Write scores as a JSON list. Raises DataError when the file cannot be written."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([score.to_dict() for score in scores], indent=2, ensure_ascii=False, allow_nan=False)
        scratch = path.with_name(f".{path.name}.new")  # renamed when whole: a kill leaves the old scores
        scratch.write_text(text + "\n", encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise DataError(f"scores cannot be written to '{path}': {error.strerror}") from error
    return path


def read_scores(path: str | Path) -> list[Score]:
    """Read what :func:`write_scores` wrote. Raises DataError when the file is missing or is something else."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"no scores in '{path}': {str(error).splitlines()[0]}") from error
    if not isinstance(raw, list):
        raise DataError(f"no scores in '{path}': a list is expected")
    return [Score.from_dict(item) for item in raw]


def table_rows(scores: Sequence[Score]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and cells of a table of scores. Columns for spread and grid maximum are there only when a score has them."""
    spread = any(score.spread is not None for score in scores)
    grid = any(score.grid_max is not None for score in scores)
    head = ["encoder", "score", "value", "95 % interval"]
    head += ["spread over draws"] * spread + ["best on val (optimistic)"] * grid + ["train", "val"]
    rows = []
    for score in scores:
        row = [score.subject, score.label, score.shown(score.value), score.shown_interval]
        row += [_optional(score, score.spread, f" of {len(score.draws)}")] * spread
        row += [_optional(score, score.grid_max)] * grid
        rows.append((*row, f"{score.n_train:,}", f"{score.n_val:,}"))
    return tuple(head), rows


def notes(scores: Sequence[Score]) -> list[str]:
    """What defines the numbers of a table: one line per protocol and seed, with the scores and subjects it is of; then one
    line per score that has further numbers.
    """
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(f"{score.protocol_line}, seed={score.seed}", []).append(score)
    lines = []
    for line, members in groups.items():
        labels = ", ".join(dict.fromkeys(score.label for score in members))
        subjects = ", ".join(dict.fromkeys(score.subject for score in members))
        lines.append(f"{labels} ({subjects}): {line}")
    for score in scores:
        if score.extra:
            more = ", ".join(f"{key} {_short(value)}" for key, value in score.extra.items())
            lines.append(f"{score.subject}, {score.label}: {more}")
    return lines


def format_table(scores: Sequence[Score]) -> str:
    """A text table: what was judged, by what, value with interval, counts; the protocols below it."""
    head, rows = table_rows(scores)
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in [*lines, "", *notes(scores)])


def _optional(score: Score, number: float | None, suffix: str = "") -> str:
    return "" if number is None else score.shown(number) + suffix


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
