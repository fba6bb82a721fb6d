"""Loss and health over training: what each curve is, and how it is drawn.

:func:`panels` turns metrics into plain descriptions (title, unit, how to read it, series), which the report and the
PNG draw alike. Series are told apart by colour (Okabe and Ito), dash and a label at their right end.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openjepa.errors import RunError, require
from openjepa.visualize.metrics import Metrics, dig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2328", "#656d76", "#d8dee4"
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"
THEMED = {INK: "--ink", MUTED: "--muted", GRID: "--line", BLUE: "--blue", ORANGE: "--orange", GREEN: "--green",
          PURPLE: "--purple", SKY: "--sky", VERMILION: "--vermilion"}  # fmt: skip
OTHERS = (SKY, VERMILION, MUTED)  # of cheats that only some methods have
MOST_POINTS = 400  # per series in a drawing: more cannot be seen at this width


@dataclass(frozen=True)
class Series:
    """One curve: steps ``x``, values ``y`` (not-finite values break the line)."""

    label: str
    x: list[int]
    y: list[float]
    colour: str
    dash: str = "-"
    width: float = 1.6


@dataclass(frozen=True)
class Panel:
    """One chart. ``key`` names it, ``unit`` labels the vertical axis, ``reading`` says how to read it.

    levels: horizontal reference lines by label. from_zero: the vertical axis starts at 0.
    """

    key: str
    title: str
    unit: str
    reading: str
    series: tuple[Series, ...]
    log: bool = False
    from_zero: bool = False
    levels: Mapping[str, float] | None = None


# (key, title, unit, reading, log, [(metric, label, colour, dash)], scale)
_Spec = tuple[str, str, str, str, bool, tuple[tuple[str, str, str, str], ...], float]
_SPECS: tuple[_Spec, ...] = (
    ("cheats", "Prediction against cheap cheats", "loss per element",
     "The thick line should fall below all dashed ones: "
     "then predictions say more than an average, a copied neighbour or the position would.",
     False,
     (("health.loss_on_panel", "the model", BLUE, "-"), ("health.cheats.mean_target", "mean target", ORANGE, "--"),
      ("health.cheats.copy_nearest", "copy nearest", GREEN, ":"),
      ("health.cheats.position_only", "position only", PURPLE, "-.")), 1),
    ("rank", "Effective rank of pooled features", "RankMe, % of largest",
     "Number of directions that features really use. Rising or steady is good; falling towards zero is collapse.",
     False, (("health.rankme_share", "RankMe", BLUE, "-"),), 100),
    ("lidar", "Directions that tell images apart", "LiDAR",
     "Like the effective rank, but only what differs between images more than between views of one image counts.",
     False, (("health.lidar", "LiDAR", BLUE, "-"),), 1),
    ("layers", "Effective rank of every depth", "RankMe of a block",
     "Raw block outputs. Late blocks below early ones: what the first blocks still told apart is lost on the way.",
     False, (), 1),
    ("alpha", "Decay of the spectrum", "α-ReQ",
     "Exponent of the fall of eigenvalues. Rising far above 1: few directions take all. Near 0: noise.",
     False, (("health.alpha", "α", BLUE, "-"),), 1),
    ("loss", "Training loss", "loss per element",
     "Alone it says little: where targets move with the encoder, it may rise while features get better.",
     False, (("loss", "loss", BLUE, "-"),), 1),
    ("spread", "Spread over samples", "standard deviation",
     "How much features differ between images. All lines near zero mean that every image looks the same.",
     False,
     (("health.target_std", "targets", ORANGE, "--"), ("health.prediction_std", "predictions", GREEN, ":"),
      ("health.feature_std", "pooled", BLUE, "-")), 1),
    ("cosine", "Likeness of different images", "mean cosine",
     "Between pooled features of different images. 1 means that all point the same way.",
     False, (("health.mean_cosine", "cosine", BLUE, "-"),), 1),
    ("probes", "Probes on labels", "accuracy, %",
     "Score of simple classifiers on frozen features, measured while training.",
     False, (("probes.knn", "kNN", BLUE, "-"), ("probes.linear", "linear", ORANGE, "--")), 100),
    ("gradients", "Gradient norms", "L2 norm (log scale)",
     "Smooth is good; a jump of ten times or more is a warning.",
     True,
     (("grad_norm.encoder", "encoder", BLUE, "-"), ("grad_norm.predictor", "predictor", ORANGE, "--"),
      ("grad_norm.total", "total", MUTED, ":")), 1),
    ("lr", "Learning rate", "rate, in 10⁻³", "", False, (("lr", "rate", BLUE, "-"),), 1e3),
    ("momentum", "Target momentum", "EMA momentum", "", False, (("momentum", "momentum", BLUE, "-"),), 1),
    ("decay", "Weight decay", "coefficient", "", False, (("weight_decay", "decay", BLUE, "-"),), 1),
    ("speed", "Speed", "images per second", "", False, (("images_per_s", "images/s", BLUE, "-"),), 1),
)  # fmt: skip
_FROM_ZERO = ("rank", "lidar", "layers", "spread", "speed")
_DEPTHS = ((SKY, ":"), (GREEN, "-."), (ORANGE, "--"), (BLUE, "-"))  # first, two between, last


def panels(metrics: Metrics, *, levels: Mapping[str, Mapping[str, float]] | None = None) -> list[Panel]:
    """Every chart that ``metrics`` holds numbers for, the most telling first.

    Args:
        metrics: rows of one run.
        levels: panel key to labelled reference lines in the panel's unit, e.g. ``{"probes": {"raw pixels": 39.4}}``.
    """
    found = []
    for key, title, unit, reading, log, curves, scale in _SPECS:
        series = []
        curves = _blocks(metrics) if key == "layers" else curves
        for metric, label, colour, dash in curves:
            x, y = metrics.series(metric)
            if any(math.isfinite(v) for v in y):
                thick = 2.4 if metric == "health.loss_on_panel" else 1.6
                series.append(Series(label, x, [v * scale for v in y], colour, dash, thick))
        if key == "cheats":
            title, reading, more = _against(metrics, series, title, reading)
            series += more
        if series:
            lines = dict((levels or {}).get(key, {}))
            found.append(Panel(key, title, unit, reading, tuple(series), log, key in _FROM_ZERO, lines))
    return found


def _against(metrics: Metrics, series: Sequence[Series], title: str, reading: str) -> tuple[str, str, list[Series]]:
    """Title and reading of the chart of cheats for what a method has: no cheats, no loss, or cheats of its own."""
    known = {metric for metric, *_ in _SPECS[0][5]}
    names = {name for row in metrics.rows for name in (dig(row, "health.cheats") or {})}
    more = []
    for name, colour in zip(sorted(n for n in names if f"health.cheats.{n}" not in known), OTHERS, strict=False):
        x, y = metrics.series(f"health.cheats.{name}")
        if any(math.isfinite(v) for v in y):
            more.append(Series(name.replace("_", " "), x, y, colour, "--"))
    labels = [one.label for one in (*series, *more)]
    if labels == ["the model"]:
        return "Loss on the health panel", "This method has no cheats to compare with; read it with the rank.", more
    return title, reading, more


def _blocks(metrics: Metrics) -> tuple[tuple[str, str, str, str], ...]:
    """Metric, label, colour and dash of at most four blocks, evenly spaced from the first to the last."""
    last: list[float] = next((n for row in reversed(metrics.rows) if (n := dig(row, "health.layers.rankme"))), [])
    count = min(len(last), len(_DEPTHS))
    chosen = [round(i * (len(last) - 1) / max(count - 1, 1)) for i in range(count)]
    styles = _DEPTHS[len(_DEPTHS) - count :]
    return tuple(
        (f"health.layers.rankme.{block}", f"block {block + 1}", *style)
        for block, style in zip(chosen, styles, strict=True)
    )


def draw(panel: Panel, axes: Axes, *, heading: bool = True) -> None:
    """Draw ``panel`` on matplotlib ``axes``: curves, labels at their right ends, axis labels with units."""
    ends: list[tuple[float, str, str]] = []
    for series in panel.series:
        x, y = _thin(series.x, series.y)
        lonely = sum(math.isfinite(v) for v in y) < 12
        axes.plot(x, y, series.dash, color=series.colour, linewidth=series.width,
                  marker="o" if lonely else None, markersize=3.2, solid_capstyle="round")  # fmt: skip
        last = next(v for v in reversed(y) if math.isfinite(v))
        ends.append((last, series.label, series.colour))
    for label, level in (panel.levels or {}).items():
        axes.axhline(level, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        ends.append((level, label, MUTED))
    if panel.log:
        axes.set_yscale("log")
    axes.margins(x=0.02, y=0.08)
    if panel.from_zero:
        top = max((v for s in panel.series for v in s.y if math.isfinite(v)), default=1.0)
        axes.set_ylim(0, 1.08 * top if top > 0 else 1.0)
    if heading:
        axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=8)
    _dress(panel, axes)
    if len(ends) > 1:
        _label_ends(axes, ends, panel.log)


def _dress(panel: Panel, axes: Axes) -> None:
    """Axis labels, a light grid, no box."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.set_xlabel("steps", fontsize=8, color=MUTED)
    axes.set_ylabel(panel.unit, fontsize=8, color=MUTED)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(labelsize=8, labelcolor=MUTED, color=GRID, length=3)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if panel.log:  # plain numbers, at 1, 2 and 5 where all lies within a decade or two
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 30 * low else (1.0,), numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.ticklabel_format(axis="y", useOffset=False)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], log: bool) -> None:
    """Write each label right of the axes at the height of its curve's end, pushed apart where they would touch."""
    low, high = axes.get_ylim()
    bend = math.log10 if log else float
    span = (bend(high) - bend(low)) or 1.0
    spots = sorted(((bend(max(v, 1e-30) if log else v) - bend(low)) / span, label, c) for v, label, c in ends)
    gap = 0.095
    heights: list[float] = []
    for share, _, _ in spots:
        heights.append(max(share, heights[-1] + gap) if heights else share)
    overflow = heights[-1] - 1.0
    if overflow > 0:  # push the stack down from the top
        heights[-1] -= overflow
        for k in range(len(heights) - 2, -1, -1):
            heights[k] = min(heights[k], heights[k + 1] - gap)
    for height, (_, label, colour) in zip(heights, spots, strict=True):
        axes.text(1.02, height, label, transform=axes.transAxes, fontsize=8, color=colour, va="center", clip_on=False)


