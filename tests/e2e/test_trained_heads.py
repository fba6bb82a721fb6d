"""``openjepa evaluate linear-grid|attentive|mean-pool-grid|finetune`` as a stranger types it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import openjepa
from openjepa.evaluation import read_scores

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sides(photos: Path) -> list[object]:
    return ["--train", photos / "train", "--val", photos / "test"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["linear-grid", "--epochs", "2", "--lrs", "0.1,0.3", "--optimizer", "adamw"], {"linear-grid"}),
        (["attentive", "--epochs", "1", "--lrs", "1e-3"], {"attentive", "mean-pool-grid"}),
        (
            ["attentive", "--blocks", "4", "--epochs", "1", "--lrs", "1e-3", "--refit"],
            {"attentive-4", "mean-pool-grid"},
        ),
        (["mean-pool-grid", "--epochs", "1", "--clip", "1"], {"mean-pool-grid"}),
        (["attentive", "--epochs", "1", "--train-batch", "2"], {"attentive", "mean-pool-grid"}),
        (["finetune", "--epochs", "1", "--train-batch", "8"], {"finetune"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_scores(
    words: list[str], names: set[str], trained: Path, sides: list[object], tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "scores.json"
    code, text, err = cli("evaluate", *words, "-m", trained, *sides, "--json", out)
    assert code == 0, err
    scores = read_scores(out)
    assert {score.name for score in scores} == names
    assert {"trained", "random initialisation"} <= {score.subject for score in scores}
    assert all(score.interval[0] <= score.value <= score.interval[1] for score in scores)
    assert all(name in text for name in names)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["linear-grid", "--lrs", "fast"], "--lrs fast: numbers separated by commas, such as 1e-3,3e-3"),
        (["linear-grid", "--lrs", "-1"], "learning rate"),
        (["finetune", "--epochs", "inf"], "epochs cannot be inf"),
        (["attentive", "--heads", "5"], "heads"),
        (["finetune", "--layer-decay", "2"], "finetune: layer_decay cannot be 2.0"),
        (["finetune", "--head", "class"], "class token"),
    ],
)
def test_mistakes_are_one_line(words: list[str], says: str, trained: Path, sides: list[object], cli: Cli) -> None:
    code, _, err = cli("evaluate", *words, "-m", trained, *sides, "--no-baselines")
    assert code == 2
    assert err.strip().count("\n") == 0, err
    assert says in err


def test_progress_is_told_and_fine_tuning_sees_what_the_recipe_saw(trained: Path, photos: Path) -> None:
    told: list[tuple[str, str, int, int]] = []
    train, val = photos / "train", photos / "test"
    options = {"finetune": {"epochs": 2, "batch_size": 8}}
    (score,) = openjepa.evaluate(
        "finetune",
        model=trained,
        train=train,
        val=val,
        baselines=False,
        options=options,
        on_progress=lambda *a: told.append(a),
    )
    assert told[-1] == ("trained", "finetune", 2, 2)
    recipe = openjepa.load(trained).config
    assert str(recipe.data.augment.crop_scale[0]) in str(score.protocol)
