"""What a worker computes: train a cell (or take up its training), then score the encoder it gave."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openjepa import api
from openjepa.config import Recipe
from openjepa.data import Normalise, eval_transform
from openjepa.data.splits import Splits, open_splits
from openjepa.evaluation import Score, Settings, write_scores
from openjepa.evaluation import evaluate as score_encoder
from openjepa.evaluation.score import SHARES
from openjepa.experiments.ablate.cells import PIXELS
from openjepa.experiments.ablate.store import read_json
from openjepa.features import cached_raw_pixels
from openjepa.hub.atomic import write_file
from openjepa.training import read_run, train
from openjepa.training.metrics import read_rows
from openjepa.training.run import CHECKPOINTS, METRICS
from openjepa.types import Encoder


def work(task: Mapping[str, Any]) -> dict[str, Any] | None:
    """Compute one cell; None when a signal ended its training early.

    Raises:
        OpenJepaError: as training and evaluation do.
    """
    recipe = Recipe.model_validate(task["recipe"])
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"threads": task["threads"]})})
    judge = Judge(recipe, open_splits(recipe), task["evaluation"])
    about = {"key": task["key"], "kind": task["kind"], "label": task["label"], "seed": task["seed"]}
    began, clock = time.perf_counter(), time.process_time()
    facts: dict[str, Any] = {"cost": {}}
    if task["kind"] == "trained":
        if recipe.probe.every is not None:
            _keep_probed_alike(Path(task["run_dir"]), task["evaluation"])
        trained = _train(recipe, judge, Path(task["run_dir"]), fresh=task["fresh"])
        if trained is None:
            return None
        facts = trained
        scores = judge.run(Path(task["run_dir"]))
    elif task["kind"] == "random":
        scores = judge.encoder(api.random_encoder(recipe), Normalise.for_data(recipe.data), task["label"])
    else:
        scores = judge.pixels()
    facts["cost"]["cpu"] = round(time.process_time() - clock, 2)
    spent = time.perf_counter() - began - facts["cost"].get("train", 0.0)
    facts["cost"]["score"] = round(spent, 2)
    return {**about, **facts, "scores": [score.to_dict() for score in scores], "values": values(scores)}


class Judge:
    """Scores encoders on the cell's data: fitted on the training images, measured on images that never trained."""

    def __init__(self, recipe: Recipe, splits: Splits, evaluation: Mapping[str, Any]) -> None:
        self.recipe, self.splits = recipe, splits
        self.what = tuple(evaluation["what"])
        self.settings = Settings(
            k=evaluation["k"], c=evaluation["c"], seed=recipe.seed, options=evaluation.get("options", {})
        )
        self.layers = evaluation["layers"]
        wish = recipe.train.device
        self.device = wish if wish != "auto" else "cuda" if torch.cuda.is_available() else "cpu"

    def encoder(self, encoder: Encoder, normalise: nn.Module, subject: str) -> list[Score]:
        """All asked scores of an encoder."""
        return score_encoder(
            encoder,
            normalise,
            self.splits.train,
            self.splits.held_out,
            self.what,
            transform=eval_transform(self.recipe.data),
            subject=subject,
            settings=self.settings,
            layers=self.layers,
            device=self.device,
        )

    def run(self, run_dir: Path) -> list[Score]:
        """Scores of a run's encoder, kept in its ``scores.json`` too, so that ``openjepa runs`` shows them."""
        model = api.load(run_dir)
        scores = self.encoder(model.encoder, model.normalise, "trained")
        write_scores(run_dir / api.SCORES, scores)
        return scores

    def pixels(self) -> list[Score]:
        """Scores of the pixels themselves, by the evaluators that need one vector per image."""
        from openjepa.evaluation.evaluate import EVALUATORS
        from openjepa.evaluation.request import Request

        entries = [EVALUATORS[name] for name in self.what if name in EVALUATORS and EVALUATORS[name].needs == "pooled"]
        if not entries:
            return []
        transform = eval_transform(self.recipe.data)
        pair = [cached_raw_pixels(side, transform) for side in (self.splits.train, self.splits.held_out)]
        request = Request(PIXELS, self.settings, pair[0], pair[1])
        return [score for entry in entries for score in entry.run(request)]

    def probe(self, encoder: Any, normalise: nn.Module, device: Any) -> dict[str, float]:
        """The same scores in the middle of a training."""
        return values(self.encoder(encoder, normalise, "trained"))


def values(scores: Sequence[Score]) -> dict[str, float]:
    """Scores by label: shares in per cent, others as they are; what is better when lower with a minus sign."""
    return {
        score.label: (1.0 if score.higher_is_better else -1.0)
        * score.value
        * (100.0 if score.metric in SHARES else 1.0)
        for score in scores
    }


def _train(recipe: Recipe, judge: Judge, run_dir: Path, *, fresh: bool) -> dict[str, Any] | None:
    """Train, or go on with, or just read the run in ``run_dir``. None: stopped by a signal."""
    began = time.perf_counter()
    exists = (run_dir / "config.yaml").is_file()
    if not (exists and not fresh and read_run(run_dir).status == "finished"):
        result = train(
            recipe,
            judge.splits.train,
            out=run_dir,
            resume=exists and not fresh,
            overwrite=exists and fresh,
            probes=[judge.probe] if recipe.probe.every is not None else [],
            console=False,
        )
        if not result.finished:
            return None
    rows = read_rows(run_dir / METRICS)
    last = rows[-1]
    shutil.rmtree(run_dir / CHECKPOINTS, ignore_errors=True)  # twice the model's size per cell, and no longer needed
    return {
        "steps": last["step"],
        **{key: last.get(key) for key in ("samples", "seconds", "flops")},
        "verdict": str(last["health"].get("verdict", "")),
        "rankme": last["health"].get("rankme"),
        "curve": [_point(row) for row in rows if row.get("probes")],
        "cost": {"train": round(time.perf_counter() - began, 2)},
    }


def _keep_probed_alike(run_dir: Path, evaluation: Mapping[str, Any]) -> None:
    """Throw a run away whose scores on the way are another evaluation's: its curve would not lead to its end.

    Cells that differ in the evaluation only share their run; ``<run>.json`` beside it remembers who measured on the way.
    """
    note = run_dir.with_name(f"{run_dir.name}.json")
    now = {key: value for key, value in evaluation.items() if key != "points"}
    if read_json(note) not in (None, now):
        shutil.rmtree(run_dir, ignore_errors=True)
    write_file(note, now)


def _point(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: row.get(key) for key in ("step", "samples", "seconds", "flops")}, "values": row["probes"]}
