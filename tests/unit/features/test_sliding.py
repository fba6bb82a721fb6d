"""A window slides over a long video: all of it is seen, in constant memory, as clips read directly are."""

from __future__ import annotations

import itertools
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import openjepa
from openjepa.errors import ConfigError, DataError
from openjepa.features import ClipOptions, Window, sliding
from openjepa.features.sliding import window_starts
from tests.tiny_video import video_model
from tests.video_files import draw_number, read_numbers, write_video


class Numbered(torch.nn.Module):
    """A stand-in that says which frames it was shown, and how many clips at once."""

    embed_dim, patch_size, tubelet_size = 4, (1, 1), 2

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.most = torch.nn.Parameter(torch.zeros(1)), 0

    def forward_features(self, x, keep=None):
        self.most = max(self.most, len(x))
        return torch.tensor([read_numbers(clip.transpose(0, 1)) for clip in x]).float()[:, None]


class Reel:
    """An endless film: frame k is picture k, 10 a second."""

    fps = 10.0

    def __init__(self, duration: float) -> None:
        self.duration = duration

    def at(self, times):
        numbers = np.clip(np.floor(np.asarray(times) * 10 + 1e-6), 0, self.duration * 10 - 1).astype(int)
        return torch.stack([torch.from_numpy(draw_number(int(k), 24, 32)).permute(2, 0, 1) for k in numbers])


def slide(duration: float, **options: float) -> tuple[list[Window], Numbered]:
    network = Numbered()
    chosen = {"window": 0.4, "hop": 0.4, **options}
    windows = sliding(
        Reel(duration), network, frames=4, transform=lambda f: f.transpose(0, 1), normalise=_Same(), **chosen
    )
    return list(windows), network


class _Same(torch.nn.Module):
    def forward(self, x):
        return x


def test_windows_show_every_frame_and_say_when() -> None:
    windows, network = slide(2.5)
    assert [(round(w.start, 6), round(w.end, 6)) for w in windows] == [
        *((round(0.4 * k, 6), round(0.4 * k + 0.4, 6)) for k in range(6)),
        (2.1, 2.5),
    ]
    seen = [int(v) for w in windows for v in w.values]
    assert seen == [*range(24), 21, 22, 23, 24]
    assert network.most == 1
    _, three = slide(2.5, batch_size=3)
    assert three.most == 3


def test_windows_overlap_when_the_hop_is_shorter() -> None:
    windows, _ = slide(1.0, hop=0.2)
    assert [w.values.tolist() for w in windows] == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9]]


def test_a_video_shorter_than_a_window_repeats_its_last_frame() -> None:
    windows, _ = slide(0.2)
    assert [(w.start, w.end, w.values.tolist()) for w in windows] == [(0.0, 0.2, [0, 1, 1, 1])]


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 500), st.floats(0.05, 20), st.floats(0.05, 30))
def test_every_moment_lies_in_a_window_when_windows_touch(duration: float, window: float, hop: float) -> None:
    starts = list(window_starts(duration, window, min(hop, window)))
    assert starts[0] == 0
    assert all(0 < b - a <= window * (1 + 1e-5) + 1e-9 for a, b in itertools.pairwise(starts))
    assert starts[-1] + window >= duration - 1e-4
    assert starts[-1] <= max(duration - window, 0)


def test_windows_and_hops_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="seconds above 0"):
        list(window_starts(1, 0, 1))
    with pytest.raises(ConfigError, match="seconds above 0"):
        list(window_starts(1, 1, -2))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return openjepa.load(video_model(tmp_path_factory.mktemp("model") / "m"))


def test_a_model_embeds_a_long_video_as_it_embeds_the_clips(model, tmp_path) -> None:
    film = write_video(tmp_path / "a long film.mp4", 200, fps=8, size=(40, 56))
    found = model.embed_video(film, hop=1.0)  # clips of 4 frames at 8 fps: half a second
    assert len(found) == 26  # 25 s: 0, 1, ..., 24 and the rest
    assert found.start[3] == 3
    assert found.end[-1] == pytest.approx(25, abs=0.01)
    with _opened(film) as video:
        frames = video.at(3 + np.arange(4) / 8)
    direct = model.embed([frames.transpose(0, 1)])
    torch.testing.assert_close(found.values[3:4], direct)
    tokens = model.embed_video(film, window=10, tokens="patch")
    assert tokens.values.shape == (3, 8, 24)


def _opened(path):
    from openjepa.data import open_source
    from openjepa.data.clips import Clips

    return open_source(path, clip=Clips(4, fps=8)).video(0)


def test_no_more_than_a_batch_of_windows_is_held() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    class Watched(Reel):
        def at(self, times):
            frames = super().at(times)
            alive.append(weakref.ref(frames))
            return frames

    windows = sliding(
        Watched(40), Numbered(), frames=4, window=0.4, hop=0.4, transform=_turned, normalise=_Same(), batch_size=2
    )
    most = 0
    for number, _ in enumerate(windows):
        assert len(alive) <= number + 2  # read when they are due, not before
        most = max(most, sum(reference() is not None for reference in alive))
    assert len(alive) == 100
    assert most <= 4  # a batch and the one before it


def _turned(frames):
    return frames.transpose(0, 1)


def test_what_is_no_single_video_is_said_in_one_line(model, tmp_path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="is an image, and trained takes videos: as_images=True"):
        model.embed(tmp_path / "a.png")
    assert model.embed(tmp_path / "a.png", as_images=True).shape == (1, 24)
    for name in ("a", "b"):
        write_video(tmp_path / "two" / f"{name}.mp4", 8, fps=8)
    with pytest.raises(DataError, match="holds 2 videos"):
        model.embed_video(tmp_path / "two")
    with pytest.raises(DataError, match="has 4 frames, not 6"):
        model.embed(torch.zeros(3, 6, 32, 32, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="shorter than a tubelet of 2"):
        model.seen(ClipOptions(frames=1))
