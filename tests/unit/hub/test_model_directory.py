"""A model directory is enough to use a model: weights, recipe, card; whole or an error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from openjepa.config.duration import Duration
from openjepa.config.schema import OptimConfig, Recipe
from openjepa.errors import CheckpointError, ConfigError, RunError
from openjepa.hub.card import ModelCard
from openjepa.hub.checkpoint import save_checkpoint
from openjepa.hub.model_directory import load_model, save_model, split_parts
from openjepa.methods import MaskedLatent
from openjepa.types import Ids, Tokens

CARD = ModelCard(
    step=1200, samples=76_800, verdict="healthy", scores={"knn": 0.4123, "linear": float("nan")}, notes=("One seed.",)
)


def assert_equal(first: nn.Module | None, second: nn.Module) -> None:
    assert first is not None
    state = second.state_dict()
    assert first.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in first.state_dict().items())


@pytest.fixture
def model_dir(tmp_path: Path, method: MaskedLatent, recipe: Recipe) -> Path:
    return save_model(tmp_path / "run" / "model", method, recipe, CARD)


def test_all_three_networks_come_back(model_dir: Path, method: MaskedLatent, recipe: Recipe) -> None:
    found = load_model(model_dir)
    assert_equal(found.target, method.target)
    assert_equal(found.online, method.online)
    assert_equal(found.predictor, method.predictor)
    assert found.encoder is found.target
    assert (found.config, found.which, found.step, found.source) == (recipe, "target", 1200, model_dir)
    assert not found.encoder.training


def test_the_loaded_model_computes_the_same(model_dir: Path, method: MaskedLatent) -> None:
    found = load_model(model_dir)
    images, ids = torch.randn(2, 3, 16, 16), Ids(torch.tensor([[0, 3, 5], [1, 2, 9]]))
    assert torch.equal(found.encoder.forward_features(images), method.target.forward_features(images))
    assert found.online is not None
    assert found.predictor is not None
    context = Tokens(found.online.forward_features(images, keep=ids), (4, 4), ids)
    theirs = Tokens(method.online.forward_features(images, keep=ids), (4, 4), ids)
    assert torch.equal(found.predictor.predict(context, ids), method.predictor.predict(theirs, ids))


def test_a_loaded_model_can_be_trained_on(model_dir: Path) -> None:
    found = load_model(model_dir, which="online")
    found.encoder.train()(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in found.encoder.parameters())


def test_loading_uses_up_no_random_numbers(model_dir: Path) -> None:
    before = torch.get_rng_state()
    load_model(model_dir)
    assert torch.equal(before, torch.get_rng_state())


def test_learned_positions_are_saved(tmp_path: Path, method: MaskedLatent, recipe: Recipe) -> None:
    learned = recipe.model_copy(update={"model": recipe.model.model_copy(update={"positions": "learned"})})
    method = MaskedLatent(learned)
    found = load_model(save_model(tmp_path / "m", method, learned))
    assert torch.equal(found.encoder.pos_embed, method.target.pos_embed)


def test_which_encoder_is_asked_for(model_dir: Path, method: MaskedLatent) -> None:
    found = load_model(model_dir, which="online")
    assert_equal(found.encoder, method.online)
    with pytest.raises(ConfigError, match=r"did you mean 'target'"):
        load_model(model_dir, which="tarjet")  # type: ignore[arg-type]


def test_a_lone_encoder_is_enough(tmp_path: Path, method: MaskedLatent, recipe: Recipe) -> None:
    path = save_model(tmp_path / "m", method.target, recipe)
    found = load_model(path)
    assert_equal(found.encoder, method.target)
    assert found.predictor is None
    assert found.online is None
    with pytest.raises(ConfigError, match="has no online encoder: it holds target"):
        load_model(path, which="online")


def test_gathered_state_dicts_are_enough(tmp_path: Path, method: MaskedLatent, recipe: Recipe) -> None:
    found = load_model(save_model(tmp_path / "m", split_parts(method.state_dict()), recipe))
    assert_equal(found.target, method.target)
    with pytest.raises(CheckpointError, match="no target encoder"):
        save_model(tmp_path / "n", {"online": method.online.state_dict()}, recipe)


def test_the_card_says_what_it_is(model_dir: Path) -> None:
    card = (model_dir / "README.md").read_text(encoding="utf-8")
    for words in (
        "small",
        "healthy",
        "41.2 %",
        "1,200 steps",
        "76,800 images",
        "scenes",
        "One seed.",
        "they are theirs",
        "width 16",
    ):
        assert words in card
    assert "linear" not in card, "a score that is no number is not shown"
    info = json.loads((model_dir / "config.json").read_text())
    assert info["card"]["scores"] == {"knn": 0.4123, "linear": None}
    assert info["recipe"]["model"]["dim"] == 16


def test_a_card_may_be_edited_but_weights_may_not(model_dir: Path) -> None:
    (model_dir / "README.md").write_text("my words")
    load_model(model_dir)
    data = bytearray((model_dir / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model_dir / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"checksum of model\.safetensors"):
        load_model(model_dir)


def test_weights_and_config_without_the_manifest_are_enough(
    model_dir: Path, tmp_path: Path, method: MaskedLatent
) -> None:
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(model_dir / name, tmp_path / "bare")
    assert_equal(load_model(tmp_path / "bare").encoder, method.target)
    assert_equal(load_model(tmp_path / "bare" / "model.safetensors").encoder, method.target)


def test_a_run_uses_model_then_the_newest_whole_checkpoint(
    model_dir: Path, tmp_path: Path, method: MaskedLatent, recipe: Recipe
) -> None:
    run = model_dir.parent
    for step in (1, 2, 3):
        with torch.no_grad():
            method.target.norm.weight.fill_(step)
        save_checkpoint(run / "checkpoints", step, tensors={"model": method.state_dict()}, states={}, recipe=recipe)
    assert load_model(run).step == 1200
    shutil.rmtree(model_dir)
    found = load_model(run)
    assert found.step == 3
    assert_equal(found.predictor, method.predictor)
    (run / "checkpoints" / "step-00000003" / "model.safetensors").write_bytes(b"")
    warnings: list[str] = []
    assert load_model(run, warn=warnings.append).encoder.norm.weight[0].item() == 2
    assert "step-00000003" in warnings[0]
    assert load_model(run / "checkpoints" / "step-00000001").step == 1
    assert load_model(run / "checkpoints", warn=warnings.append).step == 2


def test_a_checkpoint_without_its_recipe_uses_the_run_config(
    tmp_path: Path, method: MaskedLatent, recipe: Recipe
) -> None:
    from openjepa.config import dump_recipe

    run = tmp_path / "run"
    save_checkpoint(run / "checkpoints", 1, tensors={"model": method.state_dict()}, states={})
    with pytest.raises(CheckpointError, match="holds no recipe"):
        load_model(run)
    (run / "config.yaml").write_text(dump_recipe(recipe))
    assert load_model(run).config == recipe


def test_replacing_is_atomic_and_can_be_refused(model_dir: Path, method: MaskedLatent, recipe: Recipe) -> None:
    save_model(model_dir, method, recipe, ModelCard(step=2))
    assert load_model(model_dir).step == 2
    with pytest.raises(RunError, match="exists already"):
        save_model(model_dir, method, recipe, replace=False)
    assert [path.name for path in model_dir.parent.iterdir()] == ["model"]


def edit(model_dir: Path, **changes: object) -> None:
    (model_dir / "manifest.json").unlink()
    info = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps({**info, **changes}))


def test_a_recipe_that_does_not_fit_its_weights_is_said(model_dir: Path, recipe: Recipe) -> None:
    deeper = recipe.model_copy(update={"model": recipe.model.model_copy(update={"depth": 3})})
    edit(model_dir, recipe=deeper.model_dump(mode="json"))
    with pytest.raises(CheckpointError, match=r"does not match its recipe: .*12 missing") as caught:
        load_model(model_dir)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not an openjepa model"),
        ({"version": 99}, "newer openjepa"),
        ({"recipe": {"name": "x", "modle": {}}}, "modle"),
        ({"recipe": None}, "no recipe"),
    ],
)
def test_a_config_of_something_else_is_one_line(model_dir: Path, changes: dict, message: str) -> None:
    edit(model_dir, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(model_dir)
    assert "\n" not in str(caught.value)


def test_other_paths_are_one_line_with_the_nearest(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no .*rnu' \(did you mean 'run'\?\)"):
        load_model(tmp_path / "rnu")
    with pytest.raises(CheckpointError, match="is no run, model or checkpoint directory"):
        load_model(tmp_path)
    (model_dir / "manifest.json").unlink()
    (model_dir / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"incomplete: model\.safetensors is missing"):
        load_model(model_dir)


def test_a_recipe_with_long_durations_comes_back(tmp_path: Path, method: MaskedLatent, recipe: Recipe) -> None:
    long = recipe.model_copy(update={"optim": OptimConfig(warmup=Duration(1_234_567, "steps"))})
    assert load_model(save_model(tmp_path / "m", method, long)).config == long
