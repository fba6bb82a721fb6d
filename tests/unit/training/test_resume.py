"""A run that stops and goes on is the run that never stopped: weights, optimizer, rows, bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import Generated, differences, numbers, saved_state, tiny_recipe

from openjepa.errors import ConfigError, RunError
from openjepa.training import Event, train


def stop_after(step: int) -> Callable[[Event], None]:
    """Ask the run to stop, as a cluster does, when ``step`` is done."""

    def listen(event: Event) -> None:
        if event.kind == "step" and event.data["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return listen


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.drop_path=0.3"],
        ["train.micro_batch=3", "optim.clip=0.1", "optim.final_weight_decay=0.4"],
        ["data.workers=2", "data.cache=memory", "train.precision=bf16"],
        # what ijepa-tiny adds: a further head in checkpoint and optimizer, and terms with batch statistics
        [
            "objective.pooled=1",
            "target.transform=centred",
            "objective.regularisers=[{kind: vicreg}]",
            "mask={kind: random}",
        ],
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, overrides: list[str]) -> None:
    """Stopped after step 1 (in a window of means), 6 (at a row) and 8 (at a checkpoint) of 12."""
    recipe, source, cut = tiny_recipe(*overrides), Generated(), tmp_path / "cut"
    train(recipe, source, out=tmp_path / "whole", console=False)
    for resume, at in ((False, 1), (True, 6), (True, 8)):
        result = train(recipe, source, out=cut, resume=resume, console=False, on_event=stop_after(at))
        assert (result.step, result.finished, result.stopped_by) == (at, False, "SIGTERM")
    assert train(recipe, source, out=cut, resume=True, console=False).finished
    assert differences(tmp_path / "whole", cut) == []


def test_difference_would_be_seen(tmp_path: Path) -> None:
    """The comparison above can fail: another seed gives other weights and rows."""
    for name, seed in (("a", 0), ("b", 1)):
        train(tiny_recipe(f"seed={seed}"), Generated(), out=tmp_path / name, console=False)
    wrong = differences(tmp_path / "a", tmp_path / "b")
    assert "metrics rows" in wrong
    assert any(name.startswith("optimizer/") for name in wrong)


def test_stop_writes_checkpoint_model_and_a_sentence(tmp_path: Path) -> None:
    said: list[str] = []

    def listen(event: Event) -> None:
        said.append(event.text)
        stop_after(5)(event)

    result = train(tiny_recipe(), Generated(), out=tmp_path / "run", console=False, on_event=listen)
    assert result.step == 5
    assert (tmp_path / "run/model/model.safetensors").is_file()
    assert f"stopped by SIGTERM after step 5 of 12, saved: continue with --out {tmp_path / 'run'} --resume" in said


def test_finished_run_resumed_changes_nothing(tmp_path: Path) -> None:
    train(tiny_recipe(), Generated(), out=tmp_path, console=False)
    before = (saved_state(tmp_path)[1], numbers(tmp_path))
    result = train(tiny_recipe(), Generated(), out=tmp_path, resume=True, console=False)
    assert result.finished
    assert result.stopped_by is None
    assert (saved_state(tmp_path)[1], numbers(tmp_path)) == before


def test_longer_resume_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    train(tiny_recipe(), Generated(), out=tmp_path, console=False)
    longer = tiny_recipe("train.length=15 steps")
    result = train(
        longer, Generated(), out=tmp_path, resume=True, console=False, on_event=lambda e: said.append(e.text)
    )
    assert result.step == 15
    assert any("planned for 12 steps and is 15 now" in text for text in said)


@pytest.mark.parametrize(
    ("override", "words"),
    [("optim.lr=0.002", "optim.lr=0.001, not 0.002"), ("model.dim=32", "model.dim"), ("seed=3", "seed=0, not 3")],
)
def test_other_experiment_is_refused(tmp_path: Path, override: str, words: str) -> None:
    train(tiny_recipe("train.length=4 steps"), Generated(), out=tmp_path, console=False)
    with pytest.raises(RunError, match=words):
        train(tiny_recipe("train.length=4 steps", override), Generated(), out=tmp_path, resume=True, console=False)


def test_other_data_is_refused(tmp_path: Path) -> None:
    train(tiny_recipe("train.length=4 steps"), Generated(), out=tmp_path, console=False)
    with pytest.raises(RunError, match="started on 40 images in batches of 8, now there are 41"):
        train(tiny_recipe("train.length=4 steps"), Generated(41), out=tmp_path, resume=True, console=False)


def test_damaged_newest_checkpoint_goes_back_one(tmp_path: Path) -> None:
    recipe, source = tiny_recipe(), Generated()
    train(recipe, source, out=tmp_path / "whole", console=False)
    train(recipe, source, out=tmp_path / "cut", console=False, on_event=stop_after(8))
    newest = sorted((tmp_path / "cut/checkpoints").glob("step-*"))[-1]
    (newest / "model.safetensors").write_bytes(b"torn")
    said: list[str] = []
    train(recipe, source, out=tmp_path / "cut", resume=True, console=False, on_event=lambda e: said.append(e.text))
    assert any("damaged" in text for text in said)
    assert differences(tmp_path / "whole", tmp_path / "cut") == []


def test_init_takes_weights_and_nothing_else(tmp_path: Path) -> None:
    train(tiny_recipe(), Generated(), out=tmp_path / "old", console=False)
    train(
        tiny_recipe("train.length=1 steps", "optim.start_lr=0", "optim.lr=1e-30", "optim.final_lr=0"),
        Generated(),
        out=tmp_path / "new",
        init=tmp_path / "old",
        console=False,
    )
    old, new = saved_state(tmp_path / "old")[0], saved_state(tmp_path / "new")[0]
    name = "model/predictor.predictor_proj.weight"
    assert torch.allclose(old[name], new[name], atol=1e-12)
    assert numbers(tmp_path / "new")[0]["step"] == 0
    with pytest.raises(ConfigError, match="give one of them"):
        train(tiny_recipe(), Generated(), out=tmp_path / "new", init=tmp_path / "old", resume=True, console=False)


def test_init_of_another_size_is_one_line(tmp_path: Path) -> None:
    train(tiny_recipe("train.length=1 steps"), Generated(), out=tmp_path / "old", console=False)
    with pytest.raises(RuntimeError, match="does not fit this recipe") as caught:
        train(tiny_recipe("model.dim=32"), Generated(), out=tmp_path / "new", init=tmp_path / "old", console=False)
    assert "\n" not in str(caught.value)
