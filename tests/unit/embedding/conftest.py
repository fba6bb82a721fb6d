"""Tiny models, folders of images with a corrupt one in the middle, and small videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openjepa.config import build_recipe
from openjepa.embedding import embed, open_store
from openjepa.hub.model_directory import save_model
from openjepa.methods import build_method

RAW = {"model": {"arch": None, "dim": 16, "depth": 2, "heads": 2}, "predictor": {"dim": 12, "depth": 1, "heads": 1}}


def save_tiny(path: Path, data: dict, seed: int = 0) -> str:
    raw = {"name": "tiny", "data": data, **RAW, "seed": seed}
    recipe = build_recipe(raw, [])
    torch.manual_seed(seed)
    save_model(path, build_method(recipe), recipe)
    return str(path)


@pytest.fixture(scope="session")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("models") / "image", {"image_size": 32})


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("models") / "other", {"image_size": 32}, seed=1)


@pytest.fixture(scope="session")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from openjepa.config import load_recipe

    words = ["data.image_size=32", "model.arch=null", "model.dim=24", "model.depth=1", "model.heads=2"]
    words += [
        "data.clip.frames=4",
        "data.clip.fps=8",
        "data.clip.stride=null",
        "predictor.dim=12",
        "predictor.depth=1",
        "predictor.heads=1",
    ]
    recipe = load_recipe("vjepa-tiny", words)
    path = tmp_path_factory.mktemp("models") / "clip"
    save_model(path, build_method(recipe), recipe)
    return str(path)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images of several sizes in two classes; one is cut off, one is text."""
    root = tmp_path_factory.mktemp("pictures") / "data"
    rng = np.random.default_rng(0)
    for number in range(30):
        place = root / ("cat" if number % 2 else "dög") / f"{number:03d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        size = (24 + number, 40, 3)
        Image.fromarray(rng.integers(0, 255, size, np.uint8)).save(place)
    cut = root / "cat" / "015.jpg"
    cut.write_bytes(cut.read_bytes()[:200])
    (root / "dög" / "016.jpg").write_text("no image at all")
    return root


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 1, 3 and 2 seconds at 8 frames per second, and an empty file as a video."""
    av = pytest.importorskip("av")
    root = tmp_path_factory.mktemp("films") / "data"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number, seconds in enumerate((1, 3, 2)):
        with av.open(str(root / f"film{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width = stream.height = 48
            stream.pix_fmt = "yuv420p"
            for _ in range(8 * seconds):
                values = np.repeat(np.repeat(rng.integers(0, 255, (6, 6, 3), np.uint8), 8, 0), 8, 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
            container.mux(stream.encode())
    (root / "film1b.mp4").write_bytes(b"no film")
    return root


@pytest.fixture
def whole(tmp_path, pictures, image_model):
    """What one process makes of the pictures."""
    return open_store(embed(pictures, image_model, tmp_path / "whole.npz", workers=0, device="cpu").path)


@pytest.fixture
def same():
    """Compares two stores row by row."""

    def compare(store, whole) -> None:
        assert store.ids == whole.ids
        assert store.meta["error"].tolist() == whole.meta["error"].tolist()
        np.testing.assert_allclose(store.vectors(), whole.vectors(), atol=1e-5)

    return compare
