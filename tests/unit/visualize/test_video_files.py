"""What the command line draws of clips: every picture appears, in every form, or says in one line that it is for images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_surprise import PIXEL_RECIPE
from visualize_fakes import VIDEO_RECIPE

from openjepa.cli import main
from openjepa.config import build_recipe, dump_recipe
from openjepa.data import open_source
from openjepa.data.clips import Clips
from openjepa.errors import DataError
from openjepa.hub.model_directory import load_model, save_model
from openjepa.methods import build_method
from openjepa.visualize import attention_maps, clips, time_maps
from openjepa.visualize.attention import watch
from openjepa.visualize.opened import open_any
from openjepa.visualize.reconstruction import reconstruct


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with two short videos and one broken one; the second is longer and of another size."""
    av = pytest.importorskip("av")
    folder = tmp_path / "my videos"
    folder.mkdir()
    for name, frames, size in (("a.mp4", 20, (48, 64)), ("b.mp4", 44, (40, 40))):
        with av.open(str(folder / name), "w") as file:
            stream = file.add_stream("mpeg4", rate=10)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for k in range(frames):
                picture = np.full((*size, 3), 60, dtype=np.uint8)
                picture[10:20, (2 * k) % 30 : (2 * k) % 30 + 10] = (220, 60, 40)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode())
    (folder / "broken.mp4").write_bytes(b"no video at all")
    return folder


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "clips.yaml"
    path.write_text(dump_recipe(build_recipe(VIDEO_RECIPE)), encoding="utf-8")
    return path


def _draw(*words: object) -> int:
    return main(["visualize", *map(str, words)])


@pytest.mark.parametrize("suffix", [".gif", ".mp4", ".png"])
def test_masks_need_a_recipe_only(suffix: str, recipe_file: Path, tmp_path: Path) -> None:
    if suffix == ".mp4":
        pytest.importorskip("av")
    out = tmp_path / f"masks{suffix}"
    assert _draw("masks", "--recipe", recipe_file, "--out", out) == 0
    if suffix == ".mp4":
        assert out.read_bytes()[4:8] == b"ftyp"
    else:
        assert Image.open(out).size[0] > 300
    assert _draw("masks", "mask.groups=[{blocks: 3}]", "-r", recipe_file, "--count", 1, "-o", out) == 0, (
        "a change first"
    )


def test_masks_of_files(videos: Path, recipe_file: Path, tmp_path: Path) -> None:
    for place in (["--data", videos], [videos / "a.mp4"]):
        out = tmp_path / "m.gif"
        assert _draw("masks", *place, "-r", recipe_file, "-o", out) == 0
        with Image.open(out) as picture:
            assert sum(_durations(picture)) == pytest.approx(8 * 200, abs=10), "8 frames, every 2nd of 10 a second"


def _durations(picture: Image.Image) -> list[int]:
    found = []
    for k in range(picture.n_frames):  # type: ignore[attr-defined]
        picture.seek(k)
        found.append(int(picture.info["duration"]))
    return found


