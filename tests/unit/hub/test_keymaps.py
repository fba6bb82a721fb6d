"""Key maps translate both ways and notice what they cannot translate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openjepa.config.schema import ClipConfig, DataConfig, ModelConfig, NarrowPredictorConfig, Recipe, TubesMask
from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.keymaps import Drop, KeyMap, Prefix, Rename, Sole, Split, Stack, key_map, list_maps
from openjepa.hub.strict import load_strict, read_tensors
from openjepa.methods import MaskedLatent, build_method

Tensors = dict[str, torch.Tensor]

HF_LIKE = KeyMap(
    "hf-like",
    "what later maps look like",
    (
        Rename("patch_embed.proj.{p}", "embeddings.projection.{p}"),
        Split(
            "blocks.{i:int}.attn.qkv.{p}", tuple(f"layer.{{i}}.attention.{n}.{{p}}" for n in ("query", "key", "value"))
        ),
        Rename("blocks.{i:int}.{key:rest}", "layer.{i}.{key}"),
        Stack("mask_tokens.{n:int}", "embeddings.mask_tokens"),
    ),
)


def tensors_like_ours() -> Tensors:
    torch.manual_seed(0)
    found = {"patch_embed.proj.weight": torch.randn(6, 3, 2, 2), "norm.weight": torch.randn(6)}
    for i in (0, 1, 11):
        found |= {f"blocks.{i}.attn.qkv.weight": torch.randn(18, 6), f"blocks.{i}.attn.qkv.bias": torch.randn(18)}
        found |= {f"blocks.{i}.norm1.weight": torch.randn(6)}
    return found | {f"mask_tokens.{k}": torch.randn(1, 1, 4) for k in range(12)}


def assert_same(first: Tensors, second: Tensors) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_a_map_and_its_inverse_give_back_every_tensor() -> None:
    ours = tensors_like_ours()
    theirs = HF_LIKE.apply(ours).tensors
    assert "layer.11.attention.key.bias" in theirs
    assert theirs["embeddings.mask_tokens"].shape == (12, 1, 1, 4)
    assert torch.equal(theirs["layer.1.attention.value.weight"], ours["blocks.1.attn.qkv.weight"][12:])
    assert_same(HF_LIKE.inverse().apply(theirs).tensors, ours)
    assert_same(HF_LIKE.inverse().inverse().apply(ours).tensors, theirs)


def test_fields_match_what_they_say() -> None:
    rename = KeyMap("t", "", (Rename("a.{i:int}.{name}.{key:rest}", "b.{i}.{name}.{key}"),))
    keys = {"a.1.x.y.z": "b.1.x.y.z", "a.one.x.y": "a.one.x.y", "a.1.x": "a.1.x", "ca.1.x.y": "ca.1.x.y"}
    assert list(rename.apply({key: torch.ones(1) for key in keys}).tensors) == list(keys.values())


def test_a_prefix_is_stripped_only_at_the_start() -> None:
    strip = KeyMap("t", "", (), (Prefix("module."),))
    found = strip.apply({"module.a.module.b": torch.ones(1), "x.module.c": torch.ones(1)}).tensors
    assert list(found) == ["a.module.b", "x.module.c"]
    nested = KeyMap("t", "", (), (Prefix("module.", under="encoder."),))
    assert list(nested.apply({"encoder.module.a": torch.ones(1), "module.b": torch.ones(1)}).tensors) == [
        "encoder.a",
        "module.b",
    ]


def test_two_keys_never_become_one() -> None:
    both = {"module.a": torch.ones(1), "a": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="key map 't': .* both become 'a'"):
        KeyMap("t", "", (), (Prefix("module."),)).apply(both)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"blocks.0.attn.qkv.bias": torch.ones(10)}, "does not split into 3"),
        ({"mask_tokens.0": torch.ones(1), "mask_tokens.2": torch.ones(1)}, "cannot be stacked"),
    ],
)
def test_what_cannot_be_translated_is_said(tensors: Tensors, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        HF_LIKE.apply(tensors)


def test_a_part_missing_from_a_merge_is_said() -> None:
    theirs = HF_LIKE.apply(tensors_like_ours()).tensors
    theirs.pop("layer.1.attention.key.bias")
    with pytest.raises(CheckpointError, match="'blocks.1.attn.qkv.bias' cannot be put together"):
        HF_LIKE.inverse().apply(theirs)


def test_the_first_rule_that_matches_takes_a_key() -> None:
    rules = (
        Rename("a.b.{key:rest}", "special.{key}"),
        Rename("a.{key:rest}", "b.{key}"),
        Rename("b.{key:rest}", "a.{key}"),
    )
    theirs = {"a.b.x": torch.ones(1), "a.x": torch.ones(2), "b.x": torch.ones(3)}
    ours = KeyMap("t", "", rules).apply(theirs).tensors
    assert {key: len(value) for key, value in ours.items()} == {"special.x": 1, "b.x": 2, "a.x": 3}
    assert_same(KeyMap("t", "", rules).inverse().apply(ours).tensors, theirs)


def test_a_map_that_loses_a_field_is_not_accepted() -> None:
    with pytest.raises(AssertionError, match="not invertible"):
        Rename("a.{i:int}.{key:rest}", "b.{key}")


def test_dropped_tensors_are_handed_on_and_can_be_put_back() -> None:
    keymap = KeyMap("t", "", (Drop("{part}.pos_embed", "fixed table"),), (Prefix("module."),))
    theirs = {"module.encoder.pos_embed": torch.ones(2), "module.encoder.w": torch.zeros(2)}
    mapped = keymap.apply(theirs)
    assert list(mapped.tensors) == ["encoder.w"]
    assert mapped.dropped["encoder.pos_embed"].reason == "fixed table"
    extras = {key: drop.tensor for key, drop in mapped.dropped.items()}
    assert_same(keymap.inverse().apply(mapped.tensors, extras).tensors, theirs)
    assert list(keymap.inverse().apply(mapped.tensors).tensors) == ["module.encoder.w"]


def test_maps_are_known_by_name() -> None:
    assert "ijepa-official" in [keymap.name for keymap in list_maps()]
    with pytest.raises(ConfigError, match=r"did you mean 'ijepa-official'\?"):
        key_map("ijepa_oficial")


def published(method: MaskedLatent) -> Tensors:
    """The layout of a published file, flat (official.md §6), with random values."""
    parts = {"encoder": method.online, "predictor": method.predictor, "target_encoder": method.target}
    found = {f"{p}.module.{k}": torch.randn_like(v) for p, net in parts.items() for k, v in net.state_dict().items()}
    for part, net in parts.items():
        found |= {f"{part}.module.{key}": value.clone() for key, value in net.named_buffers() if "pos_embed" in key}
    return found


def test_the_official_ijepa_layout_round_trips(method: MaskedLatent) -> None:
    theirs = published(method)
    keymap = key_map("ijepa-official")
    mapped = keymap.apply(theirs | {"opt.state.0.exp_avg": torch.ones(2)})
    assert set(mapped.tensors) == set(method.state_dict())
    assert {key for key, drop in mapped.dropped.items() if "table" in drop.reason} == {
        "online.pos_embed",
        "target.pos_embed",
        "predictor.predictor_pos_embed",
    }
    extras = {key: drop.tensor for key, drop in mapped.dropped.items() if "pos_embed" in key}
    assert_same(keymap.inverse().apply(mapped.tensors, extras).tensors, theirs)


def test_our_weights_round_trip_through_the_official_layout(method: MaskedLatent) -> None:
    keymap = key_map("ijepa-official")
    theirs = keymap.inverse().apply(method.state_dict(), dict(method.named_buffers())).tensors
    assert theirs.keys() == published(method).keys()
    assert_same(keymap.apply(theirs).tensors, dict(method.state_dict()))


def test_a_published_file_loads_strictly(method: MaskedLatent, tmp_path: Path) -> None:
    theirs = published(method)
    nested: dict[str, Tensors] = {}
    for key, value in theirs.items():
        part, _, name = key.partition(".")
        nested.setdefault(part, {})[name] = value
    torch.save({**nested, "opt": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 300}, tmp_path / "ep300.pth.tar")
    report = load_strict(method, read_tensors(tmp_path / "ep300.pth.tar"), keymap="ijepa-official")
    assert report.counts["loaded"] == len(method.state_dict())
    assert torch.equal(method.target.norm.weight, theirs["target_encoder.module.norm.weight"])
    nested["encoder"].pop("module.blocks.1.norm2.bias")
    torch.save(nested, tmp_path / "short.pth.tar")
    with pytest.raises(CheckpointError, match=r"1 missing \(online\.blocks\.1\.norm2\.bias\)"):
        load_strict(method, read_tensors(tmp_path / "short.pth.tar"), keymap="ijepa-official")


def test_the_golden_checkpoint_loads_and_round_trips(shared: Path) -> None:
    theirs = read_tensors(shared / "golden" / "ijepa" / "checkpoint.pt")
    keymap = key_map("ijepa-official")
    mapped = keymap.apply(theirs)
    assert len(mapped.tensors) == len(theirs) - 3
    extras = {key: drop.tensor for key, drop in mapped.dropped.items()}
    assert_same(keymap.inverse().apply(mapped.tensors, extras).tensors, theirs)


def test_a_sole_member_of_a_set_has_another_name() -> None:
    one, two = {"t.0": torch.ones(1)}, {"t.0": torch.ones(1), "t.1": torch.zeros(1)}
    keymap = KeyMap("t", "", (Sole("t.0", "t"),))
    assert list(keymap.apply(one).tensors) == ["t"]
    for theirs in (one, two):
        assert_same(keymap.inverse().apply(keymap.apply(theirs).tensors).tensors, theirs)
    assert keymap.apply(two).tensors.keys() == two.keys()
    stack = KeyMap("t", "", (Stack("t.{n:int}", "all", sole="t"),))
    assert stack.apply({"t": torch.ones(3)}).tensors["all"].shape == (1, 3)
    assert list(stack.inverse().apply({"all": torch.ones(1, 3)}).tensors) == ["t"]
    assert list(stack.inverse().apply({"all": torch.ones(2, 3)}).tensors) == ["t.0", "t.1"]


def video_method(system: str, mask_tokens: int) -> MaskedLatent:
    recipe = Recipe(
        name="small",
        system=system,
        data=DataConfig(image_size=16, clip=ClipConfig(frames=4)),
        mask=TubesMask(),
        model=ModelConfig(
            arch=None, patch_size=8, dim=24, depth=2, heads=2, positions="sincos3d" if system == "vjepa" else "rope3d"
        ),
        predictor=NarrowPredictorConfig(dim=12, depth=1, mask_tokens=mask_tokens),
    )
    method = build_method(recipe)
    assert isinstance(method, MaskedLatent)
    return method


@pytest.mark.parametrize("target", ["target_encoder", "ema_encoder"])
@pytest.mark.parametrize(("system", "mask_tokens"), [("vjepa", 2), ("vjepa2", 10), ("vjepa2", 1)])
def test_the_official_video_layouts_round_trip(system: str, mask_tokens: int, target: str, tmp_path: Path) -> None:
    method, keymap = video_method(system, mask_tokens), key_map(f"{system}-official")
    parts = {"encoder": method.online, "predictor": method.predictor, target: method.target}
    nested = {
        part: {f"module.backbone.{key}": torch.randn_like(value) for key, value in network.state_dict().items()}
        for part, network in parts.items()
    }
    alone = nested["predictor"].pop("module.backbone.mask_token", None)
    if alone is not None:
        nested["predictor"]["module.backbone.mask_tokens.0"] = alone
    # Released V-JEPA 2 files still hold tables the rotary model never reads.
    nested["encoder"]["module.backbone.pos_embed"] = torch.ones(1, 8, 24)
    nested["predictor"]["module.backbone.predictor_pos_embed"] = torch.ones(1, 8, 12)
    torch.save({**nested, "opt": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 9}, tmp_path / "vitl.pt")
    report = load_strict(method, read_tensors(tmp_path / "vitl.pt"), keymap=keymap)
    assert report.counts["loaded"] == len(method.state_dict())
    assert set(report.keys("dropped")) == {
        "online.pos_embed",
        "predictor.predictor_pos_embed",
        "opt.state.0.exp_avg",
    }
    back = keymap.inverse().apply(method.state_dict()).tensors
    for part in ("encoder", "predictor", target):
        for key, value in nested[part].items():
            if "pos_embed" not in key:
                written = "target_encoder" if part == target else part  # the usual name, whichever was read
                assert torch.equal(back[f"{written}.{key}"], value), key
    nested["encoder"].pop("module.backbone.blocks.1.attn.proj.bias")
    torch.save(nested, tmp_path / "short.pt")
    with pytest.raises(CheckpointError, match=r"1 missing \(online\.blocks\.1\.attn\.proj\.bias\)"):
        load_strict(method, read_tensors(tmp_path / "short.pt"), keymap=keymap)


@pytest.mark.parametrize("system", ["vjepa", "vjepa2"])
def test_the_golden_video_checkpoints_round_trip(shared: Path, system: str) -> None:
    theirs = read_tensors(shared / "golden" / system / "checkpoint.pt")
    keymap = key_map(f"{system}-official")
    mapped = keymap.apply(theirs)
    extras = {key: drop.tensor for key, drop in mapped.dropped.items()}
    assert len(extras) == (3 if system == "vjepa" else 0)
    assert_same(keymap.inverse().apply(mapped.tensors, extras).tensors, theirs)
