"""Frames of video files are the ones a full decode gives, whatever the container, codec and key frames."""

import shutil

import numpy as np
import pytest

from openjepa.data.clips import UnreadableVideoError
from openjepa.data.video import SCAN_BYTES, VideoFile
from tests.video_files import read_numbers, write_audio, write_video

av = pytest.importorskip("av")

IRREGULAR = [0.0, 0.04, 0.1, 0.5, 0.54, 0.9, 1.0, 1.04, 1.3, 1.34, 1.4, 2.0]
OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:scenecut=0"}
FILES = {
    "plain.mp4": {},
    "sound.mov": {"audio": True},
    "plain.mkv": {},
    "plain.webm": {},
    "plain.avi": {},
    "plain.gif": {},
    "plain.ts": {},
    "plain.asf": {},
    "plain.flv": {},
    "plain.mpg": {},
    "bframes.ts": {"options": {"bf": "2"}},
    "bframes.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "open.mp4": {"options": OPEN_GOP},
    "open.ts": {"codec": "libx264", "options": OPEN_GOP},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "stream.h264": {"codec": "libx264"},
    "ten_bits.mkv": {"pixels": "yuv420p10le"},
    "full_colour.mp4": {"pixels": "yuv444p"},
    "gray.mkv": {"codec": "ffv1", "pixels": "gray"},
    "odd.avi": {"codec": "mjpeg", "size": (47, 63), "pixels": "yuvj444p"},
    "ntsc.mp4": {"fps": 30000 / 1001},
}
COUNT = 90


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for name, how in FILES.items():
        write_video(root / name, COUNT, gop=12, **how)
    write_video(root / "irregular.mkv", len(IRREGULAR), times=IRREGULAR, gop=4)
    write_video(root / "irregular.mp4", len(IRREGULAR), times=IRREGULAR, gop=4)
    return root


@pytest.mark.parametrize("scan_bytes", [SCAN_BYTES, 0], ids=["counted", "by header"])
@pytest.mark.parametrize("name", FILES)
def test_random_frames_are_those_of_a_full_decode(zoo, name, scan_bytes):
    rng = np.random.default_rng(0)
    with VideoFile(zoo / name, scan_bytes=scan_bytes) as video:
        rate = FILES[name].get("fps", 25)
        assert video.duration == pytest.approx(COUNT / rate, rel=0.03)  # .flv counts its start
        assert video.fps == pytest.approx(rate, rel=0.02)
        assert video.frames in (None, COUNT)
        for _ in range(6):
            wanted = rng.integers(0, COUNT - 1, 5)  # any order, repeats
            assert read_numbers(video.at((wanted + 0.5) / rate)) == wanted.tolist()
        assert read_numbers(video.at(np.array([-1.0, 0.0, 1e6]))) == [0, 0, COUNT - 1]


@pytest.mark.parametrize("name", ["irregular.mkv", "irregular.mp4"])
def test_variable_frame_rate_follows_the_time_stamps(zoo, name):
    times = np.array(IRREGULAR)
    asked = np.random.default_rng(1).uniform(0, 2.0, 40)
    with VideoFile(zoo / name) as video:
        assert video.timeline.times == pytest.approx(times, abs=1e-3)
        shown = (times <= asked[:, None] + 1e-3).sum(axis=1) - 1
        assert read_numbers(video.at(asked)) == shown.tolist()


def test_pixels_are_those_of_a_full_decode(zoo):
    for name in ("plain.mp4", "odd.avi", "ten_bits.mkv"):
        with av.open(str(zoo / name)) as container:
            whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        with VideoFile(zoo / name) as video:
            got = video.at(video.timeline.times[[70, 3]])
        assert np.array_equal(got.permute(0, 2, 3, 1).numpy(), np.stack([whole[70], whole[3]]))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm", ".ts"])
@pytest.mark.parametrize("scan_bytes", [SCAN_BYTES, 0], ids=["counted", "by header"])
def test_a_clip_from_the_middle_is_not_decoded_from_the_start(tmp_path, suffix, scan_bytes):
    path = write_video(tmp_path / f"long{suffix}", 1000, gop=25)
    with VideoFile(path, scan_bytes=scan_bytes) as video:
        assert read_numbers(video.at((np.arange(600, 616) + 0.5) / 25)) == list(range(600, 616))
        assert video.decoded < 150


def test_reading_goes_on_after_frames_were_left_out(zoo):
    """B-frames between the wanted ones are not decoded; the next call may want them, or those that follow."""
    for name in ("plain.mp4", "hevc.mp4", "open.ts", "bframes.ts"):
        with VideoFile(zoo / name) as video:
            for wanted in ([0, 8, 16], [1, 2, 3], [17, 18, 30], [31, 32], [29, 33], [88, 89]):
                assert read_numbers(video.at((np.array(wanted) + 0.5) / 25)) == wanted
            assert video.decode_all() == COUNT


