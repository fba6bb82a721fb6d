"""Metrics are read whatever a run left behind, and drawn readably."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from visualize_fakes import metric_rows, write_rows

from openjepa.errors import RunError
from openjepa.visualize import curves_figure, figure_png, panel_svg, panels, read_metrics
from openjepa.visualize.metrics import Metrics


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_rows(tmp_path / "metrics.jsonl", metric_rows())
    return tmp_path


def test_rows_of_a_killed_and_resumed_run(run: Path) -> None:
    path = run / "metrics.jsonl"
    again = {**metric_rows()[5], "loss": 7.0}
    path.write_text(path.read_text() + json.dumps(again) + "\n[1]\n\n" + '{"step": 420, "lo')
    metrics = read_metrics(run)
    steps, losses = metrics.series("loss")
    assert steps == sorted(set(steps))
    assert losses[steps.index(again["step"])] == 7.0  # the newest row of a step wins
    assert metrics.damaged == 2
    assert len(read_metrics(path)) == len(metrics)


def test_a_run_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no metrics here"):
        read_metrics(tmp_path)


def test_null_and_missing_numbers_are_left_out(run: Path) -> None:
    metrics = read_metrics(run)
    assert metrics.series("health.cheats.position_only") == ([], [])
    assert metrics.series("probes.knn") == ([], [])
    assert metrics.last("probes.knn") is None
    keys = {panel.key for panel in panels(metrics)}
    assert {"cheats", "rank", "loss", "spread", "cosine", "gradients", "lr", "momentum", "decay", "speed"} == keys
    cheats = next(panel for panel in panels(metrics) if panel.key == "cheats")
    assert [s.label for s in cheats.series] == ["the model", "mean target", "copy nearest"]


def test_every_panel_has_a_unit_and_curves_that_differ_by_more_than_colour(run: Path) -> None:
    for panel in panels(read_metrics(run)):
        assert panel.unit
        assert len({s.dash for s in panel.series}) == len(panel.series)


def test_scales_are_those_of_the_unit(run: Path) -> None:
    found = {panel.key: panel for panel in panels(read_metrics(run), levels={"rank": {"at start": 20.0}})}
    assert found["rank"].series[0].y[-1] == pytest.approx(60)  # percent
    assert found["lr"].series[0].y[0] == pytest.approx(1)  # thousandths
    assert found["rank"].levels == {"at start": 20.0}


def test_inline_svg_is_self_contained_themed_and_named(run: Path) -> None:
    for panel in panels(read_metrics(run)):
        svg = panel_svg(panel)
        assert svg.startswith("<svg")
        assert svg.rstrip().endswith("</svg>")
        assert "http" not in svg
        assert "<style" not in svg
        assert "var(--blue)" in svg
        assert "#0072b2" not in svg
        assert panel.unit.split(",")[0] in svg
        for link in re.findall(r'(?:xlink:href|href|url)[=(]["#]*([^")]+)', svg):
            assert f'id="{link}"' in svg, "a reference inside the drawing leads nowhere"
        assert svg == panel_svg(panel), "the same numbers make the same bytes"


def test_ids_of_two_charts_do_not_clash(run: Path) -> None:
    ids = [set(re.findall(r'\bid="([^"]+)"', panel_svg(panel))) for panel in panels(read_metrics(run))]
    assert sum(map(len, ids)) == len(set().union(*ids))


@pytest.mark.parametrize("rows", [metric_rows()[:1], metric_rows()[:2], metric_rows()])
def test_a_sheet_of_any_length_is_drawn(tmp_path: Path, rows: list[dict]) -> None:
    figure = curves_figure(Metrics(tuple(rows)), title="run")
    (tmp_path / "c.png").write_bytes(figure_png(figure, dpi=50))
    pixels = np.asarray(Image.open(tmp_path / "c.png").convert("RGB"))
    assert ((pixels - np.array([0, 114, 178])) ** 2).sum(-1).min() < 300  # a blue curve is there


def test_long_runs_are_thinned_and_keep_both_ends() -> None:
    rows = tuple({"step": k, "loss": float(k)} for k in range(20001))
    svg = panel_svg(panels(Metrics(rows))[0])
    assert len(svg) < 60_000


def test_gaps_where_numbers_are_not_finite() -> None:
    rows = tuple({"step": k, "loss": float("nan") if k == 3 else 1.0} for k in range(6))
    assert panel_svg(panels(Metrics(rows))[0]).count("<svg") == 1
    assert panels(Metrics(tuple({"step": k, "loss": float("inf")} for k in range(3)))) == []


def test_nothing_to_draw_is_said_in_one_line() -> None:
    with pytest.raises(RunError, match="no numbers to draw yet"):
        curves_figure(Metrics())


def test_blocks_lidar_and_spectrum_are_drawn_where_they_were_measured(tmp_path: Path) -> None:
    rows = metric_rows()
    for i, row in enumerate(rows):
        row["health"]["alpha"] = 1.0 + i
        if i % 2 == 0:
            row["health"] |= {"lidar": 10.0 + i, "layers": {"rankme": [float(i + b) for b in range(6)]}}
    write_rows(tmp_path / "metrics.jsonl", rows)
    found = {panel.key: panel for panel in panels(read_metrics(tmp_path))}
    assert [s.label for s in found["layers"].series] == ["block 1", "block 3", "block 4", "block 6"]
    assert found["layers"].series[1].y[1] == 4  # third row of the run, second that has them, third block
    assert len(found["lidar"].series[0].x) == (len(rows) + 1) // 2 < len(found["alpha"].series[0].x)
