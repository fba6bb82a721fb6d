"""A whole ablation: cells, results, verdicts, pictures; kept, resumed, retried and locked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import openjepa
from openjepa.cli import main
from openjepa.config.text import dump_yaml
from openjepa.errors import DataError, RunError
from openjepa.experiments.ablate import build_grid, plan, render
from openjepa.experiments.ablate.cells import expand
from openjepa.experiments.ablate.results import interpolate
from tests.unit.experiments.conftest import TINY


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The small grid with one arm that cannot be trained, run once."""
    out, lines = tmp_path_factory.mktemp("ablation"), []
    arms = {**TINY["arms"], "broken": {"overrides": ["train.micro_batch=1", "optim.lr=1e30", "health.max_skipped=0"]}}
    result = openjepa.ablate({**TINY, "arms": arms}, "scenes", out=out, jobs=1, threads=1, on_line=lines.append)
    assert not result.complete
    return out, lines


def results(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "small" / "results.json").read_text()))


def test_results_hold_means_intervals_cost_and_a_verdict(done: tuple[Path, list[str]]) -> None:
    data = results(done[0])["data"][0]
    narrow, wide, _ = data["arms"]
    scores = [float(v) for v in wide["scores"]["knn"]["seeds"].values()]
    assert wide["scores"]["knn"]["mean"] == pytest.approx(sum(scores) / 2)
    assert narrow["cost"]["samples"] == 64
    assert 0 < narrow["cost"]["flops"] < wide["cost"]["flops"]
    assert narrow["cost"]["seconds"] > 0
    comparison = data["comparisons"][0]
    paired = [a - b for a, b in zip(scores, narrow["scores"]["knn"]["seeds"].values(), strict=True)]
    assert comparison["paired"] == pytest.approx(paired)
    assert comparison["word"] in ("confirmed", "refuted", "undecided")
    assert [base["name"] for base in data["baselines"]].count("raw pixels") == 1


def test_cells_are_ordinary_runs(done: tuple[Path, list[str]]) -> None:
    out = done[0]
    runs = {run.recipe.name: run for run in openjepa.runs(out / "cells")}
    assert {"narrow s0", "narrow s1", "wide s0", "wide s1"} <= runs.keys()
    assert runs["wide s1"].status == "finished"
    assert openjepa.load(out / results(out)["data"][0]["arms"][1]["runs"]["1"]).config.seed == 1
    assert not list(out.glob("cells/*/report.html"))


def test_a_failed_cell_is_named_and_the_others_go_on(done: tuple[Path, list[str]]) -> None:
    out, lines = done
    broken = results(out)["data"][0]["arms"][2]
    assert set(broken["missing"]) == {"0", "1"}
    assert all("\n" not in reason and reason for reason in broken["missing"].values())
    assert any("broken s0" in line and "failed" in line for line in lines)
    assert "broken, seed 0" in (out / "small" / "table.md").read_text()


def test_pictures_and_tables_exist(done: tuple[Path, list[str]]) -> None:
    out = done[0]
    for name in ("plot.png", "compute.png"):
        with Image.open(out / "small" / name) as picture:
            assert picture.width > 600
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20
    page = render(out)
    assert page.startswith("Rule: ")
    assert "width helps" in page


def test_a_second_sitting_computes_nothing_and_other_grids_share(done: tuple[Path, list[str]]) -> None:
    out, lines = done[0], []
    result = openjepa.ablate(TINY, "scenes", out=out, on_line=lines.append)
    assert (lines, result.tally.done, result.complete) == ([], 0, True)
    other = {**TINY, "name": "other", "arms": {"slim": TINY["arms"]["narrow"]}, "expect": []}
    assert plan(other, "scenes", out=out).todo == ()
    harder = plan(other, "scenes", out=out, steps=8)
    assert [cell.kind for cell in harder.todo] == ["trained", "trained"]
    assert harder.seconds is not None


def test_only_one_runner_at_a_time(done: tuple[Path, list[str]]) -> None:
    from openjepa.experiments.ablate.store import Store

    lock = Store(done[0]).open()
    try:
        with pytest.raises(RunError, match="in use"):
            openjepa.ablate(TINY, "scenes", out=done[0])
    finally:
        lock.release()


def test_a_killed_runner_leaves_no_worker_and_its_run_goes_on(tmp_path: Path) -> None:
    grid = {**TINY, "seeds": [0], "arms": {"narrow": TINY["arms"]["narrow"]}, "expect": [], "budget": "400 steps"}
    grid["overrides"] = {**TINY["overrides"], "checkpoint.every": "20 steps", "data.workers": 1}
    (tmp_path / "g.yaml").write_text(dump_yaml(grid))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "openjepa", "ablate", str(tmp_path / "g.yaml"), "--data", "scenes"]
    command += ["--out", str(out), "--jobs", "1", "--threads", "1"]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = (
        out
        / "cells"
        / next(c.run_key for c in expand(build_grid(grid), ["scenes"]).cells.values() if c.kind == "trained")
    )
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    while openjepa.run(run).status == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    step = openjepa.run(run).step
    assert 0 < step < 400
    assert openjepa.run(run).status == "stopped"
    result = openjepa.ablate(grid, "scenes", out=out, jobs=1, threads=1)
    assert result.complete
    assert "continues after step" in (run / "train.log").read_text()
    assert result.tally.kept == 2  # baselines of the killed sitting


