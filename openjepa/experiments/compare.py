"""Several runs side by side: what their recipes differ in, and how they ended (``openjepa runs compare``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openjepa.config import ABSENT, diff_recipes
from openjepa.errors import ConfigError, require
from openjepa.training import RunInfo, read_rows, read_run
from openjepa.training.run import METRICS
from openjepa.visualize.metrics import Metrics, dig, finite, read_metrics
from openjepa.visualize.scores import read_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# (name, key in a row, digits); a number is the newest that a row holds
NUMBERS: tuple[tuple[str, str, int], ...] = (
    ("step", "step", 0),
    ("images seen", "samples", 0),
    ("loss", "loss", 4),
    ("RankMe", "health.rankme", 1),
    ("RankMe / largest possible", "health.rankme_share", 3),
    ("LiDAR", "health.lidar", 1),
    ("alpha-ReQ", "health.alpha", 2),
    ("feature std", "health.feature_std", 3),
    ("mean cosine", "health.mean_cosine", 4),
    ("floating-point operations", "flops", 0),
    ("images/s", "images_per_s", 0),
    ("kNN while training", "probes.knn", 3),
    ("linear while training", "probes.linear", 3),
)
# What is drawn over one another: (key, title, unit, scale)
CURVES: tuple[tuple[str, str, str, float], ...] = (
    ("health.rankme_share", "Effective rank of pooled features", "RankMe, % of the largest possible", 100),
    ("health.lidar", "Directions that tell images apart", "LiDAR", 1),
    ("health.alpha", "Decay of the spectrum", "α-ReQ", 1),
    ("loss", "Training loss", "loss per element", 1),
    ("against_cheats", "Loss against the best cheat", "loss / best cheat's", 1),
    ("health.mean_cosine", "Likeness of different images", "mean cosine", 1),
    ("grad_norm.total", "Gradient norm", "L2 norm", 1),
    ("probes.knn", "kNN probe", "accuracy, %", 100),
    ("probes.linear", "Linear probe", "accuracy, %", 100),
)
MOST_DRAWN = 8  # runs in one picture: more cannot be told apart


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare_runs` found, one value per run everywhere.

    names: of the runs, made different where directories share one. differences: recipe key to values. numbers: measure to
    values (None where a run lacks it). scores: final scores of the trained encoder as shares. verdicts: health in words.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    differences: Mapping[str, tuple[Any, ...]]
    numbers: Mapping[str, tuple[float | None, ...]]
    scores: Mapping[str, tuple[float | None, ...]]
    verdicts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; a recipe key that a run has not is null."""
        plain = {k: [None if v is ABSENT else v for v in values] for k, values in self.differences.items()}
        return {
            "runs": list(self.names),
            "paths": list(self.paths),
            "differences": plain,
            "numbers": {k: list(v) for k, v in self.numbers.items()},
            "scores": {k: list(v) for k, v in self.scores.items()},
            "verdicts": list(self.verdicts),
        }


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Put runs side by side, in the given order.

    Raises:
        ConfigError: fewer than two different runs. RunError: one of them is no run.
    """
    unique = list(dict.fromkeys(Path(path).resolve() for path in paths))
    if len(unique) < 2:
        raise ConfigError(f"runs compare needs two different runs or more, got {len(unique)}")
    runs = [read_run(path) for path in unique]
    rows = [read_rows(run.path / METRICS) for run in runs]
    numbers = {name: tuple(_last(one, key, digits) for one in rows) for name, key, digits in NUMBERS}
    ratio = tuple(_rounded(next((r for row in reversed(one) if (r := against_cheats(row)) is not None), None), 3)
                  for one in rows)  # fmt: skip
    numbers["loss / best cheat"] = ratio
    return Comparison(
        names=_names(unique),
        paths=tuple(str(path) for path in unique),
        differences=_differences(runs),
        numbers={name: values for name, values in numbers.items() if any(value is not None for value in values)},
        scores=_scores(runs),
        verdicts=tuple(run.verdict or "not judged" for run in runs),
    )


def against_cheats(row: Mapping[str, Any]) -> float | None:
    """Loss on the panel over the best cheat's; None where a method has no cheats."""
    loss = finite(dig(row, "health.loss_on_panel"))
    cheats = [v for v in map(finite, (dig(row, "health.cheats") or {}).values()) if v is not None]
    return loss / min(cheats) if loss is not None and cheats and min(cheats) > 0 else None


