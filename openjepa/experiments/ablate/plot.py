"""Pictures of an ablation: scores and differences with their intervals, and score against what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from openjepa.experiments.ablate.cells import PIXELS
from openjepa.experiments.ablate.table import labels
from openjepa.visualize.curves import (
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    figure_png,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION)
MARKS = "osD^vPX*"
WORDS = {"confirmed": GREEN, "refuted": VERMILION, "undecided": MUTED}
_AXES = (("samples", "images seen"), ("seconds", "training seconds"), ("flops", "training FLOPs"))
_UNTRAINED: dict[str, Any] = {"color": MUTED, "linestyle": "--", "linewidth": 1.2}
_PIXELS: dict[str, Any] = {"color": ORANGE, "linestyle": ":", "linewidth": 1.6}
_ABOVE = 0.24  # seeds are drawn this far above the mean, in rows
_ROW, _TOP = 0.36, 1.25  # inches per arm and for title and axis


def scores_png(results: Mapping[str, Any]) -> bytes:
    """One row per data set: every score by arm (dots: seeds; mark: mean and 95 % interval), then the comparisons."""
    names = labels(results)
    arms = max(len(data["arms"]) for data in results["data"])
    compared = max((len(data["comparisons"]) for data in results["data"]), default=0)
    columns = len(names) + (compared > 0)
    height = _ROW * max(arms, 1.6 * compared, 3) + _TOP
    figure = new_figure(3.3 * len(names) + 5.6 * (compared > 0) + 0.6, height * len(results["data"]) + 0.5)
    ratios = [1.0] * len(names) + ([1.5] if compared else [])
    grid = figure.subplots(len(results["data"]), columns, squeeze=False, width_ratios=ratios)
    for row, data in zip(grid, results["data"], strict=True):
        for place, name in enumerate(names):
            _draw_scores(row[place], data, name, first=place == 0)
        if compared:
            _draw_differences(row[-1], data)
    _legend(figure)
    figure.suptitle(f"{results['grid']}: {results['question']}", x=0.01, ha="left", fontsize=12, color=INK)
    return figure_png(figure)


def _draw_scores(axes: Axes, data: Mapping[str, Any], name: str, *, first: bool) -> None:
    """Arms from top to bottom; baselines are vertical lines."""
    for place, arm in enumerate(data["arms"]):
        score = arm["scores"].get(name)
        if score is None:
            axes.text(0.5, place, "not run", transform=axes.get_yaxis_transform(), color=MUTED, fontsize=8, va="center")
            continue
        seeds = list(score["seeds"].values())
        axes.plot(seeds, [place - _ABOVE] * len(seeds), "o", ms=3.5, color=SKY, zorder=2)
        _bar(axes, score, place, BLUE)
    _draw_levels(axes, data, name)
    _tidy(axes, [arm["name"] for arm in data["arms"]], labelled=first)
    axes.set_title(f"{data['name']}: {name}" if first else name, loc="left", fontsize=10, color=INK)
    axes.set_xlabel("%", fontsize=8, color=MUTED)


def _bar(axes: Axes, score: Mapping[str, Any], place: float, colour: str) -> None:
    """Mean and 95 % interval."""
    if score["low"] is not None:
        axes.plot([score["low"], score["high"]], [place, place], "-", color=colour, linewidth=1.8, zorder=3)
    axes.plot([score["mean"]], [place], "D", ms=5, color=colour, zorder=4)


def _draw_levels(axes: Axes, data: Mapping[str, Any], name: str) -> None:
    """Untrained encoders and raw pixels as vertical lines."""
    for base in data["baselines"]:
        score = base["scores"].get(name)
        if score is not None:
            axes.axvline(score["mean"], zorder=1, **(_PIXELS if base["name"] == PIXELS else _UNTRAINED))


def _legend(figure: Figure) -> None:
    """One key for all charts, at the top right."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="", ms=4, color=SKY, label="one seed"),
        Line2D([], [], marker="D", ms=5, color=BLUE, linewidth=1.8, label="mean, 95 % interval"),
        Line2D([], [], label="untrained encoder", **_UNTRAINED),
        Line2D([], [], label=PIXELS, **_PIXELS),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=4,
        fontsize=8,
        frameon=False,
        labelcolor=MUTED,
        handlelength=2.5,
    )


