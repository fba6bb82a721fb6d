"""What a run writes and does besides learning: rows, the panel, probes, stopping, rolling back, the bar."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_runs import Generated, numbers, saved_state, tiny_recipe

import openjepa.training.session as session_module
from openjepa.errors import TrainingError
from openjepa.training import Verdict, read_rows, train
from openjepa.training.progress import Reporter, clock_time, describe_row

PACKAGE = Path(session_module.__file__).parent


def test_the_loop_is_one_readable_function() -> None:
    text = (PACKAGE / "loop.py").read_text()
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions] == ["train"]
    assert functions[0].end_lineno - functions[0].lineno + 1 <= 80  # type: ignore[operator]
    words = ("fetch", "forward and backward", "step", "EMA", "log", "save")
    banners = [text.index(f"- {word}\n") for word in words]
    assert banners == sorted(banners)


def test_rows_hold_what_the_contract_says(tmp_path: Path) -> None:
    result = train(tiny_recipe("train.length=7 steps"), Generated(), out=tmp_path, console=False)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 3, 6, 7]
    for row in rows:
        json.dumps(row, allow_nan=False)
        assert {
            "epoch",
            "samples",
            "loss",
            "terms",
            "lr",
            "weight_decay",
            "momentum",
            "grad_norm",
            "images_per_s",
        } <= row.keys()
        assert {"data_share", "panel_share", "host_share", "skipped_updates", "time"} <= row.keys()
        health = row["health"]
        assert {
            "context_share",
            "context_kept",
            "target_std",
            "prediction_std",
            "feature_std",
            "rankme",
        } <= health.keys()
        assert {"rankme_share", "mean_cosine", "loss_on_panel", "verdict"} <= health.keys()
        assert health["cheats"].keys() >= {"mean_target", "copy_nearest", "position_only"}
        assert 1 <= health["rankme"] <= 16
    assert rows[0]["loss"] == rows[0]["health"]["loss_on_panel"]
    assert rows[-1]["samples"] == 56
    assert rows[-1]["epoch"] == 1.4
    assert rows[-1]["grad_norm"].keys() == {"encoder", "predictor", "total"}
    assert rows[-1]["grad_norm"]["total"] > 0
    assert result.metrics == rows[-1]


def test_the_loss_of_a_row_is_the_mean_since_the_last_one(tmp_path: Path) -> None:
    train(tiny_recipe("log.every=1 steps"), Generated(), out=tmp_path / "fine", console=False)
    train(tiny_recipe("log.every=4 steps"), Generated(), out=tmp_path / "coarse", console=False)
    fine = [row["loss"] for row in numbers(tmp_path / "fine")]
    coarse = [row["loss"] for row in numbers(tmp_path / "coarse")]
    assert coarse[1] == pytest.approx(sum(fine[1:5]) / 4, rel=1e-6)
    assert coarse[3] == pytest.approx(sum(fine[9:13]) / 4, rel=1e-6)


def test_looking_does_not_change_the_run(tmp_path: Path) -> None:
    """Panels, probes and checkpoints are observers: weights are the same without them."""

    def probe(encoder: torch.nn.Module, normalise: torch.nn.Module, device: torch.device) -> dict[str, float]:
        torch.rand(100)
        torch.manual_seed(1)
        assert not encoder.training
        images = normalise(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
        return {"knn": float(encoder(images).abs().mean() > 0)}

    quiet = tiny_recipe("log.every=100 steps", "checkpoint.every=100 steps", "model.drop_path=0.2")
    busy = tiny_recipe("log.every=1 steps", "checkpoint.every=1 steps", "model.drop_path=0.2", "probe.every=5 steps")
    train(quiet, Generated(), out=tmp_path / "quiet", console=False)
    train(busy, Generated(), out=tmp_path / "busy", console=False, probes=[probe])
    a, b = saved_state(tmp_path / "quiet")[0], saved_state(tmp_path / "busy")[0]
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [row["step"] for row in numbers(tmp_path / "busy") if "probes" in row] == [5, 10, 12]
    assert numbers(tmp_path / "busy")[-1]["probes"] == {"knn": 1.0}


@pytest.mark.parametrize("policy", ["warn", "stop", "rollback"])
def test_divergence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    """The first time step 9 is judged the verdict is made to say that the run diverges."""
    once = iter([True])

    def judge(rows: list[dict[str, Any]]) -> Verdict:
        if rows[-1]["step"] == 9 and next(once, False):
            return Verdict("diverging", "made so", "nothing")
        return Verdict("healthy")

    monkeypatch.setattr(session_module, "judge", judge)
    recipe = tiny_recipe(f"health.on_diverge={policy}")
    if policy == "stop":
        with pytest.raises(TrainingError, match="stopped at step 9: diverging: made so; try nothing"):
            train(recipe, Generated(), out=tmp_path, console=False)
        assert saved_state(tmp_path)[1]["step"] == 8  # the last checkpoint is there to look at
        return
    said: list[str] = []
    result = train(recipe, Generated(), out=tmp_path, console=False, on_event=lambda e: said.append(e.text))
    assert result.finished
    rows = numbers(tmp_path)
    assert [row["step"] for row in rows] == [0, 3, 6, 9, 12]
    rolled = any(text.startswith("diverged at step 9: back to the checkpoint of step 8 with half") for text in said)
    assert rolled is (policy == "rollback")
    loop = saved_state(tmp_path)[1]
    assert (loop["rollbacks"], loop["lr_factor"]) == ((1, 0.5) if rolled else (0, 1.0))


def test_rollback_restores_what_the_checkpoint_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the learning-rate factor undone, the rolled-back run is the run that never diverged."""
    train(tiny_recipe(), Generated(), out=tmp_path / "whole", console=False)
    once = iter([True])
    monkeypatch.setattr(
        session_module,
        "judge",
        lambda rows: Verdict("diverging" if rows[-1]["step"] == 9 and next(once, False) else "healthy"),
    )
    scheduled = session_module.Session.scheduled

    def undone(self: session_module.Session) -> tuple[float, float, float]:
        self.state.lr_factor = 1.0
        return scheduled(self)

    monkeypatch.setattr(session_module.Session, "scheduled", undone)
    train(tiny_recipe("health.on_diverge=rollback"), Generated(), out=tmp_path / "back", console=False)
    a, b = saved_state(tmp_path / "whole")[0], saved_state(tmp_path / "back")[0]
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_second_divergence_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        session_module, "judge", lambda rows: Verdict("diverging" if rows[-1]["step"] >= 9 else "healthy", "again")
    )
    with pytest.raises(TrainingError, match="stopped at step 9: diverging: again"):
        train(tiny_recipe("health.on_diverge=rollback"), Generated(), out=tmp_path, console=False)


