"""Runs on clips: from files or memory, stopped and resumed, with images and other clip lengths beside them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_videos import FakeVideos
from tiny_runs import Generated, differences, largest_difference, numbers, saved_state
from tiny_videos import STREAMS, three_sources, video_recipe
from video_files import write_video

from openjepa.config import Recipe
from openjepa.data import Normalise, Source, open_source
from openjepa.data.clips import Clips
from openjepa.errors import DataError
from openjepa.methods import build_method
from openjepa.training import Event, train
from openjepa.training.compute import flops_per_sample
from openjepa.training.engine import Engine
from openjepa.training.lanes import plan_lanes
from openjepa.training.panel import FEWEST, HealthPanel


def stop_after(step: int) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if event.kind == "step" and event.data["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return listen


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve mp4 files of 40 frames, one of 2 frames, one that is no video."""
    root = tmp_path_factory.mktemp("films")
    for number in range(12):
        write_video(root / f"{number:02d}.mp4", 40, size=(32, 40))
    write_video(root / "short.mp4", 2, size=(32, 40))
    (root / "broken.mp4").write_bytes(b"no video at all" * 40)
    return root


def opened(root: Path, recipe: Recipe) -> Source:
    assert recipe.data.clip is not None
    return open_source(root, clip=Clips.training(recipe.data.clip))


@pytest.mark.parametrize(
    "overrides",
    [(*STREAMS, "data.workers=2", "train.micro_batch=1"), ("model.drop_path=0.3", "objective.variance=0.1")],
    ids=["streams", "one stream"],
)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    recipe = video_recipe(*overrides)
    sources = list(three_sources()) if STREAMS[0] in overrides else FakeVideos(24)
    train(recipe, sources, out=tmp_path / "whole", console=False)
    for resume, at in ((False, 1), (True, 4)):
        result = train(recipe, sources, out=tmp_path / "cut", resume=resume, console=False, on_event=stop_after(at))
        assert (result.step, result.finished) == (at, False)
    assert train(recipe, sources, out=tmp_path / "cut", resume=True, console=False).finished
    assert differences(tmp_path / "whole", tmp_path / "cut") == []


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    for workers in (0, 2):
        recipe = video_recipe(*STREAMS, f"data.workers={workers}", "train.length=3 steps")
        train(recipe, three_sources(), out=tmp_path / str(workers), console=False)
    assert differences(tmp_path / "0", tmp_path / "2") == []


def test_files_streams_resume_and_what_is_said(tmp_path: Path, films: Path) -> None:
    """Two steps on mp4 files in two clip lengths, with images beside them; then two more."""
    pytest.importorskip("av")
    streams = "[{weight: 2}, {frames: 8, fps: 12.5}, {kind: images, source: photos, image_size: 24}]"
    settings = (f"data.streams={streams}", "data.max_bad_share=0.2", "data.workers=1", "predictor.mask_tokens=6")
    recipe = video_recipe(*settings, "train.length=4 steps", "train.batch_size=12", "log.every=1 steps")
    source = opened(films, recipe)
    said: list[str] = []

    def listen(event: Event) -> None:
        said.append(event.text)
        stop_after(2)(event)

    sources = [source, source, Generated()]
    first = train(recipe, sources, out=tmp_path / "cut", console=False, on_event=listen)
    assert first.step == 2
    last = train(
        recipe, sources, out=tmp_path / "cut", resume=True, console=False, on_event=lambda e: said.append(e.text)
    )
    train(recipe, sources, out=tmp_path / "whole", console=False)
    assert differences(tmp_path / "whole", tmp_path / "cut") == []
    assert any("12 samples per step = 3 micro-batches" in line for line in said), said
    assert any("14 videos, no labels; 3 of every step as clips of 8 × 24 × 24" in line for line in said), said
    short = "videos are shorter than a clip of {} and are padded"  # each stream by its own clips
    assert all(any(short.format(c) in line for line in said) for c in ("4 frames", "8 frames at 12.5 fps")), said
    assert set(last.bad) <= {"broken.mp4"}
    assert set(last.padded) <= {"short.mp4"}


def test_bad_and_padded_videos_are_named_once_and_listed(tmp_path: Path, films: Path) -> None:
    pytest.importorskip("av")
    recipe = video_recipe("data.max_bad_share=0.2", "train.length=2 epochs", "train.batch_size=7", "data.workers=2")
    said: list[str] = []
    result = train(recipe, opened(films, recipe), out=tmp_path, console=False, on_event=lambda e: said.append(e.text))
    assert set(result.bad) == {"broken.mp4"}
    assert result.padded == {"short.mp4": 2}
    assert json.loads((tmp_path / "padded_videos.json").read_text()) == {"short.mp4": 2}
    assert json.loads((tmp_path / "bad_files.json").read_text()).keys() == {"broken.mp4"}
    told = [line for line in said if "shorter than the clip" in line]
    assert told == ["1 video is shorter than the clip and repeated frames (data.clip.short): short.mp4"]
    again = train(recipe, opened(films, recipe), out=tmp_path, resume=True, console=False)
    assert again.padded == result.padded


