"""Stages of a recipe: the whole recipe of each, with its changes, checked before anything is trained."""

from __future__ import annotations

from typing import Any

from openjepa.config.explain import check
from openjepa.config.overrides import set_keys
from openjepa.config.schema import Recipe, StageConfig
from openjepa.errors import ConfigError

# A stage goes on with the weights of the one before, name by name: what the weights are made of stays as it is.
_FIXED = ("method", "model", "predictor", "target.kind", "data.channels")
_MAY_CHANGE = ("model.drop_path", "model.uniform_power", "predictor.mask_token_index")
_OF_THE_RUN = ("stages", "name", "system", "form", "data.source")


def stage_recipes(recipe: Recipe) -> list[Recipe]:
    """The recipe of every stage: the whole recipe, with that stage's changes; the recipe itself where there are none.

    Changes do not add up: what a later stage does not change is as in the recipe, not as in the stage before.

    Raises:
        ConfigError: a stage is no valid recipe; the line names the stage.
    """
    if not recipe.stages:
        return [recipe]
    out = []
    for stage in recipe.stages:
        raw, wrong = _raw(recipe, stage)
        found, mistakes = check(raw)
        if found is None or wrong:
            raise ConfigError(f"stage '{stage.name}': {'; '.join([*wrong, *mistakes])}")
        out.append(found)
    return out


def flat(changes: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Changes as (dotted key, value); sections may also be written out, one inside the other."""
    out: list[tuple[str, Any]] = []
    for key, value in changes.items():
        path = f"{prefix}{str(key).replace('-', '_')}"
        out += flat(value, f"{path}.") if isinstance(value, dict) and value else [(path, value)]
    return out


def _raw(recipe: Recipe, stage: StageConfig) -> tuple[dict[str, Any], list[str]]:
    """A stage's recipe as plain data, and what must not be changed there."""
    pairs = flat(stage.changes)
    wrong = [_complaint(key) for key, _ in pairs if _is(key, _OF_THE_RUN)]
    before = recipe.model_dump(mode="json")
    after, mistakes = set_keys(before, pairs)
    for key, _ in pairs:
        if _is(key, _FIXED) and not _is(key, _MAY_CHANGE) and _read(before, key) != _read(after, key):
            wrong.append(f"{key} cannot change: a stage starts from the weights of the one before")
    after.update(name=f"{recipe.name}-{stage.name}", stages=[])
    return after, wrong + mistakes


def _complaint(key: str) -> str:
    return f"{key} belongs to the whole run and cannot differ between stages"


def _is(key: str, names: tuple[str, ...]) -> bool:
    """Whether a key is one of ``names`` or lies below one of them."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _read(raw: Any, key: str) -> Any:
    for part in key.split("."):
        raw = raw.get(part) if isinstance(raw, dict) else None
    return raw
