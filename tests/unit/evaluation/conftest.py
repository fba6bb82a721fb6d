"""Features and folders with classes that can be told apart, but not perfectly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from openjepa.config.schema import DataConfig
from openjepa.data import EvalTransform, Normalise
from openjepa.features import Features


def make_features(n, d=10, classes=("ant", "bee", "cat"), seed=0, spread=1.5, labels=None):
    """Gaussian classes around fixed centres, badly scaled channels, a large common mean."""
    centres = torch.randn(len(classes), d, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, len(classes), (n,), generator=generator) if labels is None else labels
    x = centres[labels] + spread * torch.randn(n, d, generator=generator)
    x = x * torch.logspace(1, -2, d) + 30
    return Features(x.float(), torch.arange(n), labels, (), tuple(classes))


@pytest.fixture
def make():
    return make_features


class TinyEncoder(nn.Module):
    """Patch projection and a nonlinearity."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.embed_dim, self.patch_size = 12, (4, 4)
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(12, 3, 4, 4, generator=generator) * 0.2)

    def forward_features(self, x, keep=None):
        tokens = torch.tanh(nn.functional.conv2d(x, self.weight, stride=4).flatten(2).transpose(1, 2))
        return tokens if keep is None else tokens.gather(1, keep.index[..., None].expand(-1, -1, 12))


@pytest.fixture
def encoder():
    return TinyEncoder()


@pytest.fixture
def transform():
    return EvalTransform(DataConfig(image_size=16, eval_crop=1.0))


@pytest.fixture
def normalise():
    return Normalise.for_data(DataConfig(image_size=16))


COLOURS = {"blue": (60, 60, 190), "green": (60, 190, 60), "red": (190, 60, 60)}


@pytest.fixture
def write():
    """``write(root, names, count)``: folders of noisy images whose colour tells the class."""

    def call(root, names, count, seed=0):
        generator = np.random.default_rng(seed)
        for name in names:
            (root / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = generator.normal(COLOURS.get(name, (120, 120, 120)), 70, (16, 16, 3))
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / name / f"{i:03}.png")
        return root

    return call
