"""Everything a user can get wrong is said in one line, with the nearest valid choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openjepa.config import build_recipe, load_recipe
from openjepa.errors import ConfigError


def said(raw: dict[str, Any] | None = None, *overrides: str) -> str:
    """The error's text; it must be one line."""
    with pytest.raises(ConfigError) as caught:
        build_recipe({"name": "x", **(raw or {})}, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_six_kinds_of_mistakes_are_all_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "six.yaml"
    path.write_text(
        "lr: 3e-4\n"  # a key at the wrong place
        "data: {imagesize: 64, mean: [.5, .5]}\n"  # a mistyped key; two values for three channels
        "mask: {kind: multi_blok}\n"  # an unknown kind of part
        "optim: {schedule: cosin, weight_decay: lots}\n"  # a value that is not a choice; a wrong type
        "train: {length: 10 parsecs, batch_size: 0}\n"  # not a duration; out of range
    )
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    text = str(caught.value)
    assert "\n" not in text
    assert "8 mistakes" in text
    for part in (
        "unknown key 'lr' (did you mean 'optim.lr'?)",
        "unknown key 'data.imagesize' (did you mean 'data.image_size'?)",
        "data.mean has 2 values for data.channels=3",
        "mask.kind: 'multi_blok' is not one of multiblock, random, block, tubes, random_tube, none (did you mean 'multiblock'?)",
        "optim.schedule: 'cosin' is not one of cosine, linear, constant, wsd (did you mean 'cosine'?)",
        "optim.weight_decay: 'lots' is not a number at least 0",
        "train.length: '10 parsecs' is not a duration",
        "train.batch_size: 0 is not an integer at least 1",
        str(path),
    ):
        assert part in text


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "optim.lr"), ("optim.learning_rate", "optim.lr"), ("batch_size", "train.batch_size"),
        ("optim.momentum", "target.momentum"), ("train.epochs", "train.length"), ("data.num_workers", "data.workers"),
        ("mask.targest", "mask.targets"), ("optm.lr", "optim"), ("model.patchsize", "model.patch_size"),
        ("data.flip", "data.augment.flip"), ("predictor.detph", "predictor.depth"), ("optim.LR", "optim.lr"),
        ("model.mlpratio", "model.mlp_ratio"), ("data.augment.colour_jitter", "data.augment.color_jitter"),
    ],
)  # fmt: skip
def test_an_unknown_key_names_the_nearest_one_across_parts(key: str, meant: str) -> None:
    assert f"'{meant}'" in said(None, f"{key}=1")


def test_a_name_several_parts_share_names_them() -> None:
    text = said({"depth": 3})
    assert "'model.depth'" in text
    assert "'predictor.depth'" in text


def test_a_key_of_another_kind_of_mask_says_whose_it_is() -> None:
    assert "'mask.targets' (mask.kind is 'random'; this key belongs to mask.kind=multiblock)" in said(
        {"mask": {"kind": "random", "targets": 3}}
    )


