"""Surprise is the loss, spread over the tokens it was made of; it rises where something could not be foreseen."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from visualize_fakes import RECIPE, VIDEO_RECIPE

from openjepa.config import build_recipe
from openjepa.config.schema import Recipe
from openjepa.data import Normalise
from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.model_directory import load_model, save_model
from openjepa.masking import build_masker
from openjepa.methods import build_method
from openjepa.types import Batch, Ids, MaskGroup, Progress
from openjepa.visualize import canvas, surprise_film
from openjepa.visualize.surprise import (
    Surprise,
    check_mode,
    future_masks,
    measure,
    surprise,
    target_space,
    targets,
    token_errors,
    windows,
)
from openjepa.visualize.surprise_film import Scale, Shown, heat_frames, strip

PIXEL_RECIPE = {
    **VIDEO_RECIPE,
    "name": "videomae-tiny",
    "system": "videomae",
    "method": "masked_pixel",
    "mask": {"kind": "random_tube", "ratio": 0.75},
    "predictor": {"kind": "pixel", "dim": 16, "depth": 1, "heads": 2},
    "target": {"kind": "pixels"},
    "objective": {"kind": "l2"},
}


def _batch(recipe: Recipe, rows: int = 3) -> Batch:
    torch.manual_seed(1)
    clips = torch.randn(rows, 3, *recipe.inputs["video"])
    return Batch({"video": clips}, torch.arange(rows), torch.arange(rows))


@pytest.mark.parametrize(
    "change", [{}, {"objective": {"kind": "smooth_l1"}}, {"objective": {"kind": "cosine"}}, PIXEL_RECIPE]
)
def test_summed_over_tokens_it_is_the_loss_of_a_training_step(change: dict[str, Any]) -> None:
    recipe = build_recipe({**VIDEO_RECIPE, **change})
    torch.manual_seed(0)
    method = build_method(recipe).eval()
    batch = _batch(recipe)
    group = build_masker(recipe.mask, recipe.grid, recipe.seed)(batch.places, epoch=0, step=0)
    total, times = token_errors(method, batch.inputs["video"], group)
    assert total.shape == times.shape == (3, 64)
    assert int(times.sum()) == sum(group.targets[j].count() for _, j in group.pairs)
    output = method(batch, [group], Progress(0, 10))
    loss = float(output.loss_sum.detach()) / output.count
    assert float(total.sum() / times.sum()) == pytest.approx(loss, rel=1e-6)


def test_a_tokens_error_is_the_mean_difference_of_prediction_and_target() -> None:
    recipe = build_recipe(VIDEO_RECIPE)
    torch.manual_seed(0)
    method = build_method(recipe).eval()
    clips = _batch(recipe, 2).inputs["video"]
    group = build_masker(recipe.mask, recipe.grid, 0)(torch.arange(2), epoch=0, step=0)
    total, _ = token_errors(method, clips, group)
    with torch.no_grad():
        guess, query, _ = method.predict(clips, group)  # type: ignore[operator]
        full = method.targets(clips)[1]  # type: ignore[operator]
    brute = np.zeros((2, 64))
    for row in range(len(guess)):
        for place in range(guess.shape[1]):
            if query.valid is None or query.valid[row, place]:
                token = int(query.index[row, place])
                brute[row % 2, token] += float((guess[row, place] - full[row % 2, token]).abs().mean())
    assert total.numpy() == pytest.approx(brute, abs=1e-5)


def test_centred_targets_are_centred_by_other_clips_and_then_it_is_still_the_loss() -> None:
    recipe = build_recipe({**VIDEO_RECIPE, "target": {"transform": "centred"}})
    torch.manual_seed(0)
    method = build_method(recipe).eval()
    batch = _batch(recipe, 4)
    normalise = Normalise.for_data(recipe.data)
    raw = batch.inputs["video"] * normalise.std[..., None] + normalise.mean[..., None]
    space = target_space(method, raw)  # type: ignore[arg-type]
    group = build_masker(recipe.mask, recipe.grid, recipe.seed)(batch.places, epoch=0, step=0)
    full = targets(method, batch.inputs["video"], space)  # type: ignore[arg-type]
    total, times = token_errors(method, batch.inputs["video"], group, full)  # type: ignore[arg-type]
    output = method(batch, [group], Progress(0, 10))
    assert float(total.sum() / times.sum()) == pytest.approx(float(output.loss_sum.detach()) / output.count, rel=1e-5)


def test_windows_cover_a_clip_of_any_length() -> None:
    for steps in range(1, 20):
        for size in range(1, steps + 1):
            for stride in range(1, size + 1):
                starts = windows(steps, size, stride)
                assert set().union(*(range(s, s + size) for s in starts)) == set(range(steps))
                assert starts == sorted(set(starts))


def test_future_masks_show_only_what_was_before() -> None:
    groups = list(future_masks((3, 2, 2), 2, token=1))
    assert len(groups) == 2
    for step, group in enumerate(groups, 1):
        assert group.contexts[0].index.tolist() == [list(range(4 * step))] * 2
        assert group.targets[0].index.tolist() == [list(range(4 * step, 4 * step + 4))] * 2
        assert group.mask_tokens == (1,)


@pytest.mark.parametrize("frames", [8, 15, 32])
def test_every_token_is_predicted_at_least_once(video_run: Path, frames: int) -> None:
    loaded = load_model(video_run)
    clip = torch.randint(0, 256, (3, frames, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    masked = surprise(loaded, clip)
    assert masked.error.shape == (frames // 2, 4, 4)
    assert masked.missing == 0
    assert bool(masked.error.isfinite().all())
    assert torch.equal(surprise(loaded, clip).error, masked.error), "measured twice, the same"
    future = surprise(loaded, clip, "future")
    assert bool(future.error[0].isnan().all()), "the first has no past"
    assert bool(future.error[1:].isfinite().all())
    assert int(future.times.max()) == (2 if frames == 15 else 1), "only where the last window overlaps"


class _LastSeen:
    """A model that expects every place to stay as it was last seen: its token is the mean colour of its patch."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def targets(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        means = torch.nn.functional.avg_pool3d(clips, (2, 8, 8)).flatten(2).transpose(1, 2)  # (B, N, C)
        return means, means

    def predict(self, clips: Tensor, group: MaskGroup) -> tuple[Tensor, Ids, None]:
        full, query = self.targets(clips)[0], group.targets[0]
        plane = group.grid[1] * group.grid[2]
        before = query.index - plane
        assert set(before.flatten().tolist()) <= set(group.contexts[0].index.flatten().tolist())
        return full.gather(1, before[..., None].expand(-1, -1, full.shape[-1])), query, None


