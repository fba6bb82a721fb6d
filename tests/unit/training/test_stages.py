"""Stages: one after another from the weights and moments of the one before, and nothing lost by a kill between or inside."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from openjepa.config import Recipe, build_recipe, load_recipe, stage_recipes
from openjepa.errors import ConfigError, RunError
from openjepa.hub.checkpoint import load_last
from openjepa.hub.model_directory import load_model
from openjepa.training import Event, StagePart, list_runs, read_rows, read_run, train, train_stages
from tests.tiny_runs import Generated, numbers, saved_state, tiny_recipe

STAGES = [
    {"name": "constant", "changes": {"optim.schedule": "constant", "train.length": "6 steps"}},
    {"name": "cooldown", "changes": {"optim.schedule": "linear", "optim.warmup": "0 steps", "data.image_size": 24}},
]


def staged(*overrides: str, keep: bool = True) -> Recipe:
    raw: dict[str, Any] = tiny_recipe("train.length=5 steps", *overrides).model_dump(mode="json")
    return build_recipe(raw | {"stages": [STAGES[0], {**STAGES[1], "keep_optimizer": keep}]})


STILL = (
    "optim.lr=1e-12",
    "optim.start_lr=0",
    "optim.final_lr=0",
    "target.momentum=[1, 1]",
    "target.momentum_schedule=constant",
)


def parts(recipe: Recipe) -> list[StagePart]:
    return [StagePart(stage, Generated()) for stage in stage_recipes(recipe)]


def run(recipe: Recipe, out: Path, **options: Any) -> Any:
    return train_stages(recipe, parts(recipe), out=out, console=False, **options)


def same(a: Path, b: Path) -> None:
    """Two runs of the same numbers, stage by stage and as a whole."""
    assert numbers(a) == numbers(b)
    for name in ("constant", "cooldown"):
        (left, loop), (right, other) = saved_state(a / "stages" / name), saved_state(b / "stages" / name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
        assert loop == other


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    result = run(staged(), out)
    assert (result.run_dir, result.step, result.total, result.finished) == (out, 11, 11, True)
    assert result.metrics["step"] == 11
    return out


def test_a_run_in_stages_is_a_run_and_so_is_each_stage(whole: Path) -> None:
    assert load_recipe(whole) == staged()
    info = read_run(whole)
    assert (info.status, info.step, info.total, info.has_model) == ("finished", 11, 11, True)
    first, second = read_run(whole / "stages/constant"), read_run(whole / "stages/cooldown")
    assert (first.status, first.step, second.status, second.step) == ("finished", 6, "finished", 5)
    assert [first.recipe, second.recipe] == stage_recipes(staged())
    assert [found.path for found in list_runs(whole.parent)] == [whole]
    assert load_model(whole).config == second.recipe
    log = (whole / "train.log").read_text(encoding="utf-8")
    assert "stage 1 of 2 (constant): 6 steps on 16 x 16 px" in log
    assert "stage 2 of 2 (cooldown): 5 steps on 24 x 24 px" in log


def test_rows_of_the_whole_run_count_through(whole: Path) -> None:
    rows = read_rows(whole / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 3, 6, 9, 11]
    assert [row["samples"] for row in rows] == [0, 24, 48, 72, 88]
    assert [row["stage"] for row in rows] == ["constant"] * 3 + ["cooldown"] * 2
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(rows))


def test_a_stage_starts_from_weights_and_moments_of_the_one_before(whole: Path, tmp_path: Path) -> None:
    before, loop = saved_state(whole / "stages/constant")
    assert loop["step"] == 6
    after, _ = saved_state(whole / "stages/cooldown")
    steps = [value for key, value in after.items() if key.startswith("optimizer/") and key.endswith("/step")]
    assert {float(value) for value in steps} == {11.0}  # AdamW goes on counting, the schedules do not
    rows = read_rows(whole / "stages/cooldown/metrics.jsonl")
    assert rows[0]["step"] == 0
    assert rows[-1]["lr"] == pytest.approx(1e-6)  # straight to final_lr at its own last step
    run(staged(*STILL), tmp_path / "frozen")
    first, second = (load_last(tmp_path / f"frozen/stages/{n}/checkpoints") for n in ("constant", "cooldown"))
    for name, value in first.tensors["model"].items():
        torch.testing.assert_close(second.tensors["model"][name], value, rtol=0, atol=1e-7)
    assert before.keys() == after.keys()


def test_without_keep_optimizer_the_moments_start_anew(tmp_path: Path) -> None:
    run(staged(keep=False), tmp_path / "run")
    after, _ = saved_state(tmp_path / "run/stages/cooldown")
    assert {float(v) for k, v in after.items() if k.startswith("optimizer/") and k.endswith("/step")} == {5.0}


class Killed(Exception):
    """Stands for a kill: nothing catches it, nothing is written after it."""


@pytest.mark.parametrize(
    ("stage", "step"),
    [("constant", 2), ("constant", 5), ("cooldown", 1), ("cooldown", 5)],
)
def test_a_kill_inside_a_stage_is_resumed_bit_for_bit(whole: Path, tmp_path: Path, stage: str, step: int) -> None:
    def kill(event: Event) -> None:
        if event.kind == "step" and (event.data["stage"], event.data["step"]) == (stage, step):
            raise Killed

    out = tmp_path / "run"
    with pytest.raises(Killed):
        run(staged(), out, on_event=kill)
    if (stage, step) == ("constant", 5):
        assert load_model(out).config.name == "tiny-test-constant"  # no model yet: the newest checkpoint of the stage
    result = run(staged(), out, resume=True)
    assert (result.step, result.finished) == (11, True)
    same(out, whole)


def test_a_kill_between_stages_is_resumed_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    def kill(event: Event) -> None:
        if event.kind == "say" and event.data["stage"] == "cooldown":
            raise Killed

    out = tmp_path / "run"
    with pytest.raises(Killed):
        run(staged(), out, on_event=kill)
    assert read_run(out).status == "stopped"
    assert load_model(out).config.name == "tiny-test-constant"  # what there is can be used
    run(staged(), out, resume=True)
    same(out, whole)


def test_resuming_a_finished_run_changes_nothing(whole: Path) -> None:
    rows = numbers(whole)
    result = run(staged(), whole, resume=True)
    assert result.finished
    assert numbers(whole) == rows


def test_a_used_directory_is_refused_resumed_or_replaced(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds a run already"):
        run(staged(), whole)
    with pytest.raises(ConfigError, match="give one of them"):
        run(staged(), whole, resume=True, init=whole)
    with pytest.raises(RunError, match="no run to resume"):
        run(staged(), tmp_path / "none", resume=True)
    other = tmp_path / "other"
    run(staged("train.length=1 steps"), other)
    run(staged("train.length=2 steps"), other, overwrite=True)
    assert read_run(other).step == 8
    assert json.loads((other / "environment.json").read_text())["plan"]["stages"] == {"constant": 6, "cooldown": 2}


def test_another_experiment_is_not_resumed(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"stages.constant' was started with optim\.lr"):
        run(staged("optim.lr=0.5"), whole, resume=True)
    renamed = staged().model_dump(mode="json")
    renamed["stages"][1]["name"] = "end"
    with pytest.raises(RunError, match="started with stages constant, cooldown, not constant, end"):
        run(build_recipe(renamed), whole, resume=True)
    with pytest.raises(RunError, match="was started with stages"):
        train(tiny_recipe("train.length=5 steps"), Generated(), out=whole, resume=True, console=False)


def test_init_gives_the_first_stage_its_weights(whole: Path, tmp_path: Path) -> None:
    run(staged(*STILL), tmp_path / "run", init=whole)
    given = load_model(whole).encoder.state_dict()
    for name, value in load_model(tmp_path / "run").encoder.state_dict().items():
        torch.testing.assert_close(value, given[name], rtol=0, atol=1e-7)