def test_only_and_dry_run_choose_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = plan(TINY, "scenes", out=tmp_path, only=["wide/1"]).cells
    assert [(c.label, c.seed) for c in cells if c.kind == "trained"] == [("wide", 1)]
    (tmp_path / "g.yaml").write_text(dump_yaml(TINY))
    arguments = ["ablate", str(tmp_path / "g.yaml"), "--data", "scenes", "--out", str(tmp_path / "o")]
    assert main([*arguments, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "wide s1" in shown
    assert "9 of 9 cells to do" in shown
    assert not (tmp_path / "o").exists()
    assert main([*arguments, "--only", "wyde"]) == 2
    assert "did you mean 'wide'" in capsys.readouterr().err


def test_data_that_cannot_be_scored_is_refused_before_anything_trains(tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / "flat").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (40 * i, 0, 0)).save(tmp_path / "flat" / f"{i}.png")
    with pytest.raises(DataError, match=r"grid 'small' cannot be scored on '.*flat': the train samples have no labels"):
        openjepa.ablate(TINY, tmp_path / "flat", out=tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists()


def test_scores_on_the_way_are_those_of_the_evaluation_that_is_asked(tmp_path: Path) -> None:
    grid = {**TINY, "seeds": [0], "arms": {"narrow": TINY["arms"]["narrow"]}, "expect": []}
    for what, label in (("knn", "knn"), ("retrieval", "retrieval mAP")):
        asked = {**grid, "evaluation": {"what": [what], "k": 3, "points": 2}}
        found = openjepa.ablate(asked, "scenes", out=tmp_path, jobs=1, threads=1).results[0]
        curve = found["data"][0]["arms"][0]["curves"]["0"]
        assert [point["step"] for point in curve] == [0, 2, 4]
        assert all(label in point["values"] for point in curve)
    assert len(openjepa.runs(tmp_path / "cells")) == 1


def test_a_score_nobody_measures_is_said(done: tuple[Path, list[str]]) -> None:
    expect = [{"better": "wide", "worse": "narrow", "metric": "knn recall", "claim": "width helps"}]
    result = openjepa.ablate({**TINY, "expect": expect}, "scenes", out=done[0])
    (comparison,) = result.results[0]["data"][0]["comparisons"]
    assert (comparison["word"], comparison["difference"]) == ("undecided", None)
    assert comparison["why"] == "no score is called 'knn recall': there are knn"
    assert "width helps: no score is called" in (done[0] / "small" / "table.md").read_text()


def test_scores_at_an_equal_amount_lie_between_the_points_around_it() -> None:
    curve = [{"seconds": s, "values": {"knn": v}} for s, v in ((0.0, 10.0), (4.0, 30.0), (8.0, 32.0))]
    assert interpolate(curve, "seconds", "knn", 3.0) == pytest.approx(25.0)
    assert interpolate(curve, "seconds", "knn", 8.0) == 32.0
    assert interpolate(curve, "seconds", "knn", 9.0) is None


def test_a_grid_of_clips_runs_to_its_table(tmp_path: Path, tiny: dict[str, Any]) -> None:
    changes = {key: value for key, value in tiny["overrides"].items() if not key.startswith("model.")}
    changes |= {"data.image_size": 32, "data.clip.frames": 4, "model.dim": 24, "model.depth": 1, "model.heads": 1}
    arms = {
        "both": {},
        "long": {
            "overrides": {"mask.groups": [{"blocks": 1, "spatial_scale": [0.5, 0.5]}], "predictor.mask_tokens": 1}
        },
        "pixels": {"recipe": "videomae-tiny", "overrides": {"mask.ratio": 0.5}},
    }
    grid = {**tiny, "base": "vjepa-tiny", "overrides": {**changes, "predictor.heads": 1}, "arms": arms, "seeds": [0]}
    grid |= {"expect": [{"better": "both", "worse": "long", "metric": "knn", "claim": "both kinds help"}]}
    lines: list[str] = []
    result = openjepa.ablate(grid, "scenes", out=tmp_path, steps=2, jobs=1, threads=1, on_line=lines.append)
    assert result.complete, lines
    data = result.results[0]["data"][0]
    assert all(0 <= arm["scores"]["knn"]["mean"] <= 100 for arm in data["arms"])
    assert {base["name"] for base in data["baselines"]} >= {"raw pixels"}
