"""``.pt2``, and what every graph has in common: a failure leaves nothing, nothing is replaced silently, mistakes are one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import openjepa
from openjepa.errors import CheckpointError, ConfigError, RunError
from openjepa.exporting import InputPlan, dispatch, export
from openjepa.exporting.graph_files import open_pt2
from openjepa.exporting.verify import check_export, relative_error
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


def test_an_export_that_computes_something_else_leaves_nothing(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "open_pt2", lambda path: lambda x: open_pt2(path)(x) * 1.001)
    (tmp_path / "old.pt2").write_text("of an earlier export")
    with pytest.raises(CheckpointError, match=r"computes something else on an input of 1×3×32×32: 1\.0e-03, more than"):
        export(saved("image"), tmp_path / "old.pt2", "pt2", overwrite=True)
    with pytest.raises(CheckpointError):
        export(saved("image"), tmp_path / "new.pt2", "pt2")
    assert [item.name for item in tmp_path.iterdir()] == ["old.pt2"]
    assert (tmp_path / "old.pt2").read_text() == "of an earlier export"


def test_values_that_are_not_finite_are_not_exported(saved: Saved, tmp_path: Path) -> None:
    model = openjepa.load(saved("image"))
    assert isinstance(model, Model)
    with torch.no_grad():
        model.encoder.norm.weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        export(model, tmp_path / "m.pt2", "pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_replaced_silently(saved: Saved, tmp_path: Path) -> None:
    place = tmp_path / "m.pt2"
    place.write_text("mine")
    with pytest.raises(RunError, match="exists already: --overwrite replaces it"):
        export(saved("image"), place, "pt2")
    export(saved("image"), place, "pt2", overwrite=True)
    assert place.stat().st_size > 1000
    with pytest.raises(RunError, match="is a directory and this export is one file"):
        export(saved("image"), tmp_path, "pt2", overwrite=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onx"}, "no export format 'onx' (did you mean 'onnx'?)"),
        ({"output": "pool"}, "no output 'pool' (did you mean 'pooled'?)"),
        ({"output": "logits"}, "came without a classifier"),
        ({"dynamic": "sizes"}, "did you mean 'size'?"),
        ({"size": 4}, "smaller than one patch"),
        ({"frames": 8}, "takes images"),
        ({"opset": 5}, "opset 5 cannot be written: 18 to 23 can"),
        ({"which": "teacher"}, "no encoder 'teacher'"),
    ],
)
def test_mistakes_are_one_line(saved: Saved, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        export(saved("image"), tmp_path / "m.onnx", **{"format": "onnx", **options})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_left_as_it_was(saved: Saved, tmp_path: Path) -> None:
    model = openjepa.load(saved("image"))
    assert isinstance(model.encoder, nn.Module)
    model.encoder.train()
    before = torch.get_rng_state()
    export(model, tmp_path / "m.pt2", "pt2")
    assert model.encoder.training
    assert torch.equal(before, torch.get_rng_state())


def test_the_error_is_relative_to_the_largest_value() -> None:
    assert relative_error(torch.tensor([1.0, -4.0]), torch.tensor([1.5, -4.0])) == 0.125
    assert relative_error(torch.zeros(2), torch.zeros(3)) == float("inf")
    with pytest.raises(CheckpointError, match=r"shape \(2, 3\) instead of \(2, 1\)"):
        check_export(lambda x: x, lambda x: x[:, :1], [torch.ones(2, 3)], "it")


def test_long_clips_are_checked_on_shorter_ones() -> None:
    """64 frames of 256 px are 8,192 tokens: minutes of arithmetic and gigabytes of attention."""
    plan = InputPlan(3, (256, 256), 64, (16, 16), 2, False, ("batch", "frames", "height", "width"))
    assert plan.checks()[0] == (1, 3, 32, 256, 256)
    assert all(shape[2] <= 34 for shape in plan.checks())
    assert replace(plan, dynamic=("batch",)).checks() == ((1, 3, 64, 256, 256), (2, 3, 64, 256, 256))
    assert replace(plan, size=(4096, 4096)).short_of() == 4  # two tubelets at least


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


def test_a_full_disk_is_said_before_and_a_killed_export_is_swept_away(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / ".new-m.pt2.0123abcd"  # what kill -9 leaves: nobody holds its lock
    left.mkdir()
    (left / "m.pt2").write_text("half")
    export(saved("image"), tmp_path / "m.pt2", "pt2", dynamic="none")
    assert [item.name for item in tmp_path.iterdir()] == ["m.pt2"]
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("openjepa.exporting.place.shutil.disk_usage", lambda _: usage)
    with pytest.raises(RunError, match=r"has 0 MB free and 'n.pt2' needs"):
        export(saved("image"), tmp_path / "n.pt2", "pt2", dynamic="none")
    assert [item.name for item in tmp_path.iterdir()] == ["m.pt2"]
