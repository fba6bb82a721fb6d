"""Kill −9 at random moments: the same rows, each once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from openjepa.embedding import embed, encoding, filling, open_store, parts
from openjepa.embedding.parts import PartsFolder
from openjepa.errors import RunError


def slow_embed(data: Path, model: str, out: Path) -> None:
    """In a process of its own: a part per batch, 15 batches of at least 20 ms."""
    os.setsid()
    filling.PART_SECONDS = -1.0
    call = encoding.Encoding.__call__
    encoding.Encoding.__call__ = lambda self, x: (time.sleep(0.02), call(self, x))[1]
    embed(data, model, out, batch_size=2, workers=1, device="cpu")


def test_killed_at_20_random_moments_nothing_is_missing_or_twice(tmp_path, pictures, image_model, whole, same):
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


def test_only_the_main_process_killed_its_loader_is_waited_for(tmp_path, pictures, image_model, whole, same):
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


def test_two_commands_at_once_are_refused(tmp_path, pictures, image_model, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr(parts, "LOCK_SECONDS", 0.3)
    folder = PartsFolder.beside(tmp_path / "f.npz")
    with folder.locked(), pytest.raises(RunError, match="another process is filling"):
        embed(pictures, image_model, tmp_path / "f.npz", workers=0, device="cpu")
