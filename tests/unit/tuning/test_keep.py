"""A classifier that is kept: saved, continued after a kill, opened again, used on a folder; and what is refused."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import openjepa
from openjepa.classifying import accuracy, classify, write_csv
from openjepa.config import build_recipe
from openjepa.errors import ConfigError, DataError, RunError
from openjepa.features import ClipOptions
from openjepa.hub.model_directory import save_model
from openjepa.models import build_encoder
from openjepa.tuning import FineTuned, finetune

COLOURS = {"blue": (60, 60, 190), "green": (60, 190, 60), "red": (190, 60, 60)}
QUICK: dict[str, Any] = {"epochs": 5, "train_batch": 20, "lrs": (5e-3,), "precision": "fp32", "baselines": False}


def write(root: Path, names: tuple[str, ...], count: int, seed: int) -> Path:
    generator = np.random.default_rng(seed)
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.normal(COLOURS[name], 70, (20, 20, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / name / f"{i:03}.png")
    return root


@pytest.fixture(autouse=True)
def save_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openjepa.evaluation.tuning.COST", 0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("data")
    sides = {"train": (20, 0), "val": (8, 1)}
    return {side: str(write(root / side, tuple(COLOURS), n, seed)) for side, (n, seed) in sides.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    free = {"arch": None, "dim": 16, "depth": 2, "heads": 2, "patch_size": 4}
    recipe = build_recipe({"name": "tiny", "data": {"image_size": 16}, "model": free, "predictor": {"dim": 12}}, ())
    return save_model(tmp_path_factory.mktemp("model") / "model", build_encoder(recipe.model, (16, 16)), recipe)


@pytest.fixture(scope="module")
def kept(model: Path, data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> FineTuned:
    return finetune(model, **data, out=tmp_path_factory.mktemp("kept") / "run", tune="full", **QUICK)


def test_the_saved_classifier_has_the_score(kept: FineTuned, data: dict[str, str]) -> None:
    (score,) = kept.scores
    assert score.value > 0.75
    assert {item.name for item in kept.run_dir.iterdir()} == {"model", "scores.json", "finetune.json", ".lock"}
    tuned = openjepa.load(kept.run_dir)
    assert tuned.probe is not None
    assert tuned.probe.classes == tuple(COLOURS)
    rows = list(classify(data["val"], kept.run_dir, top=2, batch_size=7, device="cpu"))
    assert len(rows) == 24
    right = accuracy(rows)
    assert right == (round(24 * score.value), 24)
    assert all(row.probabilities[0] >= row.probabilities[1] for row in rows)
    paths = [str(Path(data["val"]) / row.path) for row in rows]
    labels, shares = tuned.classify(paths)
    assert labels == [row.labels[0] for row in rows]
    assert torch.allclose(shares.amax(1), torch.tensor([row.probabilities[0] for row in rows]), atol=1e-5)


def test_the_card_and_the_config_say_where_it_comes_from(kept: FineTuned, model: Path) -> None:
    tuned = openjepa.load(kept.run_dir)
    about = tuned.loaded.info["finetuned"]
    assert about["from"] == str(model)
    assert about["protocol"]["trained"] == "end to end"
    assert f"Fine-tuned from {model}" in (kept.run_dir / "model" / "README.md").read_text()


@pytest.mark.parametrize("tune", ["last-n", "lora"])
def test_other_ways_are_saved_whole(model: Path, data: dict[str, str], tmp_path: Path, tune: str) -> None:
    done = finetune(model, **data, out=tmp_path / "run", tune=tune, blocks=1, **QUICK)
    before, after = openjepa.load(model), openjepa.load(done.run_dir)
    assert before.encoder.state_dict().keys() == after.encoder.state_dict().keys()
    same = torch.equal(before.encoder.blocks[0].attn.qkv.weight, after.encoder.blocks[0].attn.qkv.weight)
    assert same == (tune == "last-n")
    rows = list(classify(data["val"], after, device="cpu"))
    assert accuracy(rows) == (round(24 * done.scores[0].value), 24)


def test_killed_and_resumed_is_uninterrupted(
    model: Path, data: dict[str, str], tmp_path: Path, kept: FineTuned
) -> None:
    place = tmp_path / "run"
    child = os.fork()
    if child == 0:
        try:

            def die(_subject: str, _what: str, done: int, _total: int) -> None:
                if done == 2:
                    os.kill(os.getpid(), signal.SIGKILL)

            finetune(model, **data, out=place, tune="full", **QUICK, on_progress=die)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not (place / "model").exists()
    with pytest.raises(RunError, match="holds a fine-tuning already: --resume goes on"):
        finetune(model, **data, out=place, tune="full", **QUICK)
    with pytest.raises(RunError, match="was begun with epochs 5, now it is 6"):
        finetune(model, **data, out=place, tune="full", resume=True, **{**QUICK, "epochs": 6})
    done = finetune(model, **data, out=place, tune="full", resume=True, **QUICK)
    assert done.scores[0].value == kept.scores[0].value
    ours, theirs = (openjepa.load(run.run_dir) for run in (done, kept))
    for key, value in theirs.encoder.state_dict().items():
        assert torch.equal(value, ours.encoder.state_dict()[key]), key
    with pytest.raises(RunError, match="was begun with tune full, now it is lora"):  # also when it is finished
        finetune(model, **data, out=place, tune="lora", resume=True, **QUICK)
    again = finetune(model, **data, out=place, resume=True, tune="full", **QUICK)  # finished: nothing is trained
    assert [score.value for score in again.scores] == [score.value for score in done.scores]


def test_overwrite_and_other_folders(model: Path, data: dict[str, str], tmp_path: Path) -> None:
    short = {**QUICK, "epochs": 1}
    finetune(model, **data, out=tmp_path / "run", **short)
    finetune(model, **data, out=tmp_path / "run", overwrite=True, **short)
    for error, words, place, how in (
        (RunError, "is not empty and holds no fine-tuning", Path(data["val"]), {}),
        (RunError, "is not empty and holds no fine-tuning", Path(data["val"]), {"overwrite": True}),
        (RunError, "no fine-tuning to resume", tmp_path / "none", {"resume": True}),
        (ConfigError, "give one of them", tmp_path / "run", {"resume": True, "overwrite": True}),
        (ConfigError, "finetune has no option 'lr'", tmp_path / "b", {"lr": 1e-3}),
        (ConfigError, "tune cannot be 'half'", tmp_path / "c", {"tune": "half"}),
        (ConfigError, "can be scored, not saved", tmp_path / "d", {"clips": ClipOptions(frames=2, fps=4)}),
    ):
        with pytest.raises(error, match=words) as caught:
            finetune(model, **data, out=place, **{**short, **how})
        assert "\n" not in str(caught.value)
    assert len(list(Path(data["val"]).iterdir())) == 3
    assert not (tmp_path / "b").exists()


def test_a_broken_image_in_the_middle(kept: FineTuned, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, name in enumerate(("blue", "red")):
        colour = np.full((20, 20, 3), COLOURS[name], dtype=np.uint8)
        Image.fromarray(colour).save(flat / f"{2 * i}.png")
    (flat / "1.png").write_bytes(b"no image")
    (alone,) = classify(flat / "2.png", kept.run_dir, device="cpu")
    assert alone.labels == ("red",)
    rows = list(classify(flat, kept.run_dir, device="cpu"))
    assert [row.path for row in rows] == ["0.png", "2.png", "1.png"]
    assert rows[2].error
    assert accuracy(rows) is None
    table = list(csv.DictReader(write_csv(tmp_path / "out.csv", rows).open()))
    assert [row["label"] for row in table] == ["blue", "red", ""]
    assert table[2]["error"]


def test_what_cannot_be_classified(model: Path, kept: FineTuned, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no classifier"):
        next(classify(tmp_path, model))
    with pytest.raises(DataError):
        next(classify(tmp_path / "none", kept.run_dir))
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="bad.png"):
        next(classify(tmp_path / "bad.png", kept.run_dir))
    with pytest.raises(ConfigError, match="--top 0"):
        next(classify(tmp_path, model, top=0))


def test_a_network_of_timm(data: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    options = {**QUICK, "epochs": 1, "train_batch": 30}
    done = finetune("timm:test_vit@random", **data, out=tmp_path / "run", tune="lora", **options)
    tuned = openjepa.load(done.run_dir)
    rows = list(classify(data["val"], tuned, device="cpu"))
    assert accuracy(rows) == (round(24 * done.scores[0].value), 24)


def test_the_command_line(
    model: Path, data: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from openjepa.cli import main

    words = ["evaluate", "finetune", "--model", str(model), "--train", data["train"], "--val", data["val"]]
    words += ["--tune", "last-n", "--blocks", "1", "--epochs", "1", "--train-batch", "30", "--no-baselines"]
    assert main([*words, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert "trained=the last 1 blocks" in " ".join(capsys.readouterr().out.split())
    assert main(["classify", data["val"], "--model", str(tmp_path / "run"), "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 24
    assert "of 24 files" in shown.err
    assert main([*words, "--resume"]) == 2
    assert "give --out" in capsys.readouterr().err


def test_of_several_rates_the_chosen_one_is_kept(model: Path, data: dict[str, str], tmp_path: Path) -> None:
    options = {**QUICK, "lrs": (1e-7, 5e-3), "epochs": 3}
    done = finetune(model, **data, out=tmp_path / "run", **options)
    (score,) = done.scores
    assert score.protocol["lr"] == 5e-3
    rows = list(classify(data["val"], done.run_dir, device="cpu"))
    assert accuracy(rows) == (round(24 * score.value), 24)


def test_clips(tmp_path: Path) -> None:
    torch.manual_seed(0)
    free = {"arch": None, "dim": 16, "depth": 1, "heads": 2, "patch_size": 16, "positions": "sincos3d"}
    data = {"image_size": 32, "clip": {"frames": 4, "stride": 2}, "scenes_count": 60}
    made = {"name": "clips", "data": data, "mask": {"kind": "tubes"}, "model": free, "predictor": {"dim": 12}}
    recipe = build_recipe(made, ())
    source = save_model(tmp_path / "model", build_encoder(recipe.model, (32, 32), 3, recipe.frames), recipe)
    options = {**QUICK, "epochs": 1, "tune": "last-n", "blocks": 1, "train_batch": 10}
    done = finetune(source, train="scenes", val="scenes", out=tmp_path / "run", **options)
    tuned = openjepa.load(done.run_dir)
    clip = torch.randint(0, 255, (2, 3, 4, 32, 32), dtype=torch.uint8)
    labels, shares = tuned.classify(clip)
    assert tuned.probe is not None
    assert shares.shape == (2, len(tuned.probe.classes))
    assert set(labels) <= set(tuned.probe.classes)
    rows = list(classify("scenes", tuned, device="cpu"))
    assert accuracy(rows) == (round(len(rows) * done.scores[0].value), len(rows))
