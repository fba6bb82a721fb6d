"""Reports, curves and previews of runs that have no cheats, no loss on the panel, no masks, or several views."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from visualize_fakes import RECIPE, ListSource, metric_rows, write_rows

from openjepa.cli import main
from openjepa.config import build_recipe, dump_recipe
from openjepa.errors import ConfigError
from openjepa.hub.model_directory import load_model, save_model
from openjepa.methods import build_method
from openjepa.models import build_encoder
from openjepa.visualize import ReportOptions, curves, decoded, read_metrics, write_report
from openjepa.visualize.verdict import health, learning
from openjepa.visualize.views import columns, view_previews, view_sheet

SMALL = ReportOptions(maps=2, masks=2, queries=1, neighbours=2, searched=20, attention=2)
VIEWS: dict[str, Any] = {
    "method": "joint_embedding",
    "mask": {"kind": "none"},
    "predictor": {"kind": "projector"},
    "target": {"kind": "none", "transform": "none"},
    "data": {**RECIPE["data"], "views": [{"count": 2}, {"count": 3, "image_size": 16}]},
}


@pytest.fixture(autouse=True)
def plain_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "panel_svg", lambda panel, **size: f"<svg><text>{panel.title}</text></svg>")


def _rows(cheats: dict[str, float], loss: float | None) -> list[dict[str, Any]]:
    rows = metric_rows()
    for row in rows:
        row["health"].update(cheats=cheats, loss_on_panel=loss)
        row["momentum"] = None
    rows[0]["loss"] = None
    return rows


def _run(path: Path, changes: dict[str, Any], rows: list[dict[str, Any]], *, whole: bool = True) -> Path:
    """A run directory of another method; ``whole``: with all parts of the method, else the encoder alone."""
    recipe = build_recipe({**RECIPE, **changes})
    path.mkdir()
    (path / "config.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    torch.manual_seed(0)
    model = build_method(recipe) if whole else build_encoder(recipe.model, recipe.image_hw, 3)
    save_model(path / "model", model, recipe)
    write_rows(path / "metrics.jsonl", rows)
    return path


def _text(run: Path) -> str:
    return write_report(run, options=SMALL).read_text(encoding="utf-8")


def test_joint_embedding_shows_views_and_claims_no_cheats(tmp_path: Path) -> None:
    text = _text(_run(tmp_path / "run", VIEWS, _rows({}, None), whole=False))
    assert (
        'class="missing"' not in text.replace("No scores were written", "").split('id="curves"')[1].split('id="run"')[0]
    )
    assert "<h2>Views</h2>" in text
    assert "view 4, 16 px" in text
    assert "<h2>Masks</h2>" not in text
    assert "beats every cheat" not in text
    assert "this method has no cheats to compare with" in text
    assert "against the cheats" not in text
    assert "Loss against best cheat" not in text
    assert "no prediction to compare with cheats" in text
    assert "encoder block 0" in text
    assert "from the mask token" not in text


def test_a_loss_without_cheats_is_drawn_as_what_it_is() -> None:
    rows = _rows({}, 0.5)
    from openjepa.visualize.metrics import Metrics

    metrics = Metrics(tuple(rows))
    first = curves.panels(metrics)[0]
    assert first.title == "Loss on the health panel"
    assert [series.label for series in first.series] == ["the model"]
    assert "cheat" in first.reading
    assert health(metrics).tone == "good"
    assert learning(metrics, []).headline == "Not measured"
    no_loss = Metrics(tuple(_rows({}, None)))
    assert curves.panels(no_loss)[0].key == "rank"
    assert curves.curves_figure(no_loss) is not None


def test_cheats_of_its_own_are_drawn(tmp_path: Path) -> None:
    write_rows(tmp_path / "metrics.jsonl", _rows({"mean_patch": 0.4, "mean_target": 0.5}, 0.3))
    panel = curves.panels(read_metrics(tmp_path))[0]
    assert panel.title == "Prediction against cheap cheats"
    assert [series.label for series in panel.series] == ["the model", "mean target", "mean patch"]
    assert len({series.colour for series in panel.series}) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"target": {"kind": "self"}},
        {"target": {"kind": "none"}, "objective": {"kind": "info_nce"}},
        {"target": {"kind": "frozen"}},
        {"predictor": {"kind": "linear"}, "mask": {"kind": "block"}, "model": {**RECIPE["model"], "class_token": True}},
        {"mask": {"kind": "none"}},
    ],
    ids=["self", "none", "frozen", "linear", "nothing hidden"],
)
def test_every_masked_latent_run(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = _run(tmp_path / "run", changes, _rows({"mean_target": 0.5}, 0.3))
    text = _text(run)
    attends = changes not in ({"mask": {"kind": "none"}},) and "predictor" not in changes
    assert ("from the mask token" in text) == attends
    assert ("hides nothing" in text) == ("mask" in changes and changes["mask"]["kind"] == "none")
    for missing in ("The attention", "Error", "Traceback"):
        assert missing not in text
    assert text.count('<img class="cells"') > 2 * 3
    assert 'id="decoded"' not in text


def test_a_kept_decoder_shows_in_the_report_and_a_lost_one_does_not(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", {}, _rows({"mean_target": 0.5}, 0.3))
    words = ["visualize", "decode", "scenes", "--model", str(run), "--steps", "2", "--images", "12", "--count", "1"]
    assert main([*words, "--out", str(tmp_path / "d.png")]) == 0
    text = _text(run)
    assert 'id="decoded"' in text
    assert "Decoder fitted for 2 steps on 12 images of scenes" in text
    assert text.count("R2 against the mean patch") == 2
    shutil.rmtree(run / "model" / decoded.FOLDER)
    assert 'id="decoded"' not in _text(run)


def test_views_are_those_of_training_at_their_sizes() -> None:
    recipe = build_recipe({**RECIPE, **VIEWS})
    images = [torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8) for _ in range(4)]
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    found = view_previews(ListSource(images, broken=(1,)), recipe.data, count=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert [preview.name for preview in found] == ["item 0", "item 2", "item 3"]
    assert columns(found[0]) == ["image", *(f"view {k}, {32 if k < 2 else 16} px" for k in range(5))]
    assert not np.array_equal(found[0].views[0], found[0].views[1])
    assert np.array_equal(
        found[2].views[4], view_previews(ListSource(images, broken=(1,)), recipe.data, count=3)[2].views[4]
    )
    assert view_sheet(found).height > 3 * 128
    with pytest.raises(ConfigError, match=r"data\.views"):
        view_previews(ListSource(images), build_recipe(RECIPE).data)


def test_masks_verb_draws_views_where_there_are_views(tmp_path: Path) -> None:
    recipe = build_recipe({**RECIPE, **VIEWS})
    (tmp_path / "mine.yaml").write_text(dump_recipe(recipe))
    out = tmp_path / "v.png"
    assert (
        main(["visualize", "masks", "scenes", "-r", str(tmp_path / "mine.yaml"), "-o", str(out), "--count", "2"]) == 0
    )
    assert Image.open(out).size[0] > 6 * 100


def test_scores_of_other_metrics_do_not_break_the_page(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", {}, _rows({"mean_target": 0.5}, 0.3))
    score = {"subject": "trained", "n_train": 10, "n_val": 10, "protocol": {}, "interval": [0.1, 0.4], "seed": 0}
    rows = [
        {**score, "name": "knn", "value": 0.3, "metric": "accuracy"},
        {**score, "name": "counting", "value": 2.7, "metric": "rmse", "interval": [2.0, 3.0]},
        {**score, "name": "retrieval", "value": 0.2, "metric": "mAP"},
    ]
    (run / "scores.json").write_text(json.dumps(rows))
    text = _text(run)
    assert "30.0 %" in text
    assert "270" not in text.split('id="curves"')[0]
    assert load_model(run).config.name == "ijepa-tiny"
