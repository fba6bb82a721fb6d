"""Grids: what ships, what is said about mistakes, how cells are keyed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openjepa.config import list_recipes
from openjepa.errors import ConfigError, DataError
from openjepa.experiments.ablate import build_grid, list_grids, load_grid
from openjepa.experiments.ablate.cells import expand, short_names

SHIPPED = [info.name for info in list_grids()]


def test_there_is_a_grid_for_every_claim_of_the_seeds() -> None:
    claims = {"target-space", "mask-family", "mask-geometry", "target-network", "predictor", "mask-ratio"}
    claims |= {"granularity", "distance", "momentum", "pooling"}
    claims |= {"tubes", "video-target-space", "video-distance", "video-pooling"}
    assert claims <= set(SHIPPED)
    assert not set(SHIPPED) & {info.name for info in list_recipes()}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_grids_resolve_and_say_what_they_ask(name: str) -> None:
    info = next(info for info in list_grids() if info.name == name)
    for field in ("question:", "claim:", "cost:", "expected:"):
        assert field in info.header
    assert info.grid.name == name
    assert info.grid.expect
    cells = expand(info.grid, ["scenes"]).cells.values()
    trained = {cell.run_key for cell in cells if cell.kind == "trained"}
    assert len(trained) == len(info.grid.arms) * len(info.grid.seeds)


def test_grids_share_the_base_arm() -> None:
    def runs(name: str) -> set[str]:
        return {cell.run_key for cell in expand(load_grid(name), ["scenes"]).cells.values() if cell.kind == "trained"}

    shared = runs("mask-ratio") & runs("predictor") & runs("distance") & runs("momentum") & runs("target-network")
    assert len(shared) == 3  # the base arm's three seeds
    assert len(runs("mask-family") & runs("mask-geometry") & runs("granularity")) == 3


def test_grids_of_clips_share_runs_and_baselines_know_how_clips_are_cut() -> None:
    def cells(name: str, *changes: str) -> Any:
        return expand(load_grid(name), ["scenes"], overrides=changes).cells.values()

    def keys(name: str, kind: str, *changes: str) -> set[str]:
        return {cell.run_key for cell in cells(name, *changes) if cell.kind == kind}

    assert len(keys("tubes", "trained") & keys("video-distance", "trained") & keys("video-pooling", "trained")) == 3
    assert all(cell.recipe.video for cell in cells("tubes"))
    assert keys("tubes", "pixels") == keys("video-distance", "pixels")
    for kind in ("pixels", "random"):
        assert not keys("tubes", kind) & keys("tubes", kind, "data.clip.stride=1")


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"sedes": [0]}, "unknown key 'sedes' (did you mean 'seeds'?)"),
    ({"arms": {}}, "arms"),
    ({"arms": {"a": {"overides": []}}}, "unknown key 'arms.a.overides' (did you mean 'overrides'?)"),
    ({"question": None}, "question"),
    ({"seeds": [0, 0]}, "seeds: [0, 0] has one twice"),
    ({"budget": "3 hours"}, "'3 hours' has no known unit"),
    ({"evaluation": {"what": ["knm"]}, "expect": []}, "no evaluator is called 'knm' (did you mean 'knn'?)"),
    ({"evaluation": {"layers": "lsat"}}, "(did you mean 'last'?)"),
    ({"expect": [{"better": "wid", "worse": "narrow", "claim": "x"}]}, "no arm is called 'wid' (did you mean 'wide'?)"),
    ({"expect": [{"better": "wide", "worse": "wide", "claim": "x"}]}, "compared with itself"),
    ({"expect": [{"better": "wide", "worse": "narrow"}]}, "'expect.0.claim' is missing (the claim in words)"),
    ({"expect": [{"better": "wide", "worse": "narrow", "claim": "x", "metric": "liner"}]}, "is not measured"),
    ({"expect": [{"better": "wide", "worse": "narrow", "claim": "x", "at": "seconds"}]}, "set evaluation.points"),
]


@pytest.mark.parametrize(("change", "said"), MISTAKES)
def test_mistakes_are_one_line_with_the_nearest_choice(tiny: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_grid({**tiny, **change})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_second_names_of_evaluators_give_scores_of_the_first(tiny: dict[str, Any]) -> None:
    claim = {"better": "wide", "worse": "narrow", "claim": "width helps"}
    grid = {**tiny, "evaluation": {"what": ["logistic"]}}
    assert build_grid({**grid, "expect": [{**claim, "metric": "linear"}]}).expect[0].metric == "linear"
    with pytest.raises(ConfigError, match="'logistic' is not measured"):
        build_grid({**grid, "expect": [{**claim, "metric": "logistic"}]})


def test_bad_files_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("name: x\narms: {a: [}\n")
    with pytest.raises(ConfigError, match="line 2"):
        load_grid(path)
    path.write_text("")
    with pytest.raises(ConfigError, match="holds nothing"):
        load_grid(path)
    with pytest.raises(ConfigError, match="did you mean 'mask-ratio'"):
        load_grid("mask-ration")


def test_a_wrong_recipe_key_names_the_arm(tiny: dict[str, Any]) -> None:
    grid = build_grid({**tiny, "arms": {"narrow": {}, "wide": {"overrides": {"model.dimm": 3}}}})
    with pytest.raises(ConfigError, match=r"arm 'wide'.*did you mean 'model.dim'"):
        expand(grid, ["scenes"])


def test_equal_arms_and_absent_data_are_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    grid = build_grid({**tiny, "arms": {"narrow": {}, "wide": {"overrides": ["log.every=1 steps"]}}})
    with pytest.raises(ConfigError, match="'narrow' and 'wide' are the same recipe"):
        expand(grid, ["scenes"])
    with pytest.raises(ConfigError, match="names no data"):
        expand(build_grid(tiny), [])
    with pytest.raises(DataError, match="does not exist"):
        expand(build_grid(tiny), [str(tmp_path / "nowhere")])


def test_a_cell_is_what_it_is_computed_from(tiny: dict[str, Any]) -> None:
    def keys(grid: dict[str, Any], **options: Any) -> tuple[set[str], set[str]]:
        cells = expand(build_grid(grid), ["scenes"], **options).cells.values()
        return {c.run_key for c in cells if c.kind == "trained"}, {c.key for c in cells}

    runs, all_keys = keys(tiny)
    assert keys({**tiny, "name": "other", "question": "?"}) == (runs, all_keys)
    assert keys(tiny, overrides=["log.every=1 steps", "train.threads=1"]) == (runs, all_keys)
    assert keys(tiny, steps=5)[0].isdisjoint(runs)
    rescored = keys({**tiny, "evaluation": {"what": ["knn", "linear"]}})
    assert rescored[0] == runs
    assert rescored[1].isdisjoint(all_keys)


def test_data_sets_are_called_by_what_tells_them_apart() -> None:
    assert short_names(["/a/cifar", "/b/trash"]) == {"/a/cifar": "cifar", "/b/trash": "trash"}
    assert short_names(["/a/x", "/b/x", "scenes"]) == {"/a/x": "a/x", "/b/x": "b/x", "scenes": "scenes"}
