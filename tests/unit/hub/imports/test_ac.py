"""Published V-JEPA 2-AC files: the true size, small files with values, hints, and what goes wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import openjepa
from openjepa.config.schema import ActionPredictorConfig
from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.imports import Contents, import_contents, import_weights, inspect_weights, published_state, recognise
from openjepa.hub.model_directory import load_model, save_model
from openjepa.models import ActionCausalPredictor
from tests.unit.hub.imports.published import block, encoder, whole

Shapes = dict[str, tuple[int, ...]]


def foresight(dim: int, width: int, depth: int, actions: int = 7, states: int = 7) -> Shapes:
    """Names and shapes of the published predictor (official.md §6.2)."""
    shapes: Shapes = {"predictor_embed.weight": (width, dim), "predictor_embed.bias": (width,)}
    for name, size in {"action": actions, "state": states, "extrinsics": 6}.items():
        shapes |= {f"{name}_encoder.weight": (width, size), f"{name}_encoder.bias": (width,)}
    for number in range(depth):
        shapes |= block(f"predictor_blocks.{number}", width, 4 * width)
    shapes |= {"predictor_norm.weight": (width,), "predictor_norm.bias": (width,)}
    return shapes | {"predictor_proj.weight": (dim, width), "predictor_proj.bias": (dim,)}


def small(prefix: str = "module.", device: str = "cpu") -> dict[str, Tensor]:
    parts = {"encoder": encoder(48, 2, 192, 8, tubelet=2, tokens=None), "predictor": foresight(48, 64, 2, actions=3)}
    return whole(prefix, parts, device=device)


def write(tmp_path: Path, flat: dict[str, Tensor]) -> Path:
    tree: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        part, _, rest = key.partition(".")
        tree.setdefault(part, {})[rest] = value
    torch.save({**tree, "epoch": 3}, tmp_path / "ac.pt")
    return tmp_path / "ac.pt"


def test_the_true_size_imports_strictly_and_goes_back_to_the_published_names() -> None:
    parts = {"encoder": encoder(1408, 40, 6144, 16, tubelet=2, tokens=None), "predictor": foresight(1408, 1024, 24)}
    tensors = whole("module.", parts)
    contents = Contents(Path("vjepa2-ac-vitg.pt"), tensors)
    loaded = import_contents(contents)
    assert (loaded.encoder.embed_dim, loaded.encoder.depth, loaded.encoder.heads) == (1408, 40, 22)
    assert isinstance(loaded.predictor, ActionCausalPredictor)
    assert (loaded.predictor.head_dim, loaded.predictor.plane) == (64, (16, 16))
    assert len(loaded.predictor.predictor_blocks) == 24
    assert sum(value.numel() for value in loaded.predictor.state_dict().values()) == pytest.approx(305.2e6, rel=1e-3)
    assert loaded.config.predictor == ActionPredictorConfig()
    assert (loaded.config.system, loaded.config.method) == ("vjepa2_ac", "world_model")
    back = published_state(loaded, recognise(contents))
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in tensors.items()}


def test_values_arrive_and_go_back(tmp_path: Path) -> None:
    flat = small()
    path = write(tmp_path, flat)
    loaded = import_weights(path, hints={"heads": 4})
    back = published_state(loaded, recognise(Contents(path, flat)))
    assert set(back) == set(flat)
    assert all(torch.equal(back[key], flat[key]) for key in flat)
    assert loaded.provenance is not None
    assert loaded.provenance.which == "encoder"
    assert any("each frame by itself" in note for note in loaded.provenance.notes)


def test_both_wrappers_and_a_second_encoder_are_read(tmp_path: Path) -> None:
    """Training files hold the frozen encoder twice."""
    flat = small("module.backbone.")
    flat |= {
        key.replace("encoder.", "target_encoder.", 1): value for key, value in flat.items() if key[:8] == "encoder."
    }
    loaded = import_weights(write(tmp_path, flat), hints={"heads": 4})
    assert loaded.target is not None
    assert torch.equal(loaded.encoder.norm.weight, flat["encoder.module.backbone.norm.weight"])
    assert loaded.provenance is not None
    assert not any("slow average" in note for note in loaded.provenance.notes)  # both are the same


def test_hints_tell_what_tensors_do_not(tmp_path: Path) -> None:
    path = write(tmp_path, small())
    with pytest.raises(ConfigError, match="how many attention heads an encoder 48 wide has"):
        import_weights(path)
    hints = {"heads": 4, "predictor_heads": 2, "extrinsics": True, "frame_causal": False, "frames": 6, "image_size": 32}
    loaded = import_weights(path, hints=hints)
    model = loaded.predictor
    assert isinstance(model, ActionCausalPredictor)
    assert (model.uses_extrinsics, model.frame_causal, model.head_dim, model.plane) == (True, False, 32, (4, 4))
    assert (model.action_encoder.in_features, model.state_encoder.in_features) == (3, 7)
    assert loaded.config.frames == 6
    found = inspect_weights(path, hints)
    assert found.layout == "vjepa2-ac-official"
    assert found.architecture["predictor"]["kind"] == "action_causal"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.pop("predictor.module.predictor_blocks.1.mlp.fc2.bias"), "1 missing .predictor_blocks.1.mlp.fc2.bias"),
        (lambda f: f.update({"predictor.module.gain": torch.ones(2)}), "1 unexpected .gain"),
        (lambda f: f.pop("predictor.module.state_encoder.weight"), "has no 'predictor.state_encoder.weight'"),
        (lambda f: f.pop("predictor.module.action_encoder.weight"), "in no layout we know"),
    ],
)  # fmt: skip
def test_half_matching_files_load_nothing(tmp_path: Path, change, words: str) -> None:
    flat = small()
    change(flat)
    with pytest.raises(CheckpointError, match=words) as caught:
        import_weights(write(tmp_path, flat), hints={"heads": 4})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("hints", "words"),
    [
        ({"heads": "many"}, "the hint heads = 'many' is not a whole number from 1"),
        ({"heads": True}, "heads = True is not a whole number"),
        ({"frames": 0}, "frames = 0 is not a whole number from 1"),
        ({"extrinsics": "no"}, "extrinsics = 'no' is not true or false"),
        ({"fps": -4}, "fps = -4 is not a number above 0"),
        ({"image_size": [32] * 3}, r"image_size = .* is not pixels of a side, or"),
        ({"family": 2}, "family = 2 is not a name"),
    ],
)
def test_hints_of_the_wrong_kind_are_one_line(tmp_path: Path, hints: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        import_weights(write(tmp_path, small()), hints={"heads": 4, **hints})
    path = write(tmp_path, small())
    (tmp_path / "meta.json").write_text(json.dumps({"heads": 4, **hints}))
    with pytest.raises(ConfigError, match=r"meta.json': " + words.removeprefix("the hint ")):
        import_weights(path)


def test_a_saved_import_loads_again(tmp_path: Path) -> None:
    loaded = import_weights(write(tmp_path, small()), hints={"heads": 4})
    assert loaded.predictor is not None
    parts = {"online": loaded.encoder.state_dict(), "predictor": loaded.predictor.state_dict()}
    again = load_model(save_model(tmp_path / "model", parts, loaded.config))
    assert isinstance(again.predictor, ActionCausalPredictor)
    assert all(torch.equal(v, again.predictor.state_dict()[k]) for k, v in parts["predictor"].items())


def test_the_golden_file_loads_by_one_call_and_embeds(shared: Path) -> None:
    model = openjepa.load(shared / "golden" / "vjepa2_ac")
    assert isinstance(model.predictor, ActionCausalPredictor)
    assert model.embed(torch.rand(2, 3, 4, 64, 64)).shape == (2, 96)
