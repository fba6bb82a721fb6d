"""A model of video so small that it encodes in milliseconds, and labelled videos whose colour or motion is the class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from openjepa.config import Recipe, build_recipe
from openjepa.hub.model_directory import save_model
from openjepa.methods import build_method
from tests.video_files import write_video

COLOURS = {"blue": (60, 60, 190), "red": (190, 60, 60)}


def video_recipe(*overrides: str) -> Recipe:
    """Width 24, two blocks, clips of 4 frames at 32 px: a 2 × 2 × 2 grid; two mask tokens."""
    raw = {
        "name": "tiny-video",
        "system": "vjepa2",
        "data": {"image_size": 32, "clip": {"frames": 4, "fps": 8}, "workers": 0, "cache": "none", "scenes_count": 40},
        "mask": {"kind": "tubes"},
        "model": {"arch": None, "dim": 24, "depth": 4, "heads": 2, "patch_size": 16, "positions": "rope3d"},
        "predictor": {"dim": 24, "depth": 1, "heads": 2, "mask_tokens": 2},
        "train": {"length": "2 steps", "batch_size": 4, "precision": "fp32", "device": "cpu"},
    }
    return build_recipe(raw, overrides)


def video_model(folder: Path, *overrides: str) -> Path:
    """A model directory of random weights, all parts of it."""
    recipe = video_recipe(*overrides)
    torch.manual_seed(3)
    return save_model(folder, build_method(recipe), recipe)


def coloured_videos(root: Path, count: int, seed: int = 0, frames: int = 12) -> Path:
    """``root/{blue,red}/NN.mp4``: noise around a colour, 8 frames a second, wider than high."""
    random = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        for i in range(count):
            pictures = np.clip(random.normal(colour, 40, (frames, 32, 48, 3)), 0, 255).astype(np.uint8)
            write_video(root / name / f"{i:02}.mp4", list(pictures), fps=8)
    return root
