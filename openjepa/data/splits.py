"""Which images train and which judge: one rule for training, probes, scores and the report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openjepa.config.schema import Recipe
from openjepa.data.listing import choose_split
from openjepa.data.sources import Source, holdout, open_source
from openjepa.errors import DataError

HELD_SHARE = 0.1  # set apart for judging when nothing else is given
# Seeds of a study change the training, never the data: neither the built-in images nor which images judge.
SCENES_SEED = HELD_SEED = 0


@dataclass(frozen=True)
class Splits:
    """Training and held-out data, and in words where the held-out images come from."""

    train: Source
    held_out: Source
    origin: str


def open_splits(recipe: Recipe) -> Splits:
    """The data a recipe trains on and the images it never sees, by the first rule that applies.

    ``probe.val`` where given; other seeds of the built-in ``scenes``; the ``val/`` or ``test/`` beside ``train/`` in the
    folder; else a tenth of the data, drawn by class where there are labels.

    Raises:
        DataError: no data is named, it is not there, or it holds fewer than two images.
    """
    data = recipe.data
    if data.source is None:
        raise DataError("no data is named: give a folder of images, a list file, or 'scenes'")
    train = open_side(recipe, data.source)
    if recipe.probe.val is not None:
        return Splits(train, open_side(recipe, recipe.probe.val, "val"), f"{recipe.probe.val}, as asked")
    if data.source == "scenes":
        return Splits(train, open_side(recipe, "scenes", "val"), "scenes drawn with other seeds")
    if os.path.isdir(data.source) and has_val(data.source):
        val = open_side(recipe, data.source, "val")
        return Splits(train, val, f"{val.name}, beside the training folder")
    if len(train) < 2:
        raise DataError(f"{train.name} holds {len(train)} image: training needs at least 2")
    rest, tenth = holdout(train, HELD_SHARE, HELD_SEED)
    return Splits(rest, tenth, f"{len(tenth):,} of {len(train):,} images set apart for judging, never trained on")


def open_side(recipe: Recipe, name: str, side: Literal["train", "val"] = "train") -> Source:
    """One side of an evaluation, read as ``recipe`` reads images.

    ``val`` of a folder with both parts inside is its ``val/`` or ``test/``; of ``scenes``, scenes with other seeds.
    """
    data, split = recipe.data, side
    if name != "scenes":
        inside = split == "val" and os.path.isdir(name) and has_val(name)
        return open_source(name, channels=data.channels, split="val" if inside else None)
    count = data.scenes_count if split == "train" else max(data.scenes_count // 2, 2)
    size = min(recipe.image_hw)
    return open_source(
        name,
        channels=data.channels,
        split=split,
        count=count,
        seed=SCENES_SEED,
        scene_size=max(size, 32),
    )


def has_val(folder: str) -> bool:
    """Whether a folder has both a training part and a part to judge on."""
    try:
        return choose_split(Path(folder), "val") is not None and choose_split(Path(folder), None)[1] != ""
    except DataError:
        return False
