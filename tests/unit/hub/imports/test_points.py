"""Published Point-JEPA files: the true size, small files with values, the shared tokenizer, and what goes wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import openjepa
from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.imports import Contents, import_contents, import_weights, inspect_weights, published_state, recognise
from openjepa.hub.model_directory import load_model, save_model
from openjepa.models import PointPredictor, PointTransformer, pack_groups
from tests.unit.hub.imports.published import block

Shapes = dict[str, tuple[int, ...]]


def place(prefix: str, dim: int) -> Shapes:
    first = {f"{prefix}.0.weight": (128, 3), f"{prefix}.0.bias": (128,)}
    return first | {f"{prefix}.2.weight": (dim, 128), f"{prefix}.2.bias": (dim,)}


def tokenizer(dim: int) -> Shapes:
    shapes: Shapes = {}
    for stage, (wide, narrow, out) in {"first_conv": (3, 128, 256), "second_conv": (512, 512, dim)}.items():
        name = f"tokenizer.pointnet.encoder.{stage}"
        shapes[f"{name}.0.weight"] = (narrow, wide, 1)
        shapes |= {f"{name}.1.{part}": (narrow,) for part in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}.1.num_batches_tracked"] = ()
        shapes |= {f"{name}.3.weight": (out, narrow, 1), f"{name}.3.bias": (out,)}
    return shapes


def stack(prefix: str, dim: int, depth: int) -> Shapes:
    shapes: Shapes = {}
    for number in range(depth):
        shapes |= block(f"{prefix}.blocks.{number}", dim, 4 * dim)
    return shapes | {f"{prefix}.norm.weight": (dim,), f"{prefix}.norm.bias": (dim,)}


def shapes_of(dim: int = 384, depth: int = 12, width: int = 192, deep: int = 6) -> Shapes:
    """Names and shapes of the published file, by default at its size."""
    shapes = tokenizer(dim) | place("positional_encoding", dim) | stack("student", dim, depth)
    shapes |= stack("teacher.ema_model", dim, depth) | stack("predictor.predictor", width, deep)
    shapes |= {"predictor.mask_token": (1, 1, width)} | place("predictor.positional_encoding", width)
    sizes = {"predictor_embed": (width, dim), "predictor_proj": (dim, width)}
    shapes |= {f"predictor.{name}.weight": size for name, size in sizes.items()}
    shapes |= {f"predictor.{name}.bias": size[:1] for name, size in sizes.items()}
    return shapes | {"predictor.predictor_norm.weight": (width,), "predictor.predictor_norm.bias": (width,)}


def drawn(shapes: Shapes, device: str = "cpu") -> dict[str, Tensor]:
    made = {}
    for number, (key, shape) in enumerate(shapes.items()):
        kind = torch.int64 if key.endswith("tracked") else torch.float32
        value = torch.empty(shape, device=device, dtype=kind)
        if device == "cpu":
            value = torch.rand(shape, generator=torch.Generator().manual_seed(number)).to(kind)
        made[f"state_dict.{key}"] = value
    return made


def small() -> dict[str, Tensor]:
    return drawn(shapes_of(24, 2, 12, 1))


HINTS = {"heads": 2, "predictor_heads": 3}


def write(tmp_path: Path, flat: dict[str, Tensor], **more: object) -> Path:
    state = {key.removeprefix("state_dict."): value for key, value in flat.items()}
    torch.save({"state_dict": state, "epoch": 499, "global_step": 41000, **more}, tmp_path / "points.ckpt")
    return tmp_path / "points.ckpt"


def test_the_true_size_imports_strictly_and_goes_back_to_the_published_names() -> None:
    tensors = drawn(shapes_of(), device="meta")
    contents = Contents(Path("point-jepa.ckpt"), tensors)
    loaded = import_contents(contents)
    assert isinstance(loaded.encoder, PointTransformer)
    assert (loaded.encoder.embed_dim, loaded.encoder.depth, loaded.encoder.heads) == (384, 12, 6)
    assert isinstance(loaded.predictor, PointPredictor)
    assert (len(loaded.predictor.predictor_blocks), loaded.predictor.predictor_blocks[0].attn.heads) == (6, 6)
    assert loaded.config.grid == (64,)
    back = published_state(loaded, recognise(contents))
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in tensors.items()}


def test_values_arrive_and_go_back(tmp_path: Path) -> None:
    flat = small()
    optimizer = [{"state": {0: {"exp_avg": torch.ones(2)}}}]
    path = write(tmp_path, flat, optimizer_states=optimizer, callbacks={}, lr_schedulers=[{"last_epoch": 3}])
    loaded = import_weights(path, hints=HINTS)
    back = published_state(loaded, recognise(Contents(path, flat)))
    assert set(back) == set(flat)
    assert all(torch.equal(back[key], flat[key]) for key in flat)
    assert loaded.target is not None
    assert loaded.online is not None
    assert torch.equal(loaded.encoder.norm.weight, flat["state_dict.teacher.ema_model.norm.weight"])
    assert loaded.provenance is not None
    assert loaded.provenance.which == "state_dict.teacher.ema_model"
    assert not any("Hugging Face" in note for note in loaded.provenance.notes)
    assert torch.equal(loaded.target.place[0].weight, loaded.online.place[0].weight)
    assert (
        import_weights(path, which="online", hints=HINTS).encoder.norm.weight[0]
        == flat["state_dict.student.norm.weight"][0]
    )


def test_a_tokenizer_that_differs_is_not_written_as_one(tmp_path: Path) -> None:
    flat = small()
    path = write(tmp_path, flat)
    loaded = import_weights(path, hints=HINTS)
    assert loaded.target is not None
    with torch.no_grad():
        loaded.target.place[0].bias.add_(1)
    with pytest.raises(CheckpointError, match="'target.place.0.bias' is another in each encoder"):
        published_state(loaded, recognise(Contents(path, flat)))


def test_a_file_without_a_teacher_gives_its_student(tmp_path: Path) -> None:
    flat = {key: value for key, value in small().items() if "teacher" not in key and "predictor" not in key}
    loaded = import_weights(write(tmp_path, flat), hints=HINTS)
    assert loaded.online is None or loaded.target is None
    assert torch.equal(loaded.encoder.norm.weight, flat["state_dict.student.norm.weight"])
    assert loaded.predictor is None


def test_hints_tell_what_tensors_do_not(tmp_path: Path) -> None:
    path = write(tmp_path, small())
    with pytest.raises(ConfigError, match="how many attention heads an encoder 24 wide has"):
        import_weights(path)
    loaded = import_weights(path, hints={**HINTS, "groups": 16, "group_size": 8})
    assert loaded.config.inputs == {"points": (16, 9)}
    found = inspect_weights(path, HINTS)
    assert found.layout == "point-jepa-official"
    by_name = {row.theirs: row.ours for row in found.keys}
    assert by_name["state_dict.predictor.predictor_norm.weight"] == "predictor.spare_norm.weight"
    assert by_name["state_dict.predictor.predictor.norm.weight"] == "predictor.predictor_norm.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.pop("state_dict.student.blocks.1.mlp.fc2.bias"), "1 missing .blocks.1.mlp.fc2.bias"),
        (lambda f: f.pop("state_dict.tokenizer.pointnet.encoder.second_conv.1.running_var"), "running_var"),
        (lambda f: f.update({"state_dict.cls_head.0.weight": torch.ones(2)}), "1 tensors we know nothing of"),
        (
            lambda f: f.pop("state_dict.positional_encoding.2.weight"),
            "has no 'state_dict.positional_encoding.2.weight'",
        ),
        (lambda f: f.pop("state_dict.tokenizer.pointnet.encoder.first_conv.0.weight"), "in no layout we know"),
    ],
)
def test_half_matching_files_load_nothing(tmp_path: Path, change, words: str) -> None:
    flat = small()
    change(flat)
    with pytest.raises(CheckpointError, match=words) as caught:
        import_weights(write(tmp_path, flat), hints=HINTS)
    assert "\n" not in str(caught.value)


def test_a_saved_import_loads_again(tmp_path: Path) -> None:
    loaded = import_weights(write(tmp_path, small()), hints=HINTS)
    parts = {"online": loaded.online, "target": loaded.target, "predictor": loaded.predictor}
    states = {name: part.state_dict() for name, part in parts.items() if part is not None}
    folder = save_model(tmp_path / "model", states, loaded.config)
    again = load_model(folder)
    x = pack_groups(torch.randn(2, 5, 4, 3), torch.randn(2, 5, 3))
    assert torch.equal(again.encoder.forward_features(x), loaded.encoder.forward_features(x))
    card = (folder / "README.md").read_text()
    assert "64 groups of 32 points" in card
    assert " px" not in card


def test_images_are_refused_in_one_line(tmp_path: Path) -> None:
    model = openjepa.load(write(tmp_path, small()), hints=HINTS)
    with pytest.raises(ConfigError, match="takes groups of points"):
        model.embed(torch.zeros(2, 3, 32, 32))
    assert "groups of 32 points" in repr(model)


def test_no_file_is_exported_that_would_take_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only encoders of images and clips are exported"):
        openjepa.export(openjepa.load(write(tmp_path, small()), hints=HINTS), tmp_path / "out", format="onnx")


def test_the_golden_file_loads_by_one_call(shared: Path) -> None:
    model = openjepa.load(shared / "golden" / "point_jepa")
    assert model.config.inputs == {"points": (16, 9)}
    x = pack_groups(torch.randn(2, 5, 4, 3), torch.randn(2, 5, 3))
    assert model.encoder.forward_features(x).shape == (2, 5, 48)
