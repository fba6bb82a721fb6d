"""The doctor on made-up histories (each symptom alone), on a real tiny run, and on the measured runs of the benchmark."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Generated, tiny_recipe

from openjepa.cli import main
from openjepa.config import Recipe, list_recipes, load_recipe
from openjepa.experiments.diagnose import Limits, diagnose, diagnose_run
from openjepa.training import train

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results" / "doctor"
RECIPE = load_recipe("ijepa-tiny")


def row(step: int, loss: float | None = 0.2, **health: Any) -> dict[str, Any]:
    base = {
        "feature_std": 0.3 - 0.0001 * step, "rankme": 40.0 + 0.01 * step, "mean_cosine": 0.9, "alpha": 1.5, "lidar": 20.0,
        "cheats": {"mean_target": 0.45, "copy_nearest": 0.35}, "loss_on_panel": 0.2, "samples": 256, "width": 192,
        "warmup_steps": 50, "total_steps": 1000, "layers": {"rankme": [30.0, 35.0, 40.0]},
    }  # fmt: skip
    return {"step": step, "loss": loss, "grad_norm": {"total": 1.0}, "skipped_updates": 0, "health": {**base, **health}}


START = [row(0), row(300), row(600)]


def names(last: dict[str, Any], recipe: Recipe = RECIPE, before: list[dict[str, Any]] = START) -> list[str]:
    return [finding.name for finding in diagnose([*before, last], recipe).findings]


def test_a_healthy_run_has_nothing() -> None:
    found = diagnose([*START, row(1000)], RECIPE)
    assert (found.verdict, found.findings, found.causes) == ("healthy", (), ())
    assert found.lines() == ["healthy (after 1,000 of 1,000 steps)"]


@pytest.mark.parametrize(
    ("last", "name"),
    [
        (row(1000, loss=None), "not finite"),
        ({**row(1000), "skipped_updates": 200}, "not finite"),
        (row(1000, rankme=1.01), "all alike"),
        (row(1000, rankme=19.0), "low rank"),
        (row(1000, rankme=22.0), "fallen rank"),
        (row(1000, lidar=14.0), "fallen LiDAR"),
        (row(1000, loss_on_panel=0.01), "too easy"),
    ],
)
def test_every_symptom_makes_a_run_sick_and_carries_its_numbers(last: dict[str, Any], name: str) -> None:
    found = diagnose([*START, last], RECIPE)
    assert found.verdict == "sick"
    assert name in [finding.name for finding in found.findings if finding.sick]
    assert found.findings[0].evidence
    assert found.causes, "a sick run gets advice"
    assert all(cause.advice and cause.key for cause in found.causes)


def test_predictions_no_better_than_a_cheat_twice_running() -> None:
    assert names(row(1000, loss_on_panel=0.36)) == []
    twice = [row(0), row(600, loss_on_panel=0.36)]
    for rank, verdict in ((39.0, "sick"), (45.0, "healthy")):  # a rank that has risen came from something else
        found = diagnose([*twice, row(1000, loss_on_panel=0.36, rankme=rank)], RECIPE)
        assert [finding.name for finding in found.findings] == ["no better than a cheat"]
        assert found.verdict == verdict


def test_a_run_that_has_not_moved_is_not_sick() -> None:
    same = {"feature_std": 0.3, "rankme": 40.0, "loss_on_panel": 0.5}
    found = diagnose([row(step, **same) for step in (0, 600, 1000)], RECIPE)
    assert found.verdict == "healthy"
    assert {finding.name for finding in found.findings} == {"has not moved", "no better than a cheat"}
    assert "optim.lr" in found.causes[0].key


def test_identical_images_are_told_from_collapse_and_hide_what_follows_from_them() -> None:
    dead = {"rankme": 1.0, "feature_std": 0.0, "mean_cosine": 1.0, "loss_on_panel": 0.5, "cheats": {"mean_target": 0.0}}
    found = diagnose([row(step, **dead) for step in (0, 600, 1000)], RECIPE)
    assert [finding.name for finding in found.findings] == ["identical images"]
    assert [cause.key for cause in found.causes] == ["data.source"]


def test_signs_that_do_not_decide() -> None:
    assert names(row(1000, layers={"rankme": [30.0, 60.0, 20.0]})) == ["rank lost on the way"]
    jump = row(1000)
    jump["grad_norm"] = {"total": 50.0}
    found = diagnose([*START, jump], RECIPE)
    assert found.verdict == "healthy"
    assert [finding.name for finding in found.findings] == ["gradient spikes"]


def test_methods_without_cheats_rows_without_deep_numbers_and_few_images() -> None:
    none: dict[str, Any] = {"cheats": {}, "loss_on_panel": None}
    assert diagnose([row(0, loss=None, **none), row(1000, **none)], RECIPE).verdict == "healthy"
    last = row(1000)
    del last["health"]["lidar"], last["health"]["layers"]
    assert diagnose([row(0), last], RECIPE).verdict == "healthy"
    assert diagnose([row(0), row(1000, samples=4, rankme=1.5)], RECIPE).verdict == "not measured"
    assert diagnose([], RECIPE).verdict == "not measured"


def test_early_runs_are_not_judged_unless_it_is_certain() -> None:
    assert diagnose([row(0), row(60, rankme=5.0)], RECIPE).verdict == "too early"
    assert diagnose([row(0), row(60, loss=None)], RECIPE).verdict == "sick"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("target.kind=self", "objective.regularisers=[]"), "target.kind"),
        (("target.momentum=[0,0]", "objective.regularisers=[]"), "target.momentum"),
        (("mask={kind: none}",), "mask.kind"),
        (("mask={kind: multiblock, overlap: true}",), "mask.overlap"),
        (("optim.lr=0.03",), "optim.lr"),
        (("optim.warmup=1 steps",), "optim.warmup"),
        (("optim.weight_decay=100",), "optim.weight_decay"),
        (("objective.weight=0", "objective.pooled=0"), "objective.weight"),
        (("predictor.dim=192",), "predictor.dim"),
    ],
)
def test_the_recipe_explains_a_symptom_and_is_a_risk_in_a_healthy_run(overrides: tuple[str, ...], key: str) -> None:
    recipe = load_recipe("ijepa-tiny", overrides)
    sick = diagnose([*START, row(1000, rankme=5.0)], recipe)
    well = diagnose([*START, row(1000)], recipe)
    assert key in [cause.key for cause in sick.causes]
    assert key in [cause.key for cause in well.causes]
    assert (sick.verdict, well.verdict) == ("sick", "healthy")
    assert "what to change:" in sick.lines()
    assert "what to keep an eye on:" in well.lines()


@pytest.mark.parametrize("name", [info.name for info in list_recipes()])
def test_shipped_recipes_carry_no_risk(name: str) -> None:
    assert diagnose([*START, row(1000)], load_recipe(name)).causes == ()


def test_a_predictor_is_wide_beside_an_encoder_named_by_size_too() -> None:
    recipe = load_recipe("ijepa-vits16-1gpu", ("predictor.dim=384",))
    assert [cause.key for cause in diagnose([*START, row(1000)], recipe).causes] == ["predictor.dim"]


def test_limits_are_arguments() -> None:
    assert diagnose([*START, row(1000)], RECIPE, Limits(rank_share=0.5)).verdict == "sick"


def test_on_a_run_directory_and_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny_recipe(), Generated(), out=tmp_path / "run", console=False)
    found = diagnose_run(tmp_path / "run")
    assert found.step == 12
    code = main(["doctor", str(tmp_path / "run"), "--json"])
    raw = json.loads(capsys.readouterr().out)
    assert raw["verdict"] == found.verdict
    assert code == (1 if found.verdict == "sick" else 0)
    assert main(["doctor", str(tmp_path / "none")]) == 2
    assert "holds no run" in capsys.readouterr().err


def measured(group: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((RESULTS / group).glob("*.json"))]


def test_on_the_runs_the_rules_were_set_on() -> None:
    """Every one: that is what setting rules means. How often they are right elsewhere is what ``judged`` counts."""
    runs = measured("calibration")
    assert len(runs) >= 10
    for run in runs:
        said = diagnose(run["rows"], Recipe.model_validate(run["recipe"]))
        assert (said.verdict == "sick") == run["truth"]["sick"], run["case"]


@pytest.mark.parametrize("group", ["calibration", "judged"])
def test_the_confusion_table_in_the_docs_is_what_the_committed_runs_give(group: str) -> None:
    page = (RESULTS.parents[1] / "README.md").read_text()
    part = page[page.index(f"**{group}**, ") :]
    counted = [int(number) for number in re.findall(r"\| (\d+) (?=\|)", part[: part.index("| run |")])]
    table = {(said, sick): 0 for said in (True, False) for sick in (True, False)}
    for run in measured(group):
        said = diagnose(run["rows"], Recipe.model_validate(run["recipe"])).verdict == "sick"
        table[said, run["truth"]["sick"]] += 1
    assert counted == [table[True, True], table[True, False], table[False, True], table[False, False]]
