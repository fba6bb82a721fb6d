"""Cells: what a grid computes, one by one, each keyed by what it is computed from so that grids share equal ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from openjepa.config import Recipe, load_recipe
from openjepa.errors import ConfigError, DataError
from openjepa.experiments.ablate.grid import Grid

Kind = Literal["trained", "random", "pixels"]
TRAINED, RANDOM, PIXELS = "trained", "random initialisation", "raw pixels"

# Laid under every arm: panels, probes and TensorBoard cost time and change no weight; arms may still set them.
QUIET = (
    "probe.every=none",
    "log.every=20 %",
    "log.tensorboard=false",
    "checkpoint.every=20 %",
    "checkpoint.keep=1",
)
# Keys that change no number of a run (or only its last digits): not part of a cell's identity.
_FREE = ("name", "form", "system", "log", "checkpoint", "health", "probe")
_FREE_DATA = ("source", "workers", "cache", "max_bad_share")
_FREE_TRAIN = ("device", "threads", "strategy")


@dataclass(frozen=True)
class Cell:
    """One unit of work.

    kind: ``trained`` (a run, then its scores), ``random`` (the untrained encoder), ``pixels``. data: as named, made
    absolute. recipe: resolved. run_key: what the training depends on; key: that and the evaluation. label: for people.
    """

    kind: Kind
    label: str
    data: str
    seed: int
    recipe: Recipe
    evaluation: Mapping[str, Any]
    run_key: str
    key: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, for the worker."""
        return {
            "kind": self.kind,
            "label": self.label,
            "data": self.data,
            "seed": self.seed,
            "recipe": self.recipe.model_dump(mode="json"),
            "evaluation": dict(self.evaluation),
            "run_key": self.run_key,
            "key": self.key,
        }


@dataclass(frozen=True)
class Place:
    """Where one arm of a grid finds its numbers: cell keys of the trained encoder and its baselines."""

    data: str
    arm: str
    seed: int
    trained: str
    random: str
    pixels: str


@dataclass(frozen=True)
class Expanded:
    """A grid laid out: distinct cells by key, and for every data set × arm × seed where its numbers are."""

    grid: Grid
    cells: Mapping[str, Cell]
    places: tuple[Place, ...]


def expand(
    grid: Grid,
    data: Sequence[str],
    *,
    steps: int | None = None,
    overrides: Sequence[str] = (),
    beside: Path | None = None,
) -> Expanded:
    """All cells of ``grid`` on the given data sets.

    Args:
        data: folders, lists or built-ins; empty: those the grid names. steps: instead of the grid's budget.
        overrides: laid over every arm last. beside: folder of the grid file, for recipes that are files beside it.

    Raises:
        ConfigError: no data, an arm's recipe is wrong (all arms are named), or two arms are the same.
    """
    names = [_data_name(name) for name in (data or grid.data)]
    if not names:
        raise ConfigError(f"grid '{grid.name}' names no data: give --data FOLDER (or 'scenes')")
    cells: dict[str, Cell] = {}
    places = []
    recipes = _recipes(grid, steps, overrides, beside)
    evaluation = grid.evaluation.model_dump(mode="json")
    for name in dict.fromkeys(names):
        for seed in grid.seeds:
            for arm, plain in recipes.items():
                recipe = _for_cell(plain, arm, name, seed, grid.evaluation.points)
                trio = _three(arm, name, seed, recipe, evaluation)
                for cell in trio:
                    cells.setdefault(cell.key, cell)
                places.append(Place(name, arm, seed, *(cell.key for cell in trio)))
    _refuse_twins(grid, places)
    return Expanded(grid, cells, tuple(places))


