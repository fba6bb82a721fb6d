"""``scores.json`` of a run, and what it says: did the encoder learn anything that pixels or chance do not give?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openjepa.errors import RunError
from openjepa.visualize.metrics import finite

TITLES = {"knn": "kNN", "linear": "linear probe"}


@dataclass(frozen=True)
class Mark:
    """One score in 0..1 with its 95 % interval, where known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Entry:
    """All scores of one encoder. role: ``trained``, ``random``, ``pixels`` or ``differences`` (of frames); marks by
    metric; protocol in words.
    """

    name: str
    role: str
    marks: Mapping[str, Mark]
    protocol: str = ""
    counts: str = ""


@dataclass
class _Draft:
    marks: dict[str, Mark] = field(default_factory=dict)
    protocol: str = ""
    counts: str = ""


def read_scores(path: str | Path) -> list[Entry]:
    """Read ``scores.json``: a list with one object per encoder (``{"name", "knn", "linear", "intervals", "protocol",
    "n"}``) or one per score (``{"subject", "name": "knn", "value", "interval", …}``). Empty when there is none.

    Raises:
        RunError: the file is not such a list.
    """
    path = Path(path)
    if not path.is_file():
        return []
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({error}); evaluate again to write it") from error
    rows = raw.get("scores", raw) if isinstance(raw, dict) else raw
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RunError(f"{path} should hold a list of objects, one per encoder")
    drafts: dict[str, _Draft] = {}
    for row in rows:
        single = "value" in row
        if single and row.get("metric", "accuracy") not in _SHARES:
            continue  # an error in pixels or a correlation is no bar between 0 and 1
        name = str(row.get("encoder") or row.get("subject") or ("trained" if single else row.get("name", "trained")))
        draft = drafts.setdefault(name, _Draft())
        draft.protocol = draft.protocol or _words(row.get("protocol"))
        draft.counts = draft.counts or _counts(row)
        values = {_label(row): row["value"]} if single else row
        for metric, value in values.items():
            mark = _mark(value, row.get("interval") if single else (row.get("intervals") or {}).get(metric))
            if mark is not None and metric not in _NOT_SCORES:
                draft.marks[metric] = mark
    return [Entry(name, _role(name), d.marks, d.protocol, d.counts) for name, d in drafts.items() if d.marks]


_SHARES = ("accuracy", "top-1", "mAP", "recall@1", "recall@5", "recall@10")
_NOT_SCORES = {"n", "n_train", "n_val", "seed", "step", "k", "dim", "seconds"}


def _label(row: Mapping[str, Any]) -> str:
    """The evaluator, and the metric where it is no accuracy."""
    name, metric = str(row.get("name", "score")), str(row.get("metric", "accuracy"))
    return name if metric == "accuracy" else f"{name} {metric}"


def _mark(value: Any, interval: Any) -> Mark | None:
    """A score from a number or from ``{"value", "interval"}``; None for anything else or outside 0..1."""
    if isinstance(value, Mapping):
        interval = value.get("interval", interval)
        value = value.get("value")
    number = finite(value)
    if number is None or not 0 <= number <= 1:
        return None
    ends = [finite(v) for v in interval] if isinstance(interval, list | tuple) and len(interval) == 2 else [None, None]
    return Mark(number, *ends)


def _role(name: str) -> str:
    lowered = name.lower()
    if "random" in lowered or "untrained" in lowered:
        return "random"
    if "differences" in lowered:
        return "differences"
    return "pixels" if "pixel" in lowered or lowered.startswith("raw") else "trained"


def _words(protocol: Any) -> str:
    """A protocol as one line: text as it is, a mapping as ``key value`` pairs."""
    if isinstance(protocol, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in protocol.items())
    return "" if protocol is None else str(protocol)


def _counts(row: Mapping[str, Any]) -> str:
    """How many images a score rests on."""
    if row.get("n_train") is not None and row.get("n_val") is not None:
        return f"{row['n_train']:,} / {row['n_val']:,}"
    count = row.get("n")
    if isinstance(count, Mapping):
        return " / ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in count.values())
    return f"{count:,}" if isinstance(count, int) else "" if count is None else str(count)


def metrics_of(entries: Sequence[Entry]) -> list[str]:
    """Names of all scores, kNN and linear first."""
    found = {metric for entry in entries for metric in entry.marks}
    return [m for m in TITLES if m in found] + sorted(found - set(TITLES))


def compare(entries: Sequence[Entry], against: str) -> dict[str, str]:
    """Per metric: ``better``, ``within`` (better or worse inside the spread), or ``worse`` than the encoder whose role
    is ``against``. The spread is the two 95 % intervals: clear means that they do not overlap. Empty when not measured.
    """
    ours = next((e for e in entries if e.role == "trained"), None)
    other = next((e for e in entries if e.role == against), None)
    if ours is None or other is None:
        return {}
    verdicts = {}
    for metric in metrics_of(entries):
        if metric in ours.marks and metric in other.marks:
            a, b = ours.marks[metric], other.marks[metric]
            if _low(a) > _high(b):
                verdicts[metric] = "better"
            else:
                verdicts[metric] = "worse" if _high(a) < _low(b) else "within"
    return verdicts


def _low(mark: Mark) -> float:
    return mark.value if mark.low is None else mark.low


def _high(mark: Mark) -> float:
    return mark.value if mark.high is None else mark.high
