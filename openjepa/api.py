"""The verbs as functions. One signature serves Python, the command line and the docs.

>>> import openjepa
>>> result = openjepa.pretrain("photos/", "ijepa-tiny")  # doctest: +SKIP
>>> model = openjepa.load(result.run_dir)  # doctest: +SKIP
>>> model.embed(["a.jpg", "b.jpg"]).shape  # doctest: +SKIP
(2, 192)
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from openjepa.classifying import classify
from openjepa.config import build_recipe, list_recipes, load_recipe, stage_recipes
from openjepa.config.load import RecipeInfo
from openjepa.config.schema import Recipe
from openjepa.data import Inspection, Verification, eval_transform
from openjepa.data import inspect as inspect_data
from openjepa.data import verify as verify_data
from openjepa.data.sources import labels_of
from openjepa.data.splits import Splits, open_splits
from openjepa.embedding import embed, iterate, open_store
from openjepa.errors import ConfigError, DataError, MissingExtra
from openjepa.evaluation import Score, Settings, make_probe, write_scores
from openjepa.evaluation import evaluate as score_encoder
from openjepa.exporting import export, push
from openjepa.finding import find_duplicates, open_index, search
from openjepa.hub.model_directory import Which
from openjepa.judging import choose_device, cka, contamination, evaluate
from openjepa.loading import load
from openjepa.model import AnyModel
from openjepa.models import VisionTransformer, build_encoder
from openjepa.starting import initial_weights
from openjepa.training import Event, RunInfo, RunResult, StagePart, default_out, list_runs, read_run, train_stages
from openjepa.training import train as run_training
from openjepa.training.run import STAGES
from openjepa.tuning import finetune
from openjepa.visualize.report import write_report
from openjepa.visualize.scores import read_scores

__all__ = [
    "DEFAULT_RECIPE",
    "SCORES",
    "PretrainResult",
    "cka",
    "classify",
    "contamination",
    "embed",
    "evaluate",
    "export",
    "find_duplicates",
    "finetune",
    "inspect",
    "iterate",
    "load",
    "open_index",
    "open_store",
    "pretrain",
    "push",
    "random_encoder",
    "recipes",
    "run",
    "run_summary",
    "runs",
    "search",
    "verify",
]

SCORES = "scores.json"
DEFAULT_RECIPE = "ijepa-tiny"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainResult:
    """What :func:`pretrain` made.

    run_dir: everything. verdict: the run's health in words. scores: the encoder beside raw pixels and its random
    initialisation; empty without labels. report: the HTML file, None where it was not written. training: steps, last
    metrics and unreadable files.
    """

    run_dir: Path
    verdict: str
    training: RunResult
    scores: tuple[Score, ...] = ()
    report: Path | None = None
    notes: tuple[str, ...] = field(default=())


def pretrain(
    data: str | Path,
    recipe: str | Path | Recipe | None = None,
    *,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    val: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    resume: bool = False,
    init: str | Path | AnyModel | None = None,
    init_which: Which = "deployed",
    init_predictor: bool = True,
    init_hints: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    judge: bool = True,
    report: bool = True,
    on_event: Callable[[Event], None] | None = None,
    console: bool = True,
) -> PretrainResult:
    """Train an encoder on images or videos without labels; labels, where the folders give them, only score it.

    Args:
        data: folder of images (nested or flat) or, for a video recipe, of videos; list file, or ``"scenes"``.
        recipe: a name, a YAML file, a run's ``config.yaml`` or a :class:`Recipe`; by default ``ijepa-tiny``, and with
            ``resume`` the recipe the run was started with. overrides: ``"optim.lr=3e-4"``, …
        out: run directory; by default ``runs/<recipe>-<date>-<time>``.
        epochs, steps: length, one of them; a recipe in stages has a length for each and refuses both. batch_size: global
            batch. val: labelled folder to score on.
        resume: continue the run in ``out`` exactly. overwrite: replace the run in ``out``.
        init: weights to start from (the first stage): anything :func:`load` opens, or what it returned. init_which: both
            encoders from the ``online`` or ``target`` one; by default each from its own. init_predictor: False starts the
            predictor fresh. init_hints: what a file does not tell of itself, as :func:`load` takes them.
        judge: score the result where labels exist. report: write ``report.html``.
        on_event: receives training events. console: also show progress on standard error.

    Raises:
        ConfigError, DataError, RunError, CheckpointError, TrainingError: one line each.
    """
    words = _as_overrides(data, epochs, steps, batch_size, val, seed, device, precision)
    if resume and out is None:
        raise ConfigError("--resume needs --out: which run is to go on?")
    resolved = _resolve(recipe, [*overrides, *words], out if resume else None)
    if resolved.stages and (epochs is not None or steps is not None):
        raise ConfigError(
            f"recipe '{resolved.name}' has {len(resolved.stages)} stages, each of a length of its own: instead of "
            f"--{'steps' if steps is not None else 'epochs'} set stages.0.changes.train.length='100 steps' and so on"
        )
    recipes = stage_recipes(resolved)
    splits = [open_splits(stage) for stage in recipes]
    place = Path(out) if out is not None else default_out(resolved)
    parts = [StagePart(r, s.training, _probes(r, s)) for r, s in zip(recipes, splits, strict=True)]
    if resume and init is not None:
        raise ConfigError("--resume continues a run exactly and --init starts a new one: give one of them")
    weights = None if init is None else initial_weights(init, init_which, init_predictor, init_hints)
    how: dict[str, Any] = {"resume": resume, "init": weights, "overwrite": overwrite}
    heard: dict[str, Any] = {"on_event": on_event, "console": console}
    if resolved.stages:
        trained = train_stages(resolved, parts, out=place, **how, **heard)
    else:
        trained = run_training(resolved, parts[0].source, out=place, probes=parts[0].probes, **how, **heard)
    verdict = str(trained.verdict)
    if not trained.finished or _rank() > 0:  # the first process judges and reports, alone
        return PretrainResult(trained.run_dir, verdict, trained)
    scores = _judge(recipes[-1], splits[-1], trained.run_dir) if judge and _labelled(splits[-1]) else ()
    if resolved.stages:
        _keep_in_stages(resolved, trained.run_dir, scores, splits if report else [])
    page, notes = _report(trained.run_dir, splits[-1]) if report else (None, ())
    return PretrainResult(trained.run_dir, verdict, trained, scores, page, notes)


def random_encoder(recipe: Recipe) -> VisionTransformer:
    """The recipe's encoder as a run with its seed would start; torch's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build_encoder(recipe.model, recipe.image_hw, recipe.data.channels, recipe.frames).eval()