def _recipes(grid: Grid, steps: int | None, overrides: Sequence[str], beside: Path | None) -> dict[str, Recipe]:
    """Every arm's recipe; all mistakes in one line."""
    length = f"{steps} steps" if steps is not None else None if grid.budget is None else str(grid.budget)
    last = [*([f"train.length={length}"] if length else []), *overrides]
    found, wrong = {}, []
    for arm, config in grid.arms.items():
        name = config.recipe or grid.base
        if beside is not None and (beside / name).is_file():
            name = str(beside / name)
        try:
            found[arm] = load_recipe(name, [*QUIET, *grid.overrides, *config.overrides, *last])
        except ConfigError as error:
            wrong.append(f"arm '{arm}': {error}")
    if wrong:
        raise ConfigError(f"grid '{grid.name}': {'; '.join(wrong)}")
    return found


def _for_cell(recipe: Recipe, arm: str, data: str, seed: int, points: int) -> Recipe:
    """The arm's recipe for one data set and seed."""
    raw = recipe.model_dump(mode="json")
    raw |= {"name": f"{arm} s{seed}", "form": "custom", "seed": seed}
    raw["data"]["source"] = data
    raw["probe"]["every"] = f"{100 / points!r} %" if points > 1 else None
    return Recipe.model_validate(raw)


def _three(arm: str, data: str, seed: int, recipe: Recipe, evaluation: Mapping[str, Any]) -> tuple[Cell, Cell, Cell]:
    """The trained cell and its two baselines."""
    raw = recipe.model_dump(mode="json")
    kept: dict[str, Any] = {key: value for key, value in raw.items() if key not in _FREE}
    kept["data"] = {key: value for key, value in raw["data"].items() if key not in _FREE_DATA}
    kept["train"] = {key: value for key, value in raw["train"].items() if key not in _FREE_TRAIN}
    held = raw["probe"]["val"]
    image = {key: kept["data"][key] for key in ("image_size", "channels", "mean", "std", "interpolation", "eval_crop")}
    if raw["data"]["clip"] is not None:
        image["clip"] = raw["data"]["clip"]
    view = {"data": data, "val": held, "image": image, "scenes": raw["data"]["scenes_count"]}
    scored = {key: value for key, value in evaluation.items() if key != "points"}
    run_key = digest({**view, "recipe": kept, "points": evaluation["points"]})
    random_key = digest({**view, "model": raw["model"], "seed": seed})
    pixel_key = digest({**view, "what": "pixels"})

    def cell(kind: Kind, label: str, key: str, at: int) -> Cell:
        return Cell(kind, label, data, at, recipe, evaluation, key, digest({"of": key, "kind": kind, "by": scored}))

    return (
        cell("trained", arm, run_key, seed),
        cell("random", RANDOM, random_key, seed),
        cell("pixels", PIXELS, pixel_key, seed),
    )


def _refuse_twins(grid: Grid, places: Sequence[Place]) -> None:
    """Two arms that resolve to the same recipe would be compared with themselves."""
    seen: dict[str, str] = {}
    for place in places:
        other = seen.setdefault(place.trained, place.arm)
        if other != place.arm:
            raise ConfigError(
                f"grid '{grid.name}': arms '{other}' and '{place.arm}' are the same recipe: check their overrides"
            )


def _data_name(name: str) -> str:
    """A data set as cells remember it: absolute, so that a resumed ablation may be started from elsewhere."""
    if name == "scenes":
        return name
    path = Path(name).expanduser()
    if not path.exists():
        raise DataError(f"data '{name}' does not exist: give a folder of images, a list file, or 'scenes'")
    return str(path.resolve())


def short_names(data: Sequence[str]) -> dict[str, str]:
    """Data sets as tables call them: the folder's name, with as many parents as tell them apart."""
    parts = {name: Path(name).parts for name in data}
    for depth in range(1, max((len(p) for p in parts.values()), default=1) + 1):
        short = {name: "/".join(p[-depth:]).lstrip("/") for name, p in parts.items()}
        if len(set(short.values())) == len(short):
            return short
    return {name: name for name in data}


def digest(value: Any) -> str:
    """Sixteen hex digits of the content hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
