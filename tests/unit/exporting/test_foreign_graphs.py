"""Networks of timm and transformers as graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

from openjepa.errors import ConfigError
from openjepa.exporting import TOLERANCE, export

pytest.importorskip("onnxruntime", reason="extra 'export' is not installed")


@pytest.mark.parametrize("name", ["timm:test_vit@random@32px", "timm:test_resnet@random@64px"])
def test_timm_becomes_a_graph_for_any_batch(tmp_path: Path, name: str) -> None:
    pytest.importorskip("timm", reason="extra 'timm' is not installed")
    done = export(name, tmp_path / "m.onnx", "onnx", output="pooled", preprocessing=True)
    assert done.error < TOLERANCE
    assert "batch" in done.inputs
    assert "height" not in done.inputs
    assert "size is fixed" in done.notes[0]


def test_transformers_becomes_a_graph(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="extra 'hf' is not installed")
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "hf")
    for format in ("onnx", "pt2"):
        done = export(tmp_path / "hf", tmp_path / f"m.{format}", format)  # type: ignore[arg-type]
        assert done.error < TOLERANCE


def test_a_size_the_network_cannot_take_is_said(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="extra 'timm' is not installed")
    name = "timm:test_vit@random@32px"
    with pytest.raises(ConfigError, match=r"torch.export cannot capture this encoder \(.+\): try --dynamic batch"):
        export(name, tmp_path / "m.pt2", "pt2", dynamic="size")
    assert list(tmp_path.iterdir()) == []
