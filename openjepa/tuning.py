"""The verb that makes a classifier: an encoder fine-tuned on a labelled folder, scored, and saved as a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from openjepa.errors import ConfigError, RunError
from openjepa.evaluation import Score, read_scores, write_scores
from openjepa.evaluation.evaluate import OnEvaluate
from openjepa.evaluation.finetune import NAME, FineTune
from openjepa.evaluation.linear_grid import grid_from
from openjepa.evaluation.tuning import CHECKPOINTS, Keeping, Tuned
from openjepa.features import ClipOptions
from openjepa.hub.atomic import write_file
from openjepa.hub.card import ModelCard
from openjepa.hub.foreign_directory import save_foreign
from openjepa.hub.model_directory import Which, save_model
from openjepa.hub.provenance import PublishedProbe
from openjepa.judging import evaluate
from openjepa.loading import load
from openjepa.model import AnyModel, ForeignModel, Model
from openjepa.training.lock import RunLock

ABOUT, SCORES, MODEL = "finetune.json", "scores.json", "model"
_OURS = {ABOUT, SCORES, MODEL, CHECKPOINTS, RunLock.FILE}


@dataclass(frozen=True)
class FineTuned:
    """What :func:`finetune` made. run_dir: what ``load`` opens. scores: on val, of the classifier and of baselines."""

    run_dir: Path
    scores: tuple[Score, ...]


def finetune(
    model: str | Path | AnyModel,
    *,
    train: str | Path,
    val: str | Path,
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    baselines: bool = True,
    device: str = "auto",
    batch_size: int = 64,
    which: Which = "deployed",
    seed: int = 0,
    clips: ClipOptions | None = None,
    hints: Mapping[str, Any] | None = None,
    train_batch: int | None = None,
    on_progress: OnEvaluate | None = None,
    **options: Any,
) -> FineTuned:
    """Fine-tune an encoder into a classifier, and keep it: ``openjepa.load(out).classify(images)``.

    Args:
        model: what :func:`load` takes or returned. train, val: labelled folders or list files.
        out: a directory of its own: ``model/``, ``scores.json``, and ``checkpoints/`` until it is done. resume: go on with
            what is in it. overwrite: start it again.
        train_batch: samples per step (by default 128); batch_size is of the scoring.
        baselines: also train the same encoder from random weights, which is not kept.
        options: fields of :class:`openjepa.evaluation.finetune.FineTune`: tune, blocks, lora_rank, lrs, epochs, …
        Others as in :func:`openjepa.judging.evaluate`.

    Raises:
        RunError: ``out`` holds something else, is in use, or was begun with other settings. Others as in ``evaluate``.
    """
    if train_batch is not None:
        options["batch_size"] = train_batch
    wanted = grid_from(FineTune, NAME, options)  # a mistake is said before anything is loaded
    loaded = model if isinstance(model, AnyModel) else load(model, which=which, hints=hints)
    seen = loaded.seen(clips or ClipOptions())
    if not isinstance(seen, Model | ForeignModel):
        raise ConfigError(
            f"{loaded.name} would be shown its input in parts: such a classifier can be scored, not saved"
        )
    place = Path(out)
    lock = _claim(place, resume, overwrite)
    try:
        named = str(model) if isinstance(model, str | Path) else _source(loaded)
        about = {"from": named, "train": str(train), "val": str(val), "licence": _licence(loaded)}
        settings = json.loads(json.dumps({**about, **asdict(wanted)}, default=str))
        if resume:
            _check_same(place, settings)
        if resume and (place / SCORES).is_file():
            return FineTuned(place, tuple(read_scores(place / SCORES)))
        write_file(place / ABOUT, settings)

        def receive(subject: str, tuned: Tuned, classes: tuple[str, ...], score: Score) -> None:
            if subject == loaded.name:
                _save(place / MODEL, seen, tuned, classes, score, about)

        scores = evaluate(
            NAME,
            model=loaded,
            train=train,
            val=val,
            baselines=baselines,
            device=device,
            batch_size=batch_size,
            seed=seed,
            cache=None,
            clips=clips,
            options={NAME: {**options, "keep": Keeping(place / CHECKPOINTS, receive)}},
            on_progress=on_progress,
        )
        write_scores(place / SCORES, scores)
        shutil.rmtree(place / CHECKPOINTS, ignore_errors=True)  # optimizer states: nothing is left to go on with
        return FineTuned(place, tuple(scores))
    finally:
        lock.release()


def _check_same(place: Path, settings: Mapping[str, Any]) -> None:
    """Raise RunError where a fine-tuning would go on with other data, another model or other options."""
    begun = json.loads((place / ABOUT).read_text(encoding="utf-8"))
    for key, value in settings.items():
        if key in begun and begun[key] != value:
            raise RunError(f"'{place}' was begun with {key} {begun[key]}, now it is {value}: --overwrite starts again")


def _save(
    path: Path, seen: AnyModel, tuned: Tuned, classes: Sequence[str], score: Score, about: Mapping[str, Any]
) -> None:
    """The classifier as a model directory: encoder, head, classes, and where it comes from."""
    probe = PublishedProbe(tuned.head, tuple(classes), str(path))
    entry = {"finetuned": {**about, "protocol": dict(score.protocol), "accuracy": score.value}}
    encoder = tuned.encoder
    assert isinstance(encoder, nn.Module)
    if isinstance(seen, ForeignModel):
        save_foreign(path, seen.foreign, encoder, probe, entry)
        return
    assert isinstance(seen, Model)
    licence = about["licence"] or "unknown"
    notes = (
        f"Fine-tuned from {about['from']} ({score.protocol['trained']}) on {about['train']}, {len(classes)} classes; "
        f"accuracy {100 * score.value:.1f} % on {about['val']}.",
        f"Licence of the weights it started from: {licence}.",
    )
    card = ModelCard(data=str(about["train"]), scores={"finetune": score.value}, notes=notes)
    parts: dict[str, dict[str, Tensor]] = {seen.config.deployed: encoder.state_dict()}
    save_model(path, parts, seen.config, card, probe=probe, about=entry)


def _claim(place: Path, resume: bool, overwrite: bool) -> RunLock:
    """Take the directory, or what is in it, as asked."""
    if resume and overwrite:
        raise ConfigError("--resume goes on with a fine-tuning and --overwrite starts it again: give one of them")
    names = {item.name for item in place.iterdir()} if place.is_dir() else set()
    begun = ABOUT in names
    if place.exists() and not place.is_dir():
        raise RunError(f"'{place}' is a file: choose another --out")
    if resume and not begun:
        raise RunError(f"there is no fine-tuning to resume in '{place}'")
    if not begun and names - {RunLock.FILE}:
        raise RunError(f"'{place}' is not empty and holds no fine-tuning: choose another --out")
    if begun and not resume and not overwrite:
        raise RunError(
            f"'{place}' holds a fine-tuning already: --resume goes on with it, --overwrite replaces it, or choose another "
            "--out"
        )
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create directory '{place}': {error.strerror}") from error
    lock = RunLock.take(place)
    if overwrite:
        for name in names & (_OURS - {RunLock.FILE}):
            item = place / name
            shutil.rmtree(item) if item.is_dir() else item.unlink()
    return lock


def _source(model: AnyModel) -> str:
    """Where a model that was given came from."""
    return str(model.loaded.source) if isinstance(model, Model) else model.name


def _licence(model: AnyModel) -> str | None:
    """Licence of the weights, where anybody says it."""
    if isinstance(model, ForeignModel):
        return model.foreign.licence
    return model.provenance.licence if isinstance(model, Model) and model.provenance is not None else None
