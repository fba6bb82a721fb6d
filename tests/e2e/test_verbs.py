"""The verbs as a stranger types them, end to end on generated photographs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

import openjepa
from openjepa.errors import DataError
from tests.e2e.conftest import SMALL, write_scenes

Cli = Callable[..., tuple[int, str, str]]


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_directory_holds_everything(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {
        "config.yaml",
        "environment.json",
        "train.log",
        "metrics.jsonl",
        "checkpoints",
        "model",
        "report.html",
        "scores.json",
    } <= names
    steps = [row["step"] for row in rows(trained)]
    assert steps[0] == 0
    assert steps[-1] == 6
    assert {"knn", "linear"} <= set(rows(trained)[-1]["probes"])
    scores = json.loads((trained / "scores.json").read_text())
    assert {score["subject"] for score in scores} == {"trained", "random initialisation", "raw pixels"}


def test_a_run_prints_what_it_decided(trained: Path) -> None:
    log = (trained / "train.log").read_text()
    for topic in ("device: ", "precision: ", "batch: 8 images per step", "length: 6 steps", "schedule: "):
        assert topic in log


def test_the_run_is_rerunnable_from_its_config(trained: Path, tmp_path: Path, cli: Cli, photos: Path) -> None:
    code, _, err = cli(
        "pretrain",
        photos,
        "--recipe",
        trained / "config.yaml",
        "--out",
        tmp_path / "again",
        "--no-judge",
        "--no-report",
    )
    assert code == 0, err
    assert [row["loss"] for row in rows(tmp_path / "again")] == [row["loss"] for row in rows(trained)]


def test_stop_and_resume_is_exact(trained: Path, tmp_path: Path, cli: Cli, photos: Path) -> None:
    # A copy whose later half is cut off stands for a run that was killed after its third checkpoint.
    copy = tmp_path / "copy"
    words = ["pretrain", photos, "--steps", "6", "--batch-size", "8", "--out", copy, *SMALL, "checkpoint.every=3 steps"]
    assert cli(*words)[0] == 0
    shutil.rmtree(copy / "checkpoints" / "step-00000006")
    (copy / "checkpoints" / "last.json").unlink()
    shutil.rmtree(copy / "model")
    code, _, err = cli("pretrain", photos, "--out", copy, "--resume")
    assert code == 0, err
    ours, theirs = openjepa.load(copy), openjepa.load(trained)
    for name, tensor in ours.online.state_dict().items():
        assert torch.equal(tensor, theirs.online.state_dict()[name]), name
    assert [row["loss"] for row in rows(copy)] == [row["loss"] for row in rows(trained)]


def test_load_takes_the_newer_of_model_and_checkpoints(trained: Path, tmp_path: Path, photos: Path, cli: Cli) -> None:
    # A finished run whose model/ is of an earlier sitting, as after SIGTERM, --resume and kill -9.
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = run / "model" / "config.json"
    (run / "model" / "manifest.json").unlink()
    raw = json.loads(config.read_text())
    raw["card"]["step"] = 2
    config.write_text(json.dumps(raw))
    assert "checkpoints" in str(openjepa.load(run).loaded.source)
    assert openjepa.load(trained).loaded.source == trained / "model"


def test_a_folder_with_both_parts_is_not_scored_on_its_own_training_images(trained: Path, photos: Path) -> None:
    scores = openjepa.evaluate("knn", model=trained, train=photos, val=photos, baselines=False, device="cpu")
    assert (scores[0].n_train, scores[0].n_val) == (48, 18)


def test_labels_that_cannot_be_scored_do_not_end_a_training(photos: Path, tmp_path: Path, cli: Cli) -> None:
    other = write_scenes(tmp_path / "val", 8, classes=2)
    (other / "disc").rename(other / "unheard of")
    words = ["--val", other, "--steps", "2", "--batch-size", "8", "--out", tmp_path / "run", *SMALL]
    code, _, err = cli("pretrain", photos / "train", *words)
    assert code == 0, err
    assert "no probe" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.parametrize("what", ["knn", "linear"])
def test_evaluate(what: str, trained: Path, photos: Path, tmp_path: Path, cli: Cli) -> None:
    words = [
        "evaluate",
        what,
        "--model",
        trained,
        "--train",
        photos / "train",
        "--val",
        photos / "test",
        "--device",
        "cpu",
    ]
    code, out, err = cli(*words, "--cache", tmp_path / "cache", "--json", tmp_path / "scores.json")
    assert code == 0, err
    assert "trained" in out
    assert "raw pixels" in out
    first = json.loads((tmp_path / "scores.json").read_text())
    assert any((tmp_path / "cache").iterdir())
    code, _, err = cli(*words, "--cache", tmp_path / "cache", "--json", tmp_path / "again.json")
    assert code == 0, err
    assert json.loads((tmp_path / "again.json").read_text()) == first


def test_embed_takes_paths_pictures_and_tensors(trained: Path, photos: Path, tmp_path: Path) -> None:
    model = openjepa.load(trained)
    paths = sorted((photos / "test").rglob("*.png"))[:3]
    by_path = model.embed(paths)
    assert by_path.shape == (3, 16)
    pictures = [Image.open(path) for path in paths]
    tensors = [torch.from_numpy(numpy.array(picture)).permute(2, 0, 1) for picture in pictures]
    assert torch.equal(model.embed(pictures), by_path)
    assert torch.equal(model.embed(torch.stack(tensors)), by_path)
    torch.testing.assert_close(model.embed(paths[0])[0], by_path[0])
    assert model.embed(paths, tokens="patch").shape == (3, 16, 16)
    rotated = tmp_path / "rotated.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.open(paths[1]).resize((24, 16)).save(rotated, exif=exif, quality=95)
    assert torch.equal(model.embed(Image.open(rotated)), model.embed(rotated))
    with pytest.raises(DataError, match="nothing to embed"):
        model.embed([])
    with pytest.raises(DataError, match="cannot embed a int"):
        model.embed([3])


def test_runs_list_and_show(trained: Path, cli: Cli) -> None:
    code, out, _ = cli("runs", "list", trained.parent)
    assert code == 0
    assert "ijepa-tiny" in out
    assert "finished" in out
    code, out, _ = cli("runs", "show", trained, "--json")
    assert code == 0
    assert json.loads(out)["progress"] == "6 of 6"


def test_visualize_report_is_written_again(trained: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("visualize", "report", trained, "--out", tmp_path / "page.html")
    assert code == 0, err
    page = (tmp_path / "page.html").read_text()
    assert "<html" in page
    assert "raw pixels" in page.lower()


def test_data_without_labels_trains_and_is_not_scored(tmp_path: Path, cli: Cli) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted(write_scenes(tmp_path / "some", 12).rglob("*.png"))):
        path.rename(flat / f"{i}.png")
    code, out, err = cli("pretrain", flat, "--steps", "2", "--batch-size", "4", "--out", tmp_path / "run", *SMALL)
    assert code == 0, err
    assert not (tmp_path / "run" / "scores.json").exists()
    assert (tmp_path / "run" / "report.html").exists()
    assert "health" in out


def test_five_percent_corrupt_files_are_listed_and_more_stop_the_run(tmp_path: Path, cli: Cli) -> None:
    folder = write_scenes(tmp_path / "data", 60)
    bad = sorted(folder.rglob("*.png"))[::20]
    for path in bad:
        path.write_bytes(path.read_bytes()[:40])
    words = ["--steps", "10", "--batch-size", "8", *SMALL, "data.max_bad_share=0.06"]
    code, _, err = cli("pretrain", folder, "--out", tmp_path / "run", *words)
    assert code == 0, err
    listed = (tmp_path / "run" / "train.log").read_text()
    assert any(path.name in listed for path in bad)
    for path in sorted(folder.rglob("*.png"))[::4]:
        path.write_bytes(b"no image")
    code, _, err = cli("pretrain", folder, "--out", tmp_path / "second", *words)
    assert code == 2
    assert "Traceback" not in err
    assert "max_bad_share" in err


def test_two_images_train(tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    for path in sorted(write_scenes(tmp_path / "some", 2).rglob("*.png")):
        path.rename(folder / path.name)
    code, _, err = cli("pretrain", folder, "--steps", "2", "--out", tmp_path / "run", *SMALL)
    assert code == 0, err
    assert "batch" in (tmp_path / "run" / "train.log").read_text()
    assert rows(tmp_path / "run")[-1]["loss"] is not None
    assert rows(tmp_path / "run")[-1]["skipped_updates"] == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pretrian", "x"], "did you mean 'pretrain'"),
        (["pretrain", "no/such/folder"], "no/such/folder"),
        (["pretrain", "{empty}"], "is empty"),
        (["pretrain", "scenes", "--recipe", "ijepa-tini"], "ijepa-tiny"),
        (["pretrain", "scenes", "optim.lrr=3"], "optim.lr"),
        (["pretrain", "scenes", "--epochs", "1", "--steps", "2"], "not both"),
        (["pretrain", "scenes", "--resume"], "--out"),
        (["pretrain", "scenes", "--nonsense", "3"], "--nonsense"),
        (["pretrain"], "see 'openjepa pretrain --help'"),
        (["evaluate", "knn", "--model", "nowhere", "--train", "scenes", "--val", "scenes"], "nowhere"),
        (["runs", "show", "nowhere"], "nowhere"),
        (["data", "inspect", "{empty}"], "empty"),
        (["recipes", "show", "nothing-like-it"], "nothing-like-it"),
    ],
)
def test_mistakes_are_one_line(words: list[str], expected: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = cli(*(word.replace("{empty}", str(tmp_path / "empty")) for word in words))
    assert code == 2
    assert expected in err
    assert err.strip().count("\n") == 0, err
    assert "Traceback" not in err


def test_a_run_is_never_overwritten_silently(trained: Path, photos: Path, cli: Cli) -> None:
    before = (trained / "metrics.jsonl").read_bytes()
    code, _, err = cli("pretrain", photos, "--steps", "2", "--out", trained, *SMALL)
    assert code == 2
    assert "--resume" in err
    assert "--overwrite" in err
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_verbose_shows_the_trace(cli: Cli) -> None:
    _, _, err = cli("pretrain", "no/such/folder", "-v")
    assert "Traceback" in err
