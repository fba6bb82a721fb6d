"""A video run so small that a step takes milliseconds, on videos in memory and in files: what the tests of clips share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
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


def write_video(path: Path, frames: np.ndarray, fps: int = 8) -> Path:
    """``(T, H, W, 3)`` uint8 frames as an mp4."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
