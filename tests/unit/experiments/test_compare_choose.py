"""Runs side by side, and the checkpoint to keep: rank correlations against scipy, choices against hand-made cases."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_runs import Generated, tiny_recipe

from openjepa.cli import main
from openjepa.errors import ConfigError, RunError
from openjepa.experiments.agreement import kendall, ranks, spearman
from openjepa.experiments.choose import Candidate, choose_checkpoint, standing
from openjepa.experiments.compare import against_cheats, compare_runs, comparison_figure
from openjepa.features import rankme
from openjepa.training import train

# ---------------------------------------------------------------------- agreement

LISTS = [
    ([1.0, 2, 3, 4], [1.0, 3, 2, 4]),
    ([0.3, 0.1, 0.1, 0.9, 0.5], [1.0, 1, 2, 2, 0]),
    ([3.0, 2, 1], [1.0, 2, 3]),
]


@pytest.mark.parametrize(("a", "b"), LISTS)
def test_rank_correlations_equal_scipy(a: list[float], b: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)
    assert ranks(a) == stats.rankdata(a).tolist()


def test_a_list_that_does_not_vary_has_no_correlation() -> None:
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(kendall([1, 1, 1], [1, 2, 3]))


# ---------------------------------------------------------------------- compare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled images in two classes that differ in colour, and three runs on them."""
    root = tmp_path_factory.mktemp("runs")
    for name, tint in (("warm", (60, 0, 0)), ("cold", (0, 0, 60))):
        (root / "data" / name).mkdir(parents=True)
        for i, image in enumerate(Generated(20, seed=int(name == "warm")).images):
            pixels = (image.permute(1, 2, 0) // 2 + torch.tensor(tint)).clamp(0, 255).byte().numpy()
            Image.fromarray(pixels).save(root / "data" / name / f"{i}.png")
    source = Generated()
    kept = ("checkpoint.keep_every=3 steps", f"data.source={json.dumps(str(root / 'data'))}")
    train(tiny_recipe(*kept), source, out=root / "a", console=False)
    train(tiny_recipe("optim.lr=1e-2", "mask={kind: random}"), source, out=root / "b", console=False)
    train(tiny_recipe("seed=1"), source, out=root / "deep" / "a", console=False)
    return root


def test_comparison_says_what_differs_and_how_runs_ended(folder: Path) -> None:
    found = compare_runs([folder / "a", folder / "b", folder / "deep" / "a"])
    assert found.names == (f"{folder.name}/a", f"{folder.name}/b", "deep/a")
    assert found.differences["optim.lr"] == (0.001, 0.01, 0.001)
    assert found.differences["seed"] == (0, 0, 1)
    assert [str(v) for v in found.differences["mask.kind"]] == ["multiblock", "random", "multiblock"]
    assert "model.dim" not in found.differences
    assert found.numbers["step"] == (12, 12, 12)
    assert all(value and value > 1 for value in found.numbers["RankMe"])
    assert all(value and 0 < value <= 1 for value in found.numbers["RankMe / largest possible"])
    assert all(value and value >= 1 for value in found.numbers["LiDAR"])
    assert len(found.verdicts) == 3
    assert json.loads(json.dumps(found.to_json()))["differences"]["mask.ratio"][0] is None


def test_loss_against_the_best_cheat() -> None:
    row = {"health": {"loss_on_panel": 0.3, "cheats": {"mean_target": 0.6, "copy_nearest": 0.4, "position_only": None}}}
    assert against_cheats(row) == pytest.approx(0.75)
    assert against_cheats({"health": {"loss_on_panel": None, "cheats": {}}}) is None
    assert against_cheats({"step": 0}) is None


def test_curves_lie_over_one_another(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = comparison_figure(compare_runs([folder / "a", folder / "b"]))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert "Loss against the best cheat" in titles
    drawn = figure.axes[titles.index("Effective rank of pooled features")]
    assert len(drawn.get_lines()) == 2
    assert {text.get_text() for text in drawn.texts} == {"a", "b"}


def test_comparison_needs_two_runs(folder: Path) -> None:
    with pytest.raises(ConfigError, match="two different runs"):
        compare_runs([folder / "a", folder / "deep" / ".." / "a"])
    with pytest.raises(RunError, match="holds no run"):
        compare_runs([folder / "a", folder / "data"])


def test_compare_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main(["runs", "compare", str(folder / "a"), str(folder / "b"), "--out", str(tmp_path / "x.png")]) == 0
    said = capsys.readouterr().out
    assert "optim.lr" in said
    assert "RankMe" in said
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert main(["runs", "compare", str(folder / "a"), str(folder / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == ["a", "b"]


# ---------------------------------------------------------------------- choose


def candidate(step: int, rank: float, views: float, alpha: float, loss: float) -> Candidate:
    return Candidate(step, "", {"rankme": rank, "lidar": views, "alpha": alpha, "loss": loss, "latest": float(step)})


def test_each_measure_has_its_own_idea_of_better() -> None:
    found = [candidate(1, 10, 3, 1.1, 0.2), candidate(2, 20, 9, 3.0, 0.1), candidate(3, 15, math.nan, 0.2, 0.3)]
    best = {
        by: max(range(3), key=standing(found, by).__getitem__) + 1
        for by in ("rankme", "lidar", "alpha", "loss", "latest")
    }
    assert best == {"rankme": 2, "lidar": 2, "alpha": 1, "loss": 2, "latest": 3}
    assert standing(found, "consensus") == pytest.approx([(1 + 2 + 3) / 3, (3 + 3 + 1) / 3, (2 + 1 + 2) / 3])


def test_choice_measures_every_checkpoint_and_compares_with_the_probe(folder: Path) -> None:
    found = choose_checkpoint(folder / "a", by="rankme")
    assert [c.step for c in found.candidates] == [3, 6, 9, 12]
    assert found.chosen.numbers["rankme"] == max(c.numbers["rankme"] for c in found.candidates)
    assert all(c.probe is not None and 0 <= c.probe <= 1 for c in found.candidates)
    by_name = {a.measure: a for a in found.agreements}
    assert set(by_name) == {"rankme", "lidar", "alpha", "loss", "latest", "consensus"}
    probes = [c.probe or 0.0 for c in found.candidates]
    ours = by_name["rankme"]
    assert ours.chosen == found.chosen.step
    assert ours.regret == pytest.approx(max(probes) - (found.chosen.probe or 0))
    assert ours.n == 4
    if len(set(probes)) > 1:
        assert ours.spearman == pytest.approx(spearman([c.numbers["rankme"] for c in found.candidates], probes))


def test_measures_are_those_of_the_checkpoints_own_features(folder: Path) -> None:
    from openjepa.data import Normalise
    from openjepa.data.splits import open_splits
    from openjepa.experiments.choose import _panel_images
    from openjepa.hub.model_directory import load_model

    found = choose_checkpoint(folder / "a", labels=False).candidates[1]
    model = load_model(found.path)
    images = Normalise.for_data(model.config.data)(_panel_images(model.config, open_splits(model.config).train))
    with torch.no_grad():
        pooled = model.encoder.forward_features(images).mean(1)
    assert found.numbers["rankme"] == pytest.approx(rankme(pooled), rel=1e-4)
    assert found.probe is None


def test_choose_says_what_it_lacks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'rankme'"):
        choose_checkpoint(folder / "a", by="rankm")
    assert main(["runs", "choose", str(folder / "data")]) == 2
    train(tiny_recipe("train.length=1 steps"), Generated(), out=folder / "one", console=False)
    with pytest.raises(RunError, match=r"keeps 1 checkpoint, .* checkpoint.keep_every"):
        choose_checkpoint(folder / "one")
    capsys.readouterr()


def test_choose_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "choose", str(folder / "a"), "--by", "lidar"]) == 0
    said = capsys.readouterr().out
    assert "Spearman with kNN (n = 4)" in said
    assert "openjepa.load(" in said
    assert main(["runs", "choose", str(folder / "a"), "--no-labels", "--json"]) == 0
    raw = json.loads(capsys.readouterr().out)
    assert raw["why_no_probe"]
    assert raw["candidates"][0]["probe"] is None
