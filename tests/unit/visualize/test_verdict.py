"""Scores are read in every form, and the two answers follow from the numbers."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from visualize_fakes import metric_rows, score

from openjepa.errors import RunError
from openjepa.visualize.metrics import Metrics
from openjepa.visualize.scores import Entry, compare, read_scores
from openjepa.visualize.verdict import health, learning


def _entries(tmp_path: Path, raw: Any) -> list[Entry]:
    (tmp_path / "scores.json").write_text(json.dumps(raw))
    return read_scores(tmp_path / "scores.json")


def _table(ours: tuple[float, float], chance: tuple[float, float], pixels: tuple[float, float]) -> list[dict[str, Any]]:
    named = {"encoder": ours, "random encoder": chance, "raw pixels": pixels}
    return [score(who, name, v) for who, pair in named.items() for name, v in zip(("knn", "linear"), pair, strict=True)]


def test_both_forms_of_the_file_say_the_same(tmp_path: Path) -> None:
    long = _entries(tmp_path, [score("raw pixels", "knn", 0.4), score("raw pixels", "linear", 0.3)])
    flat = {"name": "raw pixels", "knn": 0.4, "linear": 0.3, "n": 200, "protocol": "k 20",
            "intervals": {"knn": [0.38, 0.42], "linear": [0.28, 0.32]}}  # fmt: skip
    wide = _entries(tmp_path, [flat])
    assert wide[0].role == long[0].role == "pixels"
    for metric, mark in long[0].marks.items():
        assert astuple(wide[0].marks[metric]) == pytest.approx(astuple(mark))
    assert long[0].counts == "1,000 / 200"
    assert wide[0].counts == "200"


def test_no_scores_and_a_damaged_file(tmp_path: Path) -> None:
    assert read_scores(tmp_path / "scores.json") == []
    for text in ("{", '{"a": 1}', "[1]"):
        (tmp_path / "scores.json").write_text(text)
        with pytest.raises(RunError):
            read_scores(tmp_path / "scores.json")


@pytest.mark.parametrize(
    ("ours", "headline", "tone"),
    [
        ((0.45, 0.50), "It learned", "good"),
        ((0.38, 0.30), "Learned something", "warn"),  # better than chance, not than pixels
        ((0.36, 0.34), "Learned something", "warn"),  # better than chance in one of the two
        ((0.29, 0.33), "Did not learn", "bad"),
    ],
)
def test_learning_is_judged_beyond_the_spread(
    tmp_path: Path, ours: tuple[float, float], headline: str, tone: str
) -> None:
    chance = (0.28, 0.34) if ours != (0.38, 0.30) else (0.2, 0.2)
    verdict = learning(Metrics(), _entries(tmp_path, _table(ours, chance, (0.39, 0.31))))
    assert (verdict.headline, verdict.tone) == (headline, tone)


def test_intervals_that_touch_are_no_difference(tmp_path: Path) -> None:
    entries = _entries(tmp_path, [score("encoder", "knn", 0.33), score("random encoder", "knn", 0.30)])
    assert compare(entries, "random") == {"knn": "within"}
    assert compare(entries, "pixels") == {}


def test_differences_between_frames_are_to_be_beaten_too(tmp_path: Path) -> None:
    table = _table((0.6, 0.6), (0.2, 0.2), (0.3, 0.3))
    for moving, headline in (((0.7, 0.4), "It learned"), ((0.7, 0.7), "Learned something")):
        rows = [score("frame differences", name, v) for name, v in zip(("knn", "linear"), moving, strict=True)]
        found = learning(Metrics(), _entries(tmp_path, [*table, *rows]))
        assert found.headline == headline
        assert "than frame differences" in found.reason
        assert "a random encoder and raw pixels" in found.reason


def test_without_scores_probes_and_then_cheats_decide() -> None:
    rows = metric_rows()
    assert learning(Metrics(tuple(rows)), []).headline == "It predicts"
    assert "no scores on labels" in learning(Metrics(tuple(rows)), []).reason
    for row, value in zip((rows[0], rows[-1]), (0.28, 0.42), strict=True):
        row["probes"] = {"knn": value}
    assert "from 28.0 % at step 0 to 42.0 % at step 400" in learning(Metrics(tuple(rows)), []).reason
    assert learning(Metrics(), []).tone == "unknown"


def test_predicting_collapsed_targets_is_not_learning() -> None:
    rows = metric_rows(verdict="collapse: effective rank 1.1 of 32; try a larger batch")
    verdict = learning(Metrics(tuple(rows)), [])
    assert (verdict.tone, verdict.headline) == ("warn", "Cannot be told")


def test_a_model_that_loses_to_a_cheat_is_not_praised() -> None:
    rows = metric_rows()
    rows[-1]["health"]["loss_on_panel"] = 0.31  # copy_nearest has .3
    verdict = learning(Metrics(tuple(rows)), [])
    assert verdict.tone == "warn"
    assert "copy nearest" in verdict.reason


@pytest.mark.parametrize(
    ("said", "tone", "headline", "advice"),
    [
        ("healthy", "good", "Healthy", ""),
        (
            "partial collapse: effective rank 4 of 192, 9 before training; try a lower optim.lr",
            "warn",
            "Partial collapse",
            "a lower optim.lr.",
        ),
        ("collapse: effective rank 1.1 of 192; try a larger batch", "bad", "Collapse", "a larger batch."),
        ("diverging: the loss is not finite; try optim.clip=1.0", "bad", "Diverging", "optim.clip=1.0."),
        ("position only: it knows where; try a longer run", "warn", "Position only", "a longer run."),
        ("warming up", "unknown", "Warming up", ""),
        (None, "unknown", "Not measured", ""),
    ],
)
def test_health_is_what_the_newest_panel_said(said: str | None, tone: str, headline: str, advice: str) -> None:
    rows = metric_rows()
    for row in rows:
        row["health"]["verdict"] = said
    verdict = health(Metrics(tuple(rows)))
    assert (verdict.tone, verdict.headline, verdict.advice) == (tone, headline, advice)
    if ":" in (said or ""):
        assert "try" not in verdict.reason
        assert verdict.reason


def test_every_verdict_of_training_has_a_tone() -> None:
    training_health = pytest.importorskip("openjepa.training.health")
    tones = {name: health(Metrics(({"step": 1, "health": {"verdict": name}},))).tone for name in training_health.NAMES}
    assert tones["healthy"] == "good"
    assert tones["collapse"] == tones["diverging"] == "bad"
    assert all(
        tone == "warn"
        for name, tone in tones.items()
        if name not in ("healthy", "collapse", "diverging", "warming up", "not judged")
    )
