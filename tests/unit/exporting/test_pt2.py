"""``.pt2``: what is written computes what the source computes, for any batch, size and length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import openjepa
from openjepa.errors import ConfigError
from openjepa.exporting import export
from openjepa.exporting.graph_files import open_pt2
from openjepa.exporting.verify import relative_error
from openjepa.hub.provenance import PublishedProbe
from openjepa.model import Model
from openjepa.models.linear_head import LinearHead

Saved = Callable[[str], Path]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", ["image", "learned", "class token", "clip", "counted", "tiled", "interleaved"])
def test_any_batch_size_and_length(saved: Saved, tmp_path: Path, kind: str) -> None:
    done = export(saved(kind), tmp_path / "m.pt2", "pt2")
    clips = kind in ("clip", "counted", "tiled", "interleaved")
    assert done.error < 1e-5
    assert len(done.checks) == 3
    assert "height" in done.inputs
    assert ("frames" in done.inputs) == clips
    encoder: Any = openjepa.load(saved(kind)).encoder
    run = open_pt2(done.path)
    for shape in [(2, 3, 4, 32, 32), (1, 3, 9, 16, 41)] if clips else [(5, 3, 32, 32), (1, 3, 57, 24)]:
        with torch.no_grad():
            assert relative_error(run(normal(*shape)), encoder.forward_features(normal(*shape))) < 1e-5


def test_clips_of_uint8_pixels_and_images_for_an_encoder_of_video(saved: Saved, tmp_path: Path) -> None:
    model = openjepa.load(saved("tiled"))
    clips = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    done = export(model, tmp_path / "clips.pt2", "pt2", preprocessing=True, output="pooled")
    assert relative_error(open_pt2(done.path)(clips), model.embed(clips)) < 1e-5
    done = export(model, tmp_path / "images.pt2", "pt2", preprocessing=True, output="pooled", as_images=True)
    images = clips[:, :, 0]
    assert relative_error(open_pt2(done.path)(images), model.embed(images, as_images=True)) < 1e-5
    with pytest.raises(ConfigError, match="takes images already"):
        export(saved("image"), tmp_path / "m.pt2", "pt2", as_images=True)


def test_where_it_comes_from_is_in_the_file(saved: Saved, tmp_path: Path) -> None:
    extra = {"openjepa.json": ""}
    torch.export.load(export(saved("clip"), tmp_path / "m.pt2", "pt2", dynamic="batch").path, extra_files=extra)
    assert "clips (batch, 3, 4, 32, 32) float32" in extra["openjepa.json"]


@pytest.mark.parametrize("pooling", ["mean", "class"])
def test_a_fine_tuned_classifier_as_a_graph(saved: Saved, tmp_path: Path, pooling: Any) -> None:
    torch.manual_seed(2)
    probe = PublishedProbe(LinearHead(24, 3, pooling).eval(), ("ash", "elm", "oak"), "tuned")
    loaded = openjepa.load(saved("class token"))
    assert isinstance(loaded, Model)
    model = Model(replace(loaded.loaded, probe=probe))
    done = export(model, tmp_path / "m.pt2", "pt2", output="logits", preprocessing=True, dynamic="batch")
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    logits = open_pt2(done.path)(pixels)
    assert relative_error(logits.softmax(-1), model.classify(pixels)[1]) < 1e-5
    export(model, tmp_path / "ours")
    again = openjepa.load(tmp_path / "ours")
    assert again.probe is not None
    assert again.probe.classes == probe.classes
