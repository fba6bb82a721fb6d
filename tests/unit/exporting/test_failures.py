"""What every graph has in common: a failure leaves nothing, nothing is replaced silently, mistakes are one line."""

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
from openjepa.model import Model

Saved = Callable[[str], Path]


def test_an_export_that_computes_something_else_leaves_nothing(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "open_pt2", lambda path: lambda x: open_pt2(path)(x) * 1.001)
    (tmp_path / "old.pt2").write_text("of an earlier export")
    with pytest.raises(CheckpointError, match=r"computes something else on an input of 1×3×32×32: 1\.0e-03, more than"):
        export(saved("image"), tmp_path / "old.pt2", "pt2", dynamic="none", overwrite=True)
    with pytest.raises(CheckpointError):
        export(saved("image"), tmp_path / "new.pt2", "pt2", dynamic="none")
    assert [item.name for item in tmp_path.iterdir()] == ["old.pt2"]
    assert (tmp_path / "old.pt2").read_text() == "of an earlier export"


def test_values_that_are_not_finite_are_not_exported(saved: Saved, tmp_path: Path) -> None:
    model = openjepa.load(saved("image"))
    assert isinstance(model, Model)
    with torch.no_grad():
        model.encoder.norm.weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        export(model, tmp_path / "m.pt2", "pt2", dynamic="none")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_replaced_silently(saved: Saved, tmp_path: Path) -> None:
    place = tmp_path / "m.pt2"
    place.write_text("mine")
    with pytest.raises(RunError, match="exists already: --overwrite replaces it"):
        export(saved("image"), place, "pt2")
    export(saved("image"), place, "pt2", dynamic="none", overwrite=True)
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
    export(model, tmp_path / "m.pt2", "pt2", dynamic="none")
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
