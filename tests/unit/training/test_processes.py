"""The number of processes changes nothing but the last digits; they stop together, and runs move between strategies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HARNESS = Path(__file__).resolve().parents[2] / "rank_harness.py"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def scenario(name: str, folder: Path) -> Any:
    done = subprocess.run(
        [sys.executable, str(HARNESS), str(folder), name],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    for strategy, result in scenario("same_weights", tmp_path).items():
        assert result["codes"] == [0, 0], strategy
        assert result["weights"] < 1e-6, strategy
        assert result["loss"] < 1e-6, strategy
        assert result["norm"] < 1e-6, strategy


def test_sharding_serves_the_parts_of_every_masked_system(tmp_path: Path) -> None:
    for name, result in scenario("sharded_parts", tmp_path).items():
        assert result["codes"] == [0, 0], name
        assert result["weights"] < 1e-6, name


def test_runs_stop_together_and_move_between_strategies(tmp_path: Path) -> None:
    result = scenario("across", tmp_path)
    assert set(result["codes"]) == {0}
    assert result["stopped"] in (2, 3)  # agreed one step late, by all
    assert result["weights"] < 1e-6  # two sharded processes, then one, against one throughout
    assert result["exact"] == {
        "ddp": [],
        "fsdp2": [],
    }  # two, stopped and resumed, against two uninterrupted: bit for bit


def test_clips_and_images_on_two_processes_are_one_run(tmp_path: Path) -> None:
    """Each process with its part of both streams, or one with the clips and the other with the images."""
    found = scenario("streams", tmp_path)
    for name, said in found.pop("refused").items():
        assert len(said) == 2, name
        assert all("data.placement=mix" in line and "\n" not in line for line in said), said
    assert set(found) == {"mix", "mix in micro-batches", "mix sharded", "ranks", "ranks in micro-batches"}
    for name, result in found.items():
        assert result["codes"] == [0, 0], name
        assert result["weights"] < 1e-6, (name, result)
        assert result["loss"] < 1e-6, (name, result)


def test_stages_end_together_when_one_process_alone_met_a_bad_file(tmp_path: Path) -> None:
    result = scenario("staged", tmp_path)
    assert result["codes"] == [0, 0]
    assert result["found"] == [[{"videos/001.mp4": "is broken"}, True]] * 2
    assert json.loads((tmp_path / "run/bad_files.json").read_text()) == {"videos/001.mp4": "is broken"}