def test_an_object_that_jumps_surprises_when_and_where_it_jumps() -> None:
    recipe = build_recipe(VIDEO_RECIPE)
    clip = torch.zeros(3, 24, 32, 32)
    for frame in range(24):
        left = 0 if frame < 14 else 24  # step 7 is the first on the other side
        clip[:, frame, 8:16, left : left + 8] = 1
    found = measure(_LastSeen(recipe), clip, "future")  # type: ignore[arg-type]
    assert int(found.steps.nan_to_num().argmax()) == 7
    assert found.error[7, 1].tolist() == pytest.approx([1, 0, 0, 1])
    rest = torch.ones(12, dtype=torch.bool)
    rest[[0, 7]] = False
    assert float(found.error[rest].abs().max()) == 0


def _shown(video: str = "a.mp4", seconds: float = 0.5) -> Shown:
    error = torch.linspace(0.2, 0.8, 16).view(4, 2, 2).clone()
    error[0] = float("nan")
    times = (~error.isnan()).long() * 3
    frames = np.full((9, 16, 16, 3), 90, dtype=np.uint8)
    return Shown(video, frames, Surprise(error, times, 2, "future", "l1"), seconds)


def test_heat_lies_on_the_frames_and_patches_of_its_tokens() -> None:
    shown = _shown()
    error = shown.found.error.numpy()
    drawn = heat_frames(shown.frames[:8], error, 2, Scale.of([error]))
    for step in range(4):
        assert np.array_equal(drawn[2 * step], drawn[2 * step + 1])
        for row in range(2):
            for column in range(2):
                cell = drawn[2 * step, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                assert (cell == cell[0, 0]).all()
    assert len(np.unique(drawn[2:].reshape(-1, 3), axis=0)) >= 10
    assert (drawn[0] == drawn[0, 0, 0]).all(), "no error, no colour"
    bright = drawn.astype(int).sum(-1)
    assert bright[7, -1, -1] > bright[2, 0, 0]


def test_the_strip_is_higher_where_the_error_is_and_marks_the_frame() -> None:
    steps = np.array([0.5, 0.5, 0.9, 0.5])
    at = strip(steps, 0.25, 300, Scale(0.5, 0.9), 2)
    still = at(None)
    assert still.shape == (surprise_film.STRIP, 300, 3)
    plot = (still[16:-19, 56:] != 255).any(-1).sum(0)  # ink by column
    quarter = len(plot) // 4
    heights = [int(np.median(plot[quarter * k + 8 : quarter * (k + 1) - 8])) for k in range(4)]
    assert heights[2] > 2 * max(heights[0], heights[1], heights[3])
    assert not (still == canvas.VERMILION).all(-1).any()
    marks = [int((at(k) == canvas.VERMILION).all(-1).any(0).argmax()) for k in range(8)]
    assert marks == sorted(set(marks))


def test_the_film_says_mean_peak_and_how_it_was_measured() -> None:
    film = surprise_film.surprise_film([_shown(), _shown("b.mp4", 0.1)], "Surprise")
    assert len(film) == 8
    assert film.captions[0].startswith("mean 0.58, highest 0.74 at 3.00 s")
    assert film.captions[1].startswith("mean 0.58, highest 0.74 at 0.60 s"), "by the clock of its own file"
    assert "frames before it" in film.notes[0]
    assert len(film.pages()) == 8
    assert film.contact().size[0] > 0


def test_numbers_are_all_there_in_both_forms() -> None:
    told = surprise_film.numbers([_shown(), _shown("b.mp4", 0.1)], "model")
    read = json.loads(surprise_film.as_json(told))
    video = read["videos"][0]
    assert [each["seconds_per_step"] for each in read["videos"]] == [1.0, 0.2]
    assert video["grid"] == [4, 2, 2]
    assert video["steps"][0] is None
    assert video["steps"][3] == pytest.approx(0.74)
    assert video["error"][3][1][1] == pytest.approx(0.8)
    rows = list(csv.DictReader(io.StringIO(surprise_film.as_csv(told).decode())))
    assert len(rows) == 32
    assert rows[-1]["seconds"] == "0.6"
    assert rows[0]["error"] == ""
    assert rows[15] == {
        "video": "a.mp4", "step": "3", "seconds": "3", "row": "1", "column": "1", "error": rows[15]["error"], "times": "3",
    }  # fmt: skip
    assert float(rows[15]["error"]) == pytest.approx(0.8)


def _refusals() -> Iterator[tuple[dict[str, Any], str, str]]:
    yield RECIPE, "masked", "is for video models"
    yield {**VIDEO_RECIPE, "objective": {"kind": "info_nce"}}, "masked", "with each other"
    yield {**VIDEO_RECIPE, "target": {"transform": "centred"}}, "masked", "more than one clip to centre by"
    yield {**VIDEO_RECIPE, "predictor": {"kind": "linear"}}, "future", "--mode masked"
    yield {**VIDEO_RECIPE, "mask": {"kind": "none"}}, "masked", "--mode future"
    yield VIDEO_RECIPE, "futrue", "did you mean 'future'"


@pytest.mark.parametrize(("raw", "mode", "words"), list(_refusals()))
def test_what_has_no_surprise_is_refused_in_one_line(
    raw: dict[str, Any], mode: str, words: str, tmp_path: Path
) -> None:
    recipe = build_recipe(raw)
    save_model(tmp_path / "model", build_method(recipe), recipe)
    loaded = load_model(tmp_path / "model")
    with pytest.raises(ConfigError, match=words) as said:
        surprise(loaded, torch.zeros(3, 8, 32, 32, dtype=torch.uint8), mode)
    assert "\n" not in str(said.value)


def test_a_model_without_its_predictor_and_a_clip_too_short_are_named(video_run: Path) -> None:
    with pytest.raises(ConfigError, match="--frames 4 or more"):
        surprise(load_model(video_run), torch.zeros(3, 3, 32, 32, dtype=torch.uint8), "future")
    (video_run / "model" / "predictor.safetensors").unlink()
    (video_run / "model" / "MANIFEST.json").unlink(missing_ok=True)
    for manifest in (video_run / "model").glob("*anifest*"):
        manifest.unlink()
    with pytest.raises(CheckpointError, match="no predictor"):
        surprise(load_model(video_run), torch.zeros(3, 8, 32, 32, dtype=torch.uint8))


def test_both_modes_of_a_pixel_model_are_measured() -> None:
    recipe = build_recipe(PIXEL_RECIPE)
    torch.manual_seed(0)
    method = build_method(recipe).eval()
    clip = torch.randn(3, 16, 32, 32)
    for mode in ("masked", "future"):
        check_mode(recipe, mode)
        found = measure(method, clip, mode)  # type: ignore[arg-type]
        assert found.distance == "l2"
        assert bool(found.error[1:].isfinite().all())
