"""``data inspect`` and ``data verify``, as functions and as commands."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from openjepa.cli.data import app
from openjepa.data import inspect, verify
from openjepa.errors import DataError


@pytest.fixture
def zoo(make_folder):
    root = make_folder("a/1.png", "a/2.png", "b/3.png")
    Image.new("L", (40, 20)).save(root / "b/gray.bmp")
    Image.new("RGB", (8, 8)).save(root / "b/really_a_png.jpg", "PNG")
    np.save(root / "b/array.npy", np.zeros((5, 6), np.uint16))
    shutil.copy(root / "a/1.png", root / "b/copy of 1.png")
    (root / "a/broken.jpg").write_text("no")
    whole = (root / "a/2.png").read_bytes()
    (root / "a/cut.png").write_bytes(whole[: len(whole) - 40])  # the header is fine
    (root / "notes.txt").write_text("x")
    return root


def test_inspect_reads_headers(zoo):
    seen = []
    found = inspect(zoo, on_progress=lambda done, total: seen.append((done, total)))
    assert found.images == 9
    assert found.formats == {"PNG": 6, "BMP": 1, "NPY": 1}
    assert found.modes == {"RGB": 6, "L": 1, "uint16": 1}
    assert found.channels == {"3": 6, "1": 2}
    assert (found.width.min, found.width.median, found.width.max) == (6, 10, 40)
    assert found.classes == {"a": 4, "b": 5}
    assert found.bad == {"a/broken.jpg": "not an image of a known format"}
    assert found.mismatched == {"b/really_a_png.jpg": "PNG"}
    assert found.duplicates == [["a/1.png", "b/copy of 1.png"]]
    assert found.ignored == {".txt": 1}
    assert found.bytes == sum(p.stat().st_size for p in zoo.rglob("*") if p.is_file() and p.suffix != ".txt")
    assert seen[-1] == (9, 9)
    assert json.loads(json.dumps(found.to_json()))["width"] == {"min": 6, "median": 10, "max": 40}


def test_verify_decodes_everything(zoo):
    seen = []
    found = verify(zoo, lambda done, total: seen.append(done))
    assert found.ok == 7
    assert set(found.bad) == {"a/broken.jpg", "a/cut.png"}
    assert "truncated" in found.bad["a/cut.png"]
    assert seen == list(range(1, 10))


def test_scenes_can_be_inspected():
    found = inspect("scenes")
    assert found.images == 4096
    assert sum(found.classes.values()) == 4096
    assert found.width.max == 64


def test_nothing_to_inspect(tmp_path):
    for look in (inspect, verify):
        with pytest.raises(DataError, match="is empty"):
            look(tmp_path)


class TestCommands:
    def run(self, *words):
        return CliRunner().invoke(app, [str(w) for w in words])

    def test_inspect(self, zoo):
        result = self.run("inspect", zoo)
        assert result.exit_code == 0
        assert "images: 9" in result.output
        assert "classes: 2: a 4, b 5" in result.output
        assert "bad: a/broken.jpg: not an image of a known format" in result.output
        assert json.loads(self.run("inspect", zoo, "--json").output)["images"] == 9

    def test_verify_exits_1_and_lists(self, zoo, tmp_path):
        listed = tmp_path / "bad.tsv"
        result = self.run("verify", zoo, "--list", listed)
        assert result.exit_code == 1
        assert "7 of 9 images are readable, 2 bad" in result.output
        assert [line.split("\t")[0] for line in listed.read_text().splitlines()] == ["a/broken.jpg", "a/cut.png"]
        assert json.loads(self.run("verify", zoo, "--json").output)["ok"] == 7

    def test_verify_of_good_data_exits_0(self, make_folder):
        assert self.run("verify", make_folder("1.png")).exit_code == 0

    def test_errors_keep_their_type_for_the_command_line_to_print(self, tmp_path):
        assert isinstance(self.run("inspect", tmp_path).exception, DataError)
        assert isinstance(self.run("verify", tmp_path / "gone").exception, DataError)


def test_every_odd_shared_image_is_loaded_or_listed(odd_images):
    found = verify(odd_images)
    assert found.ok + len(found.bad) == 13
    assert {name.split("/")[0] for name in found.bad} == {"images_damaged"}
    assert inspect(odd_images).images == 13
