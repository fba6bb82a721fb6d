"""Which videos train and which judge, streams of several data sets, and the wrong kind of data in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from openjepa.config import Recipe, build_recipe
from openjepa.data.splits import open_side, open_splits
from openjepa.errors import DataError
from tests.video_files import write_video

RAW = {
    "name": "v",
    "data": {"image_size": 32, "clip": {"frames": 4}, "scenes_count": 24},
    "mask": {"kind": "tubes"},
    "model": {"arch": "vit_tiny", "patch_size": 8, "positions": "rope3d"},
}


def video(source: Path | str, *words: str) -> Recipe:
    return build_recipe(RAW, [f"data.source='{source}'", *words])


def image(source: Path | str) -> Recipe:
    return video(source, "data.clip=none", "mask.kind=random", "model.positions=sincos2d")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("clips")
    for number in range(10):
        write_video(root / f"{number}.mp4", 8)
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for name in ("cat", "dog", "hen"):
        Image.new("RGB", (40, 40)).save(root / f"{name}.png")
    return root


def test_a_tenth_of_the_videos_judges_and_evaluation_takes_the_middle_clip(clips: Path) -> None:
    splits = open_splits(video(clips))
    assert (len(splits.train), len(splits.held_out)) == (9, 1)
    assert "1 of 10 videos set apart" in splits.origin
    assert splits.training is splits.train
    first = splits.held_out.read(0)
    assert first.shape == (4, 3, 48, 64)
    assert (first == splits.held_out.read(0)).all()


def test_scenes_of_a_video_recipe_move() -> None:
    splits = open_splits(video("scenes"))
    assert (len(splits.train), len(splits.held_out)) == (24, 12)
    assert splits.train.read(0).shape == (4, 3, 32, 32)


def test_each_stream_has_its_data(clips: Path, photos: Path) -> None:
    streams = f"data.streams=[{{weight: 2}}, {{source: scenes}}, {{source: '{photos}', kind: images}}, {{frames: 8}}]"
    splits = open_splits(video(clips, streams))
    assert splits.training == splits.streams
    own, scenes, images, longer = splits.streams
    assert own is longer is splits.train  # what judges is in neither
    assert (len(scenes), scenes.read(0).shape) == (24, (4, 3, 32, 32))
    assert (len(images), images.read(0).shape) == (3, (3, 40, 40))


def test_the_wrong_kind_of_data_names_a_recipe_that_fits(clips: Path, photos: Path) -> None:
    for source, recipe, said in (
        (clips, image(clips), "holds 10 videos and no images: use a video recipe, e.g. vjepa-tiny"),
        (clips / "0.mp4", image(clips), "holds a video and no image: use a video recipe"),
        (photos, video(photos), "holds 3 images and no videos: use an image recipe, e.g. ijepa-tiny"),
        (photos / "cat.png", video(photos), "holds an image and no video: use an image recipe"),
    ):
        with pytest.raises(DataError) as caught:
            open_side(recipe, str(source))
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_nothing_there_is_said_as_such(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_splits(video(tmp_path / "none"))
