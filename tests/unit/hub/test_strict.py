"""A load is complete, or it is as the caller said, or it does not happen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from openjepa.errors import CheckpointError
from openjepa.hub.keymaps import Drop, KeyMap, Rename
from openjepa.hub.strict import LoadError, load_strict, match


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.head = nn.Linear(3, 2)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.arange(3.0), persistent=False)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {key: value.clone() for key, value in Net().state_dict().items()}


def same(net: nn.Module, tensors: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, tensors[key]) for key, value in net.state_dict().items())


def test_a_full_match_loads(net: Net, weights: dict) -> None:
    report = load_strict(net, weights)
    assert same(net, weights)
    assert report.ok
    assert report.counts == {"loaded": 5}
    assert "5 of 5" in report.summary()


def wrong(weights: dict, what: str) -> dict:
    if what == "missing":
        weights.pop("body.bias")
    elif what == "unexpected":
        weights["neck.weight"] = torch.ones(2)
    elif what == "mis-shaped":
        weights["head.weight"] = torch.ones(5, 3)
    else:
        weights["steps"] = torch.zeros(())
    return weights


KEYS = {"missing": "body.bias", "unexpected": "neck.weight", "mis-shaped": "head.weight", "mis-typed": "steps"}


@pytest.mark.parametrize("what", list(KEYS))
def test_anything_else_loads_nothing_and_says_what(net: Net, weights: dict, what: str) -> None:
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_strict(net, wrong(weights, what))
    error = caught.value
    assert isinstance(error, LoadError)
    assert same(net, before)
    assert "\n" not in str(error)
    assert f"1 {what} ({KEYS[what]}" in str(error)
    row = next(line for line in error.report.table().splitlines() if line.startswith(KEYS[what]))
    assert what in row
    assert [entry.key for entry in error.report.entries if entry.bad] == [KEYS[what]]


def test_shapes_and_dtypes_are_in_the_table(net: Net, weights: dict) -> None:
    weights["head.weight"] = torch.ones(5, 3, dtype=torch.bfloat16)
    weights["body.weight"] = weights["body.weight"].half()
    report = match(net, weights)
    table = report.table()
    assert "(2, 3) float32" in table
    assert "(5, 3) bfloat16" in table
    assert "float16 → float32" in table
    assert len(report.table(all_rows=True).splitlines()) == len(report.entries) + 2


def test_everything_wrong_at_once_is_one_line(net: Net) -> None:
    with pytest.raises(LoadError) as caught:
        load_strict(net, {f"x.{i}": torch.ones(1) for i in range(400)})
    assert len(str(caught.value)) < 300
    assert "5 missing" in str(caught.value)
    assert "400 unexpected (x.0, x.1, x.2, …)" in str(caught.value)


def test_what_the_caller_names_is_left_out(net: Net, weights: dict) -> None:
    body = net.head.weight.clone()
    for key in ("head.weight", "head.bias"):
        weights.pop(key)
    weights["neck.a"] = torch.ones(1)
    report = load_strict(net, weights, allow_missing=["head.*"], allow_unexpected=["neck.*", "typo.*"])
    assert torch.equal(net.body.weight, weights["body.weight"])
    assert torch.equal(net.head.weight, body)
    assert report.unused == ("typo.*",)
    assert "'typo.*' matched nothing" in report.table()


@pytest.mark.parametrize("allowed", [{"allow_missing": ["body.*"]}, {"allow_unexpected": ["head.*"]}])
def test_naming_other_keys_does_not_help(net: Net, weights: dict, allowed: dict) -> None:
    weights.pop("head.weight")
    with pytest.raises(LoadError):
        load_strict(net, weights, **allowed)


def test_another_shape_must_be_named_on_both_sides(net: Net, weights: dict) -> None:
    weights["head.weight"], weights["head.bias"] = torch.ones(5, 3), torch.ones(5)
    for only in ({"allow_missing": ["head.*"]}, {"allow_unexpected": ["head.*"]}):
        with pytest.raises(LoadError, match="2 mis-shaped"):
            load_strict(net, weights, **only)
    load_strict(net, weights, allow_missing=["head.*"], allow_unexpected=["head.*"])
    assert net.head.weight.shape == (2, 3)


def test_a_tie_counts_for_all_its_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    for device in ("cpu", "meta"):
        with torch.device(device):
            net = Tied()
        report = load_strict(net, {"a.weight": torch.ones(3, 3)})
        assert report.counts == {"loaded": 1, "tied": 1}
        assert net.a.weight is net.b.weight
        assert net.b.weight.sum().item() == 9


def test_a_model_on_the_meta_device_takes_the_tensors_over(weights: dict) -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    tensors = {
        "0.weight": torch.ones(3, 4).half(),
        "0.bias": torch.ones(3),
        "1.weight": torch.ones(2, 3),
        "1.bias": torch.ones(2),
    }
    load_strict(net, tensors)
    assert net[0].weight.dtype == torch.float32
    assert net[1].weight.data_ptr() == tensors["1.weight"].data_ptr()
    assert net[1].weight.requires_grad
    net(torch.ones(1, 4)).sum().backward()


def test_a_model_on_the_meta_device_must_not_stay_empty(weights: dict) -> None:
    with torch.device("meta"):
        net = Net()
    with pytest.raises(CheckpointError, match=r"1 tensors would stay without data \(table\)"):
        load_strict(net, weights)
    assert net.body.weight.is_meta
    with torch.device("meta"):
        linear = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"without data \(bias\)"):
        load_strict(linear, {"weight": torch.ones(2, 2)}, allow_missing=["bias"])


def test_a_key_map_is_applied_and_what_it_drops_is_listed(net: Net, weights: dict) -> None:
    theirs = {f"model.{key}": value for key, value in weights.items()} | {"model.pos": torch.ones(7)}
    keymap = KeyMap("t", "", (Drop("model.pos", "recomputed"), Rename("model.{key:rest}", "{key}")))
    report = load_strict(net, theirs, keymap=keymap)
    assert same(net, weights)
    assert report.counts == {"loaded": 5, "dropped": 1}
    assert "recomputed" in report.table()
