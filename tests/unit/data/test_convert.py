"""Shards: what was in the files is in them, other libraries read them, kills are made good, and they open as data."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from openjepa.data import convert as convert_room
from openjepa.data import open_source, verify
from openjepa.data.clips import Clips
from openjepa.data.convert import convert
from openjepa.data.inspection import inspect
from openjepa.errors import ConfigError, DataError, RunError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        place = tmp_path / "data" / ("bird" if number % 3 else "äpfel") / f"{number:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20 + number, 24, 3), np.uint8)).save(place)
    (tmp_path / "data" / "bird" / "07.png").write_bytes(b"\x89PNG cut off")
    return tmp_path / "data"


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_shards_hold_the_files_and_open_as_data(tmp_path, folder, format):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    done = convert(folder, tmp_path / "out", format=format, shard_mb=0.01)
    assert len(done.shards) > 3
    assert done.items == 20
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*done.shards, "convert.json"])
    before, after = open_source(folder), open_source(tmp_path / "out")
    assert after.classes == before.classes
    for index in range(20):
        assert after.label(index) == before.label(index)
        assert after.content(index) == before.path(index).read_bytes()
    assert torch.equal(after.read(3), before.read(3))
    assert len(verify(tmp_path / "out").bad) == 1
    found = inspect(tmp_path / "out")
    assert found.images == 20
    again = convert(folder, tmp_path / "out", format=format, shard_mb=0.01)
    assert (again.written, again.shards) == (0, done.shards)


def test_other_libraries_read_them(tmp_path, folder):
    pytest.importorskip("pyarrow")
    convert(folder, tmp_path / "wds", shard_mb=0.01, check=True)
    webdataset = pytest.importorskip("webdataset")
    urls = sorted(str(path) for path in (tmp_path / "wds").glob("*.tar"))
    rows = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("png", "json", "cls"))
    assert len(rows) == 19
    by_id = {about["id"]: (np.asarray(image), label) for image, about, label in rows}
    image, label = by_id["bird/01.png"]
    np.testing.assert_array_equal(image, np.asarray(Image.open(folder / "bird" / "01.png")))
    assert label == open_source(folder).classes.index("bird")


def test_the_datasets_library_reads_parquet(tmp_path, folder):
    datasets = pytest.importorskip("datasets")
    convert(folder, tmp_path / "out", format="parquet", check=True)
    rows = datasets.Dataset.from_parquet(str(tmp_path / "out" / "shard-000000.parquet"), cache_dir=str(tmp_path / "c"))
    assert rows.features["label"].names == open_source(folder).classes
    np.testing.assert_array_equal(np.asarray(rows[0]["image"]), np.asarray(Image.open(folder / rows[0]["id"])))


def test_bad_files_are_named(tmp_path, folder):
    done = convert(folder, tmp_path / "out", check=True)
    assert (done.items, list(done.bad)) == (19, ["bird/07.png"])
    assert list(json.loads((tmp_path / "out" / "convert.json").read_bytes())["bad"]) == ["bird/07.png"]
    (folder / "bird" / "08.png").write_bytes(b"")
    done = convert(folder, tmp_path / "out2")  # not decoded: only what has no content is left out
    assert (done.items, list(done.bad)) == (19, ["bird/08.png"])


@pytest.mark.parametrize("after", [0, 1, 4])
def test_interrupted_anywhere_the_same_call_completes_it(tmp_path, folder, monkeypatch, after):
    whole = convert(folder, tmp_path / "whole", shard_mb=0.01)
    count, place = [0], convert_room.os.replace

    def stop(*names):
        if count[0] == 2 * after + 1:
            raise KeyboardInterrupt
        count[0] += 1
        place(*names)

    with monkeypatch.context() as patch:
        patch.setattr(convert_room.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(folder, tmp_path / "out", shard_mb=0.01)
    with pytest.raises(RunError, match="begun with another shard_mb"):
        convert(folder, tmp_path / "out", shard_mb=0.02)
    done = convert(folder, tmp_path / "out", shard_mb=0.01)
    assert done.written == len(whole.shards) - after
    for name in whole.shards:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_reads_back_differently_is_an_error(tmp_path, folder, monkeypatch):
    read = convert_room.read_tar
    monkeypatch.setattr(convert_room, "read_tar", lambda path: list(read(path))[:-1])
    with pytest.raises(RunError, match="reads back other than it was written"):
        convert(folder, tmp_path / "out")


def test_videos_go_into_tars(tmp_path):
    av = pytest.importorskip("av")
    (tmp_path / "films").mkdir()
    for number in range(3):
        with av.open(str(tmp_path / "films" / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for shade in range(8):
                values = np.full((32, 32, 3), 20 * shade + number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
            container.mux(stream.encode())
    done = convert(tmp_path / "films", tmp_path / "out")
    assert done.items == 3
    clips = Clips(4, fps=8.0, where="start")
    before, after = (open_source(tmp_path / name, clip=clips) for name in ("films", "out"))
    assert torch.equal(before.read(1), after.read(1))
    with pytest.raises(DataError, match="--format webdataset"):
        convert(tmp_path / "films", tmp_path / "p", format="parquet")


def test_bad_input_is_one_line(tmp_path, folder):
    with pytest.raises(ConfigError, match="did you mean 'parquet'"):
        convert(folder, tmp_path / "out", format="parket")
    with pytest.raises(DataError, match="no files to convert"):
        convert("scenes", tmp_path / "out", video=False)
    with pytest.raises(RunError, match="holds other files"):
        convert(folder, folder)
    with pytest.raises(DataError, match="no such file"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    convert(folder, tmp_path / "out")
    with pytest.raises(RunError, match="another format"):
        convert(folder, tmp_path / "out", format="parquet")
    (tmp_path / "words.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="no Parquet file"):
        open_source(tmp_path / "words.parquet")
    with tarfile.open(tmp_path / "empty.tar", "w") as tar:
        info = tarfile.TarInfo("a.txt")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="holds no images"):
        open_source(tmp_path / "empty.tar")
