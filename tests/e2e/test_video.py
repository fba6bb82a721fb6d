"""Video by the command line: train in two stages on mp4 files, stop, resume, evaluate, look; the wrong data is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import openjepa
from openjepa.training import read_rows
from tests.video_files import write_video

SMALL = [
    "data.image_size=16",
    "data.clip.frames=4",
    "data.clip.stride=1",
    "model.patch_size=8",
    "model.dim=24",
    "model.depth=1",
    "model.heads=2",
    "predictor.dim=12",
    "predictor.depth=1",
    "predictor.heads=1",
    "data.workers=0",
    "train.precision=fp32",
    "train.batch_size=4",
    "log.every=1 steps",
    "log.health_samples=8",
    "log.tensorboard=false",
]
STAGES = [
    "stages.0.changes.train.length=2 steps",
    "stages.1.changes.train.length=2 steps",
    "stages.1.changes.data.clip.frames=6",
]
Run = Callable[..., tuple[int, str, str]]


def write_clips(folder: Path, each: int, seed: int = 0) -> Path:
    """``each`` clips of a square that moves to the right, and as many of one that moves to the left."""
    pytest.importorskip("av")
    rng = np.random.default_rng(seed)
    for name, way in (("left", -1), ("right", 1)):
        for number in range(each):
            top, start = rng.integers(0, 20), rng.integers(0, 32)
            frames = np.full((12, 32, 32, 3), 40, np.uint8)
            for t, frame in enumerate(frames):
                columns = (np.arange(start, start + 8) + 2 * way * t) % 32
                frame[top : top + 10, columns] = (200, 60 + 20 * number, 30)
            (folder / name).mkdir(parents=True, exist_ok=True)
            write_video(folder / name / f"clip {number} ü.mp4", list(frames), fps=12)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled mp4 files to train on, four to judge on."""
    root = tmp_path_factory.mktemp("meine Filme é")
    write_clips(root / "train", 3)
    write_clips(root / "test", 2, seed=1)
    return root


def train(cli: Run, clips: Path, out: Path, *more: object) -> tuple[int, str, str]:
    return cli("pretrain", clips, "--recipe", "vjepa2-tiny", "--out", out, *SMALL, *STAGES, *more)


def test_two_stages_are_trained_resumed_and_judged_as_one_run(cli: Run, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, text, err = train(cli, clips, out)
    assert code == 0, err
    assert "stage 1 of 2 (constant): 2 steps on 4 frames of 16 x 16 px" in err
    assert "stage 2 of 2 (cooldown): 2 steps on 6 frames of 16 x 16 px" in err
    assert "knn" in text
    rows = read_rows(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    for place in (out, out / "stages/constant", out / "stages/cooldown"):
        assert (place / "config.yaml").is_file()
        assert (place / "report.html").stat().st_size > 0
        assert openjepa.run(place).status == "finished"
    assert json.loads((out / "scores.json").read_text()) == json.loads(
        (out / "stages/cooldown/scores.json").read_text()
    )

    model = openjepa.load(out)
    assert model.config.frames == 6
    assert openjepa.load(out / "stages/constant").config.frames == 4
    assert model.embed(torch.rand(2, 3, 6, 16, 16)).shape == (2, 24)

    code, _, err = train(
        cli, clips, out, "--resume", "--no-judge", "--no-report", "stages.1.changes.train.length=3 steps"
    )
    assert code == 0, err
    assert "stage 1 of 2 (constant) is finished" in err
    assert "continues after step 2" in err
    assert openjepa.run(out).step == 5


def test_every_verb_works_on_the_run_and_on_a_stage(cli: Run, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, _, err = train(cli, clips, out, "--no-judge", "--no-report")
    assert code == 0, err
    code, _, err = cli("pretrain", clips, "--out", out, "--resume", "--no-judge", "--no-report")  # its own recipe
    assert code == 0, err
    for place in (out, out / "stages/constant"):
        sides = ("--train", clips / "train", "--val", clips / "test")
        code, text, err = cli("evaluate", "knn", "-m", place, *sides, "--k", "3")
        assert code == 0, err
        assert "knn" in text
        for words in (("visualize", "report", place), ("runs", "show", place), ("doctor", place)):
            code, _, err = cli(*words)
            assert code in (0, 1), err  # the doctor may find a run of two steps ill
    code, text, err = cli("runs", "compare", out, out / "stages/constant")
    assert code == 0, err
    code, text, err = cli("runs", "list", tmp_path)
    assert "4 of 4" in text


def test_lengths_of_a_recipe_in_stages_are_asked_for_by_stage(cli: Run, clips: Path, tmp_path: Path) -> None:
    for flag in ("--steps", "--epochs"):
        code, _, err = train(cli, clips, tmp_path / "run", flag, 4)
        assert code == 2
        assert err.count("\n") == 1
        assert f"instead of {flag} set stages.0.changes.train.length=" in err
    assert not (tmp_path / "run").exists()


def test_images_for_a_video_recipe_and_videos_for_an_image_recipe(
    cli: Run, clips: Path, photos: Path, tmp_path: Path
) -> None:
    code, _, err = cli("pretrain", clips, "--recipe", "ijepa-tiny", "--out", tmp_path / "a", "--steps", 1)
    assert code == 2
    assert "holds 6 videos and no images: use a video recipe, e.g. vjepa-tiny" in err
    code, _, err = cli("pretrain", photos, "--recipe", "vjepa-tiny", "--out", tmp_path / "b", "--steps", 1)
    assert code == 2
    assert "holds 48 images and no videos: use an image recipe, e.g. ijepa-tiny" in err


def test_streams_of_clips_and_images_train_together(cli: Run, clips: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    streams = f"data.streams=[{{weight: 2}}, {{frames: 6}}, {{source: '{photos}', kind: images}}]"
    words = (
        "pretrain",
        clips,
        "--recipe",
        "vjepa-tiny",
        "--out",
        out,
        *SMALL,
        streams,
        "--steps",
        2,
        "--no-judge",
        "--no-report",
    )
    code, _, err = cli(*words)
    assert code == 0, err
    assert "48 images" in err
    assert openjepa.run(out).status == "finished"


@pytest.mark.parametrize("recipe", ["vjepa-tiny", "videomae-tiny"])
def test_the_other_tiny_recipes_train_on_scenes_in_motion(cli: Run, recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = [word for word in SMALL if recipe == "vjepa-tiny" or not word.startswith("predictor.heads")]
    words = ("pretrain", "scenes", "--recipe", recipe, "--steps", 2, "--out", out, *small, "data.scenes_count=80")
    code, text, err = cli(*words, "predictor.heads=1", "--no-report")
    assert code == 0, err
    assert "frame differences" in text
