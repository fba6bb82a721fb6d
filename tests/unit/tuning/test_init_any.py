"""``pretrain --init`` from whatever ``load`` opens, through the verb; bad files are refused before anything is touched."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import openjepa
from openjepa.config import build_recipe
from openjepa.config.schema import Recipe
from openjepa.errors import CheckpointError, ConfigError, OpenJepaError
from openjepa.features import ClipOptions
from openjepa.hub.model_directory import save_model
from openjepa.methods import build_method
from openjepa.starting import initial_weights
from openjepa.training.initial import fit_initial
from openjepa.training.run import INITIAL


def recipe(*overrides: str, **model: Any) -> Recipe:
    free = {"arch": None, "dim": 48, "depth": 2, "heads": 4, "patch_size": 8, **model}
    raw = {
        "name": "tiny",
        "data": {"image_size": 32, "workers": 0, "cache": "none", "scenes_count": 16},
        "model": free,
        "predictor": {"dim": 24, "depth": 1, "heads": 2},
        "mask": {"kind": "multiblock", "targets": 2, "min_keep": 1},
        "optim": {"start_lr": 0, "lr": 1e-30, "final_lr": 0},
        "train": {"length": "1 steps", "batch_size": 8, "precision": "fp32", "device": "cpu"},
        "log": {"health_samples": 8, "tensorboard": False},
        "probe": {"every": None},
        "target": {"momentum": [1.0, 1.0]},
    }
    return build_recipe(raw, overrides)


def go(out: Path, init: Any, made: Recipe, **options: Any) -> Any:
    options = {"judge": False, "report": False, "console": False, **options}
    openjepa.pretrain("scenes", made, out=out, init=init, **options)
    return openjepa.load(out)


def test_from_a_hugging_face_directory(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.IJepaConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    network = transformers.IJepaModel(config).eval()
    network.save_pretrained(tmp_path / "hf")
    run = go(tmp_path / "run", tmp_path / "hf", recipe(positions="learned"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(run.encoder(x), network(x).last_hidden_state, atol=1e-4)
        assert torch.allclose(run.online(x), run.target(x), atol=1e-5)
    assert (tmp_path / "run" / INITIAL).read_text().startswith(f"weights from {tmp_path / 'hf'}")


def test_from_timm(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    model = openjepa.load("timm:test_vit@random@160px")
    network = model.encoder.network
    fields = {"dim": network.embed_dim, "depth": len(network.blocks), "heads": network.blocks[0].attn.num_heads}
    shape = {"patch_size": 16, "positions": "learned", "class_token": True, "mlp_ratio": 3.0}
    run = go(tmp_path / "run", model, recipe("data.image_size=160", **fields, **shape))
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        theirs = model.encoder.forward_features(x)
        assert torch.allclose(run.encoder(x), theirs, atol=1e-4 * float(theirs.abs().max()))


def test_from_a_published_file_in_shared(tmp_path: Path, shared: Path) -> None:
    source = shared / "golden" / "ijepa"
    sizes = ("model.dim=96", "model.depth=3", "model.heads=3", "predictor.dim=48", "predictor.depth=2")
    run = go(tmp_path / "run", source, recipe(*sizes, "predictor.heads=3"))
    given = openjepa.load(source)
    for part in ("online", "target", "predictor"):
        mine, theirs = getattr(run, part).state_dict(), getattr(given, part).state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.allclose(mine[key], theirs[key], atol=1e-6) for key in theirs)


def test_which_and_fresh_predictors(tmp_path: Path) -> None:
    made = recipe()
    method = build_method(made)
    with torch.no_grad():
        for value in method.target.parameters():
            value.add_(0.1)
    source = save_model(tmp_path / "model", method, made)
    run = go(tmp_path / "a", source, made, init_which="target", init_predictor=False)
    with torch.no_grad():
        assert torch.allclose(run.online.norm.bias, method.target.norm.bias, atol=1e-6)
        assert not torch.allclose(run.predictor.predictor_proj.weight, method.predictor.predictor_proj.weight)
    with pytest.raises(ConfigError, match="give one of them"):
        go(tmp_path / "a", source, made, resume=True)
    framed = openjepa.load(source).seen(ClipOptions(frames=2, fps=4))
    with pytest.raises(CheckpointError, match="start from the model itself"):
        initial_weights(framed)


def test_a_pixel_method_from_a_latent_one_says_what_is_fresh(tmp_path: Path) -> None:
    source = save_model(tmp_path / "model", build_method(recipe()), recipe())
    mae = openjepa.config.load_recipe(
        "mae-tiny", ["model.dim=48", "model.depth=2", "model.heads=4", "model.patch_size=8"]
    )
    start = fit_initial(mae, initial_weights(source))
    assert start.target is None
    assert any("cls_token starts fresh" in note for note in start.notes)
    assert any("the predictor starts fresh: the weights have a NarrowPredictor" in note for note in start.notes)


class Danger:
    """A pickle that would run code."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("kind", ["absent", "truncated", "code", "text"])
def test_bad_files_touch_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights.pt"
    torch.save({"encoder": build_method(recipe()).online.state_dict()}, file)
    if kind == "absent":
        file.unlink()
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:1000])
    elif kind == "code":
        file.write_bytes(pickle.dumps({"encoder": Danger()}))
    else:
        file.write_text("weights")
    go(tmp_path / "run", None, recipe())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(OpenJepaError) as caught:
        go(tmp_path / "run", file, recipe(), overwrite=True)
    assert "\n" not in str(caught.value)
    assert "weights.pt" in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    assert not Path("executed").exists()
