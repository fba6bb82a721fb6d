"""Which moments make a clip: pure functions, no files."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openjepa.config.data_parts import ClipConfig
from openjepa.data.clips import Clips, Timeline, UnreadableVideoError
from openjepa.errors import ConfigError

LONG = Timeline.even(100, 25)  # 4 s


def numbers(clips, timeline=LONG, draws=()):
    found = clips.moments(timeline, draws or clips.draws())
    return timeline.numbers(found.times).tolist(), found.padded


def test_stride_takes_every_nth_frame():
    assert numbers(Clips(4, stride=3, where="start")) == ([0, 3, 6, 9], 0)
    assert numbers(Clips(4, where="start")) == ([0, 1, 2, 3], 0)
    assert numbers(Clips(100, where="random"), draws=[0.99]) == (list(range(100)), 0)


def test_fps_takes_the_frame_shown_at_each_time():
    assert numbers(Clips(4, fps=5, where="start")) == ([0, 5, 10, 15], 0)
    assert numbers(Clips(4, fps=10, where="start")) == ([0, 2, 5, 7], 0)  # 0, .1, .2, .3 s at 25 fps
    assert numbers(Clips(6, fps=50, where="start")) == ([0, 0, 1, 1, 2, 2], 0)  # above the file's: frames repeat


def test_variable_frame_rate_is_read_by_time():
    timeline = Timeline(2.0, 3.0, np.array([0.0, 0.1, 0.2, 1.0, 1.1, 1.9]))
    assert numbers(Clips(5, fps=2.5, where="start"), timeline) == ([0, 2, 2, 4, 4], 0)  # 0, .4, .8, 1.2, 1.6 s
    assert numbers(Clips(3, stride=2, where="start"), timeline) == ([0, 2, 4], 0)


def test_rounded_time_stamps_do_not_lose_frames():
    """Matroska rounds to milliseconds: frame 2 of 30 fps is at .067 s, later than 2/30."""
    timeline = Timeline(1.0, 30.0, np.round(np.arange(30) / 30, 3), tolerance=1e-3)
    assert numbers(Clips(30, fps=30, where="start"), timeline)[0] == list(range(30))


def test_places():
    assert numbers(Clips(4, where="centre"))[0] == [48, 49, 50, 51]
    assert numbers(Clips(4, where="uniform"))[0] == [48, 49, 50, 51]  # one clip: the centre
    assert numbers(Clips(2, where="uniform", count=3))[0] == [0, 1, 49, 50, 98, 99]
    assert numbers(Clips(2, fps=25, where="uniform", count=2))[0] == [0, 1, 98, 99]
    assert numbers(Clips(4, fps=25, where="random"), draws=[0.5])[0] == [48, 49, 50, 51]


def test_random_starts_cover_every_place_evenly():
    clips = Clips(91, where="random")
    starts = [numbers(clips, draws=[draw])[0][0] for draw in np.linspace(0, 0.999, 1000)]
    assert sorted(set(starts)) == list(range(10))
    assert min(np.bincount(starts)) > 90


def test_several_random_clips_lie_in_their_own_part():
    clips = Clips(1, where="random", count=4)
    for draws in ([0.0] * 4, [0.999] * 4):
        assert [n // 25 for n in numbers(clips, draws=draws)[0]] == [0, 1, 2, 3]


def test_random_draws_come_from_the_global_generator():
    clips = Clips(4, count=3)
    torch.manual_seed(5)
    first = clips.draws()
    torch.manual_seed(5)
    assert clips.draws() == first
    assert len(first) == 3
    state = torch.get_rng_state()
    assert Clips(4, where="start").draws() == []
    assert torch.equal(torch.get_rng_state(), state)


def test_short_videos_are_padded_as_configured():
    short = Timeline.even(5, 25)
    assert numbers(Clips(8, where="random", short="repeat"), short) == ([0, 1, 2, 3, 4, 4, 4, 4], 3)
    assert numbers(Clips(8, where="random", short="loop"), short) == ([0, 1, 2, 3, 4, 0, 1, 2], 3)
    assert numbers(Clips(4, stride=2, short="repeat"), short) == ([0, 2, 4, 4], 1)
    assert numbers(Clips(4, fps=12.5, short="loop"), short) == ([0, 2, 4, 0], 1)
    assert numbers(Clips(4, fps=12.5, where="uniform", count=2), short) == ([0, 2, 4, 4] * 2, 1)
    assert numbers(Clips(3), Timeline.even(1, 25)) == ([0, 0, 0], 2)


def test_a_video_just_long_enough_is_not_short():
    for fps in (5, 12.5, 25, 24, 30000 / 1001, 50):
        timeline = Timeline.even(16, fps)
        assert numbers(Clips(16, fps=fps, where="random"), timeline, [0.7])[1] == 0
        assert numbers(Clips(16, fps=fps * 2, where="random"), timeline, [0.7])[1] == 0
        assert numbers(Clips(17, fps=fps, where="random"), timeline, [0.7])[1] == 1


def test_skip_says_how_short():
    with pytest.raises(UnreadableVideoError, match=r"^a.mp4: is too short \(3 s, 24 frames\) for 64 frames at 8 fps$"):
        Clips(64, fps=8, short="skip").moments(Timeline.even(24, 8), [0.5], "a.mp4")


def test_uncounted_videos_are_read_by_their_header():
    timeline = Timeline(4.0, 25.0)  # no frame times
    assert timeline.frames == 100
    assert numbers(Clips(4, stride=5, where="start"), timeline)[0] == [0, 5, 10, 15]
    assert numbers(Clips(4, stride=5, where="centre"), timeline)[0] == [42, 47, 52, 57]


def test_misuse():
    with pytest.raises(ConfigError, match="exclude each other"):
        Clips(4, fps=5, stride=2)
    with pytest.raises(ConfigError, match="cannot all lie"):
        Clips(4, where="start", count=2)
    with pytest.raises(ConfigError, match="above 0"):
        Clips(0)


def test_of_a_recipe():
    clip = ClipConfig(frames=8, fps=4, sampling="start", short="loop")
    assert Clips.training(clip) == Clips(8, 4, None, "start", 1, "loop")
    assert Clips.evaluation(clip, 3) == Clips(8, 4, None, "uniform", 3, "loop")


@given(
    frames=st.integers(1, 40),
    count=st.integers(1, 4),
    length=st.integers(1, 200),
    rate=st.floats(1, 120),
    fps=st.one_of(st.none(), st.floats(0.5, 240)),
    stride=st.integers(1, 9),
    where=st.sampled_from(["random", "uniform"]),
    counted=st.booleans(),
    draw=st.floats(0, 0.999999),
)
def test_clips_are_always_whole_and_in_the_video(frames, count, length, rate, fps, stride, where, counted, draw):
    timeline = Timeline.even(length, rate) if counted else Timeline(length / rate, rate)
    clips = Clips(frames, fps, None if fps else stride, where, count)
    found = clips.moments(timeline, [draw] * count if where == "random" else [])
    assert found.times.shape == (frames * count,)
    assert found.times.min() >= 0
    assert found.times.max() < timeline.duration + 1e-6
    steps = np.diff(found.times.reshape(count, frames), axis=1)
    assert (steps >= 0).all()
    assert 0 <= found.padded < frames
    if not found.padded and frames > 1:
        assert np.allclose(steps, 1 / fps if fps else stride / rate, rtol=1e-6)
