"""The report's numbers in words: headline, key figures with their sparklines and bars, formats."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openjepa.config.schema import Recipe
from openjepa.visualize.metrics import dig, finite
from openjepa.visualize.rundir import RunFacts
from openjepa.visualize.scores import TITLES, Entry, Mark, metrics_of
from openjepa.visualize.words import duration, percent

_STAMP = re.compile(r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\S*\s+")
ORDER = {"trained": 0, "pixels": 1, "differences": 2, "random": 3}
LABELS = {
    "trained": "this run", "pixels": "raw pixels", "differences": "frame differences", "random": "random encoder",
}  # fmt: skip
SHORT = {"trained": "this run", "pixels": "pixels", "differences": "differences", "random": "random"}


def headline(facts: RunFacts) -> str:
    """One line: what was trained on what, and how big it is."""
    recipe = facts.recipe
    if recipe is None:
        return "The run's config could not be read."
    height, width = recipe.image_hw
    size = f"{height}" if height == width else f"{height}×{width}"
    data = recipe.data.source or "unnamed data"
    return f"{recipe.name} on {data} · {_model(recipe)}, patch {recipe.model.patch_size}, {size} px"


def _model(recipe: Recipe) -> str:
    model = recipe.model
    free = [
        f"{value} {word}"
        for value, word in ((model.dim, "wide"), (model.depth, "blocks" if model.depth != 1 else "block"))
        if value is not None
    ]
    return " ".join(filter(None, [model.arch or "ViT", ", ".join(free)]))


def progress(facts: RunFacts) -> dict[str, Any]:
    """How far the run got: a sentence, and whether it is whole (None when the planned length is unknown)."""
    last = facts.metrics.rows[-1] if len(facts.metrics) else None
    total = finite(dig(facts.environment, "plan.steps")) or finite(facts.metrics.last("health.total_steps"))
    if last is None:
        return {"sentence": "No step has been recorded yet.", "whole": False if facts.model is None else None}
    parts = [f"{last['step']:,} steps" + (f" of {int(total):,}" if total and last["step"] < total else "")]
    if finite(last.get("epoch")) is not None:
        parts.append(f"{last['epoch']:.3g} epochs")
    if finite(last.get("samples")) is not None:
        seen = "clips" if facts.recipe is not None and facts.recipe.video else "images"
        parts.append(f"{int(last['samples']):,} {seen} seen")
    hours = _elapsed(facts)
    if hours:
        parts.append(hours)
    machine = (facts.environment.get("sessions") or [{}])[-1]
    if isinstance(machine, Mapping):
        gpus = machine.get("gpus") or []
        device = gpus[0] if gpus else machine.get("cpu")
        parts += [str(device)] if device else []
    return {"sentence": " · ".join(parts), "whole": None if total is None else last["step"] >= total}


def decisions(lines: Sequence[str]) -> list[tuple[str, str]]:
    """What training said it decided: ``("device", "cpu (…)")`` for each ``name: value`` line of train.log before its
    first step, without time stamps.
    """
    found = []
    for line in lines:
        said = _STAMP.sub("", line)
        if said.startswith("step "):
            break
        name, colon, value = said.partition(": ")
        if colon:
            found.append((name, value))
    return found


def _elapsed(facts: RunFacts) -> str:
    """Time between the first and the last row, in words."""
    times = [t for row in facts.metrics.rows if (t := finite(row.get("time"))) is not None]
    return duration(times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else ""


def ordered(entries: Sequence[Entry]) -> list[Entry]:
    """Trained first, then raw pixels, then the random encoder."""
    return sorted(entries, key=lambda entry: ORDER[entry.role])


def score_groups(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Per metric, one bar per encoder: ``{"title", "bars": [{"label", "role", "mark"}], "top"}``."""
    groups = []
    for metric in metrics_of(entries):
        bars = [
            {"label": LABELS[e.role] if e.role != "trained" or e.name in ("trained", "encoder") else e.name,
             "short": SHORT[e.role], "role": e.role, "mark": e.marks[metric]}
            for e in ordered(entries) if metric in e.marks
        ]  # fmt: skip
        top = max(e.marks[metric].high or e.marks[metric].value for e in entries if metric in e.marks)
        groups.append({"key": metric, "title": TITLES.get(metric, metric), "bars": bars, "top": _round_up(top)})
    return groups


