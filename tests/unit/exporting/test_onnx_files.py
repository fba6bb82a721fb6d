"""What an ONNX file says of itself: names, axes, origin; and weights beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import openjepa
from openjepa.exporting import export

onnxruntime = pytest.importorskip("onnxruntime", reason="extra 'export' is not installed")
Saved = Callable[[str], Path]


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