def test_far_clips_of_one_read_are_jumped_to(tmp_path):
    path = write_video(tmp_path / "long.mp4", 1500, gop=25)
    wanted = np.concatenate([np.arange(start, start + 4) for start in (10, 700, 1400)])
    with VideoFile(path) as video:
        assert read_numbers(video.at((wanted + 0.5) / 25)) == wanted.tolist()
        assert video.decoded < 150


def test_rotation_is_applied(tmp_path):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255  # top left as stored
    corners = {0: (0, 0), 90: (1, 0), 180: (1, 1), 270: (0, 1)}  # counter-clockwise: down the left side
    for degrees, (row, column) in corners.items():
        path = write_video(tmp_path / f"{degrees}.mp4", [picture] * 3, rotate=degrees)
        with VideoFile(path) as video:
            frame = video.at(np.array([0.0]))[0].float().mean(0)
        assert frame.shape == ((48, 64) if degrees % 180 == 0 else (64, 48))
        assert frame[-8 if row else 7, -8 if column else 7] > 200
        assert frame.mean() < 60


def test_gray_on_demand_and_smaller_on_a_hint(zoo):
    with VideoFile(zoo / "plain.mp4", channels=1) as video:
        gray = video.at(np.array([0.2]))
    assert gray.shape == (1, 1, 48, 64)
    assert read_numbers(gray) == [5]
    with VideoFile(zoo / "plain.mp4", at_least=24) as video:
        small = video.at(np.array([0.2]))
    assert small.shape == (1, 3, 24, 32)
    assert read_numbers(small) == [5]
    with VideoFile(zoo / "plain.mp4", at_least=25) as video:
        assert video.at(np.array([0.2])).shape == (1, 3, 48, 64)


def test_odd_channel_counts_are_refused(zoo):
    with pytest.raises(UnreadableVideoError, match=r"1 or 3 channels, and data.channels says 4"):
        VideoFile(zoo / "plain.mp4", channels=4)


def reason_of(path):
    with pytest.raises(UnreadableVideoError) as caught, VideoFile(path) as video:
        video.at(np.linspace(0, video.duration, 9))
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_bad_files_say_why(tmp_path, zoo):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("#EXTM3U\nfile:///etc/passwd\n" * 40)
    whole = (zoo / "sound.mov").read_bytes()
    (tmp_path / "cut.mov").write_bytes(whole[: len(whole) // 2])  # its index is at the end
    data = bytearray((zoo / "plain.mp4").read_bytes())
    start = data.find(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    data[start + 5 : start + size] = bytes(b ^ 0x5A for b in data[start + 5 : start + size])
    (tmp_path / "flipped.mp4").write_bytes(data)
    assert reason_of(tmp_path / "empty.mp4") == "the file is empty"
    assert reason_of(tmp_path / "gone.mp4") == "no such file or directory"
    assert "not a video of a known format" in reason_of(tmp_path / "text.mp4")
    assert reason_of(write_audio(tmp_path / "sound.mp4")) == "has sound but no video"
    assert "cut" in reason_of(tmp_path / "cut.mov")
    assert "damaged" in reason_of(tmp_path / "flipped.mp4")


def test_a_file_cut_short_gives_the_frames_it_has(tmp_path, zoo):
    whole = (zoo / "plain.webm").read_bytes()
    (tmp_path / "cut.webm").write_bytes(whole[: len(whole) * 2 // 3])
    with VideoFile(tmp_path / "cut.webm") as video:
        assert 10 < video.frames < COUNT
        assert read_numbers(video.at((np.arange(10) + 0.5) / 25)) == list(range(10))
        assert video.duration == pytest.approx(video.frames / 25)
    with VideoFile(tmp_path / "cut.webm", scan_bytes=0) as video:  # the header announces all of it
        assert video.duration == pytest.approx(COUNT / 25, rel=0.02)
        video.at(np.array([0.1, 0.2]))
        assert video.missing == 0
        video.at(np.array([0.1, 3.4, 3.5]))
        assert video.missing == 2


def test_paths_of_any_kind(tmp_path, zoo):
    for name in (b"with space.mp4", "ümlaut 日本.mp4".encode(), b"not\xffutf8.mp4", b"http:odd.mp4", b"50%d,,:.mp4"):
        path = tmp_path / name.decode("utf-8", "surrogateescape")
        shutil.copy(zoo / "plain.mp4", path)
        with VideoFile(path) as video:
            assert read_numbers(video.at(np.array([1.0]))) == [25]


def test_files_are_closed(tmp_path, zoo):
    import os

    def opened():
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    (tmp_path / "text.mp4").write_text("no video" * 99)
    before = opened()
    for _ in range(5):
        with VideoFile(zoo / "plain.mp4") as video:
            video.at(np.array([0.0, 3.0]))
        for bad in (tmp_path / "text.mp4", write_audio(tmp_path / "sound.mp4")):
            with pytest.raises(UnreadableVideoError):
                VideoFile(bad)
    assert opened() == before
