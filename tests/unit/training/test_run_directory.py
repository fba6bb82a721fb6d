"""Run directories: never overwritten silently, held by one process, readable at any moment."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from tiny_runs import Generated, in_child, numbers, tiny_recipe

from openjepa.config import load_recipe
from openjepa.errors import RunError
from openjepa.training import default_out, list_runs, read_rows, read_run, train
from openjepa.training.lock import RunLock, in_use
from openjepa.training.metrics import Metrics
from openjepa.training.run import RunDirectory

SHORT = tiny_recipe("train.length=2 steps")


def test_contents_and_reading_back(tmp_path: Path) -> None:
    out = tmp_path / "runs/first"
    train(SHORT, Generated(), out=out, console=False)
    assert {"config.yaml", "environment.json", "train.log", "metrics.jsonl", "checkpoints", "model"} <= {
        p.name for p in out.iterdir()
    }
    assert load_recipe(out / "config.yaml") == SHORT
    environment = json.loads((out / "environment.json").read_text())
    assert environment["plan"] == {"steps": 2, "batch": 8, "images": 40}
    assert {"torch", "python", "cpu", "command"} <= environment["sessions"][0].keys()
    info = read_run(out)
    assert (info.status, info.step, info.total, info.has_model, info.name) == ("finished", 2, 2, True, "first")
    assert info.row["step"] == 2
    assert info.verdict.startswith("warming up")
    assert [run.name for run in list_runs(tmp_path / "runs")] == ["first"]


def test_log_says_what_was_decided(tmp_path: Path) -> None:
    train(SHORT, Generated(), out=tmp_path, console=False)
    log = (tmp_path / "train.log").read_text()
    for words in (
        "device: cpu (as asked)",
        "precision: fp32 (as asked)",
        "processes: 1, single (no launcher)",
        "compile: no (it does not pay on cpu)",
        "batch: 8 images per step = 1 micro-batch of at most 8 (the whole batch fits in memory)",
        "length: 2 steps = 0.4 epochs of 40 images, 5 steps each",
        "data: generated, 40 images, no labels",
        "finished 2 steps",
    ):
        assert words in log


def test_a_small_source_lowers_the_batch_and_says_so(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    result = train(SHORT, Generated(2), out=tmp_path, console=False, on_event=lambda e: said.append((e.kind, e.text)))
    assert result.finished
    assert ("warning", "train.batch_size 8 is more than the 2 images there are: 2 per step are used") in said
    assert result.verdict.name == "not judged"


def test_nothing_is_overwritten_silently(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(SHORT, Generated(), out=out, console=False)
    before = numbers(out)
    with pytest.raises(RunError, match="holds a run already: --resume continues it, --overwrite replaces it"):
        train(SHORT, Generated(), out=out, console=False)
    assert numbers(out) == before
    (out / "notes.txt").write_text("mine")
    train(tiny_recipe("train.length=1 steps"), Generated(), out=out, overwrite=True, console=False)
    assert [row["step"] for row in numbers(out)] == [0, 1]
    assert (out / "notes.txt").read_text() == "mine"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    for words in ({"resume": True}, {"overwrite": True}, {}):
        with pytest.raises(RunError, match="no run"):
            train(SHORT, Generated(), out=tmp_path, console=False, **words)  # type: ignore[arg-type]
    assert (tmp_path / "photo.jpg").exists()


def test_resume_names_the_nearest_run(tmp_path: Path) -> None:
    train(SHORT, Generated(), out=tmp_path / "cifar-a", console=False)
    with pytest.raises(RunError, match="no run to resume in .*did you mean 'cifar-a'"):
        train(SHORT, Generated(), out=tmp_path / "cifar-b", resume=True, console=False)


def test_two_processes_cannot_use_one_run(tmp_path: Path) -> None:
    read, write = os.pipe()

    def hold() -> None:
        RunLock.take(tmp_path)
        os.write(write, b"x")
        signal.pause()

    child = in_child(hold)
    assert os.read(read, 1) == b"x"
    assert in_use(tmp_path)
    with pytest.raises(RunError, match=f"in use by process {child} on"):
        RunLock.take(tmp_path, patience=0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not in_use(tmp_path)  # the system takes the lock back
    lock = RunLock.take(tmp_path)
    with pytest.raises(RunError, match="by this very process"):
        RunLock.take(tmp_path)
    assert in_use(tmp_path)
    lock.release()


def test_a_run_is_running_while_it_is_held(tmp_path: Path) -> None:
    train(SHORT, Generated(), out=tmp_path, console=False)
    directory = RunDirectory.claim(tmp_path, resume=True)
    assert read_run(tmp_path).status == "running"
    directory.close()
    assert read_run(tmp_path).status == "finished"


def test_rows_after_the_checkpoint_are_dropped_and_torn_lines_too(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, after=None, tensorboard=False)
    for step in (0, 5, 10):
        metrics.write({"step": step, "loss": float("nan") if step == 5 else 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "lo')
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [0, 5, 10]
    assert Metrics(tmp_path, after=5, tensorboard=False).rows == [{"step": 0, "loss": 1.0}, {"step": 5, "loss": None}]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2


def test_tensorboard_events_hold_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_recipe("train.length=2 steps", "log.tensorboard=true"), Generated(), out=tmp_path, console=False)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("loss")}
    assert found == {row["step"]: pytest.approx(row["loss"]) for row in numbers(tmp_path)}
    assert "health/rankme" in events.Tags()["scalars"]


def test_default_place_has_the_recipes_name() -> None:
    assert default_out(SHORT).parent == Path("runs")
    assert default_out(SHORT).name.startswith("tiny-test-")