def runs(root: str | Path = "runs") -> list[RunInfo]:
    """Every run below ``root``, newest first."""
    return list_runs(root)


def run(path: str | Path) -> RunInfo:
    """One run directory. Raises RunError when there is none."""
    return read_run(path)


def run_summary(info: RunInfo) -> dict[str, Any]:
    """A run in a few words and numbers, JSON-ready: what it is, how far it got, its health and its scores."""
    row = info.row or {}
    probes = row.get("probes") or {}
    final = {entry.role: entry.marks for entry in read_scores(info.path / SCORES)}.get("trained", {})
    score = {name: final[name].value if name in final else probes.get(name) for name in ("knn", "linear")}
    health = row.get("health") or {}
    return {
        "name": info.name,
        "path": str(info.path),
        "recipe": info.recipe.name if info.recipe else None,
        "data": info.recipe.data.source if info.recipe else None,
        "status": info.status,
        "progress": f"{info.step:,} of {info.total:,}" if info.total else f"{info.step:,}",
        "samples": row.get("samples"),
        "seconds": _rounded(row.get("seconds"), 1),
        "flops": None if row.get("flops") is None else f"{row['flops']:.4g}",
        "loss": _rounded(row.get("loss"), 4),
        "rankme": _rounded(health.get("rankme"), 1),
        **{name: None if value is None else f"{100 * value:.1f} %" for name, value in score.items()},
        "verdict": info.verdict,
        "unreadable_files": _bad_count(info.path),
        "report": str(info.path / "report.html") if (info.path / "report.html").is_file() else None,
    }


def inspect(data: str | Path) -> Inspection:
    """Counts, sizes, formats and classes of a data folder."""
    return inspect_data(data)


def verify(data: str | Path) -> Verification:
    """Decode every file of a data folder and list the bad ones."""
    return verify_data(data)


