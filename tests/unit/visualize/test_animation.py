"""Films hold every frame, in every form, with the time each is shown."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from openjepa.errors import ConfigError, MissingExtra
from openjepa.visualize import canvas
from openjepa.visualize.animation import Film, film_path, gif, gif_uri, mp4


def _frames(count: int = 5, height: int = 24, width: int = 32) -> np.ndarray:
    """A white bar that walks over a dark ground, one step per frame."""
    made = np.full((count, height, width, 3), 30, dtype=np.uint8)
    for k in range(count):
        made[k, :, 4 * k : 4 * k + 4] = 255
    return made


def _film(count: int = 5) -> Film:
    frames = _frames(count)
    return Film([[frames, 255 - frames]], 0.1, columns=["a", "b"], captions=["both"], title="Title", notes=["note"])


def test_a_gif_has_every_frame_at_its_time_and_repeats() -> None:
    frames = _frames()
    with Image.open(io.BytesIO(gif(frames, 0.25))) as picture:
        assert picture.n_frames == 5
        assert picture.info["loop"] == 0
        for k in range(5):
            picture.seek(k)
            assert picture.info["duration"] == 250
            seen = np.asarray(picture.convert("RGB")).astype(int)
            assert np.abs(seen - frames[k]).max() <= 8, "few colours come back as they are"


def test_gif_times_are_no_shorter_than_players_show() -> None:
    with Image.open(io.BytesIO(gif(_frames(), 0.001))) as picture:
        assert picture.info["duration"] == 20


@pytest.mark.parametrize("size", [(24, 32), (25, 33)])
def test_an_mp4_reads_back_with_its_rate(size: tuple[int, int]) -> None:
    av = pytest.importorskip("av")
    frames = _frames(6, *size)
    with av.open(io.BytesIO(mp4(frames, 0.125))) as file:
        stream = file.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(8)
        back = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert len(back) == 6
    assert back[0].shape[0] % 2 == back[0].shape[1] % 2 == 0, "players need even sides"
    for k, frame in enumerate(back):
        bright = frame[: size[0], : size[1]].mean((0, 2))
        assert bright.argmax() // 4 == k


def test_pages_show_one_frame_of_every_panel_and_the_sheet_shows_all() -> None:
    film = _film()
    pages = film.pages()
    assert len(film) == len(pages) == 5
    assert len({page.tobytes() for page in pages}) == 5
    sheet = np.asarray(film.contact())
    white = (sheet[:, :, 0] == 255) & (sheet[:, :, 1] == 255)
    dark = (sheet == 30).all(-1)
    light = (sheet == 225).all(-1)
    assert white.any()
    assert dark.sum() == 5 * 24 * 28  # five frames of 32 columns, 4 of them bright
    assert light.sum() == 5 * 24 * 28, "and the second panel"


def test_long_films_break_into_lines() -> None:
    short, long = (np.asarray(_film(count).contact()) for count in (7, 8))
    assert long.shape[0] == short.shape[0]
    film = Film([[np.zeros((40, 24, 32, 3), np.uint8)]], 0.1)
    sheet = np.asarray(film.contact())
    assert (sheet == 0).all(-1).sum() == 40 * 24 * 32
    assert sheet.shape[1] < 17 * 36 + 40


def test_a_strip_stands_under_its_row_and_follows_the_frames() -> None:
    def strip(frame: int | None) -> canvas.Image:
        made = np.full((10, 60, 3), 200, dtype=np.uint8)
        if frame is not None:
            made[:, 5 * frame] = canvas.VERMILION
        return made

    film = Film([[_frames()]], 0.1, strips=[strip])
    marks = [np.nonzero((page == canvas.VERMILION).all(-1).any(0))[0] for page in film.pages()]
    assert [int(mark[0] - marks[0][0]) for mark in marks] == [0, 5, 10, 15, 20]
    still = np.asarray(film.contact())
    assert (still == 200).all(-1).sum() == 600
    assert not (still == canvas.VERMILION).all(-1).any()


def test_a_gif_fits_into_a_page() -> None:
    assert gif_uri(_frames(), 0.1).startswith("data:image/gif;base64,R0lGOD")


def test_names_and_missing_extras_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert film_path("a/b.GIF").name == "b.GIF"
    with pytest.raises(ConfigError, match=r"\.gif or \.mp4: 'x\.jpg' should be 'x\.png'"):
        film_path("x.jpg")

    def gone(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", gone)
    with pytest.raises(MissingExtra, match=r"openjepa\[video\]"):
        film_path("x.mp4")