def _round_up(share: float) -> float:
    """The next tenth above a share, at most 1: where the bars' scale ends."""
    return min(1.0, math.ceil(share * 10 + 0.2) / 10)


def baselines(entries: Sequence[Entry]) -> dict[str, float]:
    """The kNN of raw pixels and the random encoder in percent, as lines for the probe chart."""
    return {f"{SHORT[e.role]} kNN": 100 * e.marks["knn"].value
            for e in entries if e.role != "trained" and "knn" in e.marks}  # fmt: skip


def tiles(facts: RunFacts) -> list[dict[str, Any]]:
    """Key figures: ``{"title", "value", "unit", "note", "spark", "bars"}``; only what is known."""
    found: list[dict[str, Any]] = []
    for group in score_groups(facts.scores)[:2]:
        ours = next((bar["mark"] for bar in group["bars"] if bar["role"] == "trained"), None)
        if ours is not None:
            found.append({"title": f"{group['title']} accuracy", "value": f"{100 * ours.value:.1f}", "unit": "%",
                          "note": "", "spark": "", "group": group})  # fmt: skip
    if not found:
        found += _probe_tiles(facts)
    metrics = facts.metrics
    rank = finite(metrics.last("health.rankme_share"))
    if rank is not None:
        count = finite(metrics.last("health.rankme"))
        found.append({"title": "Effective rank", "value": f"{100 * rank:.0f}", "unit": "% of width", "group": None,
                      "note": f"{count:.0f} directions in use" if count is not None else "",
                      "spark": sparkline(metrics.series("health.rankme_share")[1])})  # fmt: skip
    loss, cheats = finite(metrics.last("health.loss_on_panel")), metrics.last("health.cheats")
    values = [v for v in map(finite, (cheats or {}).values()) if v is not None] if isinstance(cheats, Mapping) else []
    if loss is not None and values and min(values) > 0:
        change = 100 * (loss / min(values) - 1)
        found.append({"title": "Loss against best cheat", "value": f"{change:+.0f}".replace("-", "−"), "unit": "%",
                      "group": None, "note": f"{loss:.3g} against {min(values):.3g}",
                      "spark": sparkline(metrics.series("health.loss_on_panel")[1])})  # fmt: skip
    return found


def _probe_tiles(facts: RunFacts) -> list[dict[str, Any]]:
    """Newest probe scores, where there are no final ones."""
    found = []
    for probe, title in TITLES.items():
        values = facts.metrics.series(f"probes.{probe}")[1]
        if values:
            note = f"{100 * values[0]:.1f} % at first" if len(values) > 1 else ""
            found.append({"title": f"{title} while training", "value": f"{100 * values[-1]:.1f}", "unit": "%",
                          "note": note, "spark": sparkline(values), "group": None})  # fmt: skip
    return found


def sparkline(values: Sequence[float], width: int = 120, height: int = 30) -> str:
    """Points of an SVG polyline through ``values`` in a ``width × height`` box; empty for fewer than two."""
    known = [v for v in values if math.isfinite(v)]
    if len(known) < 2:
        return ""
    step = max(1, len(known) // width)
    known = [*known[::step], known[-1]]
    low, span = min(known), (max(known) - min(known)) or 1.0
    right = width - 4
    return " ".join(
        f"{2 + k * right / (len(known) - 1):.1f},{height - 3 - (v - low) / span * (height - 6):.1f}"
        for k, v in enumerate(known)
    )


def plain(value: Any) -> str:
    """A recipe's value as text a person would write."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {plain(v)}' for key, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(plain(v) for v in value)}]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def interval(mark: Mark) -> str:
    """A mark's 95 % interval in percent, empty when unknown."""
    return "" if mark.low is None or mark.high is None else f"{100 * mark.low:.1f}–{100 * mark.high:.1f}"


FILTERS: dict[str, Callable[..., str]] = {"percent": percent, "interval": interval}
