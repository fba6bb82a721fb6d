"""Small folders of images and the overrides that make a run take seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from openjepa.cli import main
from openjepa.data import SceneSource

SMALL = [
    "data.image_size=16",
    "model.patch_size=4",
    "model.dim=16",
    "model.depth=1",
    "model.heads=2",
    "predictor.dim=8",
    "predictor.depth=1",
    "predictor.heads=2",
    "data.workers=0",
    "train.precision=fp32",
    "log.every=2 steps",
    "log.health_samples=16",
    "log.tensorboard=false",
]


def write_scenes(folder: Path, count: int, classes: int = 3, seed: int = 0) -> Path:
    """``count`` labelled PNGs of the built-in scenes, in one subfolder per class."""
    source = SceneSource(400, 16, seed)
    written = 0
    for i in range(len(source)):
        if source.label(i) < classes and written < count:
            place = folder / source.classes[source.label(i)] / f"bild {i} ü.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(source.read(i).permute(1, 2, 0).numpy()).save(place)
            written += 1
    assert written == count
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled folder with train/ and test/, spaces and unicode in its names."""
    root = tmp_path_factory.mktemp("meine Fotos é")
    write_scenes(root / "train", 48)
    write_scenes(root / "test", 18, seed=1)
    return root


@pytest.fixture(scope="session")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps, made by the command line."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["pretrain", str(photos), "--steps", "6", "--batch-size", "8", "--out", str(out), *SMALL]) == 0
    return out


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        torch.manual_seed(0)
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return run
