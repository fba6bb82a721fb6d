"""Which samples train and which judge: one rule for training, probes, scores and the report, of images and of videos."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from openjepa.config.schema import Recipe, StreamConfig
from openjepa.data.clips import Clips
from openjepa.data.listing import choose_split
from openjepa.data.sources import Source, holdout, open_source
from openjepa.errors import DataError, MissingExtra

HELD_SHARE = 0.1  # set apart for judging when nothing else is given
# Seeds of a study change the training, never the data: neither the built-in images nor which images judge.
SCENES_SEED = HELD_SEED = 0


@dataclass(frozen=True)
class Splits:
    """Training and held-out data, and in words where the held-out samples come from.

    streams: training data of each of ``data.streams``; empty where there are none, and ``train`` is all there is.
    """

    train: Source
    held_out: Source
    origin: str
    streams: tuple[Source, ...] = ()

    @property
    def training(self) -> Source | tuple[Source, ...]:
        """What the training reads: one source, or one for each stream."""
        return self.streams or self.train


def open_splits(recipe: Recipe) -> Splits:
    """The data a recipe trains on and the samples it never sees, by the first rule that applies.

    ``probe.val`` where given; other seeds of the built-in ``scenes``; the ``val/`` or ``test/`` beside ``train/`` in the
    folder; else a tenth of the data, drawn by class where there are labels. Streams with data of their own train on all
    of it; what judges comes from the recipe's data.

    Raises:
        DataError: no data is named, it is not there, holds fewer than two samples, or videos where the recipe wants
            images (and the other way round).
    """
    splits = _split(recipe)
    return replace(splits, streams=tuple(_stream(recipe, stream, splits.train) for stream in recipe.data.streams))


def _stream(recipe: Recipe, stream: StreamConfig, train: Source) -> Source:
    """Training data of one stream; without a source of its own it shares the recipe's."""
    if stream.source is None or (stream.source == recipe.data.source and stream.kind == "clips"):
        return train
    if stream.kind == "clips":
        return open_side(recipe, stream.source)
    return open_side(recipe.model_copy(update={"data": recipe.data.model_copy(update={"clip": None})}), stream.source)


def _split(recipe: Recipe) -> Splits:
    data = recipe.data
    things = "videos" if recipe.video else "images"
    if data.source is None:
        raise DataError(f"no data is named: give a folder of {things}, a list file, or 'scenes'")
    train = open_side(recipe, data.source)
    if recipe.probe.val is not None:
        return Splits(train, open_side(recipe, recipe.probe.val, "val"), f"{recipe.probe.val}, as asked")
    if data.source == "scenes":
        return Splits(train, open_side(recipe, "scenes", "val"), "scenes drawn with other seeds")
    if os.path.isdir(data.source) and has_val(data.source):
        val = open_side(recipe, data.source, "val")
        return Splits(train, val, f"{val.name}, beside the training folder")
    if len(train) < 2:
        raise DataError(f"{train.name} holds {len(train)} {things[:-1]}: training needs at least 2")
    rest, tenth = holdout(train, HELD_SHARE, HELD_SEED)
    return Splits(rest, tenth, f"{len(tenth):,} of {len(train):,} {things} set apart for judging, never trained on")


def open_side(recipe: Recipe, name: str, side: Literal["train", "val"] = "train") -> Source:
    """One side of an evaluation, read as ``recipe`` reads samples; of videos, the clip in the middle.

    ``val`` of a folder with both parts inside is its ``val/`` or ``test/``; of ``scenes``, scenes with other seeds.
    Training and measures take other clips of the same source by :func:`openjepa.data.sources.with_clips`.

    Raises:
        DataError: nothing there that can be read, or videos where the recipe wants images (and the other way round).
    """
    data, split = recipe.data, side
    clip = None if data.clip is None else Clips.evaluation(data.clip)
    if name != "scenes":
        inside = split == "val" and os.path.isdir(name) and has_val(name)
        try:
            return open_source(name, channels=data.channels, split="val" if inside else None, clip=clip)
        except DataError as error:
            raise _other_kind(name, recipe) or error from error
    count = data.scenes_count if split == "train" else max(data.scenes_count // 2, 2)
    size = min(recipe.image_hw)
    return open_source(
        name,
        channels=data.channels,
        split=split,
        count=count,
        seed=SCENES_SEED,
        scene_size=max(size, 32),
        clip=clip,
    )


def _other_kind(name: str, recipe: Recipe) -> DataError | None:
    """What to say when data could not be opened and holds the other kind of samples; None when it does not."""
    try:
        found = open_source(name, clip=None if recipe.video else Clips(1))
    except (DataError, MissingExtra):
        return None
    one = len(found) == 1
    if recipe.video:
        what = "an image and no video" if one else f"{len(found):,} images and no videos"
        return DataError(f"{name} holds {what}: use an image recipe, e.g. ijepa-tiny")
    what = "a video and no image" if one else f"{len(found):,} videos and no images"
    return DataError(f"{name} holds {what}: use a video recipe, e.g. vjepa-tiny")


def has_val(folder: str) -> bool:
    """Whether a folder has both a training part and a part to judge on."""
    try:
        return choose_split(Path(folder), "val") is not None and choose_split(Path(folder), None)[1] != ""
    except DataError:
        return False
