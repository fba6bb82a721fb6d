"""Any tree of plain data survives, exactly, without pickle."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openjepa.errors import CheckpointError
from openjepa.hub.state import pack_state, unpack_state

keys = st.one_of(
    st.text(max_size=8), st.integers(), st.sampled_from(["__tensor__", "__dict__", "__tuple__", "__float__", "a.b"])
)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8))
trees = st.recursive(
    leaves,
    lambda t: st.one_of(st.lists(t, max_size=3), st.tuples(t, t), st.dictionaries(keys, t, max_size=3)),
    max_leaves=12,
)


@given(trees)
def test_a_tree_survives(tree: object) -> None:
    packed, tensors = pack_state(tree)
    back = unpack_state(json.loads(json.dumps(packed, allow_nan=False)), tensors)
    assert repr(back) == repr(tree)  # repr tells 1 from 1.0 and True, and a tuple from a list


def test_tensors_are_named_by_their_path() -> None:
    tree = {"state": {0: {"exp_avg": torch.ones(2)}}, "rng": [torch.zeros(3), float("nan")]}
    packed, tensors = pack_state(tree)
    assert set(tensors) == {"state.0.exp_avg", "rng.0"}
    back = unpack_state(json.loads(json.dumps(packed)), tensors)
    assert back["state"][0]["exp_avg"] is tree["state"][0]["exp_avg"]
    assert math.isnan(back["rng"][1])


def test_a_number_and_its_text_as_keys_do_not_collide() -> None:
    tree = {1: torch.ones(1), "1": torch.zeros(1), "a.b": torch.ones(2), "a": {"b": torch.zeros(2)}}
    packed, tensors = pack_state(tree)
    back = unpack_state(json.loads(json.dumps(packed)), tensors)
    assert [float(back[key].sum()) for key in (1, "1", "a.b")] == [1, 0, 2]
    assert float(back["a"]["b"].sum()) == 0


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", torch.device("cpu"), {"x": {(1, 2): 3}}])
def test_other_things_are_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match="cannot save 'top"):
        pack_state({"top": value})


def test_a_missing_tensor_is_named() -> None:
    packed, _ = pack_state({"a": torch.ones(2)})
    with pytest.raises(CheckpointError, match="'a' is missing"):
        unpack_state(packed, {})
