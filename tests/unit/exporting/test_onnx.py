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


def test_names_and_origin_are_in_the_file(saved: Saved, tmp_path: Path) -> None:
    done = export(saved("clip"), tmp_path / "m.onnx", "onnx", opset=19, frames=6, dynamic="batch")
    session = onnxruntime.InferenceSession(str(done.path))
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("clips", ["batch", 3, 6, 32, 32])
    assert (result.name, result.shape) == ("tokens", ["batch", 48, 24])
    about = session.get_modelmeta().custom_metadata_map
    assert about["openjepa"] == openjepa.__version__
    assert about["mean"].startswith("0.485")


def test_axes_have_names_and_fixed_ones_are_fixed(saved: Saved, tmp_path: Path) -> None:
    export(saved("image"), tmp_path / "any.onnx", "onnx")
    (given,) = onnxruntime.InferenceSession(str(tmp_path / "any.onnx")).get_inputs()
    assert (given.name, given.shape) == ("images", ["batch", 3, "height", "width"])
    done = export(saved("image"), tmp_path / "m.onnx", "onnx", dynamic="none", size=(24, 40))
    (given,) = onnxruntime.InferenceSession(str(done.path)).get_inputs()
    assert given.shape == [1, 3, 24, 40]


def test_weights_beside_the_graph(saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above two gigabytes ONNX keeps weights in a second file; here the limit is lowered instead."""
    monkeypatch.setattr("openjepa.exporting.graph_files.SINGLE_FILE", 1000)
    done = export(saved("image"), tmp_path / "m.onnx", "onnx", dynamic="none")
    assert sorted(path.name for path, _ in done.files) == ["m.onnx", "m.onnx.data"]
    monkeypatch.undo()
    done = export(saved("image"), tmp_path / "m.onnx", "onnx", dynamic="none", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