def test_collapse_stops_after_three_panels_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "judge", lambda rows: Verdict("collapse", "made so"))
    with pytest.raises(TrainingError, match="stopped at step 6: collapse"):
        train(tiny_recipe("health.on_collapse=stop"), Generated(), out=tmp_path / "a", console=False)
    assert train(tiny_recipe(), Generated(), out=tmp_path / "b", console=False).verdict.name == "collapse"


def test_a_terminal_gets_a_bar_and_a_log_gets_lines(tmp_path: Path) -> None:
    screens = {}
    for terminal in (True, False):
        reporter = Reporter(tmp_path / "train.log", speaks=True)
        reporter._console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
        reporter.begin(10, 0)
        reporter.step(4, lambda: "12 images/s · healthy")
        reporter.row("step 4/10", {})
        reporter.close()
        screens[terminal] = reporter._console.file.getvalue()  # type: ignore[attr-defined]
    assert "4/10" in screens[True]
    assert "healthy" in screens[True]
    assert screens[False] == "step 4/10\n"
    assert (tmp_path / "train.log").read_text().count("step 4/10") == 2
    silent = Reporter(tmp_path / "other.log", speaks=False, on_event=lambda e: pytest.fail("spoke"))
    silent.say("x")
    silent.step(1, str)
    silent.row("x", {})
    assert not (tmp_path / "other.log").exists()


def test_words_of_a_row() -> None:
    row = {
        "step": 500,
        "loss": 0.31234,
        "images_per_s": 212.0,
        "probes": {"knn": 0.412},
        "health": {"rankme": 17.2, "width": 192, "verdict": "partial collapse: effective rank 4; try more"},
    }
    assert describe_row(row, 2000, 3849) == (
        "step 500/2000 (25 %) · loss 0.3123 · 212 images/s · 1:04:09 left · knn 41.2 % · rank 17.2 of 192 · partial collapse"
    )
    assert clock_time(192) == "3:12"