def _thin(x: Sequence[int], y: Sequence[float]) -> tuple[list[int], list[float]]:
    """At most :data:`MOST_POINTS` points, evenly chosen, first and last kept; not-finite values become gaps."""
    step = max(1, math.ceil(len(x) / MOST_POINTS))
    chosen = sorted({*range(0, len(x), step), len(x) - 1})
    return [x[k] for k in chosen], [y[k] if math.isfinite(y[k]) else math.nan for k in chosen]


def new_figure(width: float, height: float) -> Figure:
    """A figure outside pyplot's state (so nothing leaks and no display is needed). Size in inches."""
    require("matplotlib", "viz")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def curves_figure(metrics: Metrics, *, title: str = "", levels: Any = None) -> Figure:
    """All charts of a run on one figure, three in a row.

    Raises:
        RunError: the metrics hold no number to draw.
        MissingExtra: matplotlib is not installed.
    """
    charts = panels(metrics, levels=levels)
    if not charts:
        raise RunError("the metrics hold no numbers to draw yet: the first row is written before the first step")
    columns = min(3, len(charts))
    rows = math.ceil(len(charts) / columns)
    figure = new_figure(5.4 * columns, 2.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for k, axes in enumerate(grid.flat):
        if k < len(charts):
            draw(charts[k], axes)
        else:
            axes.set_axis_off()
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    return figure


def figure_png(figure: Figure, dpi: int = 130) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def panel_svg(panel: Panel, *, width: float = 3.1, height: float = 1.95) -> str:
    """One chart without its title (the page sets it) as an ``<svg>`` to stand inside an HTML page.

    It refers to nothing outside, text stays text, and colours are CSS variables (``--ink``, ``--blue`` …), so that
    the page's light and dark themes reach into it.
    """
    figure = new_figure(width, height)
    draw(panel, figure.subplots(), heading=False)
    return figure_svg(figure, f"{panel.title}, {panel.unit}", salt=panel.key)


def figure_svg(figure: Figure, label: str, *, salt: str) -> str:
    """A figure as an inline ``<svg>``; ``label`` is its accessible name, ``salt`` keeps its ids apart from others."""
    matplotlib = require("matplotlib", "viz")
    from html import escape

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None, "matplotlib writes a viewBox"
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", body)
    body = re.sub(r"\n\s*", "\n", body)
    for colour, name in THEMED.items():
        body = re.sub(colour, f"var({name})", body, flags=re.IGNORECASE)
    return f'<svg class="chart" role="img" aria-label="{escape(label)}" viewBox="{box[1]}">{body}'
