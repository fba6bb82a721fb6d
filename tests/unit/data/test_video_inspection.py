"""``data inspect`` and ``data verify`` of videos, and whether clips fit them: one clear line each."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from openjepa.cli.data import app
from openjepa.data import Subset, inspect, open_source, verify
from openjepa.data.clips import Clips, Timeline
from openjepa.data.video_inspection import check_clips, clip_notes, holds_videos
from openjepa.errors import ConfigError, DataError
from tests.video_files import write_audio, write_frames, write_video

pytest.importorskip("av")


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    root = tmp_path_factory.mktemp("zoo")
    write_video(root / "walk/a.mp4", 50)
    write_video(root / "walk/b.webm", 20, fps=10, size=(40, 56))
    write_video(root / "run/c.mkv", 6, times=[0, 0.04, 0.5, 0.54, 1.0, 1.4])
    write_frames(root / "run/frames", 8)
    write_audio(root / "run/sound.mp4")
    shutil.copy(root / "walk/a.mp4", root / "run/copy.mp4")
    (root / "notes.txt").write_text("x")
    return root


def test_inspect(zoo):
    seen = []
    found = inspect(zoo, video=True, on_progress=lambda done, total: seen.append((done, total)))
    videos = found.videos
    assert (found.images, videos.count, videos.counted) == (0, 6, 5)
    assert videos.containers == {"mov": 2, "matroska": 2, "frames": 1}
    assert videos.codecs == {"h264": 3, "png": 1, "vp9": 1}
    assert videos.sizes == {"64x48": 4, "56x40": 1}
    assert videos.fps["25"] == 3
    assert videos.variable == 1
    assert (videos.frames.min, videos.frames.max) == (6, 50)
    assert videos.seconds.max == pytest.approx(2.0)
    assert videos.hours == pytest.approx((2 + 2 + 2 + 8 / 25 + 1.8) / 3600, abs=1e-4)
    assert found.classes == {"run": 4, "walk": 2}
    assert found.bad == {"run/sound.mp4": "has sound but no video"}
    assert found.duplicates == [["run/copy.mp4", "walk/a.mp4"]]
    assert seen[-1] == (6, 6)
    assert json.loads(json.dumps(found.to_json()))["videos"]["count"] == 6


def test_verify_decodes_every_frame(zoo):
    found = verify(zoo, video=True)
    assert (found.kind, found.ok, found.frames) == ("video", 5, 50 + 20 + 6 + 8 + 50)
    assert found.bad == {"run/sound.mp4": "has sound but no video"}


def test_what_data_holds_is_guessed(zoo, make_folder, tmp_path):
    assert not holds_videos(zoo)  # 8 frames are more than 5 videos
    assert holds_videos(zoo / "walk")
    assert holds_videos(zoo / "walk/a.mp4")
    assert holds_videos("x-{0..3}.tar")
    assert not holds_videos(make_folder("a.png", "b/c.png"))
    (tmp_path / "list.csv").write_text("path,label\na.mp4,1\nb.mp4,2\n")
    assert holds_videos(tmp_path / "list.csv")
    (tmp_path / "list.txt").write_text("a.png 1\nb.jpg 2\n")
    assert not holds_videos(tmp_path / "list.txt")
    assert not holds_videos("scenes")


class TestClipNotes:
    def lines(self, lengths, clips, fps=25):
        return clip_notes([Timeline.even(n, fps) for n in lengths], clips)

    def test_what_fits_needs_no_words(self):
        assert self.lines([50, 60], Clips(16, fps=25)) == []
        assert self.lines([16], Clips(16)) == []

    def test_a_length_that_no_video_reaches(self):
        (line,) = self.lines([75, 50], Clips(64, fps=8))  # 3 s asked for 8 s
        assert line.startswith(
            "no video is as long as a clip of 64 frames at 8 fps: the longest of 2 has 75 frames (3 s)"
        )
        assert "data.clip.frames to at most 24, else all are padded (data.clip.short=repeat)" in line
        with pytest.raises(DataError, match=r"^no video is as long as a clip of 64 frames at 8 fps.*at most 24$"):
            self.lines([75, 50], Clips(64, fps=8, short="skip"))
        assert self.lines([75], Clips(24, fps=8)) == []

    def test_some_are_short(self):
        (line,) = self.lines([50, 10], Clips(16))
        assert line == "1 of 2 videos are shorter than a clip of 16 frames and are padded (repeat)"
        (line,) = self.lines([50, 10], Clips(16, short="skip"))
        assert line.endswith("are skipped")

    def test_fps_above_the_files(self):
        (line,) = self.lines([500], Clips(16, fps=60))
        assert line == "data.clip.fps 60 is above the rate of 1 of 1 videos (from 25 fps): their frames repeat"
        assert self.lines([500], Clips(16, fps=30), fps=30000 / 1001) == []


def test_check_clips_looks_at_some_videos(zoo):
    notes = check_clips(Subset(open_source(zoo, clip=Clips(16, fps=25)), [0, 1]))
    assert [note.split(":")[0] for note in notes] == [
        "1 of 5 videos are shorter than a clip of 16 frames at 25 fps and are padded (repeat)",
        "data.clip.fps 25 is above the rate of 2 of 5 videos (from 3.333 fps)",
        "videos are of 2 sizes (56x40 to 64x48)",
    ]
    with pytest.raises(DataError, match="no video is as long"):
        check_clips(open_source(zoo, clip=Clips(640, short="skip")))
    assert check_clips(open_source("scenes", clip=Clips(4))) == []


class TestCommands:
    def run(self, *words):
        return CliRunner().invoke(app, [str(w) for w in words])

    def test_inspect(self, zoo):
        result = self.run("inspect", zoo, "--video", "--frames", 64, "--fps", 8)
        assert result.exit_code == 0
        for line in (
            "videos: 6",
            "mov 2",
            "variable frame rate: 1 of the videos",
            "clips: no video is as long as a clip of 64 frames at 8 fps",
            "classes: 2: run 4, walk 2",
            "bad: run/sound.mp4: has sound but no video",
        ):
            assert line in result.output
        assert "images:" in self.run("inspect", zoo, "--images").output

    def test_verify(self, zoo):
        result = self.run("verify", zoo, "--video")
        assert result.exit_code == 1
        assert "5 of 6 videos are readable, 1 bad (134 frames" in result.output

    def test_rates_without_a_length(self, zoo):
        assert isinstance(self.run("inspect", zoo, "--fps", 8).exception, ConfigError)