def _draw_differences(axes: Axes, data: Mapping[str, Any]) -> None:
    """Paired differences; right of zero is the expected side."""
    rows = data["comparisons"]
    for place, comparison in enumerate(rows):
        found, word = comparison["difference"], comparison["word"]
        colour = WORDS[word]
        if found is not None:
            paired = comparison["paired"]
            axes.plot(paired, [place - _ABOVE] * len(paired), "o", ms=3.5, color=colour, alpha=0.5)
            _bar(axes, found, place, colour)
        axes.text(1.02, place, word, transform=axes.get_yaxis_transform(), color=colour, fontsize=8, va="center")
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    _tidy(axes, [_versus(comparison) for comparison in rows], labelled=True)
    axes.set_title("expected winner minus other, paired by seed", loc="left", fontsize=10, color=INK)
    axes.set_xlabel("per cent points (right of 0: as expected)", fontsize=8, color=MUTED)


def _versus(comparison: Mapping[str, Any]) -> str:
    metric, at = comparison["metric"], comparison["at"]
    by = f"{metric} − {comparison['against']}" if comparison["against"] else metric
    names = comparison["better"]
    if comparison["worse"] != comparison["better"]:
        names = f"{comparison['better']} − {comparison['worse']}"
    return f"{names}\n{by}{'' if at == 'end' else f', equal {at}'}"


def _tidy(axes: Axes, names: Sequence[str], *, labelled: bool) -> None:
    axes.set_yticks(range(len(names)), names if labelled else [""] * len(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(labelsize=8, labelcolor=INK, color=GRID, length=0)
    axes.margins(x=0.12)


def compute_png(results: Mapping[str, Any]) -> bytes:
    """Score (the first asked) against images, seconds and FLOPs of training; one row per data set."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    name = labels(results)[0]
    figure = new_figure(12.5, 3.3 * len(results["data"]) + 0.5)
    grid = figure.subplots(len(results["data"]), len(_AXES), squeeze=False)
    for row, data in zip(grid, results["data"], strict=True):
        for axes, (key, title) in zip(row, _AXES, strict=True):
            _draw_cost(axes, data, key, name)
            axes.set_xlabel(title, fontsize=9, color=MUTED)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(EngFormatter(sep="\N{THIN SPACE}"))
            axes.set_ylim(*_common_limits(data, name))
        row[0].set_ylabel(f"{data['name']}: {name} %", fontsize=9, color=INK)
        row[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5), labelcolor=INK)
    figure.suptitle(
        f"{results['grid']}: {name} against what it cost (thick: mean over seeds)",
        x=0.01,
        ha="left",
        fontsize=12,
        color=INK,
    )
    return figure_png(figure)


def _draw_cost(axes: Axes, data: Mapping[str, Any], key: str, name: str) -> None:
    """Per arm: the mean curve over seeds (thin lines: seeds), its end marked."""
    for place, arm in enumerate(data["arms"]):
        colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
        lines = [curve for curve in (_line(c, key, name) for c in arm["curves"].values()) if curve]
        if not lines:
            continue
        several = max(map(len, lines)) > 2
        for line in lines:
            axes.plot(*zip(*line, strict=True), "-", color=colour, linewidth=0.7, alpha=0.45 if several else 0.0)
        if len({len(line) for line in lines}) == 1:
            mean = [tuple(sum(v) / len(v) for v in zip(*points, strict=True)) for points in zip(*lines, strict=True)]
            axes.plot(*zip(*mean, strict=True), "-", color=colour, linewidth=1.8, alpha=1.0 if several else 0.35)
        ends = [line[-1] for line in lines]
        x, y = (sum(values) / len(values) for values in zip(*ends, strict=True))
        axes.plot(*zip(*ends, strict=True), mark, ms=3, color=colour, alpha=0.45)
        axes.plot([x], [y], mark, ms=7, color=colour, label=arm["name"])
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(labelsize=8, labelcolor=MUTED, color=GRID, length=0)
    axes.set_xlim(left=0)


def _line(curve: Sequence[Mapping[str, Any]], key: str, name: str) -> list[tuple[float, float]]:
    return [(p[key], p["values"][name]) for p in curve if p.get(key) is not None and name in p["values"]]


def _common_limits(data: Mapping[str, Any], name: str) -> tuple[float, float]:
    values = [
        point["values"][name]
        for arm in data["arms"] for curve in arm["curves"].values() for point in curve if name in point["values"]
    ]  # fmt: skip
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.08 * (high - low) or 1.0
    return low - margin, high + margin
