"""Contamination: copies in other formats are exact, altered copies are near, other pictures are neither."""

import shutil

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from openjepa.data import SceneSource, holdout, open_source
from openjepa.errors import ConfigError, DataError
from openjepa.evaluation import contamination, shared_files


@pytest.fixture
def folders(tmp_path):
    """Twenty pretraining scenes and ten other scenes to evaluate on."""
    scenes = SceneSource(30, 64, 3)
    for i in range(30):
        place = tmp_path / ("train" if i < 20 else "val")
        place.mkdir(exist_ok=True)
        Image.fromarray(scenes.read(i).permute(1, 2, 0).numpy()).save(place / f"{i:02}.png")
    return tmp_path / "train", tmp_path / "val"


def _check(train, val, **options):
    return contamination(open_source(str(train)), open_source(str(val)), **options)


def test_other_pictures_are_clean(folders):
    found = _check(*folders)
    assert (found.exact, found.near, found.n_train, found.n_val) == ((), (), 20, 10)
    assert "0 of 10 evaluation images have an exact copy among 20" in found.sentence


def test_copies_and_altered_copies(folders):
    train, val = folders
    with Image.open(train / "03.png") as picture:
        picture.save(val / "again.bmp")  # other bytes, equal pixels
        picture.resize((150, 150), Image.Resampling.BICUBIC).save(val / "larger.jpg", quality=70)
        ImageEnhance.Brightness(picture).enhance(0.7).save(val / "darker.png")
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(val / "flipped.png")
    found = _check(train, val)
    assert [(m.val, m.train, m.cosine) for m in found.exact] == [("again.bmp", "03.png", 1.0)]
    assert {(m.val, m.train) for m in found.near} == {("larger.jpg", "03.png"), ("darker.png", "03.png")}
    assert all(0.97 <= m.cosine <= 1 for m in found.near)
    assert found.near[0].cosine >= found.near[1].cosine
    assert _check(train, val, threshold=1.0).near == ()


def test_flat_pictures_are_not_near_each_other(folders):
    train, val = folders
    for place, level in ((train, 100), (val, 140)):
        Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(place / "flat.png")
    found = _check(train, val)
    assert found.near == ()
    assert found.flat == 1


def test_a_bad_file_is_left_out_and_counted(folders):
    (folders[1] / "broken.png").write_bytes(b"no picture")
    found = _check(*folders)
    assert (found.unreadable, found.n_val) == (1, 10)
    for name in folders[1].iterdir():
        name.write_bytes(b"no picture")
    with pytest.raises(DataError, match="no readable image"):
        _check(*folders)
    with pytest.raises(ConfigError, match="a cosine above 0"):
        _check(*folders, threshold=97)


def test_shared_files_without_decoding(folders, monkeypatch):
    train, val = folders
    shutil.copy(train / "05.png", val / "moved.png")
    (val / "linked.png").symlink_to(train / "06.png")
    sources = open_source(str(train)), open_source(str(val))
    monkeypatch.setattr(type(sources[0]), "read", lambda *a: pytest.fail("decoded"))
    assert sorted(shared_files(*sources)) == ["linked.png", "moved.png"]
    assert shared_files(SceneSource(4, 32), SceneSource(4, 32)) == []
    rest, tenth = holdout(sources[0], 0.2, 0)
    assert shared_files(rest, tenth) == []
    assert len(shared_files(sources[0], tenth)) == len(tenth)
