"""One of two processes dies or hangs: the other says so in one line within bounded time, and the run can be resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parents[1] / "rank_harness.py"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_the_other_process_ends_with_one_line(tmp_path: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, str(HARNESS), str(tmp_path), how],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["code"] == 3  # TrainingError
    assert result["message"].startswith("another process of this run was lost or hangs (rank 0 noticed)")
    assert result["message"].endswith("--resume")
    assert "\n" not in result["message"]
    assert result["seconds"] < 30  # the time limit of the test's processes is 5 s
    assert result["resumed"] == 3


WORKER = """
import os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
from tiny_runs import Generated, tiny_recipe
from openjepa.errors import OpenJepaError
from openjepa.training import train
torch.set_num_threads(1)
out = Path(sys.argv[1])
def die():
    while not (out / "checkpoints/last.json").exists():
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)
if os.environ["RANK"] == "1":
    threading.Thread(target=die, daemon=True).start()
try:
    train(tiny_recipe("train.length=100000 steps", "checkpoint.every=5 steps"), Generated(), out=out, console=False)
except OpenJepaError as error:
    sys.stderr.write(f"openjepa: {error}\\n")
    sys.exit(error.exit_code)
"""


def test_under_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    began = time.monotonic()
    done = subprocess.run(
        [*launch, str(script), str(tmp_path / "run"), str(HARNESS.parent)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode != 0
    assert time.monotonic() - began < 180
    assert f"exitcode  : -{signal.SIGKILL.value}" in done.stderr  # torchrun names the process that died
    ours = [line for line in done.stderr.splitlines() if "openjepa: " in line]
    # The survivor either notices first (its line) or is asked by torchrun to stop, and then saves and ends in order.
    assert all("another process of this run was lost" in line for line in ours)
    assert (tmp_path / "run/checkpoints/last.json").exists()
