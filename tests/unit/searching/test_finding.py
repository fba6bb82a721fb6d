"""``openjepa search`` from files to answers: real stores, tiny encoders, another model refused, the command line."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import openjepa
from openjepa.cli import main
from openjepa.config import build_recipe, load_recipe
from openjepa.embedding import embed
from openjepa.errors import ConfigError, DataError, OpenJepaError
from openjepa.hub.model_directory import save_model
from openjepa.methods import build_method

RAW = {"model": {"arch": None, "dim": 16, "depth": 4, "heads": 2}, "predictor": {"dim": 12, "depth": 1, "heads": 1}}


def save_tiny(path: Path, seed: int = 0) -> Path:
    recipe = build_recipe({"name": "tiny", "data": {"image_size": 32}, **RAW, "seed": seed})
    torch.manual_seed(seed)
    save_model(path, build_method(recipe), recipe)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models ``m`` and ``other``, 24 pictures in two classes (one is text, one a copy), their features in ``f.npz``."""
    root = tmp_path_factory.mktemp("search")
    save_tiny(root / "m")
    save_tiny(root / "other", seed=1)
    generator = np.random.default_rng(0)
    for number in range(24):
        path = root / "photos" / ("cat" if number % 2 else "dog") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = generator.integers(0, 255, (4, 5, 3), np.uint8)
        Image.fromarray(blocks.repeat(12, 0).repeat(12, 1)).save(path)
    shutil.copy(root / "photos" / "dog" / "04.png", root / "photos" / "cat" / "21.png")
    (root / "photos" / "dog" / "06.png").write_text("no picture")
    embed(root / "photos", root / "m", root / "f.npz", workers=0, device="cpu")
    return root


@pytest.fixture
def new(place: Path, tmp_path: Path) -> Path:
    """A picture that is not in the index: 08, scaled up and saved anew."""
    path = tmp_path / "new.jpg"
    Image.open(place / "photos" / "dog" / "08.png").resize((75, 60), 0).save(path, quality=95)
    return path


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_a_new_picture_finds_what_it_was_made_of(place: Path, new: Path) -> None:
    found = openjepa.search(place / "f.npz", new, k=3, device="cpu")
    assert found.hits[0].id == "dog/08.png"
    assert found.hits[0].label == "dog"
    assert found.hits[0].similarity > 0.9
    assert Path(found.hits[0].path) == place / "photos" / "dog" / "08.png"
    pixels = openjepa.search(place / "f.npz", Image.open(place / "photos" / "dog" / "08.png"), k=1, device="cpu")
    assert pixels.hits[0].similarity == pytest.approx(1.0, abs=1e-5)


def test_the_broken_file_answers_nothing_and_the_copy_is_a_duplicate(place: Path) -> None:
    index = openjepa.open_index(place / "f.npz")
    assert len(index) == 23
    with pytest.raises(DataError) as caught:
        openjepa.search(index, "dog/06.png")
    assert "neither an id" in one_line(caught.value)
    with pytest.raises(DataError) as caught:
        openjepa.search(index, place / "photos" / "dog" / "06.png", device="cpu")
    assert "06.png" in one_line(caught.value)
    groups = openjepa.find_duplicates(index).groups
    assert [{index.table.ids[row] for row in group.rows} for group in groups] == [{"dog/04.png", "cat/21.png"}]


@pytest.mark.parametrize("name", ["f.parquet", "f.safetensors", "f.lance", "f.zarr"])
def test_every_format_gives_the_same_answers(place: Path, tmp_path: Path, name: str) -> None:
    for library in {"f.parquet": ("pyarrow",), "f.lance": ("lance",), "f.zarr": ("zarr",)}.get(name, ()):
        pytest.importorskip(library)
    embed(place / "photos", place / "m", tmp_path / name, workers=0, device="cpu")
    here, there = (openjepa.search(path, "cat/07.png", k=22) for path in (tmp_path / name, place / "f.npz"))
    assert [hit.id for hit in here.hits] == [hit.id for hit in there.hits]
    assert len(here) == 22
    assert [hit.label for hit in here.hits] == [hit.label for hit in there.hits]


