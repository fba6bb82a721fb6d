"""ONNX: what is written computes in ONNX Runtime what the source computes, for any batch, size and length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import openjepa
from openjepa.exporting import export
from openjepa.exporting.graph_files import open_onnx
from openjepa.exporting.verify import relative_error

onnxruntime = pytest.importorskip("onnxruntime", reason="extra 'export' is not installed")
Saved = Callable[[str], Path]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", ["image", "clip", "tiled", "interleaved"])
def test_any_batch_size_and_length(saved: Saved, tmp_path: Path, kind: str) -> None:
    done = export(saved(kind), tmp_path / "m.onnx", "onnx")
    assert done.error < 1e-5
    assert len(done.checks) == 3
    encoder: Any = openjepa.load(saved(kind)).encoder
    run = open_onnx(done.path)
    shapes = [(5, 3, 32, 32), (1, 3, 57, 24)] if kind == "image" else [(2, 3, 4, 32, 32), (1, 3, 9, 16, 41)]
    for shape in shapes:
        with torch.no_grad():
            assert relative_error(run(normal(*shape)), encoder.forward_features(normal(*shape))) < 1e-5


def test_uint8_pixels_in_pooled_features_out(saved: Saved, tmp_path: Path) -> None:
    done = export(saved("tiled"), tmp_path / "m.onnx", "onnx", preprocessing=True, output="pooled")
    model = openjepa.load(saved("tiled"))
    clips = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    assert relative_error(open_onnx(done.path)(clips), model.embed(clips)) < 1e-5
    assert "uint8" in done.inputs
