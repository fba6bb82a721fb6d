"""A tiny finished run on the built-in scenes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from openjepa.config import build_recipe, dump_recipe
from openjepa.hub.model_directory import save_model
from openjepa.methods import build_method
from openjepa.models import build_encoder

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode does not: makes visualize_fakes importable

from visualize_fakes import RECIPE, VIDEO_RECIPE, metric_rows, score, write_rows


@pytest.fixture(scope="session")
def _whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "tiny"
    run.mkdir()
    recipe = build_recipe(RECIPE)
    (run / "config.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    torch.manual_seed(0)
    save_model(run / "model", build_encoder(recipe.model, recipe.image_hw, 3), recipe)
    write_rows(run / "metrics.jsonl", metric_rows())
    (run / "environment.json").write_text(
        json.dumps(
            {
                "plan": {"steps": 400, "device": "cpu: no GPU was found"},
                "sessions": [{"cpu": "Some CPU", "gpus": [], "torch": "2.15.0"}],
            }
        )
    )
    table = {"encoder": (0.45, 0.5), "raw pixels": (0.39, 0.31), "random encoder": (0.28, 0.34)}
    scores = [
        score(who, name, value)
        for who, pair in table.items()
        for name, value in zip(("knn", "linear"), pair, strict=True)
    ]
    (run / "scores.json").write_text(json.dumps(scores))
    (run / "bad_files.json").write_text("{}")
    (run / "train.log").write_text("device cpu: no GPU was found\n")
    return run


@pytest.fixture
def run(_whole_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(_whole_run, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def _whole_video_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "clips"
    run.mkdir()
    recipe = build_recipe(VIDEO_RECIPE)
    (run / "config.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    torch.manual_seed(0)
    method = build_method(recipe)
    with torch.no_grad():  # the slow average of a trained model differs from its online encoder
        for weights in method.online.parameters():
            weights.add_(0.02 * torch.randn_like(weights))
    save_model(run / "model", method, recipe)
    write_rows(run / "metrics.jsonl", metric_rows())
    return run


@pytest.fixture
def video_run(_whole_video_run: Path, tmp_path: Path) -> Path:
    """A run of a video recipe with all its networks, untrained, on the built-in scenes; a copy that a test may change."""
    return Path(shutil.copytree(_whole_video_run, tmp_path / "clips"))
