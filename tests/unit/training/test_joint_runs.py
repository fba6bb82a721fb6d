"""Joint embedding through the same loop: resumes exactly, leaves a model, agrees with two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from joint_runs import PARTS, joint_recipe
from tiny_runs import Generated, differences, saved_state

import openjepa
from openjepa.training import Event, assemble, read_rows, train
from openjepa.training.feed import Feed

SCRIPT = Path(__file__).resolve().parents[2] / "joint_runs.py"


def go(out: Path, system: str, *overrides: str, **options: object) -> None:
    train(joint_recipe(system, *overrides), Generated(), out=out, console=False, **options)


class Stop(Exception):
    pass


def stop_at(step: int):
    def listen(event: Event) -> None:
        if event.kind == "step" and event.data["step"] == step:
            raise Stop

    return listen


@pytest.mark.parametrize("system", PARTS)
def test_a_killed_run_goes_on_exactly(system: str, tmp_path: Path) -> None:
    go(tmp_path / "whole", system)
    with pytest.raises(Stop):
        go(tmp_path / "cut", system, on_event=stop_at(5))
    go(tmp_path / "cut", system, resume=True)
    assert differences(tmp_path / "whole", tmp_path / "cut") == []
    rows = read_rows(tmp_path / "whole/metrics.jsonl")
    assert all(row["health"]["cheats"] == {} and row["loss"] is not None for row in rows)

    model = openjepa.load(tmp_path / "whole")
    deployed = "target" if system == "byol" else "online"
    weights = saved_state(tmp_path / "whole")[0]
    torch.testing.assert_close(model.encoder.norm.weight, weights[f"model/{deployed}.norm.weight"])
    assert model.embed(torch.rand(2, 3, 16, 16)).shape == (2, 16)
    assert model.predictor is not None
    assert model.predictor(torch.rand(3, 16)).shape == (3, 8)


def test_a_run_started_from_weights_has_a_slow_projector_of_the_same(tmp_path: Path) -> None:
    go(tmp_path / "first", "byol")
    go(tmp_path / "second", "byol", "train.length=1 steps", "optim.lr=1e-12", "seed=5", init=tmp_path / "first")
    first, second = (saved_state(tmp_path / name)[0] for name in ("first", "second"))
    for name in (key for key in first if key.startswith("model/target_projector")):
        same = first[name.replace("target_projector", "predictor.project")]
        torch.testing.assert_close(second[name], same, msg=name)


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """Batch norm, negatives, SIGReg and VICReg see the joint batch: 3 steps of 7 images, 4 and 3 on each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 5
    for name, result in found.items():
        assert result["codes"] == [0, 0, 0], name
        assert result["loss"] < 1e-5, name
        assert result["weights"] < 2e-5, name
        assert "batch statistics" not in result["log"], name


def test_generators_are_restored_while_no_sample_is_being_augmented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed's thread draws from torch's generator: a state set in between changed a view once in sixteen resumes."""
    feeds: list[Feed] = []
    opens, restores = assemble._open_feed, assemble.restore_generators

    def opened(*args: object) -> Feed:
        feeds.append(opens(*args))
        return feeds[-1]

    def restored(state: dict[str, object]) -> None:
        assert feeds[-1].pause().locked()
        restores(state)

    with pytest.raises(Stop):
        go(tmp_path, "vicreg", on_event=stop_at(5))
    monkeypatch.setattr(assemble, "_open_feed", opened)
    monkeypatch.setattr(assemble, "restore_generators", restored)
    go(tmp_path, "vicreg", resume=True)
    assert len(feeds) == 1
