"""Reconstructions: drawn where patches are hidden, with the patch's own statistics, and scored without being flattered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_other_methods import SMALL, _rows, _run, plain_charts  # noqa: F401
from torch import Tensor
from visualize_fakes import RECIPE

from openjepa.cli import main
from openjepa.data import Normalise
from openjepa.hub.model_directory import load_model
from openjepa.methods import MaskedPixel
from openjepa.objectives import patchify
from openjepa.types import Ids, MaskGroup
from openjepa.visualize import latent, write_report
from openjepa.visualize.reconstruction import reconstruct

MAE: dict[str, Any] = {
    "method": "masked_pixel",
    "system": "mae",
    "mask": {"kind": "random", "ratio": [0.75, 0.75]},
    "model": {**RECIPE["model"], "class_token": True},
    "predictor": {"kind": "pixel", "dim": 16, "depth": 2, "heads": 2},
    "target": {"kind": "pixels", "transform": "layer_norm"},
    "objective": {"kind": "l2"},
}


def _mae(path: Path, **changes: Any) -> Path:
    return _run(path, {**MAE, **changes}, _rows({"mean_target": 1.0, "copy_nearest": 1.4}, 0.8))


def _images(count: int = 4) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("transform", ["layer_norm", "none"])
def test_a_perfect_model_reconstructs_the_image(
    tmp_path: Path, transform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The true targets as predictions give back the image, hidden or not."""
    loaded = load_model(_mae(tmp_path / "mae", target={"kind": "pixels", "transform": transform}))

    def oracle(self: MaskedPixel, images: Tensor, group: MaskGroup) -> tuple[Tensor, Ids]:
        query = group.targets[0]
        full = self.targets(images)
        return full.gather(1, query.index[..., None].expand(-1, -1, full.shape[-1])), query

    monkeypatch.setattr(MaskedPixel, "predict", oracle)
    images = _images()
    made = reconstruct(loaded, images)
    torch.testing.assert_close(made.pixels, images.float() / 255, atol=2e-3, rtol=0)
    torch.testing.assert_close(made.explained, torch.ones(4), atol=1e-3, rtol=0)
    assert ("true patch means" in made.columns) == (transform == "layer_norm")
    assert ("given away" in " ".join(made.notes)) is True
    assert [len(row) for row in made.rows] == [len(made.columns)] * 4


def test_predicting_nothing_explains_nothing(tmp_path: Path) -> None:
    """A zero prediction is the patch mean: share 0, and hidden patches are flat while visible ones are untouched."""
    loaded = load_model(_mae(tmp_path / "mae"))
    for parameter in loaded.predictor.predictor_proj.parameters():
        torch.nn.init.zeros_(parameter)
    images = _images()
    made = reconstruct(loaded, images)
    assert made.explained.abs().max() < 1e-4
    group = latent.draw_masks(loaded.config, 4)
    seen = latent.cells(group.contexts[0], 16)
    assert int(seen.sum()) == 4 * 4
    drawn, truth = patchify(made.pixels, 8), patchify(images.float() / 255, 8)
    torch.testing.assert_close(drawn[seen], truth[seen], atol=1e-5, rtol=0)
    normal = Normalise.for_data(loaded.config.data)
    mean = patchify(normal(images), 8).mean(-1)[~seen]
    channel = (drawn[~seen].view(-1, 64, 3) - normal.mean.flatten()) / normal.std.flatten()
    torch.testing.assert_close(channel, mean[:, None, None].expand_as(channel), atol=1e-4, rtol=0)
    assert np.array_equal(made.rows[0][2], made.rows[0][3]), "means alone are all there is"


def test_the_report_and_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _mae(tmp_path / "mae")
    text = write_report(run, options=SMALL).read_text(encoding="utf-8")
    assert 'id="reconstructed"' in text
    assert "true patch means" in text
    assert "share of variance explained" in text
    assert "from the mask token" in text, "the decoder's attention"
    out = tmp_path / "r.png"
    assert main(["visualize", "reconstructions", "scenes", "-m", str(run), "-o", str(out), "--count", "2"]) == 0
    assert Image.open(out).size[0] > 5 * 192
    words = ["visualize", "attention", "scenes", "-m", str(run), "--part", "predictor", "-p", "0,0", "--count", "2"]
    assert main([*words, "-o", str(out)]) == 0
    other = _run(tmp_path / "latent", {}, _rows({}, None))
    capsys.readouterr()
    assert main(["visualize", "reconstructions", "scenes", "-m", str(other), "-o", str(out)]) == 2
    assert "reconstructs no pixels" in capsys.readouterr().err
