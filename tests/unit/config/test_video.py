"""Sections that may be absent, stages, and lists of parts: described, set, refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from openjepa.config import build_recipe, describe_schema, dump_recipe, load_recipe, stage_recipes
from openjepa.config.schema import ClipConfig, Recipe
from openjepa.errors import ConfigError

VIDEO = {
    "name": "v",
    "data": {"image_size": 32, "clip": {"frames": 8}},
    "mask": {"kind": "tubes"},
    "model": {"arch": "vit_tiny", "patch_size": 8, "positions": "rope3d"},
}
TWO = [{"name": "constant"}, {"name": "cooldown", "changes": {"data.clip.frames": 16, "optim.schedule": "linear"}}]


def said(raw: dict[str, object], *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build_recipe(raw, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_key_of_an_absent_section_creates_it() -> None:
    words = ["data.clip.frames=16", "mask.kind=random", "model.positions=sincos3d", "predictor.kind=narrow"]
    assert load_recipe("ijepa-tiny").data.clip is None
    assert load_recipe("ijepa-tiny", words).data.clip == ClipConfig(frames=16)


@pytest.mark.parametrize("none", ["none", "null", "None"])
def test_none_removes_a_section_and_a_later_key_starts_it_afresh(none: str) -> None:
    image = ["mask.kind=random", "model.positions=sincos2d"]
    assert build_recipe(VIDEO, [f"data.clip={none}", *image]).data.clip is None
    assert build_recipe(VIDEO, [f"data.clip={none}", "data.clip.fps=5"]).data.clip == ClipConfig(fps=5.0)


def test_a_recipe_that_extends_another_may_take_its_section_out(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(dump_recipe(build_recipe(VIDEO)), encoding="utf-8")
    text = "extends: a.yaml\ndata: {clip: none}\nmask: {kind: random}\nmodel: {positions: sincos2d}\n"
    (tmp_path / "b.yaml").write_text(text, encoding="utf-8")
    assert not load_recipe(tmp_path / "b.yaml").video
    assert load_recipe(tmp_path / "a.yaml").frames == 8


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("data.clip.framse=4", "unknown key 'data.clip.framse' (did you mean 'data.clip.frames'?)"),
        ("num_frames=16", "unknown key 'num_frames' (did you mean 'data.clip.frames'?)"),
        ("data.frame_step=4", "unknown key 'data.frame_step' (did you mean 'data.clip.stride'?)"),
        ("data.clip.frames=0", "data.clip.frames: 0 is not an integer at least 1"),
        ("data.clip=16", "data.clip: 16 is not a section of keys such as data.clip.frames, data.clip.fps"),
        ("data.clip.sampling=middle", "data.clip.sampling: 'middle' is not one of random, centre, start"),
        ("data.streams=[{kind: image}]", "data.streams[0].kind: 'image' is not one of clips, images"),
        ("data.streams=[{wieght: 2}]", "unknown key 'data.streams[0].wieght' (did you mean 'data.streams[].weight'?)"),
        ("mask.groups=[{blocks: 0}]", "mask.groups[0].blocks: 0 is not an integer at least 1"),
        ("mask.groups=[]", "mask.groups: [] is not a list of sections"),
        ("stages=[{name: Big One}]", "stages[0].name: 'Big One' is not text"),
    ],
)
def test_mistakes_in_optional_sections_and_lists_name_the_nearest(override: str, complaint: str) -> None:
    assert complaint in said(VIDEO, override)


def test_lists_of_parts_are_set_whole_and_entry_by_entry() -> None:
    groups = "mask.groups=[{blocks: 4, spatial_scale: [0.2, 0.2]}, {blocks: 1}]"
    recipe = build_recipe(VIDEO, [groups, "mask.groups.1.blocks=3", "data.streams=[{source: a}, {source: b, fps: 4}]"])
    assert [group.blocks for group in recipe.mask.groups] == [4, 3]  # type: ignore[union-attr]
    again = build_recipe(recipe.model_dump(mode="json"), ["data.streams.1.fps=none", "data.streams.0.weight=.5"])
    assert [(s.source, s.weight, s.fps) for s in again.data.streams] == [("a", 0.5, None), ("b", 1.0, None)]


def test_every_stage_is_the_recipe_with_its_own_changes() -> None:
    recipe = build_recipe({**VIDEO, "stages": [*TWO, {"name": "last", "changes": {"data": {"image_size": 64}}}]})
    first, second, third = stage_recipes(recipe)
    assert (first.name, second.name, third.name) == ("v-constant", "v-cooldown", "v-last")
    assert not any(stage.stages for stage in (first, second, third))
    assert first.model_dump(exclude={"name"}) == recipe.model_dump(exclude={"name", "stages"}) | {"stages": ()}
    assert (second.frames, second.optim.schedule, second.grid) == (16, "linear", (8, 4, 4))
    assert (third.frames, third.image_hw) == (8, (64, 64))  # changes do not add up


def test_a_recipe_without_stages_is_its_only_stage() -> None:
    recipe = build_recipe(VIDEO)
    assert stage_recipes(recipe) == [recipe]


def test_stages_are_changed_by_dotted_overrides_and_survive_a_dump(tmp_path: Path) -> None:
    recipe = build_recipe({**VIDEO, "stages": TWO}, ["stages.1.changes.data.clip.frames=32", "stages.0.changes.seed=5"])
    assert [stage.changes for stage in recipe.stages] == [
        {"seed": 5},
        {"data.clip.frames": 32, "optim.schedule": "linear"},
    ]
    (tmp_path / "config.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path) == recipe


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"data.clip.framse": 4}, "stage 'x': unknown key 'data.clip.framse' (did you mean 'data.clip.frames'?)"),
        ({"optim.schedule": "slow"}, "stage 'x': optim.schedule: 'slow' is not one of"),
        ({"model.dim": 64}, "stage 'x': model.dim cannot change: a stage starts from the weights of the one before"),
        ({"predictor": {"mask_tokens": 4}}, "stage 'x': predictor.mask_tokens cannot change"),
        ({"stages": []}, "stage 'x': stages belongs to the whole run"),
        ({"data.source": "b"}, "stage 'x': data.source belongs to the whole run"),
        ({"data.clip": "none"}, "stage 'x': mask.kind tubes is for clips"),
        ({"optim.lr.peak": 1}, "stage 'x': 'optim.lr' holds the value 0.001 and no further keys"),
    ],
)
def test_a_stage_that_is_no_recipe_is_refused_when_the_recipe_is_loaded(changes: object, complaint: str) -> None:
    text = said({**VIDEO, "stages": [{"name": "a"}, {"name": "x", "changes": changes}]})
    assert text.startswith("recipe: stage 'x'")
    assert complaint in text


def test_the_same_model_key_again_is_no_change() -> None:
    stages = [{"name": "a", "changes": {"model.patch_size": 8, "model.drop_path": 0.1}}]
    assert stage_recipes(build_recipe({**VIDEO, "stages": stages}))[0].model.drop_path == 0.1


def test_two_stages_of_one_name_are_refused() -> None:
    assert "stages need names of their own" in said({**VIDEO, "stages": [{"name": "a"}, {"name": "a"}]})


def test_optional_sections_and_stages_are_described() -> None:
    keys = {info.key: info for info in describe_schema()}
    assert keys["data.clip"].section
    assert keys["data.clip"].nullable
    assert keys["data.clip"].type == "a section or none"
    for key in ("data.clip.frames", "data.streams[].weight", "mask.groups[].blocks", "stages[].name"):
        assert keys[key].description
    assert keys["stages[].changes"].type == "a mapping of dotted recipe keys to values"
    assert not keys["data"].nullable


def test_a_recipe_with_stages_is_a_recipe() -> None:
    assert isinstance(build_recipe({**VIDEO, "stages": TWO}), Recipe)
