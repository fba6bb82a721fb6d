"""Kill −9 at random moments, several processes, a launcher's ranks, a Ray cluster: the same rows, each once."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from openjepa.embedding import embed, encoding, filling, open_store, parts
from openjepa.embedding.parts import PartsFolder
from openjepa.errors import ConfigError, RunError

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


@pytest.fixture
def whole(tmp_path, pictures, image_model):
    return open_store(embed(pictures, image_model, tmp_path / "whole.npz", workers=0, device="cpu").path)


def same(store, whole) -> None:
    assert store.ids == whole.ids
    assert store.meta["error"].tolist() == whole.meta["error"].tolist()
    np.testing.assert_allclose(store.vectors(), whole.vectors(), atol=1e-5)


def slow_embed(data: Path, model: str, out: Path) -> None:
    """In a process of its own: a part per batch, 15 batches of at least 20 ms."""
    os.setsid()
    filling.PART_SECONDS = -1.0
    call = encoding.Encoding.__call__
    encoding.Encoding.__call__ = lambda self, x: (time.sleep(0.02), call(self, x))[1]
    embed(data, model, out, batch_size=2, workers=1, device="cpu")


def test_killed_at_20_random_moments_nothing_is_missing_or_twice(tmp_path, pictures, image_model, whole):
    """The process and its loader are killed at once, at moments from before the first row to within the join."""
    fork = multiprocessing.get_context("fork")
    out, draw, kills, seen = tmp_path / "f.npz", random.Random(0), 0, set()
    started = time.monotonic()
    child = fork.Process(target=slow_embed, args=(pictures, image_model, out))
    child.start()
    child.join()
    assert child.exitcode == 0
    takes = time.monotonic() - started
    out.unlink()
    while kills < 20:
        child = fork.Process(target=slow_embed, args=(pictures, image_model, out))
        child.start()
        child.join(draw.uniform(0.0, 0.5 * takes))
        if child.exitcode is None:
            kills += 1
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.kill()
            child.join()
        seen.add(len(PartsFolder.beside(out).spans()))
        if out.exists():  # finished in time, or killed after the join
            same(open_store(out), whole)
            assert embed(pictures, image_model, out, device="cpu", workers=0).computed == 0
            assert not PartsFolder.beside(out).path.exists()
            out.unlink()
    embed(pictures, image_model, out, device="cpu", workers=0)
    same(open_store(out), whole)
    assert len(seen) > 3, f"the kills must come at different moments, not all after {seen} parts"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npz", "whole.npz"]


def test_only_the_main_process_killed_its_loader_is_waited_for(tmp_path, pictures, image_model, whole):
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=slow_embed, args=(pictures, image_model, tmp_path / "f.npz"))
    child.start()
    folder = PartsFolder.beside(tmp_path / "f.npz")
    while len(folder.spans()) < 3:
        time.sleep(0.01)
    child.kill()
    child.join()
    found = embed(pictures, image_model, tmp_path / "f.npz", device="cpu", workers=0)
    assert found.computed <= 30 - 6
    same(open_store(found.path), whole)


def test_two_processes_compute_the_same_rows(tmp_path, pictures, image_model, whole):
    seen: list[int] = []
    found = embed(
        pictures, image_model, tmp_path / "f.npz", batch_size=2, workers=0, device="cpu", jobs=2,
        on_progress=lambda done, total: seen.append(done),
    )  # fmt: skip
    assert found.computed == 30
    same(open_store(found.path), whole)
    assert seen == sorted(seen)


def test_what_a_process_says_comes_back_as_one_line(tmp_path, pictures, image_model):
    """The model vanishes between the parent's look and the children's."""
    import shutil

    model = tmp_path / "gone"
    shutil.copytree(image_model, model)
    from openjepa.embedding.work import Work

    work = Work(str(pictures), str(model), workers=0)
    job = work.open()
    folder = PartsFolder(tmp_path / "f.parts")
    folder.path.mkdir()
    folder.begin(job.plan(), job.order())
    shutil.rmtree(model)
    with pytest.raises(Exception, match="gone") as caught:
        filling.fill_with(2, work, folder, 8, 30, None)
    assert "\n" not in str(caught.value)


def test_two_commands_at_once_are_refused(tmp_path, pictures, image_model, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr(parts, "LOCK_SECONDS", 0.3)
    folder = PartsFolder.beside(tmp_path / "f.npz")
    with folder.locked(), pytest.raises(RunError, match="another process is filling"):
        embed(pictures, image_model, tmp_path / "f.npz", workers=0, device="cpu")


def test_ranks_of_a_launcher_share_the_rows(tmp_path, pictures, image_model, whole):
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
def test_ray_computes_the_same_rows(tmp_path, pictures, image_model, whole):
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


def test_a_model_in_memory_cannot_be_sent(tmp_path, pictures, image_model):
    import openjepa

    with pytest.raises(ConfigError, match="name it"):
        embed(pictures, openjepa.load(image_model), tmp_path / "f.npz", jobs=2, device="cpu")
