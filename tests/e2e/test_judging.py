"""``openjepa evaluate`` as a stranger types it: every measure, the cache, and the mistakes people make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import openjepa
from openjepa.errors import ConfigError, DataError
from openjepa.evaluation import read_scores
from tests.e2e.conftest import write_scenes

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sides(photos: Path) -> list[object]:
    return ["--train", photos / "train", "--val", photos / "test"]


def test_all_in_one_table_with_json_and_a_cache(
    trained: Path, sides: list[object], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENJEPA_CACHE", str(tmp_path / "kept"))
    out = tmp_path / "scores.json"
    words = ["evaluate", "all", "-m", trained, *sides, "--k", "1,3", "--shots", "2", "--draws", "2", "--json", out]
    code, text, err = cli(*words)
    assert code == 0, err
    for words_shown in ("low-shot 2 per class", "kmeans nmi", "retrieval mAP", "best on val (optimistic)", "of 2"):
        assert words_shown in text
    assert "6 entries" in text  # two sides of the encoder, its random initialisation and raw pixels
    assert "--cache none keeps none" in text
    scores = read_scores(out)
    assert {s.subject for s in scores} == {"trained", "random initialisation", "raw pixels"}
    assert all(s.seed == 0 and s.protocol and s.interval[0] <= s.value <= s.interval[1] for s in scores)
    again = cli("evaluate", "all", "-m", trained, *sides, "--k", "1,3", "--shots", "2", "--draws", "2")
    assert again[1].splitlines()[:5] == text.splitlines()[:5]
    code, text, _ = cli("evaluate", "knn", "-m", trained, *sides, "--k", "3", "--cache", "none")
    assert code == 0
    assert "cached" not in text


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["kmeans", "--inits", "2"], "kmeans ari"),
        (["retrieval"], "recall@5"),
        (["logistic"], "logistic regression"),
        (["low-shot", "--shots", "1,10%", "--draws", "2"], "low-shot 10%"),
    ],
)
def test_measures_with_labels(words: list[str], shown: str, trained: Path, sides: list[object], cli: Cli) -> None:
    code, text, err = cli("evaluate", *words, "-m", trained, *sides, "--no-baselines")
    assert code == 0, err
    assert shown in text


@pytest.mark.parametrize("views", ["random", "recipe"])
def test_masks(views: str, trained: Path, photos: Path, cli: Cli) -> None:
    code, text, err = cli("evaluate", "masks", "-m", trained, "--val", photos / "test", "--views", views)
    assert code == 0, err
    assert "masks top-1" in text
    assert "margin" in text


def test_scenes_need_no_data(trained: Path, cli: Cli) -> None:
    code, text, err = cli("evaluate", "scenes", "-m", trained, "--images", "40")
    assert code == 0, err
    for name in ("scenes count", "scenes distance r2", "scenes size r2", "rmse of the train mean", "raw pixels"):
        assert name in text


def test_cka(trained: Path, photos: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "cka.json"
    words = ["evaluate", "cka", "-m", trained, "-o", trained, "--data", photos, "--per-layer", "--json", out]
    code, text, err = cli(*words)
    assert code == 0, err
    found = json.loads(out.read_text())
    assert found["scores"][0]["value"] == pytest.approx(1)
    assert found["scores"][0]["n_val"] == 18  # the test/ beside train/
    assert found["matrix"] == [[pytest.approx(1)]]
    assert "its random initialisation" in text


def test_contamination(photos: Path, tmp_path: Path, cli: Cli) -> None:
    val = write_scenes(tmp_path / "val", 6, seed=2)
    code, text, err = cli("evaluate", "contamination", "--train", photos / "train", "--val", val)
    assert (code, err) == (0, "")
    copied = next((photos / "train").rglob("*.png"))
    place = next(path for path in val.iterdir() if path.is_dir())
    shutil.copy(copied, place / "copy.png")
    code, text, _ = cli(
        "evaluate", "contamination", "--train", photos / "train", "--val", val, "--json", val / "x.json"
    )
    assert code == 1
    assert "1 of 7 evaluation images have an exact copy among 48" in text
    assert json.loads((val / "x.json").read_text())["exact"][0]["val"] == f"{place.name}/copy.png"


def test_validation_files_that_were_pretrained_on_are_said(
    trained: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    openjepa.evaluate("knn", model=trained, train=photos / "test", val=photos / "train", k=3, baselines=False)
    assert "48 of 48 val images are files the encoder was pretrained on" in caplog.text
    caplog.clear()
    openjepa.evaluate("knn", model=trained, train=photos / "train", val=photos / "test", k=3, baselines=False)
    assert "pretrained on" not in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["knn", "--k", "many"], "whole numbers separated by commas"),
        (["knn", "--temperature", "warm"], "numbers or none"),
        (["knn", "--k", "0"], "k >= 1"),
        (["low-shot", "--shots", "500"], "500 shots asked but class"),
        (["low-shot", "--shots", "few"], "neither images per class"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, trained: Path, sides: list[object], cli: Cli) -> None:
    code, _, err = cli("evaluate", *words, "-m", trained, *sides)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_what_python_must_name(trained: Path, photos: Path) -> None:
    with pytest.raises(ConfigError, match="knn needs train and val"):
        openjepa.evaluate("knn", model=trained, val=photos)
    with pytest.raises(ConfigError, match="masks needs val"):
        openjepa.evaluate("masks", model=trained)
    with pytest.raises(DataError, match="nowhere"):
        openjepa.evaluate("knn", model=trained, train="nowhere", val=photos)
