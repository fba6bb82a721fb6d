"""The verdict on synthetic histories: each illness is named, with advice, and health is not mistaken for one."""

from __future__ import annotations

from typing import Any

import pytest

from openjepa.training.health import NAMES, Thresholds, collapsed_for, judge


def row(step: int, loss: float | None = 0.2, **health: Any) -> dict[str, Any]:
    base = {
        "target_std": 0.8,
        "prediction_std": 0.5,
        "feature_std": 0.3,
        "rankme": 40.0,
        "rankme_share": 40 / 192,
        "mean_cosine": 0.9,
        "cheats": {"mean_target": 0.45, "position_only": 0.4, "copy_nearest": 0.35},
        "loss_on_panel": 0.2,
        "samples": 256,
        "width": 192,
        "warmup_steps": 50,
        "total_steps": 1000,
    }
    return {"step": step, "loss": loss, "health": {**base, **health}}


FRESH = row(0, loss=0.5, rankme=9.0, rankme_share=9 / 192, loss_on_panel=0.5)


def test_healthy() -> None:
    verdict = judge([FRESH, row(200), row(300)])
    assert (str(verdict), verdict.ill) == ("healthy", False)


def test_early_is_warming_up_and_fresh_is_not_collapsed() -> None:
    assert judge([FRESH]).name == "warming up"
    assert judge([row(0, rankme=1.05, mean_cosine=0.99999)]).name == "warming up"
    assert judge([FRESH, row(60, rankme=4.0, loss_on_panel=0.5)]).name == "warming up"


def test_the_published_run_collapses_partly() -> None:
    """Issue 2's reference run: effective rank 9 at the start, 4 of 192 after 50,000 images."""
    verdict = judge([FRESH, row(300, rankme=4.0, rankme_share=4 / 192)])
    assert verdict.name == "partial collapse"
    assert str(verdict).startswith("partial collapse: effective rank 4 of 192, 9 before training; try ")


def test_low_share_alone_is_partial_collapse() -> None:
    assert judge([row(150), row(300, rankme=5.0, rankme_share=5 / 192)]).name == "partial collapse"


@pytest.mark.parametrize(
    "ill",
    [{"rankme": 1.05}, {"feature_std": 0.001}, {"mean_cosine": 0.99999}, {"rankme": None, "feature_std": None}],
)
def test_collapse(ill: dict[str, Any]) -> None:
    verdict = judge([FRESH, row(10, **ill)])
    assert verdict.name == "collapse"
    assert verdict.advice


@pytest.mark.parametrize("loss", [None, 5.0])
def test_diverging(loss: float | None) -> None:
    assert judge([FRESH, row(100, loss=0.2), row(200, loss=loss, loss_on_panel=5.0)]).name == "diverging"


def test_a_loss_that_rises_with_richer_targets_is_healthy() -> None:
    """0.05 → 0.3 is six times the best, but far better than the mean target: not diverging."""
    assert judge([FRESH, row(100, loss=0.05), row(200, loss=0.3)]).name == "healthy"


@pytest.mark.parametrize(
    ("panel", "name"), [(0.46, "not learning"), (0.41, "position only"), (0.36, "copying"), (0.3, "healthy")]
)
def test_cheats(panel: float, name: str) -> None:
    assert judge([FRESH, row(200, loss_on_panel=panel), row(300, loss_on_panel=panel)]).name == name
    assert judge([FRESH, row(200), row(300, loss_on_panel=panel)]).name == "healthy"  # once is not enough


def test_a_method_without_cheats_or_panel_loss_is_judged_by_the_rest() -> None:
    """Joint embedding: nothing is predicted on the panel."""
    none: dict[str, Any] = {"cheats": {}, "loss_on_panel": None}
    start = row(0, loss=None, **none)
    assert judge([start]).name == "warming up"
    assert judge([start, row(200, **none), row(300, **none)]).name == "healthy"
    assert judge([start, row(200, **none), row(300, rankme=1.1, **none)]).name == "collapse"
    assert judge([start, row(100, loss=1.0, **none), row(300, loss=9.0, **none)]).name == "diverging"
    assert (
        judge([start, row(100, loss=9.0, **none), row(200, loss=1.0, **none), row(300, loss=6.0, **none)]).ill is False
    )
    assert judge([start, row(100, loss=None, **none)]).name == "diverging"


def test_few_images_and_no_measurement_are_not_judged() -> None:
    assert judge([]).name == "not judged"
    assert judge([row(0, samples=2), row(500, samples=2, rankme=1.0)]).name == "not judged"


def test_patience_counts_collapses_in_a_row() -> None:
    rows = [FRESH, row(1), row(2), row(3)]
    for r, verdict in zip(rows, ("collapse: x", "healthy", "collapse: x", "collapse: y"), strict=True):
        r["health"]["verdict"] = verdict
    assert collapsed_for(rows) == 2


def test_thresholds_are_arguments_and_names_are_known() -> None:
    strict = Thresholds(low_rank_share=0.5)
    assert judge([FRESH, row(300)], strict).name == "partial collapse"
    assert {"healthy", "collapse", "partial collapse", "diverging"} <= set(NAMES)