def comparison_figure(comparison: Comparison) -> Figure:
    """The runs' curves over one another, one chart per measure that at least one run has.

    Raises:
        ConfigError: more than eight runs. MissingExtra: matplotlib is not installed. RunError: a run has no metrics.
    """
    from openjepa.visualize.curves import Panel, draw, new_figure

    if len(comparison.names) > MOST_DRAWN:
        raise ConfigError(f"a picture shows {MOST_DRAWN} runs at most, not {len(comparison.names)}")
    require("matplotlib", "viz")
    metrics = [_with_ratio(read_metrics(path)) for path in comparison.paths]
    charts: list[Panel] = []
    for key, title, unit, scale in CURVES:
        series = _series(comparison.names, metrics, key, scale)
        if series:
            charts.append(Panel(key, title, unit, "", tuple(series)))
    columns = min(3, len(charts))
    lines = -(-len(charts) // columns)
    figure = new_figure(5.8 * columns, 2.9 * lines)
    for k, axes in enumerate(figure.subplots(lines, columns, squeeze=False).flat):
        if k < len(charts):
            draw(charts[k], axes)
        else:
            axes.set_axis_off()
    return figure


def _series(names: Sequence[str], metrics: Sequence[Metrics], key: str, scale: float) -> list[Any]:
    """One curve per run that has numbers under ``key``, each with its colour and dash in every chart."""
    from openjepa.visualize.curves import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION, Series

    colours = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, INK, MUTED)
    dashes = ("-", "--", "-.", ":")
    found = []
    for i, (name, rows) in enumerate(zip(names, metrics, strict=True)):
        x, y = rows.series(key)
        if y:
            found.append(Series(name, x, [scale * value for value in y], colours[i], dashes[i % len(dashes)]))
    return found


def _with_ratio(metrics: Metrics) -> Metrics:
    """The rows with the loss against the best cheat under a key of its own."""
    return Metrics(tuple({**row, "against_cheats": against_cheats(row)} for row in metrics.rows))


def _differences(runs: Sequence[RunInfo]) -> dict[str, tuple[Any, ...]]:
    """Recipe keys in which not all runs agree, with every run's value."""
    first = runs[0].recipe
    changed = [{key: (a, b) for key, a, b in diff_recipes(first, run.recipe)} for run in runs[1:]]
    found: dict[str, tuple[Any, ...]] = {}
    for key in dict.fromkeys(key for one in changed for key in one):
        base = next(one[key][0] for one in changed if key in one)
        found[key] = (base, *(one[key][1] if key in one else base for one in changed))
    return found


def _scores(runs: Sequence[RunInfo]) -> dict[str, tuple[float | None, ...]]:
    """Final scores of the trained encoders by evaluator."""
    marks = []
    for run in runs:
        entries = [entry for entry in read_scores(run.path / "scores.json") if entry.role == "trained"]
        marks.append({name: mark.value for entry in entries for name, mark in entry.marks.items()})
    names = dict.fromkeys(name for one in marks for name in one)
    return {name: tuple(_rounded(one.get(name), 4) for one in marks) for name in names}


def _names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Directory names, with as many parents as it takes to tell them apart."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return tuple("/".join(path.parts[-depth:]) for path in paths)


def _last(rows: Sequence[Mapping[str, Any]], key: str, digits: int) -> float | None:
    value = next((v for row in reversed(rows) if (v := finite(dig(row, key))) is not None), None)
    return _rounded(value, digits)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits) if digits else round(value)
