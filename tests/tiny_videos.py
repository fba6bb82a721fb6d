"""A video run so small that a step takes milliseconds, on videos in memory: what the tests of clips share."""

from __future__ import annotations

from typing import Any

from fake_videos import FakeVideos
from tiny_runs import Generated

from openjepa.config import Recipe, build_recipe
from openjepa.data import Source

# Two clip lengths and images beside them, of one, one and another data set.
STREAMS = (
    "data.streams=[{weight: 2}, {frames: 8, weight: 1}, {kind: images, source: photos, image_size: 24, weight: 1}]",
    "predictor.mask_tokens=6",
)


def video_recipe(*overrides: str) -> Recipe:
    """Width 24, two blocks, clips of 4 × 24 × 24 as 2 × 3 × 3 tokens, two mask pairs, float32, no TensorBoard."""
    raw: dict[str, Any] = {
        "name": "tiny-video-test",
        "system": "vjepa",
        "data": {"image_size": 24, "clip": {"frames": 4}, "workers": 0, "cache": "none"},
        "mask": {"kind": "tubes", "groups": [{"blocks": 3}, {"blocks": 1, "spatial_scale": [0.5, 0.5]}]},
        "model": {"arch": None, "dim": 24, "depth": 2, "heads": 2, "patch_size": 8, "positions": "sincos3d"},
        "predictor": {"dim": 12, "depth": 1, "heads": 1, "mask_tokens": 2},
        "objective": {"kind": "l1", "reduction": "pair"},
        "train": {"length": "6 steps", "batch_size": 8, "precision": "fp32", "device": "cpu"},
        "log": {"every": "3 steps", "health_samples": 16, "tensorboard": False},
        "checkpoint": {"every": "4 steps"},
        "probe": {"every": None},
    }
    return build_recipe(raw, overrides)


def three_sources() -> tuple[Source, Source, Source]:
    """For :data:`STREAMS`: videos, the same videos, images."""
    videos = FakeVideos(24)
    return videos, videos, Generated()
