"""Sources of clips: folders, lists, shards, frame folders; bad and short videos; memory."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch

from openjepa.data import FileSource, Subset, open_source, with_clips, with_hint
from openjepa.data.clips import Clips, UnreadableVideoError
from openjepa.errors import DataError
from tests.video_files import draw_number, read_numbers, write_audio, write_frames, write_video

pytest.importorskip("av")

START = Clips(4, where="start")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    write_video(root / "long.mp4", 60)
    write_video(root / "short.mp4", 3)
    write_audio(root / "sound.mp4")
    return root


@pytest.fixture
def folder(tmp_path, made):
    for name in ("walk/a.mp4", "walk/b b.mp4", "run/c.MP4"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / "long.mp4", tmp_path / "set" / name)
    (tmp_path / "set/notes.txt").write_text("x")
    return tmp_path / "set"


def ids(source):
    return [source.item_id(i) for i in range(len(source))]


def test_a_folder_of_videos(folder):
    source = open_source(folder, clip=START)
    assert ids(source) == ["run/c.MP4", "walk/a.mp4", "walk/b b.mp4"]
    assert source.classes == ["run", "walk"]
    assert [source.label(i) for i in range(3)] == [0, 1, 1]
    assert source.ignored == {".txt": 1}
    clip = source.read(2)
    assert clip.shape == (4, 3, 48, 64)
    assert clip.dtype == torch.uint8
    assert read_numbers(clip) == [0, 1, 2, 3]


def test_listing_opens_no_video(tmp_path):
    (tmp_path / "v").mkdir()
    for name in ("a.mp4", "b.webm", "c.gif"):
        (tmp_path / "v" / name).write_bytes(b"not a video")
    assert len(open_source(tmp_path / "v", clip=START)) == 3
    with pytest.raises(UnreadableVideoError, match=r"^a.mp4: is not a video"):
        open_source(tmp_path / "v", clip=START).read(0)


def test_one_video_and_several_clips(made):
    source = open_source(made / "long.mp4", clip=Clips(4, stride=2, where="uniform", count=2))
    assert read_numbers(source.read(0)) == [0, 2, 4, 6, 53, 55, 57, 59]


def test_random_clips_follow_the_global_generator(made):
    source = open_source(made / "long.mp4", clip=Clips(4))
    starts = []
    for seed in (1, 1, 2, 3):
        torch.manual_seed(seed)
        numbers = read_numbers(source.read(0))
        assert numbers == list(range(numbers[0], numbers[0] + 4))
        starts.append(numbers[0])
    assert starts[0] == starts[1]
    assert len(set(starts)) == 3


def test_lists_with_and_without_header(folder):
    plain = folder / "list.txt"
    plain.write_text("walk/a.mp4 3\nwalk/b b.mp4 1\n# comment\nrun/c.MP4 0\n")
    source = open_source(plain, clip=START)
    assert ids(source) == ["walk/a.mp4", "walk/b b.mp4", "run/c.MP4"]
    assert [source.label(i) for i in range(3)] == [3, 1, 0]
    spaces = folder / "as_vjepa.csv"  # spaces for commas
    spaces.write_text("walk/a.mp4 3\nwalk/b b.mp4 1\n")
    assert [open_source(spaces, clip=START).label(i) for i in range(2)] == [3, 1]
    table = folder / "table.csv"
    table.write_text("video,class,split\nwalk/a.mp4,walking,train\nrun/c.MP4,running,train\nwalk/b b.mp4,walking,val\n")
    source = open_source(table, clip=START)
    assert (ids(source), source.classes) == (["walk/a.mp4", "run/c.MP4"], ["running", "walking"])
    assert ids(open_source(table, clip=START, split="val")) == ["walk/b b.mp4"]


def test_a_list_names_the_line_of_a_bad_video(folder, made):
    shutil.copy(made / "sound.mp4", folder / "sound.mp4")
    (folder / "list.txt").write_text("walk/a.mp4\n\nsound.mp4\n")
    with pytest.raises(UnreadableVideoError, match=r"has sound but no video \(line 3 of .*list.txt\)"):
        open_source(folder / "list.txt", clip=START).read(1)


def test_a_list_of_photographs_is_refused(make_folder):
    root = make_folder("a.png")
    (root / "list.txt").write_text("a.png 0\n")
    with pytest.raises(DataError, match="line 1: 'a.png 0' names no video"):
        open_source(root / "list.txt", clip=START)


def test_folders_of_frames_are_videos(tmp_path):
    write_frames(tmp_path / "f/walk/one", 12, name="frame_{:d}.png")  # 10 comes after 9
    write_frames(tmp_path / "f/run/two", 3, name="{:05d}.png")
    source = open_source(tmp_path / "f", clip=START)
    assert ids(source) == ["run/two", "walk/one"]
    assert source.classes == ["run", "walk"]
    assert "2 folders of numbered images (15 frames)" in source.note
    assert read_numbers(source.read(1)) == [0, 1, 2, 3]
    assert read_numbers(source.read(0)) == [0, 1, 2, 2]
    assert source.padded == {"run/two": 1}
    assert read_numbers(with_clips(source, Clips(4, stride=3, where="start")).read(1)) == [0, 3, 6, 9]
    assert read_numbers(with_clips(source, Clips(4, fps=6, where="start")).read(1)) == [0, 1, 2, 3]
    (tmp_path / "list.txt").write_text("f/walk/one\nf/run/two\n")
    assert read_numbers(open_source(tmp_path / "list.txt", clip=START).read(0)) == [0, 1, 2, 3]


def test_image_sequences_by_pattern(tmp_path):
    write_frames(tmp_path, 12, name="take_{:02d}_left.png")
    write_frames(tmp_path, 5, name="other_{:02d}.png")
    source = open_source(str(tmp_path / "take_%02d_left.png"), clip=Clips(12, where="start"))
    assert read_numbers(source.read(0)) == list(range(12))
    with pytest.raises(UnreadableVideoError, match="no image in .* fits the pattern gone_%d.png"):
        open_source(str(tmp_path / "gone_%d.png"), clip=START).read(0)


def test_photographs_are_no_videos(tmp_path, make_folder):
    with pytest.raises(
        DataError, match=r"2 loose images, as ./a.png: a clip needs a video: use an image recipe"
    ) as said:
        open_source(make_folder("a.png", "b.png"), clip=START)
    assert "stream of kind images" in str(said.value)
    for k, size in enumerate([(48, 64), (30, 40), (64, 48)]):  # numbered photographs, as Caltech-101 has them
        write_frames(tmp_path / "photos/cat", 1, size, name=f"image_{k:04d}.png")
    with pytest.raises(DataError, match="photographs of several sizes"):
        open_source(tmp_path / "photos", clip=START)


def test_frames_of_several_sizes_are_found_when_read(tmp_path):
    root = write_frames(tmp_path / "f", 9)
    write_frames(tmp_path / "g", 4, (20, 20))
    (tmp_path / "g/frame_0004.png").replace(root / "frame_0003.png")
    with pytest.raises(UnreadableVideoError, match="its images differ in size"):
        open_source(root, clip=START).read(0)


def test_what_a_folder_without_videos_holds_is_said(tmp_path):
    (tmp_path / "a.pdf").touch()
    with pytest.raises(DataError, match=r"holds no videos: looked for .mp4.*it has 1 .pdf"):
        open_source(tmp_path, clip=START)
    (tmp_path / "b.tar").touch()
    with pytest.raises(DataError, match=r"name shards by a pattern, as '.*/\*.tar'"):
        open_source(tmp_path, clip=START)


def test_a_video_without_a_video_recipe_says_so(made):
    with pytest.raises(DataError, match="is a video: choose a recipe with clips"):
        open_source(made / "long.mp4")


def test_short_videos_are_padded_counted_or_skipped(made):
    (made / "three").mkdir(exist_ok=True)
    for name in ("long.mp4", "short.mp4"):
        shutil.copy(made / name, made / "three" / name)
    source = open_source(made / "three", clip=Clips(8, where="start"))
    for index in (0, 1, 1):
        source.read(index)
    assert (source.short, source.padded) == (1, {"short.mp4": 5})
    assert read_numbers(source.read(1)) == [0, 1, 2] + [2] * 5
    assert read_numbers(with_clips(source, Clips(8, where="start", short="loop")).read(1)) == [0, 1, 2, 0, 1, 2, 0, 1]
    with pytest.raises(UnreadableVideoError, match=r"short.mp4: is too short \(0.12 s, 3 frames\) for 8 frames"):
        with_clips(source, Clips(8, where="start", short="skip")).read(1)


def test_a_video_that_ends_before_its_header_says_counts_as_short(tmp_path, monkeypatch):
    from openjepa.data import video_source

    write_video(tmp_path / "v/a.webm", 50)
    whole = (tmp_path / "v/a.webm").read_bytes()
    (tmp_path / "v/a.webm").write_bytes(whole[: len(whole) // 2])
    opened = video_source.VideoFile
    monkeypatch.setattr(video_source, "VideoFile", lambda *a, **k: opened(*a, **{**k, "scan_bytes": 0}))
    source = open_source(tmp_path / "v", clip=Clips(4, fps=2, where="uniform"))
    assert source.read(0).shape[0] == 4
    assert source.short == 1
    with pytest.raises(UnreadableVideoError, match="ends before its header says"):
        with_clips(source, Clips(4, fps=2, where="uniform", short="skip")).read(0)


def test_subsets_and_hints(folder):
    source = open_source(folder, clip=START)
    some = with_hint(with_clips(Subset(source, [2, 0]), Clips(2, where="start")), 24)
    assert some.read(0).shape == (2, 3, 24, 32)
    assert some.fingerprint() != with_clips(Subset(source, [2, 0]), Clips(2, where="start")).fingerprint()
    images = FileSource("x", folder, ["a.png"])
    assert with_clips(images, START) is images


def test_gray_clips(folder):
    assert open_source(folder, clip=START, channels=1).read(0).shape == (4, 1, 48, 64)
    with pytest.raises(DataError, match=r"3 channels \(or 1 for gray\) and data.channels says 4"):
        open_source(folder, clip=START, channels=4)


def test_fingerprints_notice_what_matters(folder):
    first = open_source(folder, clip=START).fingerprint()
    assert open_source(folder, clip=START).fingerprint() == first
    assert open_source(folder, clip=Clips(5, where="start")).fingerprint() != first
    write_video(folder / "walk/a.mp4", 30)
    assert open_source(folder, clip=START).fingerprint() != first


class TestShards:
    def write(self, path, members):
        with tarfile.open(path, "w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    def test_members_are_read_at_random(self, tmp_path, made):
        long, short = (made / "long.mp4").read_bytes(), (made / "short.mp4").read_bytes()
        for number in (8, 9, 10):
            members = [(f"{number}/a.mp4", long), (f"{number}/a.cls", b"7"), (f"{number}/b.x.mp4", short)]
            self.write(tmp_path / f"s-{number:03d}.tar", [*members, (f"{number}/b.cls", b"2"), ("readme.md", b"x")])
        source = open_source(str(tmp_path / "s-{008..010}.tar"), clip=START)
        assert ids(source)[:3] == ["s-008.tar/8/a.mp4", "s-008.tar/8/b.x.mp4", "s-009.tar/9/a.mp4"]
        assert [source.label(i) for i in range(6)] == [7, 2, 7, 2, 7, 2]
        assert read_numbers(source.read(4)) == [0, 1, 2, 3]
        assert read_numbers(source.read(3)) == [0, 1, 2, 2]
        assert len(open_source(str(tmp_path / "*.tar"), clip=START)) == 6
        assert len(open_source(tmp_path / "s-009.tar", clip=START)) == 2

    def test_labels_of_json_and_text(self, tmp_path, made):
        data = (made / "short.mp4").read_bytes()
        pairs = [("walk", "a man walks"), ("run", "he runs"), ("walk", "she walks")]
        members = []
        for k, (label, caption) in enumerate(pairs):
            members += [(f"{k}.mp4", data), (f"{k}.json", json.dumps({"label": label}).encode())]
            members += [(f"{k}.txt", caption.encode())]
        assert open_source(self.write(tmp_path / "a.tar", members), clip=START).classes == ["run", "walk"]
        captions = [m for m in members if not m[0].endswith("json")]
        assert open_source(self.write(tmp_path / "b.tar", captions), clip=START).classes is None
        names = [(n, b"jump" if n.endswith("txt") else d) for n, d in captions]
        assert open_source(self.write(tmp_path / "c.tar", names), clip=START).classes == ["jump"]

    def test_shards_of_the_webdataset_package(self, tmp_path, made):
        writer = pytest.importorskip("webdataset").TarWriter
        with writer(str(tmp_path / "w.tar")) as sink:
            for k in range(3):
                sink.write({"__key__": f"{k:04d}", "mp4": (made / "long.mp4").read_bytes(), "cls": k})
        source = open_source(tmp_path / "w.tar", clip=START)
        assert [source.label(i) for i in range(len(source))] == [0, 1, 2]
        assert read_numbers(source.read(2)) == [0, 1, 2, 3]

    def test_bad_shards(self, tmp_path):
        (tmp_path / "a.tar").write_bytes(b"x" * 2000)
        with pytest.raises(DataError, match="is not a plain tar file"):
            open_source(tmp_path / "a.tar", clip=START)
        (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b" + b"x" * 2000)
        with pytest.raises(DataError, match="compressed shards cannot be read at random"):
            open_source(tmp_path / "a.tar.gz", clip=START)
        self.write(tmp_path / "b.tar", [("a.txt", b"x")])
        with pytest.raises(DataError, match="holds no videos"):
            open_source(tmp_path / "b.tar", clip=START)
        self.write(tmp_path / "c-1.tar", [("a.txt", b"x")])
        with pytest.raises(DataError, match="no such file or folder: .*c-2.tar"):
            open_source(str(tmp_path / "c-{1..3}.tar"), clip=START)
        with pytest.raises(DataError, match="no shard fits"):
            open_source(str(tmp_path / "z*.tar"), clip=START)


def test_memory_does_not_grow(tmp_path):
    resident = pytest.importorskip("resource").getpagesize()

    def now():
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[1]) * resident

    try:
        now()
    except OSError:
        pytest.skip("needs /proc")
    rng = np.random.default_rng(0)
    for suffix in (".mp4", ".webm", ".avi", ".gif"):
        pictures = [draw_number(k, 120, 160) // 2 + rng.integers(0, 99, (120, 160, 1), np.uint8) for k in range(40)]
        write_video(tmp_path / f"v/a{suffix}", pictures)
    source = open_source(tmp_path / "v", clip=Clips(8))
    for k in range(60):
        source.read(k % len(source))
    before = now()
    for k in range(160):
        source.read(k % len(source))
    assert now() - before < 8e6  # one clip leaked per read would be 74 MB
