"""Joint embedding by the command line: train, stop, resume, load, evaluate, draw, report, start again from the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import openjepa

SMALL = [
    "data.image_size=16",
    "model.patch_size=4",
    "model.dim=16",
    "model.depth=1",
    "model.heads=2",
    "predictor.hidden=[16]",
    "predictor.dim=8",
    "data.workers=0",
    "train.precision=fp32",
    "log.every=2 steps",
    "log.health_samples=16",
    "log.tensorboard=false",
]
VIEWS = {"lejepa": "data.views=[{count: 2}, {image_size: 8}]", "byol": "data.views=[{count: 2}]"}
Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("system", VIEWS)
def test_every_verb_works_on_a_run_of_joint_embedding(system: str, cli: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["pretrain", photos, "--recipe", f"{system}-tiny", "--batch-size", 8, "--out", out, *SMALL, VIEWS[system]]
    code, _, err = cli(*words, "--steps", 4)
    assert code == 0, err
    assert "healthy" in err or "warming up" in err or "collapse" in err
    code, _, err = cli("pretrain", photos, "--out", out, "--resume", "--steps", 6)
    assert code == 0, err
    assert "continues after step 4" in err

    model = openjepa.load(out)
    assert model.config.system == system
    assert (model.target is not None) == (system == "byol")
    assert model.embed(torch.rand(2, 3, 16, 16)).shape == (2, 16)

    code, text, err = cli(
        "evaluate", "knn", "-m", out, "--train", photos / "train", "--val", photos / "test", "--k", "3"
    )
    assert code == 0, err
    assert "knn" in text
    for verb, ending in (("report", "html"), ("curves", "png")):
        picture = tmp_path / f"{verb}.{ending}"
        code, text, err = cli("visualize", verb, out, "--out", picture)
        assert code == 0, err
        assert picture.stat().st_size > 0
    code, text, err = cli("runs", "show", out)
    assert code == 0, err

    code, _, err = cli(*[tmp_path / "again" if word == out else word for word in words], "--steps", 1, "--init", out)
    assert code == 0, err
