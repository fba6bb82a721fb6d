"""Small models and recipes for the hub's tests, and a way to run code in a throw-away process."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import pytest
import torch

from openjepa.config.schema import DataConfig, ModelConfig, NarrowPredictorConfig, Recipe
from openjepa.methods import MaskedLatent, build_method


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        name="small",
        data=DataConfig(image_size=16, source="scenes"),
        model=ModelConfig(arch=None, patch_size=4, dim=16, depth=2, heads=2),
        predictor=NarrowPredictorConfig(dim=8, depth=1),
    )


@pytest.fixture
def method(recipe: Recipe) -> MaskedLatent:
    """A method whose target differs from its online encoder."""
    torch.manual_seed(0)
    method = build_method(recipe)
    with torch.no_grad():
        for parameter in method.target.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return method


@pytest.fixture
def forked() -> Callable[[Callable[[], str]], str]:
    """Run a function in a fork of this process; returns what it returned, or the trace of what it raised."""

    def run(function: Callable[[], str]) -> str:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                message = function()
            except BaseException:
                message = traceback.format_exc()
            os.write(write, message.encode()[:60000])
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            message = pipe.read().decode()
        os.waitpid(child, 0)
        return message

    return run
