"""Reading, extending, overriding, writing and comparing recipes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from openjepa.config import (
    ABSENT,
    apply_overrides,
    build_recipe,
    describe_schema,
    diff_recipes,
    dump_recipe,
    list_recipes,
    load_recipe,
)
from openjepa.config.duration import Duration
from openjepa.config.text import parse_yaml
from openjepa.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_name_a_file_and_a_run_directory_give_the_same_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("ijepa-tiny")
    write(tmp_path / "config.yaml", dump_recipe(recipe))
    assert load_recipe(tmp_path / "config.yaml") == recipe
    assert load_recipe(str(tmp_path)) == recipe


def test_extends_by_name_and_by_relative_path_and_takes_its_own_name(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "extends: ijepa-tiny\noptim: {lr: 0.5}\n")
    child = load_recipe(write(tmp_path / "my run ü.yaml", "extends: base.yaml\noptim: {clip: 3}\n"))
    assert (child.optim.lr, child.optim.clip, child.name) == (0.5, 3.0, "my run ü")
    assert child.model == load_recipe("ijepa-tiny").model


def test_extending_with_another_kind_of_mask_replaces_the_mask(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "extends: ijepa-tiny-release\nmask: {kind: random, ratio: [0.5, 0.5]}\n")
    assert load_recipe(path).mask.model_dump() == {"kind": "random", "ratio": (0.5, 0.5)}


def test_recipes_that_extend_each_other_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    write(tmp_path / "b.yaml", "extends: a.yaml\n")
    with pytest.raises(ConfigError, match=r"extend each other in a circle"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "words",
    [["optim.lr=3e-4"], ["--optim.lr=3e-4"], ["--optim.lr", "3e-4"], ["optim.lr=.0003"], ["optim={lr: 0.0003}"]],
)
def test_every_spelling_of_an_override(words: list[str]) -> None:
    recipe = load_recipe("ijepa-tiny-release", words)
    assert recipe.optim.lr == 3e-4
    assert recipe.optim.final_weight_decay == 0.4  # the rest of the section stays


def test_override_values_are_yaml() -> None:
    recipe = load_recipe(
        "ijepa-tiny-release",
        [
            "train.length=40 epochs", "optim.warmup=10%", "data.augment.crop_scale=[.2, 1]", "model.drop_path=1e-1",
            "optim.final_weight_decay=none", "data.cache=none", "data.source=a=b c", "train.batch-size=7",
            "data.mean=[0, 0, 0]", "optim.decay_mask_tokens=false", "train.micro_batch=auto",
            "objective.regularisers=[{kind: vicreg, weight: 2, covariance: 1}]", "objective.regularisers.0.weight=.25",
        ],
    )  # fmt: skip
    assert recipe.train.length == Duration(40, "epochs")
    assert recipe.optim.warmup == Duration(10, "percent")
    assert recipe.data.augment.crop_scale == (0.2, 1.0)
    assert recipe.model.drop_path == 0.1
    assert recipe.optim.final_weight_decay is None
    assert recipe.data.cache == "none"
    assert recipe.data.source == "a=b c"
    assert recipe.train.batch_size == 7
    assert recipe.optim.decay_mask_tokens is False
    assert (recipe.objective.regularisers[0].weight, recipe.objective.regularisers[0].covariance) == (0.25, 1.0)


@pytest.mark.parametrize(
    "words", [["mask.kind=random", "mask.ratio=[.5, .6]"], ["mask.ratio=[.5, .6]", "mask.kind=random"]]
)
def test_another_kind_of_mask_starts_its_section_afresh_in_any_order(words: list[str]) -> None:
    assert load_recipe("ijepa-tiny", words).mask.model_dump() == {"kind": "random", "ratio": (0.5, 0.6)}


def test_the_same_kind_again_keeps_the_section() -> None:
    assert load_recipe("ijepa-tiny-release", ["mask.kind=multiblock"]).mask.context_mode == "release"


def test_a_mask_key_needs_no_kind() -> None:
    assert build_recipe({"name": "x"}, ["mask.targets=6"]).mask.targets == 6


def test_apply_overrides_leaves_its_input_alone() -> None:
    raw = {"optim": {"lr": 1.0}}
    assert apply_overrides(raw, ["optim.lr=2", "new.deep.key=x"]) == {"optim": {"lr": 2}, "new": {"deep": {"key": "x"}}}
    assert raw == {"optim": {"lr": 1.0}}


def test_words_yaml_1_1_would_change_stay_words(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "r.yaml", "name: no\noptim: {lr: 1e-3, clip: 1E+1}\n"))
    assert (recipe.name, recipe.optim.lr, recipe.optim.clip) == ("no", 1e-3, 10.0)
    assert parse_yaml("{on: off, y: 1:30, x: 0o7, d: 2024-01-01}", "x") == {
        "on": "off", "y": "1:30", "x": "0o7", "d": "2024-01-01",
    }  # fmt: skip


def test_an_empty_section_means_its_defaults(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path / "r.yaml", "name: x\noptim:\nmask:\n")) == build_recipe({"name": "x"})


def test_diff_names_changed_keys_and_keys_only_one_has() -> None:
    base = load_recipe("ijepa-tiny")
    assert diff_recipes(base, base) == []
    other = load_recipe("ijepa-tiny", ["optim.lr=0.25", "mask.kind=multiblock"])
    rows = {key: (left, right) for key, left, right in diff_recipes(base, other)}
    assert rows["optim.lr"] == (base.optim.lr, 0.25)
    assert rows["mask.ratio"] == ([0.7, 0.7], ABSENT)
    assert rows["mask.targets"] == (ABSENT, 4)
    assert "optim.start_lr" not in rows


def test_the_schema_explains_every_key() -> None:
    keys = describe_schema()
    assert {"optim.lr", "mask.kind", "mask.targets", "objective.regularisers[].weight"} <= {k.key for k in keys}
    assert [k.key for k in keys if not k.description and "[]" not in k.key] == []
    by_key = {k.key: k for k in keys}
    assert by_key["optim.lr"].type == "a number above 0"
    assert {"smooth_l1", "l1", "l2"} <= set(by_key["objective.kind"].allowed)
    assert by_key["train.micro_batch"].type == "an integer at least 1 or 'auto'"
    assert by_key["mask.targets"].when == "mask.kind=multiblock"
    assert by_key["optim.warmup"].default == "10 %"


@pytest.mark.parametrize(
    ("raw", "value", "unit"),
    [
        ("40 epochs", 40, "epochs"), ("1 epoch", 1, "epochs"), ("1e6 samples", 1e6, "samples"), ("10 %", 10, "percent"),
        ("2.5%", 2.5, "percent"), (500, 500, "steps"), ("1_000 steps", 1000, "steps"), (".5 ep", 0.5, "epochs"),
    ],
)  # fmt: skip
def test_durations_in_any_unit(raw: object, value: float, unit: str) -> None:
    assert Duration.parse(raw) == Duration(value, unit)


@pytest.mark.parametrize("raw", ["ten", "4 parsecs", "-3 steps", True, None, "1e999 steps", "", [1]])
def test_what_is_no_duration_is_an_error(raw: object) -> None:
    with pytest.raises(ConfigError, match="duration|unit"):
        Duration.parse(raw)


def test_configuration_imports_no_torch_and_no_optional_package() -> None:
    code = (
        "import sys, openjepa.config, openjepa.cli.recipes; openjepa.config.load_recipe('ijepa-tiny');"
        "bad = {'torch', 'torchvision', 'numpy', 'sklearn', 'matplotlib'} & set(sys.modules); sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_listing_names_every_shipped_recipe_with_its_header() -> None:
    found = {info.name: info for info in list_recipes()}
    assert {"ijepa-tiny", "ijepa-tiny-release", "ijepa-vits16-1gpu"} <= set(found)
    assert found["ijepa-vith14-in1k-paper"].form == "paper"
    assert found["ijepa-vith14-in1k-paper"].system == "ijepa"  # comes from the recipe it extends
    assert found["ijepa-tiny"].header.startswith("I-JEPA")
