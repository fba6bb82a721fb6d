"""A tiny encoder and a labelled folder of generated images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from openjepa.config.schema import DataConfig
from openjepa.data import EvalTransform, Normalise


class TinyEncoder(nn.Module):
    """Patch projection and two norms: all the protocol asks for, four 'blocks' for last4."""

    def __init__(self, dim: int = 8, patch: int = 4, seed: int = 0, gain: float = 1.0) -> None:
        super().__init__()
        self.embed_dim, self.patch_size, self.gain = dim, (patch, patch), gain
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(dim, 3, patch, patch, generator=generator) * 0.2)
        self.register_buffer("shift", torch.zeros(dim), persistent=False)
        self.calls = torch.zeros(())

    def forward_features(self, x, keep=None):
        assert not torch.is_grad_enabled()
        assert not self.training
        tokens = nn.functional.conv2d(x, self.weight, stride=self.patch_size).flatten(2).transpose(1, 2)
        return torch.tanh(tokens * self.gain) + self.shift

    def forward_intermediates(self, x, indices=None, keep=None, norm="final"):
        assert indices == 4
        return [self.forward_features(x) * scale for scale in (1, 2, 3, 4)]


@pytest.fixture
def encoder():
    return TinyEncoder()


@pytest.fixture
def data_config():
    return DataConfig(image_size=16, eval_crop=1.0)


@pytest.fixture
def transform(data_config):
    return EvalTransform(data_config)


@pytest.fixture
def normalise(data_config):
    return Normalise.for_data(data_config)


def write_images(root, classes, count, seed=0, size=16):
    """Folders of noisy images whose colour tells the class."""
    generator = np.random.default_rng(seed)
    for name, colour in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.clip(generator.normal(colour, 60, (size, size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:03}.png")
    return root


CLASSES = {"blue": (60, 60, 190), "green": (60, 190, 60), "red": (190, 60, 60)}


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / "my images", CLASSES, 7)
