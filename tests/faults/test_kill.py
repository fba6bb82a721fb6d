"""``kill -9`` at random moments loses nothing: the resumed run equals the uninterrupted one bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("kill_harness.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_twenty_kills(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HARNESS), str(tmp_path), "20", "0"],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["kills"] == 20
    assert result["differences"] == []
    assert len(set(result["steps"])) > 3  # the kills hit different moments


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_ten_kills_between_and_inside_stages(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HARNESS.with_name("stage_kill_harness.py")), str(tmp_path), "10", "0"],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["kills"] == 10
    assert result["differences"] == []
    assert len(set(result["steps"])) > 3
