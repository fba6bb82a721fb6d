"""Camera clips of benchmarks/camera_clips.py: known motion, content apart from it, and nothing to be told from one frame."""

import csv
import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openjepa.errors import DataError

pytest.importorskip("av", reason="mp4 files are written with PyAV")
PROGRAM = Path(__file__).resolve().parents[3] / "benchmarks" / "camera_clips.py"


@pytest.fixture(scope="module")
def camera():
    spec = importlib.util.spec_from_file_location("camera_clips", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules["camera_clips"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["camera_clips"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Smooth coloured noise, two classes, train/ and test/."""
    root, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for side, count in (("train", 24), ("test", 8)):
        for name in ("cup", "sea shell"):
            (root / side / name).mkdir(parents=True)
            for i in range(count):
                small = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)
                Image.fromarray(small).resize((80, 60), Image.Resampling.BICUBIC).save(root / side / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def clips(camera, photos, tmp_path_factory):
    return camera.camera_clips(photos, tmp_path_factory.mktemp("clips"), count=96, size=32, frames=16)


def rows(clips, name):
    return list(csv.DictReader((clips / f"{name}.csv").open()))


def test_layout_and_lists(camera, clips):
    for side, count in (("train", 96), ("val", 24)):
        motion, content = rows(clips, f"{side}-motion"), rows(clips, f"{side}-content")
        assert len(motion) == len(content) == count
        assert len(list((clips / "motion" / side).rglob("*.mp4"))) == count
        for a, b in zip(motion, content, strict=True):
            assert a["path"] == b["path"]
            assert Path(a["path"]).parts[:3] == ("motion", side, a["label"])
            assert a["label"] in camera.MOTIONS
            assert b["label"] in ("cup", "sea shell")
    names = [{Path(row["path"]).stem.rsplit("-", 1)[0] for row in rows(clips, f"{s}-motion")} for s in ("train", "val")]
    assert len(names[0]) == 48  # each photograph twice
    frames = camera.read_mp4(clips / rows(clips, "train-motion")[0]["path"])
    assert frames.shape == (16, 3, 32, 32)


def test_photographs_of_one_side_never_appear_on_the_other(camera, photos, tmp_path):
    for folder in (photos, photos / "train"):  # with a val side, and without
        sides = camera.photographs(folder)
        train, val = ({photo.path for photo in sides[side]} for side in ("train", "val"))
        assert train
        assert val
        assert not train & val
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(4):
        Image.new("RGB", (20, 20)).save(flat / f"{i}.png")
    with pytest.raises(DataError, match="no classes"):
        camera.photographs(flat)


def test_a_second_call_writes_nothing_and_another_is_refused(camera, photos, clips):
    times = {file: file.stat().st_mtime_ns for file in clips.rglob("*.mp4")}
    camera.camera_clips(photos, clips, count=96, size=32, frames=16)
    assert {file: file.stat().st_mtime_ns for file in clips.rglob("*.mp4")} == times
    with pytest.raises(DataError, match="other camera clips"):
        camera.camera_clips(photos, clips, count=100, size=32, frames=16)
    with pytest.raises(DataError, match="even size"):
        camera.camera_clips(photos, clips, size=33)


def test_the_picture_moves_as_the_name_says(camera):
    """A bright spot in the middle of the window at the first frame, followed."""
    for motion, (along, down) in camera.PANS.items():
        path = camera.poses(motion, 8, (1.0, 1.0), 3)
        angle = path.angle[0]
        moved = np.diff(path.x), np.diff(path.y)
        ahead = moved[0] * math.cos(angle) + moved[1] * math.sin(angle)  # along the window's own axes
        aside = -moved[0] * math.sin(angle) + moved[1] * math.cos(angle)
        assert ahead.mean() * along > 0.003 or along == 0
        assert aside.mean() * down > 0.003 or down == 0
    photo = torch.zeros(3, 60, 60, dtype=torch.uint8)
    photo[:, 26:34, 46:54] = 255  # to the right of the middle
    still = dict(x=np.full(2, 0.5), y=np.full(2, 0.5), width=np.full(2, 1.0))
    for sign, way in ((-1, 1), (1, -1)):  # rotate-cw lets the angle fall: what is right goes down
        frames = camera.film(photo, camera.Poses(angle=np.array([0.0, sign * 0.3]), **still), 32).float().mean(1)
        where = [(f * torch.arange(32)[:, None]).sum() / f.sum() for f in frames]
        assert (where[1] - where[0]) * way > 1.5
    assert (np.diff(camera.poses("rotate-cw", 8, (1.0, 1.0), 1).angle) < 0).all()
    for motion, sign in (("zoom-in", -1), ("zoom-out", 1)):
        steps = np.concatenate([np.diff(camera.poses(motion, 32, (1.0, 1.0), k).width) for k in range(20)])
        assert (sign * steps > 0).mean() > 0.85


def test_every_frame_is_a_draw_from_one_distribution_whatever_the_motion(camera):
    """Kolmogorov-Smirnov of place on the torus, width and angle, at the first and at a late frame."""
    count = 600
    for t in (0, 25):
        states = {}
        for k, motion in enumerate(camera.MOTIONS):
            paths = [camera.poses(motion, 32, (1.0, 1.25), 100 + k, i) for i in range(count)]
            states[motion] = np.array(
                [[p.x[t] % 2.5, p.y[t] % 2, p.width[t], p.angle[t] % (2 * math.pi)] for p in paths]
            )
        uniform = [(0, 2.5), (0, 2), camera.WIDTH, (0, 2 * math.pi)]
        for values in states.values():
            for column, (low, high) in enumerate(uniform):
                share = (np.sort(values[:, column]) - low) / (high - low)
                assert np.abs(share - np.arange(1, count + 1) / count).max() < 2.0 / math.sqrt(count)


def test_motion_does_not_depend_on_content_and_is_balanced(camera):
    table = np.zeros((2, 9))
    for i in range(3000):
        table[i % 2, camera.MOTIONS.index(camera.motion_of(f"{('cup', 'shell')[i % 2]}-{i}", 0, 0))] += 1
    assert table.min() > 120
    assert table.max() < 215


def test_one_decoded_frame_tells_nothing_and_differences_tell_the_motion(camera, photos, tmp_path):
    clips = camera.camera_clips(photos, tmp_path / "many", count=400, size=24, frames=16)
    found = camera.check(clips)
    for look in ("random frame", "first frame", "last frame", "mean frame"):
        assert found[f"motion, {look}"] < 26  # 100 clips, chance 11 %: three standard errors are 9.4
    assert found["motion, frame differences"] > 30
