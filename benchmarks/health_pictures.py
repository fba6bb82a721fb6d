"""Draw the pictures of docs/how-to/is-my-run-healthy.md from the runs of benchmarks/doctor.py.

python benchmarks/health_pictures.py
"""

from __future__ import annotations

import json
from pathlib import Path

from openjepa.experiments.compare import against_cheats
from openjepa.visualize.curves import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Panel,
    Series,
    draw,
    figure_png,
    new_figure,
)
from openjepa.visualize.metrics import Metrics

RUNS = Path(__file__).parent / "results" / "doctor" / "calibration"
ASSETS = Path(__file__).parents[1] / "docs" / "assets"
CHARTS = (
    ("health.rankme_share", "Effective rank", "RankMe, % of largest", 100, {"sick below": 10.0}),
    ("against_cheats", "Loss against the best cheat", "loss / best cheat's", 1, {"no better": 1.0}),
    ("health.feature_std", "Deviation between images", "standard deviation", 1, {}),
    ("health.mean_cosine", "Likeness of images", "mean cosine", 1, {}),
)
PICTURES = {
    "health-well": (("as-shipped-s0", "seed 0"), ("as-shipped-s1", "seed 1"), ("as-shipped-s2", "seed 2")),
    "health-sick": (
        ("no-regulariser-s0", "no regulariser"), ("lr-x-30-s0", "lr × 30"), ("self-target-s0", "no EMA"),
        ("leaking-context-s0", "leaking"), ("no-mask-wide-predictor-s0", "no mask"),
    ),
}  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY)
DASHES = ("-", "--", "-.", ":", "-", "--")


def metrics(name: str) -> Metrics:
    """Rows of a run, with the loss against the best cheat."""
    rows = json.loads((RUNS / f"{name}.json").read_text())["rows"]
    return Metrics(tuple({**row, "against_cheats": against_cheats(row)} for row in rows))


def picture(runs: tuple[tuple[str, str], ...]) -> bytes:
    """Four charts side by side with all runs in each."""
    figure = new_figure(15.5, 2.9)
    for axes, (key, title, unit, scale, levels) in zip(figure.subplots(1, 4), CHARTS, strict=True):
        series = []
        for i, (name, label) in enumerate(runs):
            x, y = metrics(name).series(key)
            if not x:  # without a mask copying is perfect: there is no ratio
                continue
            series.append(Series(label, x, [scale * value for value in y], COLOURS[i], DASHES[i]))
        draw(Panel(key, title, unit, "", tuple(series), from_zero=scale == 100, levels=levels), axes)
    return figure_png(figure, dpi=80)


if __name__ == "__main__":
    for name, runs in PICTURES.items():
        (ASSETS / f"{name}.png").write_bytes(picture(runs))
        print(ASSETS / f"{name}.png")