def test_a_wrong_kind_does_not_hide_mistakes_in_its_section() -> None:
    text = said({"mask": {"kind": "blok", "min_block": 0, "aspekt": [1, 2]}})
    assert "(did you mean 'block'?)" in text
    assert "mask.min_block: 0 is not an integer at least 1" in text
    assert "unknown key 'mask.aspekt' (did you mean 'mask.aspect'?)" in text


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("optim.lr=fast", "optim.lr: 'fast' is not a number above 0"),
        ("optim.lr=.nan", "optim.lr: nan is not a number above 0"),
        ("optim.clip=.inf", "optim.clip: inf is not a number above 0 or none"),
        ("train.batch_size=true", "train.batch_size: true is not an integer at least 1"),
        ("train.micro_batch=0", "train.micro_batch: 0 is not an integer at least 1 or 'auto'"),
        ("train.micro_batch=some", "train.micro_batch: 'some' is not an integer at least 1 or 'auto'"),
        ("data.workers=-1", "data.workers: -1 is not an integer at least 0 or 'auto'"),
        ("data.augment.flip=1.5", "data.augment.flip: 1.5 is not a number between 0 and 1"),
        ("data.augment.crop_scale=[1]", "data.augment.crop_scale: [1] is not a pair of numbers between 0 and 1"),
        ("data.augment.crop_scale=[1, .3]", "data.augment.crop_scale: [1, 0.3] must go from low to high"),
        ("data.image_size=[1, 2, 3]", "data.image_size: [1, 2, 3] is not an integer or a pair of integers"),
        ("data.image_size=8", "data.image_size 8 is smaller than model.patch_size 16"),
        ("model.arch=none", "model.arch is none, so model.dim and model.depth and model.heads must be given"),
        ("model=3", "model: 3 is not a section of keys such as model.arch"),
        ("mask=multiblock", "mask: 'multiblock' is not a section of keys such as mask.kind, mask.targets"),
        ("mask=random", "(did you mean mask.kind=random?)"),
        ("mask.kind=7", "mask.kind: 7 is not one of multiblock, random, block"),
        ("objective.kind=Smooth-L1", "(did you mean 'smooth_l1'?)"),
        ("objective.regularisers=[{kind: sigregg}]", "objective.regularisers[0].kind: 'sigregg' is not one of"),
        ("objective.regularisers=[{weight: 1}]", "'objective.regularisers[0].kind' is missing"),
        ("objective.regularisers=3", "objective.regularisers: 3 is not a list of sections"),
        ("seed.x=1", "seed: {x: 1} is not an integer at least 0"),
        ("name.x=1", "'name' holds the value 'x' and no further keys"),
        ("objective.regularisers.3.weight=1", "has no key"),
        ("optim.lr", "override 'optim.lr' must look like key.sub=value"),
        ("=3", "must look like key.sub=value"),
        ("optim.lr=[", "has a value that is not YAML"),
    ],
)
def test_wrong_values_say_what_is_allowed(override: str, complaint: str) -> None:
    if complaint == "has no key":
        with pytest.raises(ConfigError, match=r"has no entry '3' \(it has 0, counted from 0\)"):
            build_recipe({"name": "x", "objective": {"regularisers": []}}, [override])
    else:
        assert complaint in said(None, override)


def test_a_missing_name_is_named() -> None:
    with pytest.raises(ConfigError, match="'name' is missing"):
        build_recipe({})


def test_a_mistake_is_said_once_though_unions_complain_twice() -> None:
    assert said(None, "train.compile=maybe").count("train.compile") == 1


@pytest.mark.parametrize(("name", "meant"), [("ijepa-tini", "ijepa-tiny"), ("IJEPA_TINY", "ijepa-tiny")])
def test_an_unknown_recipe_names_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"no recipe is called '{name}' .did you mean '{meant}'"):
        load_recipe(name)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: x\noptim: {lr: 1\n", r"not valid YAML at line 3"),
        ("name: x\noptim:\n\tlr: 1\n", r"not valid YAML at line 3, column 1"),
        ("name: x\nseed: 1\nseed: 2\n", r"line 3, column 1: key 'seed' occurs twice"),
        ("name: &a x\nseed: *a\n", r"line 2.*aliases"),
        ("- 1\n- 2\n", r"holds no keys"),
        ("", r"holds nothing"),
        ("[1, 2]: 3\n", r"a key must be a word"),
        ("extends: ijepa-tinny\n", r"extends: no recipe is called 'ijepa-tinny' \(did you mean 'ijepa-tiny"),
        ("extends: 3\n", r"extends: 3 is not the name or path"),
        ("name: !!python/object/apply:os.system ['true']\n", r"not valid YAML"),
        ("a: " + "[" * 5000, r"not valid YAML"),
        ("name: x\n---\nname: y\n", r"not valid YAML at line 2"),
        ("name: \x00\n", r"not valid YAML"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_missing_binary_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_recipe(tmp_path / "b.yaml")
    with pytest.raises(ConfigError, match="directory without config.yaml"):
        load_recipe(tmp_path)