def test_pca_through_time(video_run: Path, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.gif"
    assert _draw("pca", "--model", video_run, "--data", videos, "--out", out, "--remove-position") == 0
    assert Image.open(out).n_frames == 8  # type: ignore[attr-defined]
    assert _draw("pca", videos / "b.mp4", "-m", video_run, "-o", out, "--frames", 20) == 0
    assert Image.open(out).n_frames == 20  # type: ignore[attr-defined]


def test_features_of_a_long_clip_are_those_of_its_windows(video_run: Path) -> None:
    found = open_any(video_run)
    clip = torch.randint(0, 256, (3, 20, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = time_maps.window_features(found.encoder, clip, found.normalise, 8)
    assert whole.shape == (10, 4, 4, 32)
    with torch.no_grad():
        for start, steps in ((0, slice(0, 4)), (8, slice(4, 8))):
            alone = found.encoder.forward_features(found.normalise(clip[None, :, start : start + 8]))
            torch.testing.assert_close(whole[steps].flatten(0, 2), alone[0], rtol=1e-4, atol=1e-5)
        last = found.encoder.forward_features(found.normalise(clip[None, :, 12:20]))[0].view(4, 4, 4, 32)
    torch.testing.assert_close(whole[8:], last[2:], rtol=1e-4, atol=1e-5)


def test_a_colour_means_the_same_in_every_clip_and_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(4, 3, 3, 8, generator=generator)
    drawn = time_maps.pca_through_time([one, one.flip(0)])
    assert np.array_equal(drawn.colours[:4], drawn.colours[4:][::-1])
    frames = time_maps.map_frames(drawn.colours[:4], 9, 2, (4, 4), (13, 12))
    assert np.array_equal(frames[5, 4:8, 8:12], np.broadcast_to(drawn.colours[2, 1, 2], (4, 4, 3)))
    assert (frames[8] == 255).all(), "no token, no colour"
    assert (frames[:, 12:] == 255).all()


def test_surprise_writes_its_picture_and_its_numbers(video_run: Path, videos: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "s.gif", tmp_path / "s.json"
    assert _draw("surprise", "--model", video_run, "--data", videos, "-o", out, "--json", table, "--count", 2) == 0
    told = json.loads(table.read_text())
    assert [video["grid"] for video in told["videos"]] == [[5, 4, 4], [11, 4, 4]], "whole videos, every 2nd frame"
    assert [video["seconds_per_step"] for video in told["videos"]] == pytest.approx([0.4, 0.4])
    assert all(value > 0 for video in told["videos"] for value in video["steps"])
    assert Image.open(out).n_frames <= 22  # type: ignore[attr-defined]
    words = ["-o", tmp_path / "s.png", "--json", tmp_path / "s.csv", "--mode", "future", "--frames", 8]
    assert _draw("surprise", videos / "a.mp4", "-m", video_run, *words) == 0
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 1 + 4 * 16


def test_broken_videos_are_passed_over_and_named_when_nothing_is_left(video_run: Path, videos: Path) -> None:
    data = load_model(video_run).config.data
    assert data.clip is not None
    source = open_source(str(videos), clip=Clips.evaluation(data.clip))
    found = clips.whole_videos(source, data, 3)
    assert sorted(video.name for video in found) == ["a.mp4", "b.mp4"]
    (videos / "a.mp4").unlink()
    (videos / "b.mp4").unlink()
    source = open_source(str(videos), clip=Clips.evaluation(data.clip))
    with pytest.raises(DataError, match="none of its 1 videos"):
        clips.whole_videos(source, data, 3)


@pytest.mark.parametrize("positions", ["sincos3d", "rope3d"])
def test_attention_of_clips_is_that_of_the_blocks(positions: str, tmp_path: Path) -> None:
    raw = {**VIDEO_RECIPE, "model": {**VIDEO_RECIPE["model"], "positions": positions}}  # type: ignore[dict-item]
    recipe = build_recipe(raw)
    torch.manual_seed(0)
    save_model(tmp_path / "model", build_method(recipe), recipe)
    encoder = load_model(tmp_path / "model").encoder
    x = torch.randn(2, 3, 8, 32, 32)
    maps = attention_maps.encoder_attention(encoder, x, patch=(1, 2))
    assert maps.values.shape == (2, 1, 4, 4, 4)
    assert maps.queries == ((2, 1, 2),) * 2
    assert maps.values.reshape(2, -1).sum(1) == pytest.approx([1, 1], rel=1e-5)
    found: list[torch.Tensor] = []
    watch(encoder, lambda: encoder.forward_features(x), lambda _, w: found.append(w), [1])
    token = 2 * 16 + 1 * 4 + 2
    assert maps.values.reshape(2, -1) == pytest.approx(found[0].mean(1)[:, token].numpy(), abs=1e-6)
    for part in ("encoder", "predictor"):
        out = tmp_path / f"{part}.gif"
        assert _draw("attention", "scenes", "-m", tmp_path / "model", "--part", part, "-o", out, "--count", 1) == 0
        assert Image.open(out).n_frames == 8  # type: ignore[attr-defined]


def test_reconstructions_of_tubes(tmp_path: Path) -> None:
    recipe = build_recipe(PIXEL_RECIPE)
    torch.manual_seed(0)
    save_model(tmp_path / "model", build_method(recipe), recipe)
    loaded = load_model(tmp_path / "model")
    images = torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = reconstruct(loaded, images)
    assert made.columns == ("clip", "visible", "true patch means", "reconstruction", "with visible patches")
    assert made.pixels.shape == images.shape
    assert [panel.shape[0] for panel in made.rows[0]] == [8] * 5
    visible = made.rows[0][1][:, ::6, ::6]  # back to pixels
    shown = (visible == images[0].permute(1, 2, 3, 0).numpy()).all(-1).mean()
    assert 0.2 < shown < 0.35, "a quarter of the tubes is visible"
    out = tmp_path / "r.gif"
    assert _draw("reconstructions", "scenes", "-m", tmp_path / "model", "-o", out, "--count", 1) == 0
    assert Image.open(out).n_frames == 8  # type: ignore[attr-defined]


def test_a_perfect_prediction_of_pixels_gives_the_clip_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openjepa.visualize import latent

    recipe = build_recipe(PIXEL_RECIPE)
    save_model(tmp_path / "model", build_method(recipe), recipe)
    real = latent.predictions
    monkeypatch.setattr(latent, "predictions", lambda m, x, g: (m.targets(x), real(m, x, g)[1]))
    images = torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8)
    made = reconstruct(load_model(tmp_path / "model"), images)
    assert made.explained.tolist() == pytest.approx([1, 1], abs=1e-4)
    torch.testing.assert_close(made.pixels, images / 255, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["similarity", "scenes", "-p", "1,1"], "is for image models"),
        (["decode", "scenes"], "is for image models"),
        (["reconstructions", "scenes"], "reconstructs no pixels"),
        (["surprise", "scenes", "--mode", "past"], "masked, future"),
        (["surprise", "scenes", "--json", "x.txt"], ".json or .csv"),
        (["surprise", "scenes", "-o", "x.jpg"], "x.png"),
        (["surprise"], "no data is named"),
        (["pca", "scenes", "--data", "scenes"], "named twice"),
        (["pca", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_with_clips_are_one_line(
    words: list[str],
    sentence: str,
    video_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["visualize", words[0], "--model", str(video_run), *words[1:]]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("*.*"))


def test_what_cannot_be_drawn_of_clips_is_one_line(
    video_run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _draw("pca", "-m", video_run, "-d", videos, "--frames", 1, "-o", tmp_path / "p.gif") == 2
    assert "a clip of 1 frames is too short: --frames 2 or more" in capsys.readouterr().err
    assert _draw("reconstructions", videos, "-m", video_run, "-o", tmp_path / "r.gif") == 2
    assert "visualize surprise" in capsys.readouterr().err  # decode is for images


def test_frames_of_an_image_model_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _draw("pca", "scenes", "-m", run, "--frames", 4) == 2
    assert "is for video models" in capsys.readouterr().err
    assert _draw("surprise", "scenes", "-m", run) == 2
    assert "surprise is for video models" in capsys.readouterr().err
