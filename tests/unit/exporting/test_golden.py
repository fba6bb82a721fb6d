"""The small checkpoints in published layouts, one of every system: all become our directories, and graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

import openjepa
from openjepa.exporting import export


@pytest.mark.parametrize("system", ["ijepa", "vjepa", "vjepa2", "vjepa2_1", "vjepa2_ac", "point_jepa"])
def test_published_layouts_become_model_directories(shared: Path, tmp_path: Path, system: str) -> None:
    model = openjepa.load(shared / "golden" / system)
    assert export(model, tmp_path / "out").error == 0
    again = openjepa.load(tmp_path / "out")
    assert again.name == model.name
    assert (again.predictor is None) == (model.predictor is None)


def test_images_through_the_stem_of_2_1(shared: Path, tmp_path: Path) -> None:
    done = export(shared / "golden" / "vjepa2_1", tmp_path / "m.pt2", "pt2", as_images=True)
    assert done.error < 1e-5
    assert "images (batch, 3, height, width)" in done.inputs
