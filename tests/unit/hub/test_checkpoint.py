"""Checkpoints of a run: exact, kept by policy, never half, never silently another one."""

from __future__ import annotations

import math
import os
import random
import select
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from openjepa.config.schema import Recipe
from openjepa.errors import CheckpointError, RunError
from openjepa.hub import checkpoint as hub
from openjepa.hub.checkpoint import (
    LAST,
    discard_after,
    list_checkpoints,
    load_last,
    prune,
    read_checkpoint,
    read_last,
    save_checkpoint,
)
from openjepa.methods import MaskedLatent
from openjepa.optim import build_optimizer


def save(root: Path, step: int, **more: object) -> Path:
    return save_checkpoint(
        root, step, tensors={"model": {"w": torch.full((50,), float(step))}}, states={"loop": {"step": step}}, **more
    )


def steps(root: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(root)]


def damage(path: Path, name: str = "model.safetensors") -> None:
    data = bytearray((path / name).read_bytes())
    data[-1] ^= 1
    (path / name).write_bytes(data)


def test_model_and_optimizer_come_back_bit_for_bit(tmp_path: Path, method: MaskedLatent, recipe: Recipe) -> None:
    optimizer = build_optimizer(method, recipe.optim)
    for parameter in method.parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    loop = {
        "step": 3,
        "best": math.inf,
        "rate": 0.1 + 0.2,
        "rng": torch.get_rng_state(),
        "order": (1, 2),
        "bad": {"a b.png": "cut"},
    }
    states = {"optimizer": optimizer.state_dict(), "loop": loop}
    path = save_checkpoint(tmp_path, 3, tensors={"model": method.state_dict()}, states=states, recipe=recipe)
    found = read_checkpoint(path)
    assert (found.step, found.recipe) == (3, recipe)
    assert all(torch.equal(found.tensors["model"][key], value) for key, value in method.state_dict().items())
    assert {key: value for key, value in found.states["loop"].items() if key != "rng"} == {
        key: value for key, value in loop.items() if key != "rng"
    }
    torch.set_rng_state(found.states["loop"]["rng"])
    other = build_optimizer(method, recipe.optim)
    other.load_state_dict(found.states["optimizer"])
    before, after = optimizer.state_dict(), other.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for number, entry in before["state"].items():
        assert all(torch.equal(value, after["state"][number][key]) for key, value in entry.items())
    assert not any(file.suffix in (".pt", ".pkl") for file in path.iterdir())


def test_last_json_points_at_the_newest(tmp_path: Path) -> None:
    for step in (5, 10):
        save(tmp_path, step)
    assert read_last(tmp_path) == tmp_path / "step-00000010"
    assert load_last(tmp_path).step == 10


def test_a_damaged_newest_is_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step)
    damage(tmp_path / "step-00000015")
    (tmp_path / "step-00000010" / "loop.json").unlink()
    warnings: list[str] = []
    assert load_last(tmp_path, warnings.append).step == 5
    assert len(warnings) == 2
    assert "step-00000015" in warnings[0]
    assert "model.safetensors" in warnings[0]
    assert "going back to 'step-00000010'" in warnings[0]
    assert "step-00000010" in warnings[1]
    assert "loop.json is missing" in warnings[1]


def test_by_default_the_warning_goes_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 1)
    damage(save(tmp_path, 2))
    assert load_last(tmp_path).step == 1
    assert "step-00000002" in caplog.text


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    for step in (5, 10):
        damage(save(tmp_path, step))
    with pytest.raises(CheckpointError, match="all 2 checkpoints .* are damaged"):
        load_last(tmp_path, lambda line: None)


@pytest.mark.parametrize("exists", [True, False])
def test_no_checkpoint_is_an_error(tmp_path: Path, exists: bool) -> None:
    root = tmp_path / "checkpoints"
    if exists:
        root.mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_last(root)


def test_a_pointer_one_behind_or_broken_does_no_harm(tmp_path: Path) -> None:
    save(tmp_path, 5)
    pointer = (tmp_path / LAST).read_bytes()
    save(tmp_path, 10)
    (tmp_path / LAST).write_bytes(pointer)
    assert load_last(tmp_path).step == 10
    (tmp_path / LAST).write_text("{")
    assert read_last(tmp_path) is None
    assert load_last(tmp_path).step == 10


def test_a_pointer_to_nothing_is_said(tmp_path: Path) -> None:
    save(tmp_path, 5)
    shutil.rmtree(save(tmp_path, 10))
    warnings: list[str] = []
    assert load_last(tmp_path, warnings.append).step == 5
    assert "step-00000010" in warnings[0]


def test_a_newer_format_and_another_directory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "VERSION", 2)
    path = save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="newer openjepa"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="manifest"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_checkpoint(tmp_path / "none")


def test_what_is_no_plain_data_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'optimizer\.hook': a function"):
        save_checkpoint(tmp_path, 1, tensors={}, states={"loop": {"optimizer": {"hook": lambda: 1}}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keep", "keep_every", "left"),
    [
        (1, None, [60]),
        (2, None, [50, 60]),
        (1, 20, [20, 40, 60]),
        (2, 30, [30, 50, 60]),
        (9, None, [10, 20, 30, 40, 50, 60]),
    ],
)
def test_retention(tmp_path: Path, keep: int, keep_every: int | None, left: list[int]) -> None:
    for step in range(10, 70, 10):
        save(tmp_path, step, keep=keep, keep_every=keep_every)
    assert steps(tmp_path) == left
    assert prune(tmp_path, keep, keep_every) == []


def test_the_one_last_json_points_at_is_never_removed(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step)
    hub.write_file(tmp_path / LAST, {"step": 2, "path": "step-00000002"})
    assert [path.name for path in prune(tmp_path, 1)] == ["step-00000001", "step-00000003", "step-00000004"]
    assert steps(tmp_path) == [2, 5]


def test_a_removal_killed_half_way_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: None)  # killed right after the rename
    prune(tmp_path, 1)
    monkeypatch.undo()
    assert steps(tmp_path) == [2]
    save(tmp_path, 3)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_going_back_discards_what_is_newer(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    discard_after(tmp_path, 1)
    assert steps(tmp_path) == [1]
    assert read_last(tmp_path) == tmp_path / "step-00000001"
    assert load_last(tmp_path).step == 1


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1)
    damage(save(tmp_path, 2))
    save(tmp_path, 2)
    assert load_last(tmp_path, pytest.fail).step == 2


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert load_last(tmp_path, pytest.fail).step == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, "step-00000001"]


def test_kill_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    """A process saves and prunes without pause and is killed 20 times; what it had reported as saved is there."""
    start, rng = 0, random.Random(0)
    for _ in range(20):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            for step in range(start + 1, 1 << 30):
                save(tmp_path, step, keep=2)
                os.write(write, step.to_bytes(4, "big"))
        os.close(write)
        assert select.select([read], [], [], 20)[0], "the child saved nothing"
        time.sleep(0.02 * rng.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(read, "rb") as pipe:
            done = int.from_bytes(pipe.read()[-4:], "big")
        found = load_last(tmp_path, pytest.fail)
        assert done <= found.step <= done + 1
        assert torch.equal(found.tensors["model"]["w"], torch.full((50,), float(found.step)))
        start = found.step
    save(tmp_path, start + 1, keep=1)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