def test_a_clip_that_no_video_reaches_is_one_line(tmp_path: Path) -> None:
    recipe = video_recipe("data.clip={frames: 64, short: skip}")
    with pytest.raises(DataError, match="too short") as caught:
        train(recipe, FakeVideos(24), out=tmp_path, console=False)
    assert "\n" not in str(caught.value)


def test_rows_speak_of_clips_and_judge_them(tmp_path: Path) -> None:
    said: list[str] = []
    recipe = video_recipe("log.health_samples=24", "train.batch_size=48")
    train(recipe, FakeVideos(24), out=tmp_path, console=False, on_event=lambda e: said.append(e.text))
    health = numbers(tmp_path)[-1]["health"]
    assert health["samples"] == 24
    assert health["lidar"] > 0
    assert len(health["layers"]["rankme"]) == 2
    assert set(health["cheats"]) == {"mean_target", "position_only", "copy_nearest"}
    assert any("train.batch_size 48 is more than the 24 clips there are" in line for line in said)
    assert any("24 clips per step" in line for line in said)
    assert any("clips/s" in line for line in said)
    assert not any(" images" in line for line in said), said


@pytest.mark.parametrize(("most", "samples"), [(36 * 18, 36), (18, FEWEST)])
def test_a_panel_of_long_clips_holds_fewer(monkeypatch: pytest.MonkeyPatch, most: int, samples: int) -> None:
    """As many as have so many tokens (a clip here has 2 × 3 × 3), but never fewer than ranks need."""
    monkeypatch.setattr("openjepa.training.panel.MOST_TOKENS", most)
    recipe = video_recipe("log.health_samples=40")
    engine = Engine(recipe.train)
    engine.prepare(build_method(recipe))
    panel = HealthPanel(recipe, plan_lanes(recipe, 8)[0], FakeVideos(40), engine, Normalise.for_data(recipe.data))
    assert panel.measure()["samples"] == samples


def test_checkpointing_activations_changes_nothing(tmp_path: Path) -> None:
    for name, flag in (("plain", "false"), ("saving", "true")):
        recipe = video_recipe(*STREAMS, f"train.activation_checkpointing={flag}", "train.length=2 steps")
        train(recipe, three_sources(), out=tmp_path / name, console=False)
    assert largest_difference(saved_state(tmp_path / "plain")[0], saved_state(tmp_path / "saving")[0]) == 0


def test_videomae_trains_on_clips(tmp_path: Path) -> None:
    recipe = video_recipe(
        "method=masked_pixel", "mask={kind: random_tube, ratio: 0.7}", "target.kind=pixels",
        "predictor={kind: pixel, dim: 12, depth: 1, heads: 1}", "objective={kind: l2}",
    )  # fmt: skip
    assert train(recipe, FakeVideos(24), out=tmp_path, console=False).finished


def test_compute_of_streams_is_the_mean_of_their_samples() -> None:
    """Of equal parts short, long and image, each counted alone (masks differ a little with the draw)."""
    recipe = video_recipe(*STREAMS[:1], "train.batch_size=32", "predictor.mask_tokens=2")
    alone = [
        flops_per_sample(video_recipe("train.batch_size=32", *change))
        for change in ((), ("data.clip.frames=8",), ("data.streams=[{kind: images}]",))
    ]
    assert alone[0] < alone[1]
    assert alone[2] < alone[0]
    mean = (2 * alone[0] + alone[1] + alone[2]) / 4
    assert flops_per_sample(recipe) == pytest.approx(mean, rel=0.05)


def test_clips_of_other_runs_cannot_be_resumed(tmp_path: Path) -> None:
    train(video_recipe("train.length=1 steps"), FakeVideos(24), out=tmp_path, console=False)
    with pytest.raises(Exception, match="data.clip.frames=4, not 8"):
        train(
            video_recipe("train.length=1 steps", "data.clip.frames=8"),
            FakeVideos(24),
            out=tmp_path,
            resume=True,
            console=False,
        )


def test_training_learns_on_clips(tmp_path: Path) -> None:
    """Not a proof of anything but that gradients reach what they should: the loss falls by a tenth in 60 steps."""
    torch.manual_seed(0)
    recipe = video_recipe("train.length=60 steps", "log.every=30 steps", "optim.lr=3e-3", "checkpoint.every=60 steps")
    train(recipe, FakeVideos(24), out=tmp_path, console=False)
    rows = numbers(tmp_path)
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
