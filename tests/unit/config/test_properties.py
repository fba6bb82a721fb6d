"""Properties of recipes: what is written reads back equal, and an override sets its key and no other."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.config import Duration, Recipe, build_recipe, diff_recipes, dump_recipe
from openjepa.config.explain import check
from openjepa.config.text import dump_yaml, parse_yaml
from openjepa.errors import ConfigError

numbers = st.floats(1e-12, 1e12, allow_nan=False)
shares = st.floats(0, 1)
pairs = st.tuples(shares, shares).map(sorted)
durations = st.builds(Duration, st.floats(0, 1e18), st.sampled_from(["steps", "epochs", "samples", "percent"]))
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
words = st.sampled_from(
    ["1e-3", "on", "no", "null", "0x1f", "1:30", "2024-01-01", "~", "- a", "a: b", "*x", "12", "''"]
)

masks = st.one_of(
    st.fixed_dictionaries({"kind": st.just("multiblock"), "targets": st.integers(1, 9), "target_scale": pairs}),
    st.fixed_dictionaries({"kind": st.just("random"), "ratio": pairs}),
    st.fixed_dictionaries({"kind": st.just("block"), "ratio": shares, "min_block": st.integers(1, 9)}),
)
regularisers = st.fixed_dictionaries(
    {"kind": st.sampled_from(["vicreg", "variance", "sigreg"])},
    optional={"weight": shares, "covariance": shares},
)
recipes = st.fixed_dictionaries(
    {"name": texts | words, "mask": masks},
    optional={
        "seed": st.integers(0, 2**63),
        "data": st.fixed_dictionaries(
            {},
            optional={"source": texts | words | st.none(), "image_size": st.integers(32, 999), "max_bad_share": shares},
        ),
        "objective": st.fixed_dictionaries({"regularisers": st.lists(regularisers, max_size=3)}),
        "optim": st.fixed_dictionaries({}, optional={"lr": numbers, "warmup": durations, "clip": numbers | st.none()}),
        "train": st.fixed_dictionaries(
            {}, optional={"length": durations, "micro_batch": st.just("auto") | st.integers(1, 99)}
        ),
    },
)


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_a_dumped_recipe_loads_equal(raw: dict[str, Any]) -> None:
    recipe = build_recipe(raw)
    again = build_recipe(parse_yaml(dump_recipe(recipe), "dump"))
    assert again == recipe
    assert diff_recipes(recipe, again) == []


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | words, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(plain)
def test_yaml_reads_back_what_was_written(value: Any) -> None:
    assert parse_yaml(dump_yaml(value), "dump") == value


@given(durations)
def test_a_duration_reads_back_from_its_text(duration: Duration) -> None:
    assert Duration.parse(str(duration)) == duration


LEAVES = {
    "optim.lr": numbers, "optim.warmup": durations.map(str), "model.drop_path": shares, "seed": st.integers(0, 10**9),
    "data.augment.crop_scale": pairs, "train.deterministic": st.booleans(), "data.source": texts | words,
    "optim.clip": numbers | st.none(), "target.transform": st.sampled_from(["layer_norm", "none"]),
}  # fmt: skip
LEAF_VALUES = st.sampled_from(sorted(LEAVES)).flatmap(lambda key: st.tuples(st.just(key), LEAVES[key]))


@settings(max_examples=80, deadline=None)
@given(LEAF_VALUES, st.sampled_from(["{k}={v}", "--{k}={v}"]))
def test_an_override_sets_its_key_and_no_other(leaf: tuple[str, Any], form: str) -> None:
    key, value = leaf
    base = build_recipe({"name": "x"})
    changed = build_recipe({"name": "x"}, [form.format(k=key, v=json.dumps(value, ensure_ascii=False))])
    assert {row[0] for row in diff_recipes(base, changed)} <= {key}
    got: Any = changed
    for part in key.split("."):
        got = getattr(got, part)
    if isinstance(got, Duration):
        assert got == Duration.parse(value)
    elif value not in ("none", "null") or key == "target.transform":
        assert got == (tuple(value) if isinstance(value, list) else value)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["name", "optim", "mask", "data", "train", "model", "lr", "obejctive"]) | texts,
        plain,
        max_size=5,
    )
)
def test_any_plain_data_is_a_recipe_or_one_line_of_mistakes(raw: dict[str, Any]) -> None:
    raw.pop("extends", None)
    try:
        assert isinstance(build_recipe(raw), Recipe)
    except ConfigError as error:
        assert str(error).isprintable()
        assert check(raw)[1], "an error without a reason"
