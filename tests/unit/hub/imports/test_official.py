"""Published files of I-JEPA, V-JEPA and V-JEPA 2: true sizes, small files with values, and what goes wrong with them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.imports import (
    Contents,
    import_contents,
    import_weights,
    inspect_weights,
    published_state,
    recognise,
)
from openjepa.models.positions import sincos2d, sincos3d
from tests.unit.hub.imports.published import encoder, predictor, three, whole

I_JEPA, V_JEPA = "module.", "module.backbone."
SIZES = {
    # name: prefix, dim, depth, hidden, patch, tubelet, tokens, heads, predictor depth, mask tokens, image size, frames
    "ijepa h/14": (I_JEPA, 1280, 32, 5120, 14, None, 256, 16, 12, None, 224, None),
    "ijepa h/16-448": (I_JEPA, 1280, 32, 5120, 16, None, 784, 16, 12, None, 448, None),
    "ijepa g/16": (I_JEPA, 1408, 40, 6144, 16, None, 196, 16, 16, None, 224, None),
    "vjepa l/16": (V_JEPA, 1024, 24, 4096, 16, 2, 1568, 16, 12, 2, 224, 16),
    "vjepa h/16": (V_JEPA, 1280, 32, 5120, 16, 2, 1568, 16, 12, 2, 224, 16),
    "vjepa h/16-384": (V_JEPA, 1280, 32, 5120, 16, 2, 4608, 16, 12, 2, 384, 16),
    "vjepa2 l/16": (V_JEPA, 1024, 24, 4096, 16, 2, None, 16, 12, 10, 256, 64),
    "vjepa2 h/16": (V_JEPA, 1280, 32, 5120, 16, 2, None, 16, 12, 10, 256, 64),
    "vjepa2 g/16, table left in": (V_JEPA, 1408, 40, 6144, 16, 2, 8192, 22, 12, 10, 256, 64),
}


@pytest.mark.parametrize("name", SIZES)
def test_true_sizes_import_strictly_and_go_back_to_the_published_names(name: str) -> None:
    prefix, dim, depth, hidden, patch, tubelet, tokens, heads, deep, masks, size, frames = SIZES[name]
    shapes = three(
        encoder(dim, depth, hidden, patch, tubelet=tubelet, tokens=tokens),
        predictor(dim, deep, 384, mask_tokens=masks, tokens=tokens),
    )
    tensors = whole(prefix, shapes)
    contents = Contents(Path("published.pth.tar"), tensors)
    loaded = import_contents(contents)
    made = loaded.encoder
    assert (made.embed_dim, made.depth, made.heads, made.patch_size[0]) == (dim, depth, heads, patch)
    assert (loaded.config.image_hw, loaded.config.frames) == ((size, size), frames)
    assert loaded.predictor is not None
    assert len(loaded.predictor.predictor_blocks) == deep
    assert loaded.provenance is not None
    assert loaded.provenance.which == "target_encoder"
    back = published_state(loaded, recognise(contents))
    unread = {key for key in tensors if tokens is not None and "vjepa2" in name and "pos_embed" in key}
    assert set(back) == set(tensors) - unread  # a rotary model has no table to give back
    assert all(back[key].shape == tensors[key].shape for key in back)


def small(family: str) -> dict[str, Tensor]:
    """A small published file with values, its tables by the formula."""
    video, rotary = family != "ijepa", family == "vjepa2"
    count = None if rotary else (32 if video else 16)
    shapes = three(
        encoder(48, 2, 192, 8, tubelet=2 if video else None, tokens=count),
        predictor(48, 1, 24, mask_tokens=(10 if rotary else 2) if video else None, tokens=count),
    )
    tensors = whole(V_JEPA if video else I_JEPA, shapes, device="cpu")
    for key in tensors:
        if "pos_embed" in key:
            dim = tensors[key].shape[-1]
            tensors[key] = (sincos3d(dim, (2, 4, 4)) if video else sincos2d(dim, (4, 4)))[None]
    return tensors


def nested(flat: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    tree: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        part, _, rest = key.partition(".")
        tree.setdefault(part, {})[rest] = value
    return tree


@pytest.fixture
def write(tmp_path: Path):
    def one(flat: dict[str, Tensor], name: str = "some.pth.tar", **more: object) -> Path:
        path = tmp_path / name
        torch.save({**nested(flat), **more}, path)
        return path

    return one


@pytest.mark.parametrize("family", ["ijepa", "vjepa", "vjepa2"])
def test_small_files_give_their_encoder_by_name(write, family: str) -> None:
    flat = small(family)
    path = write(flat, epoch=3, opt={"state": {0: {"exp_avg": torch.ones(2)}}}, lr=0.1)
    target = import_weights(path, hints={"heads": 3})
    online = import_weights(path, which="online", hints={"heads": 3})
    prefix = I_JEPA if family == "ijepa" else V_JEPA
    for loaded, section in ((target, "target_encoder"), (online, "encoder")):
        assert loaded.provenance is not None
        assert loaded.provenance.which == section
        assert torch.equal(loaded.encoder.norm.weight, flat[f"{section}.{prefix}norm.weight"])
    if family == "vjepa":  # frames and size are read from the values of the table
        assert (target.config.frames, target.config.image_hw) == (4, (32, 32))
    back = published_state(target, recognise(Contents(path, flat)))
    assert set(back) == set(flat)
    assert all(torch.allclose(back[key], flat[key]) for key in flat)


def test_a_table_of_another_kind_is_never_taken_silently(write) -> None:
    flat = small("vjepa")
    for key in flat:
        if "pos_embed" in key:
            flat[key] = sincos3d(flat[key].shape[-1], (2, 4, 4), uniform_power=False)[None]
    with pytest.raises(CheckpointError, match="positions is none of a square grid"):
        import_weights(write(flat), hints={"heads": 3})
    loaded = import_weights(write(flat), hints={"heads": 3, "uniform_power": False})
    assert loaded.config.model.uniform_power is False
    with pytest.raises(CheckpointError, match="position table"):  # told another size than the table has
        import_weights(write(small("vjepa")), hints={"heads": 3, "frames": 8, "image_size": 16})


def test_what_tensors_do_not_tell_is_asked_for(write) -> None:
    path = write(small("ijepa"))
    with pytest.raises(ConfigError, match=r"how many attention heads an encoder 48 wide has: give hints=\{'heads'"):
        import_weights(path)
    with pytest.raises(ConfigError, match="no hint 'head'.*did you mean 'heads'"):
        import_weights(path, hints={"head": 3})
    with pytest.raises(ConfigError, match="choose deployed"):
        import_weights(path, which="traget", hints={"heads": 3})  # type: ignore[arg-type]
    lone = {key: value for key, value in small("vjepa").items() if key.startswith("encoder.")}
    with pytest.raises(ConfigError, match="which of V-JEPA and V-JEPA 2 it is"):
        import_weights(write(lone), hints={"heads": 3})
    assert import_weights(write(lone), hints={"heads": 3, "family": "V-JEPA 2"}).config.system == "vjepa2"
    with pytest.raises(ConfigError, match="no family 'VJEPA'.*did you mean 'V-JEPA'"):
        import_weights(write(lone), hints={"family": "VJEPA"})
    with pytest.raises(CheckpointError, match="does not hold I-JEPA: its names are those of V-JEPA"):
        import_weights(write(lone), hints={"family": "I-JEPA"})


def test_a_lone_encoder_is_the_one_whatever_it_is_called(write) -> None:
    lone = {key: value for key, value in small("ijepa").items() if key.startswith("encoder.")}
    for which in ("deployed", "online", "target"):
        loaded = import_weights(write(lone), which=which, hints={"heads": 3})  # type: ignore[arg-type]
        assert loaded.provenance is not None
        assert loaded.provenance.which == "encoder"
        assert loaded.predictor is None
        assert "no predictor in this file" in loaded.provenance.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda flat: flat.pop("target_encoder.module.blocks.1.norm1.weight"), "1 missing .blocks.1.norm1.weight"),
        (lambda flat: flat.update({"encoder.module.blocks.0.gamma": torch.ones(3)}), "1 unexpected .blocks.0.gamma"),
        (lambda flat: flat.update({"encoder.module.norm.weight": torch.ones(7)}), r"1 mis-shaped .norm.weight \(7,\)"),
        (lambda flat: flat.update({"decoder.weight": torch.ones(7)}), "1 tensors we know nothing of .decoder.weight"),
        (lambda flat: flat.pop("target_encoder.module.patch_embed.proj.bias"), "1 missing"),
        (lambda flat: [flat.pop(k) for k in list(flat) if "encoder" in k], "in no layout we know"),
    ],
)
def test_half_matching_files_load_nothing(write, change, message: str) -> None:
    flat = small("ijepa")
    change(flat)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_weights(write(flat), hints={"heads": 3})
    assert "\n" not in str(caught.value)


class Malicious:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place,))


def test_broken_and_hostile_files_are_one_line_and_nothing_runs(write, tmp_path: Path) -> None:
    path = write(small("ijepa"))
    cut = tmp_path / "cut.pth.tar"
    cut.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match="truncated"):
        import_weights(cut)
    hostile, trace = tmp_path / "hostile.pt", tmp_path / "ran"
    hostile.write_bytes(pickle.dumps({"encoder": Malicious(trace)}))
    with pytest.raises(CheckpointError, match="(would|could) run code"):
        import_weights(hostile)
    assert not trace.exists()
    with pytest.raises(CheckpointError, match="there is no .*did you mean 'some.pth.tar'"):
        import_weights(tmp_path / "some.pth")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="no model.safetensors"):
        import_weights(tmp_path / "folder")


def test_inspection_names_every_key(write) -> None:
    flat = small("vjepa")
    found = inspect_weights(write(flat), {"heads": 3})
    assert found.layout == "vjepa-official"
    assert found.architecture["image_size"] == [32, 32]
    assert {row.theirs for row in found.keys} == set(flat)
    by_name = {row.theirs: row for row in found.keys}
    assert by_name["target_encoder.module.backbone.norm.weight"].ours == "target.norm.weight"
    assert "recomputed" in by_name["encoder.module.backbone.pos_embed"].note


@pytest.mark.parametrize("name", ["ijepa", "vjepa", "vjepa2"])
def test_golden_files_import_by_one_call(shared: Path, name: str) -> None:
    loaded = import_weights(shared / "golden" / name)
    assert loaded.predictor is not None
    assert loaded.which == "target"