def test_another_model_is_refused_in_one_line(place: Path, new: Path, tmp_path: Path) -> None:
    for query in (str(new), "cat/07.png"):
        with pytest.raises(DataError) as caught:
            openjepa.search(place / "f.npz", query, model=place / "other", device="cpu")
        assert "was made by" in one_line(caught.value)
        assert "other" in str(caught.value)
    moved = tmp_path / "moved"
    shutil.copytree(place / "m", moved)
    found = openjepa.search(place / "f.npz", new, model=moved, k=1, device="cpu")  # the same weights from elsewhere
    assert found.hits[0].id == "dog/08.png"


def test_a_model_that_is_gone_or_was_trained_on_is_one_line(place: Path, new: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "m", tmp_path / "m")
    embed(place / "photos", tmp_path / "m", tmp_path / "f.npz", workers=0, device="cpu")
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(DataError) as caught:
        openjepa.search(tmp_path / "f.npz", new, device="cpu")
    assert "give --model" in one_line(caught.value)
    assert len(openjepa.search(tmp_path / "f.npz", "cat/07.png")) == 10  # items need no model
    shutil.copytree(place / "other", tmp_path / "m")
    with pytest.raises(DataError) as caught:
        openjepa.search(tmp_path / "f.npz", new, device="cpu")
    assert "has changed since" in one_line(caught.value)


def test_queries_are_embedded_with_the_settings_of_the_index(place: Path, new: Path, tmp_path: Path) -> None:
    embed(place / "photos", place / "m", tmp_path / "four.npz", layers="last4", workers=0, device="cpu")
    assert openjepa.search(tmp_path / "four.npz", new, k=1, device="cpu").hits[0].id == "dog/08.png"
    embed(place / "photos", place / "m", tmp_path / "patches.npz", tokens="patch", workers=0, device="cpu")
    with pytest.raises(DataError) as caught:
        openjepa.open_index(tmp_path / "patches.npz")
    assert "--tokens pooled" in one_line(caught.value)


