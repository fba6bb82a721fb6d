"""Small models of every kind of position, saved as model directories once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from openjepa.config.schema import ClipConfig, DataConfig, ModelConfig, NarrowPredictorConfig, Recipe, TubesMask
from openjepa.hub.model_directory import save_model
from openjepa.methods import build_method

KINDS = {
    "image": (None, {"positions": "sincos2d"}),
    "learned": (None, {"positions": "learned"}),
    "class token": (None, {"positions": "sincos2d", "class_token": True}),
    "clip": (4, {"positions": "sincos3d"}),
    "counted": (4, {"positions": "sinusoid"}),
    "tiled": (4, {"positions": "rope3d", "rope_pairing": "tiled"}),
    "interleaved": (4, {"positions": "rope3d", "rope_pairing": "interleaved"}),
}


def small_recipe(kind: str) -> Recipe:
    frames, model = KINDS[kind]
    clip = None if frames is None else ClipConfig(frames=frames, fps=4)
    system = "ijepa" if frames is None else "vjepa2"
    mask = {} if frames is None else {"mask": TubesMask()}
    return Recipe(
        **mask,
        name=f"small-{kind.replace(' ', '-')}",
        system=system,
        data=DataConfig(image_size=32, source="scenes", eval_crop=1.0, clip=clip),
        model=ModelConfig(arch=None, patch_size=8, dim=24, depth=1, heads=2, **model),
        predictor=NarrowPredictorConfig(dim=24, depth=1, heads=2),
    )


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model directory of a kind of :data:`KINDS`."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def make(kind: str) -> Path:
        if kind not in made:
            recipe = small_recipe(kind)
            torch.manual_seed(0)
            method = build_method(recipe)
            with torch.no_grad():
                for parameter in method.parameters():  # so that nothing is at its special first value
                    parameter.add_(0.02 * torch.randn_like(parameter))
            made[kind] = save_model(root / kind, method, recipe)
        return made[kind]

    return make