def recipes() -> list[RecipeInfo]:
    """The recipes that ship with openjepa."""
    return list_recipes()


def _as_overrides(
    data: str | Path,
    epochs: float | None,
    steps: int | None,
    batch_size: int | None,
    val: str | Path | None,
    seed: int | None,
    device: str | None,
    precision: str | None,
) -> list[str]:
    """Named arguments as recipe overrides; the last word on a key."""
    if epochs is not None and steps is not None:
        raise ConfigError("give epochs or steps, not both")
    length = f"{steps} steps" if steps is not None else f"{epochs} epochs" if epochs is not None else None
    given: Mapping[str, object | None] = {
        "data.source": str(data),
        "train.length": length,
        "train.batch_size": batch_size,
        "probe.val": None if val is None else str(val),
        "seed": seed,
        "train.device": device,
        "train.precision": precision,
    }
    return [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]


def _resolve(recipe: str | Path | Recipe | None, overrides: Sequence[str], resumed: str | Path | None) -> Recipe:
    """The recipe with its overrides; when none is named, a resumed run's own ``config.yaml``, else the default."""
    if isinstance(recipe, Recipe):
        return build_recipe(recipe.model_dump(mode="json"), overrides)
    if recipe is None and resumed is not None and (Path(resumed) / "config.yaml").is_file():
        recipe = Path(resumed) / "config.yaml"
    return load_recipe(recipe or DEFAULT_RECIPE, overrides)


def _labelled(splits: Splits) -> bool:
    """Whether both sides have labels of at least two classes."""
    train, val = (set(labels_of(side)) - {-1} for side in (splits.train, splits.held_out))
    return len(train) > 1 and len(val) > 0


def _probes(recipe: Recipe, splits: Splits) -> list[Any]:
    """Scores for the training loop, kNN and linear; none without labels."""
    if not _labelled(splits):
        return []
    probe = recipe.probe
    return [
        make_probe(
            splits.train,
            splits.held_out,
            eval_transform(recipe.data),
            max_train=probe.max_train,
            max_val=probe.max_val,
            k=probe.knn_k,
            seed=recipe.seed,
        )
    ]


def _keep_in_stages(recipe: Recipe, run_dir: Path, scores: Sequence[Score], splits: Sequence[Splits]) -> None:
    """Each stage is a run directory of its own: a report in all, and in the last one the scores of its model."""
    places = [run_dir / STAGES / stage.name for stage in recipe.stages]
    if scores:
        write_scores(places[-1] / SCORES, scores)
    for place, split in zip(places, splits, strict=False):  # no splits: no reports
        _report(place, split)


def _judge(recipe: Recipe, splits: Splits, run_dir: Path) -> tuple[Score, ...]:
    """Score the encoder beside its random initialisation and raw pixels, and keep it in the run."""
    model = load(run_dir)
    try:
        scores = score_encoder(
            model.encoder,
            model.normalise,
            splits.train,
            splits.held_out,
            transform=model.transform,
            subject="trained",
            baselines={"random initialisation": random_encoder(recipe)},
            raw_pixels=True,
            settings=Settings(k=recipe.probe.knn_k, seed=recipe.seed),
            device=choose_device(recipe.train.device),
        )
    except DataError as error:
        _log.warning("no scores: %s", error)
        return ()
    write_scores(run_dir / SCORES, scores)
    return tuple(scores)


def _report(run_dir: Path, splits: Splits) -> tuple[Path | None, tuple[str, ...]]:
    """Write the report; without the extra it needs, say what to install instead."""
    try:
        return write_report(run_dir, train=splits.train, held_out=splits.held_out, origin=splits.origin), ()
    except MissingExtra as error:
        _log.warning("no report: %s", error)
        return None, (str(error),)


def _rank() -> int:
    """Place of this process among those a launcher started."""
    return int(os.environ.get("RANK", "0"))


def _bad_count(path: Path) -> int:
    """How many files the run at ``path`` could not read."""
    listed = path / "bad_files.json"
    return len(json.loads(listed.read_text(encoding="utf-8"))) if listed.is_file() else 0


def _rounded(value: object, digits: int) -> float | None:
    return round(float(value), digits) if isinstance(value, int | float) else None
