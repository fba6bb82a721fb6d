"""A launcher's ranks, and a Ray cluster: the same rows."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openjepa.embedding import open_store

SLOW = """
import sys, time
from openjepa.embedding import embed, encoding, filling
filling.PART_SECONDS = -1.0  # a part per batch
call = encoding.Encoding.__call__
encoding.Encoding.__call__ = lambda self, x: (time.sleep(0.02), call(self, x))[1]
if __name__ == "__main__":
    data, model, out, jobs = sys.argv[1:]
    print("go", flush=True)
    embed(data, model, out, batch_size=2, workers=1, device="cpu", jobs=int(jobs))
"""


@pytest.mark.slow
def test_ranks_of_a_launcher_share_the_rows(tmp_path, pictures, image_model, whole, same):
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    command = [sys.executable, str(script), str(pictures), image_model, str(tmp_path / "f.npz"), "1"]
    started = []
    for rank in range(2):
        words = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, env={**os.environ, **words}, stdout=subprocess.DEVNULL))
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    same(open_store(tmp_path / "f.npz"), whole)


@pytest.mark.slow
def test_ray_computes_the_same_rows(tmp_path, pictures, image_model, whole, same):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs ray: pip install 'openjepa[cluster]'")
    code = """
import sys, ray
from openjepa.embedding import embed
if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    data, model, out = sys.argv[1:]
    found = embed(data, model, out, batch_size=2, workers=0, device="cpu", jobs=2, engine="ray")
    assert found.computed == 30, found
"""
    script = tmp_path / "ray.script.py"
    script.write_text(code)
    words = [sys.executable, str(script), str(pictures), image_model, str(tmp_path / "f.npz")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, cwd=Path(__file__).resolve().parents[3])
    assert done.returncode == 0, done.stderr[-2000:]
    same(open_store(tmp_path / "f.npz"), whole)