def test_the_command_line(place: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, sheet, answers = str(place / "f.npz"), tmp_path / "a b" / "sheet.html", tmp_path / "hits.json"
    words = ["search", index, str(new), "-k", "3", "--where", "label=dog", "--out", str(sheet), "--json", str(answers)]
    assert main([*words, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "dog/08.png" in printed.splitlines()[0]
    assert str(sheet) in printed
    assert sheet.read_text(encoding="utf-8").count("data:image/") == 4
    hits = json.loads(answers.read_text(encoding="utf-8"))["hits"]
    assert [hit["label"] for hit in hits] == ["dog"] * 3
    assert main(["search", index, "--duplicates", "--out", str(tmp_path / "twice.html")]) == 0
    assert "1 of 23 items repeat another" in capsys.readouterr().out
    with (tmp_path / "twice.csv").open(encoding="utf-8") as file:
        assert {row["id"] for row in csv.DictReader(file)} == {"dog/04.png", "cat/21.png"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["INDEX"], "no QUERY"),
        (["INDEX", "cat/07.png", "--duplicates"], "leave 'cat/07.png' out"),
        (["INDEX", "cat/07.png", "--threshold", "0.9"], "--duplicates"),
        (["INDEX", "--duplicates", "--moments"], "--moments"),
        (["INDEX", "--duplicates", "--threshold", "7"], "cosine"),
        (["INDEX", "cat/7.png"], "did you mean 'cat/"),
        (["INDEX", "cat/07.png", "--where", "lable=cat"], "did you mean 'label'"),
        (["INDEX", "cat/07.png", "--moments"], "--window"),
        (["INDEX", "cat/07.png", "--at", "1"], "--at is for videos"),
        (["INDEX", "cat/07.png", "--model", "/nowhere"], "/nowhere"),
        (["/nowhere.npz", "cat/07.png"], "no features at '/nowhere.npz'"),
        (["/nowhere.txt", "cat/07.png"], ".parquet"),
    ],
)
def test_mistakes_are_one_line(
    place: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *[word.replace("INDEX", str(place / "f.npz")) for word in words]]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_help_loads_nothing_heavy() -> None:
    heavy = ("torch", "faiss", "jinja2", "PIL", "numpy")
    code = f"import sys, openjepa.cli.search; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip encoder, two videos of 6 s (blue, and grey with a red stretch from 3 to 4 s), and windows of 1 s in ``f.npz``."""
    av = pytest.importorskip("av")
    root = tmp_path_factory.mktemp("films")
    words = ["data.image_size=32", "model.arch=null", "model.dim=24", "model.depth=1", "model.heads=2"]
    words += ["data.clip.frames=4", "data.clip.fps=4", "data.clip.stride=null"]
    words += ["predictor.dim=12", "predictor.depth=1", "predictor.heads=1"]
    recipe = load_recipe("vjepa-tiny", words)
    torch.manual_seed(0)
    save_model(root / "m", build_method(recipe), recipe)
    (root / "data").mkdir()
    for name in ("blue", "grey"):
        with av.open(str(root / "data" / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width = stream.height = 48
            stream.pix_fmt = "yuv420p"
            for number in range(48):
                red = name == "grey" and 24 <= number < 32
                colour = (230, 20, 20) if red else (20, 20, 20 + 4 * number) if name == "blue" else (128, 128, 128)
                frame = np.full((48, 48, 3), colour, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    embed(root / "data", root / "m", root / "f.npz", window=1.0, hop=0.5, workers=0, device="cpu")
    return root


def test_moments_within_videos(films: Path, tmp_path: Path) -> None:
    index = openjepa.open_index(films / "f.npz")
    assert len(index) == 22
    Image.new("RGB", (64, 64), (230, 20, 20)).save(tmp_path / "red.png")
    found = openjepa.search(index, tmp_path / "red.png", k=1, moments=True, device="cpu")
    best = found.hits[0]
    assert best.path.endswith("grey.mp4")
    assert best.start is not None
    assert best.end is not None
    assert 2 <= best.start <= 3
    assert 4 <= best.end <= 5
    assert index.table.ids[best.row].endswith("@3")


def test_a_clip_asks_by_its_time_in_or_out_of_the_index(films: Path, tmp_path: Path) -> None:
    index = openjepa.open_index(films / "f.npz")
    inside = openjepa.search(index, films / "data" / "grey.mp4", at=3.5)
    assert inside.asked.text == "grey.mp4@3"
    copy = shutil.copy(films / "data" / "grey.mp4", tmp_path / "copy.mp4")
    outside = openjepa.search(index, copy, at=3.5, k=1, device="cpu")
    assert outside.hits[0].id == "grey.mp4@3"
    assert outside.hits[0].similarity == pytest.approx(1.0, abs=1e-5)
    middle = openjepa.search(index, copy, k=1, where=["id~=grey"], device="cpu")
    assert middle.hits[0].start == pytest.approx(2.5)  # none named: the window in the middle of the video
    for query, options, said in (
        (films / "data" / "grey.mp4", {}, "--at SECONDS"),
        (copy, {"at": 60.0}, "ends at 6 s"),
    ):
        with pytest.raises(OpenJepaError) as caught:
            openjepa.search(index, query, device="cpu", **options)
        assert said in one_line(caught.value)


def test_the_sheet_of_moments_shows_frames(films: Path, tmp_path: Path) -> None:
    words = ["search", str(films / "f.npz"), "grey.mp4@3", "--moments", "-k", "2", "-o", str(tmp_path / "s.html")]
    assert main(words) == 0
    text = (tmp_path / "s.html").read_text(encoding="utf-8")
    assert text.count("data:image/") == 3
    assert " to 0:0" in text


def test_windows_of_one_video_are_no_duplicates(films: Path) -> None:
    found = openjepa.find_duplicates(films / "f.npz", threshold=0.5)
    items = found.index.table.items
    assert all(items[row] != items[group.rows[0]] for group in found.groups for row in group.rows[1:])


def test_at_in_an_index_of_images_is_refused(place: Path, new: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        openjepa.search(place / "f.npz", new, at=1.0, device="cpu")
    assert "--window" in one_line(caught.value)
