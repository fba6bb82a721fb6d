"""Folders, lists and their odd corners."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from openjepa.data import FileSource, Subset, holdout, labels_of, open_source
from openjepa.data.listing import PathTable
from openjepa.errors import DataError


def names(source):
    return [source.item_id(i) for i in range(len(source))]


def test_first_level_folders_are_classes(make_folder):
    root = make_folder("b/1.png", "a/x/2.png", "a/3.png")
    source = open_source(root)
    assert source.classes == ["a", "b"]
    assert names(source) == ["a/3.png", "a/x/2.png", "b/1.png"]
    assert [source.label(i) for i in range(3)] == [0, 0, 1]
    assert source.read(0).shape == (3, 12, 10)


@pytest.mark.parametrize("files", [("1.png", "2.png"), ("a/1.png", "a/2.png"), ("1.png", "a/2.png", "b/3.png")])
def test_flat_single_and_mixed_folders_have_no_classes(make_folder, files):
    source = open_source(make_folder(*files))
    assert source.classes is None
    assert source.label(0) == -1
    assert len(source) == len(files)


def test_unicode_spaces_and_capital_suffixes(make_folder):
    source = open_source(make_folder("grün blau/été 1.PNG", "日本/ 2 .Png"))
    assert len(source) == 2
    assert all(source.read(i).shape[0] == 3 for i in range(2))


def test_file_names_that_are_not_utf8(make_folder, tmp_path):
    root = make_folder("1.png")
    os.rename(os.fsencode(root) + b"/1.png", os.fsencode(root) + b"/\xff1.png")
    source = open_source(root)
    assert source.read(0).shape[0] == 3
    assert source.item_id(0).encode() == b"\\xff1.png"


def test_other_files_are_ignored_and_counted_and_hidden_ones_skipped(make_folder):
    root = make_folder("1.png", ".hidden.png", ".git/2.png", "__MACOSX/3.png")
    for name in ("readme.txt", "labels.csv", "more.txt", "noending"):
        (root / name).write_text("x")
    source = open_source(root)
    assert names(source) == ["1.png"]
    assert source.ignored == {".txt": 2, ".csv": 1, "(none)": 1}


def test_links_are_followed_but_not_in_circles(make_folder, tmp_path):
    root = make_folder("a/1.png", "b/2.png")
    (root / "a/up").symlink_to(root)
    (root / "c").symlink_to(make_folder("3.png", root="elsewhere"))
    (root / "gone.png").symlink_to(tmp_path / "nothing")
    (root / "me.png").symlink_to(root / "me.png")
    os.mkfifo(root / "pipe.png")  # reading one would wait for ever
    source = open_source(root)
    assert names(source) == ["a/1.png", "b/2.png", "c/3.png", "gone.png", "me.png"]
    for dangling in (3, 4):
        with pytest.raises(DataError):
            source.read(dangling)


def test_train_and_val_subfolders(make_folder):
    root = make_folder("train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png", "test/b/5.png")
    source = open_source(root)
    assert (len(source), source.classes) == (2, ["a", "b"])
    assert "train/" in source.note
    assert "test/" in source.note
    assert len(open_source(root, split="val")) == 3
    only = make_folder("train/1.png", "2.png", root="other")
    assert len(open_source(only)) == 2  # no held-out part beside it: just a folder
    assert len(open_source(only, split="train")) == 1
    with pytest.raises(DataError, match=r"no validation split: looked for val/, valid/, validation/, test/"):
        open_source(only, split="val")


class TestNothingThere:
    def test_empty_folder(self, tmp_path):
        with pytest.raises(DataError, match=rf"{tmp_path} is empty: looked for .jpg"):
            open_source(tmp_path)

    def test_folder_without_images(self, tmp_path):
        (tmp_path / "a.txt").write_text("x")
        (tmp_path / "b.mp4").write_text("x")
        with pytest.raises(DataError, match=r"holds no images: looked for .*; it has 1 .txt, 1 .mp4"):
            open_source(tmp_path)

    def test_missing_path_names_the_nearest(self, tmp_path):
        (tmp_path / "photos").mkdir()
        with pytest.raises(DataError, match=rf"{tmp_path} exists but has no 'phots' \(did you mean 'photos'\?\)"):
            open_source(tmp_path / "phots" / "deep" / "er")

    def test_misspelt_builtin(self):
        with pytest.raises(DataError, match="did you mean 'scenes'"):
            open_source("scnes")

    def test_not_an_image_file(self, tmp_path):
        (tmp_path / "a.pdf").write_text("x")
        with pytest.raises(DataError, match="neither a folder"):
            open_source(tmp_path / "a.pdf")

    def test_errors_are_one_line(self, tmp_path):
        for bad in (tmp_path, tmp_path / "x" / "y", "scnes"):
            with pytest.raises(DataError) as caught:
                open_source(bad)
            assert "\n" not in str(caught.value)


def test_a_single_image(make_folder):
    source = open_source(make_folder("one.png") / "one.png")
    assert names(source) == ["one.png"]


class TestLists:
    def write(self, root: Path, text: str, name: str = "list.txt") -> Path:
        path = root / name
        path.write_text(text)
        return path

    def test_paths_and_labels(self, make_folder):
        root = make_folder("1.png", "with space.png", "sub/3.png")
        listed = self.write(root, "# comment\n\n1.png dog\nwith space.png cat\nsub/3.png\n")
        source = open_source(listed)
        assert names(source) == ["1.png", "with space.png", "sub/3.png"]
        assert source.classes == ["cat", "dog"]
        assert [source.label(i) for i in range(3)] == [1, 0, -1]
        assert source.read(2).shape[0] == 3

    def test_whole_number_labels_are_taken_as_they_are(self, make_folder):
        source = open_source(self.write(make_folder("1.png", "2.png"), "1.png\t3\n2.png\t1\n", "list.tsv"))
        assert [source.label(i) for i in range(2)] == [3, 1]
        assert source.classes == ["0", "1", "2", "3"]

    def test_header_names_the_columns(self, make_folder):
        root = make_folder("1.png", "2, b.png", "3.png")
        text = 'id,path,split,label,class_name\n7,1.png,train,0,ant\n8,"2, b.png",train,1,bee\n9,3.png,test,0,ant\n'
        listed = self.write(root, text, "index.csv")
        source = open_source(listed)
        assert names(source) == ["1.png", "2, b.png"]
        assert source.classes == ["ant", "bee"]
        assert names(open_source(listed, split="val")) == ["3.png"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("1.png\n\nnonsense here\n", r"line 3: 'nonsense here' names no image"),
            ("1.png,a,b\n", "line 1: 3 fields"),
            ("path,label\n1.png,a\n1.png\n", "line 3: 1 fields, fewer"),
            ("\n# nothing\n", "names no images"),
            ("gone.png\nlost.png\n", r"line 1: 'gone.png' does not exist"),
        ],
    )
    def test_bad_lines_are_named_with_their_number(self, make_folder, text, message):
        name = "list.csv" if "," in text else "list.txt"
        with pytest.raises(DataError, match=message):
            open_source(self.write(make_folder("1.png"), text, name))

    def test_one_missing_file_is_a_bad_file_with_its_line(self, make_folder):
        source = open_source(self.write(make_folder("1.png"), "1.png\ngone.png\n"))
        with pytest.raises(DataError, match=r"gone.png: no such file or directory \(line 2 of .*list.txt\)"):
            source.read(1)


def test_holdout_is_stratified_disjoint_and_repeatable(make_folder):
    root = make_folder(*(f"{c}/{k}.png" for c, n in (("a", 20), ("b", 10), ("c", 2), ("d", 1)) for k in range(n)))
    source = open_source(root)
    train, val = holdout(source, 0.1, seed=3)
    assert sorted([*train.indices, *val.indices]) == list(range(len(source)))
    assert Counter(labels_of(val).tolist()) == {0: 2, 1: 1, 2: 1}
    assert np.array_equal(val.indices, holdout(source, 0.1, seed=3)[1].indices)
    assert not np.array_equal(val.indices, holdout(source, 0.1, seed=4)[1].indices)
    assert val.classes == source.classes
    assert val.item_id(0) == source.item_id(int(val.indices[0]))


def test_holdout_of_one_image_is_refused(make_folder):
    with pytest.raises(DataError, match="needs at least 2"):
        holdout(open_source(make_folder("1.png")), 0.1, 0)


def test_two_images_split_into_one_and_one(make_folder):
    train, val = holdout(open_source(make_folder("1.png", "2.png")), 0.1, 0)
    assert (len(train), len(val)) == (1, 1)


def test_fingerprints_follow_the_content(make_folder):
    root = make_folder("a/1.png", "b/2.png")
    before = open_source(root).fingerprint()
    assert open_source(root).fingerprint() == before
    assert open_source(root, channels=1).fingerprint() != before
    assert Subset(open_source(root), [0]).fingerprint() != Subset(open_source(root), [1]).fingerprint()
    os.utime(root / "a/1.png", ns=(1, 1))
    assert open_source(root).fingerprint() != before


def test_subset_refuses_what_is_not_there(make_folder):
    with pytest.raises(DataError, match=r"0\.\.1"):
        Subset(open_source(make_folder("1.png", "2.png")), [0, 2])


def test_path_table_is_a_list_of_strings():
    paths = ["", "a", "ünï/с.png", "a" * 300]
    assert list(PathTable(paths)) == paths


def test_scenes_by_name_and_not_by_folder(make_folder, tmp_path, monkeypatch):
    make_folder("1.png", root="scenes")
    monkeypatch.chdir(tmp_path)
    assert open_source("scenes", count=5).name == "scenes"
    assert isinstance(open_source("./scenes"), FileSource)
    assert not torch.equal(open_source("scenes").read(0), open_source("scenes", split="val").read(0))
