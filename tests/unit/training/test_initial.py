"""``--init``: what a run starts from, what it says of it, and that nothing is lost when it does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Generated, saved_state, tiny_recipe

from openjepa.config import Recipe
from openjepa.errors import CheckpointError, RunError
from openjepa.hub import load_model, save_model
from openjepa.methods import build_method
from openjepa.models.positions import resample_positions
from openjepa.training import InitialWeights, train
from openjepa.training.initial import fit_initial
from openjepa.training.run import INITIAL

STILL = ("train.length=1 steps", "optim.start_lr=0", "optim.lr=1e-30", "optim.final_lr=0", "target.momentum=[1, 1]")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory whose online and target encoders differ."""
    recipe = tiny_recipe("seed=7")
    torch.manual_seed(7)
    method = build_method(recipe)
    with torch.no_grad():
        for value in method.target.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return save_model(tmp_path_factory.mktemp("init") / "model", method, recipe)


def go(out: Path, init: Any, *overrides: str, channels: int = 3, **options: Any) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    train(
        tiny_recipe(*STILL, *overrides),
        Generated(channels=channels),
        out=out,
        init=init,
        console=False,
        on_event=lambda event: said.append(event.text),
        **options,
    )
    return saved_state(out)[0], said


def test_encoder_target_and_predictor_each_from_its_own(model: Path, tmp_path: Path) -> None:
    found, said = go(tmp_path, model)
    given = load_model(model)
    for part, network in (("online", given.online), ("target", given.target), ("predictor", given.predictor)):
        assert network is not None
        for key, value in network.state_dict().items():
            assert torch.allclose(found[f"model/{part}.{key}"], value, atol=1e-7), (part, key)
    assert any("starts from the weights in" in text for text in said)
    assert any(text.startswith("  online: 28 of 28 tensors") for text in said)
    table = (tmp_path / INITIAL).read_text()
    assert table.startswith(f"weights from {model}")
    assert "blocks.1.mlp.fc2.bias" in table
    assert "predictor_proj.weight" in table


@pytest.mark.parametrize("which", ["online", "target"])
def test_both_encoders_from_one(model: Path, tmp_path: Path, which: Any) -> None:
    found, _ = go(tmp_path, InitialWeights.of(load_model(model, which), which=which))
    given = load_model(model, which).encoder.state_dict()
    for part in ("online", "target"):
        assert torch.allclose(found[f"model/{part}.norm.bias"], given["norm.bias"], atol=1e-7)


def test_another_size_and_other_channels(model: Path, tmp_path: Path) -> None:
    four = ("data.channels=4", "data.mean=[0.5, 0.5, 0.5, 0.5]", "data.std=[0.2, 0.2, 0.2, 0.2]")
    found, said = go(tmp_path, model, "data.image_size=24", *four, channels=4)
    given = load_model(model).online
    assert given is not None
    patches = given.patch_embed.proj.weight
    assert torch.allclose(found["model/online.patch_embed.proj.weight"][:, 0], patches[:, 0] / 2, atol=1e-7)
    assert torch.allclose(found["model/online.patch_embed.proj.weight"][:, 2], patches[:, 2], atol=1e-7)
    assert "patch projection: 3 channels to 4, cycled and rescaled" in " ".join(said)
    assert "positions: recomputed for the grid 6×6, trained on 4×4" in " ".join(said)
    assert "3 channels to 4" in (tmp_path / INITIAL).read_text()


def test_learned_positions_are_interpolated(tmp_path: Path) -> None:
    learned = "model.positions=learned"
    source = save_model(tmp_path / "model", build_method(tiny_recipe(learned)), tiny_recipe(learned))
    start = fit_initial(tiny_recipe(learned, "data.image_size=24"), source)
    table = load_model(source).encoder.pos_embed
    assert table is not None
    assert torch.equal(start.online.tensors["pos_embed"][0], resample_positions(table[0], (4, 4), (6, 6)))


def test_a_predictor_that_is_missing_or_unwanted_starts_fresh(model: Path, tmp_path: Path) -> None:
    fresh = build_fresh(tiny_recipe(*STILL))
    found, said = go(tmp_path / "a", InitialWeights.of(load_model(model), predictor=False), "predictor.depth=1")
    assert "the predictor starts fresh: as asked" in said
    name = "predictor.predictor_proj.weight"
    assert torch.allclose(found[f"model/{name}"], fresh[name], atol=1e-7)
    alone = save_model(tmp_path / "alone", load_model(model).encoder, tiny_recipe())
    _, said = go(tmp_path / "b", alone)
    assert "the predictor starts fresh: it has none" in said


def build_fresh(recipe: Recipe) -> dict[str, torch.Tensor]:
    from openjepa.training.state import seed_everything

    seed_everything(recipe.seed)
    return build_method(recipe).state_dict()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.depth=3", "its encoder is 16 wide, 2 blocks.*model.depth=2"),
        ("model.dim=32", "set model.dim=16"),
        ("predictor.dim=24", "predictor.dim=12.*--no-init-predictor"),
        ("model.patch_size=8", "model.patch_size=4"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_touched(
    model: Path, tmp_path: Path, override: str, words: str
) -> None:
    go(tmp_path / "run", None)
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(CheckpointError, match=f"does not fit this recipe: .*{words}") as caught:
        go(tmp_path / "run", model, override, overwrite=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="there is no"):
        go(tmp_path / "run", tmp_path / "modle", overwrite=True)
    assert sorted((tmp_path / "run").rglob("*")) == before
    with pytest.raises(CheckpointError):
        go(tmp_path / "new", model, override)
    assert not (tmp_path / "new").exists()


def test_a_run_killed_before_its_first_checkpoint_does_not_forget_its_start(model: Path, tmp_path: Path) -> None:
    go(tmp_path, model)
    for path in (tmp_path / "checkpoints").rglob("*"):
        path.unlink() if path.is_file() else None
    for path in (tmp_path / "checkpoints").iterdir():
        path.rmdir()
    with pytest.raises(RunError, match="had saved nothing yet: start it again with --init and --overwrite"):
        go(tmp_path, None, resume=True)
    _, said = go(tmp_path, model, overwrite=True)
    assert any("starts from the weights in" in text for text in said)


def test_a_run_says_where_it_started(model: Path, tmp_path: Path) -> None:
    go(tmp_path, model)
    assert str(model) in (tmp_path / "train.log").read_text()
    assert json.loads((tmp_path / "model" / "config.json").read_text())["card"]["step"] == 1


def test_other_pixels_are_said(model: Path, tmp_path: Path) -> None:
    _, said = go(tmp_path, model, "data.mean=[0.5, 0.5, 0.5]", "data.std=[0.5, 0.5, 0.5]")
    assert any("pixels: the weights know mean=" in text for text in said)


def test_a_teacher_may_be_of_another_size(tmp_path: Path) -> None:
    source = save_model(
        tmp_path / "model", build_method(tiny_recipe("data.image_size=24")), tiny_recipe("data.image_size=24")
    )
    frozen = ("target.kind=frozen", f"target.weights={source}")
    found, _ = go(tmp_path / "run", None, *frozen)
    taught = load_model(source).encoder.state_dict()
    assert all(torch.equal(found[f"model/target.{key}"], value) for key, value in taught.items())
    with pytest.raises(CheckpointError, match="target.weights .* does not fit this recipe: its encoder is 16 wide"):
        go(tmp_path / "other", None, *frozen, "model.depth=1")
