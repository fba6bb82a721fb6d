"""The grid: what an ablation asks, its arms, seeds and scores, and which way each comparison is expected to go."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from openjepa.config.duration import Duration
from openjepa.config.load import read_header
from openjepa.config.part import Part
from openjepa.config.text import one_line, parse_yaml, shown
from openjepa.errors import ConfigError, nearest

GRIDS = Path(__file__).resolve().parents[1] / "grids"
_ARM = re.compile(r"^\w[\w.+ -]*$")


def _as_overrides(value: Any) -> Any:
    """``{target.kind: self}`` is the same as ``[target.kind=self]``."""
    if isinstance(value, dict):
        return [f"{key}={json.dumps(item)}" for key, item in value.items()]
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | int) else value


Overrides = Annotated[tuple[str, ...], BeforeValidator(_as_overrides)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]


class EvaluationConfig(Part):
    """How encoders are scored: on images that never trained, with nothing chosen on them."""

    what: Names = Field(("knn", "linear"), min_length=1, description="evaluators, as in 'openjepa evaluate'")
    k: int = Field(20, ge=1, description="neighbours of kNN")
    c: float | None = Field(
        None, gt=0, description="inverse penalty of linear; none: chosen on held-out training images"
    )
    layers: Literal["last", "last4"] = Field("last", description="which features")
    options: dict[str, Any] = Field({}, description="further settings of evaluators, by evaluator name")
    points: int = Field(1, ge=1, description="scores per run, evenly over training; 1: only at the end")


class ArmConfig(Part):
    """One way of training: the base recipe with changes, or another recipe."""

    recipe: str | None = Field(None, description="recipe name or YAML file; none: the grid's base")
    overrides: Overrides = Field((), description="recipe keys this arm changes")


class Expectation(Part):
    """A claim: one arm scores better than another."""

    better: str = Field(description="arm that is expected to win")
    worse: str = Field(description="arm it is compared with")
    metric: str = Field("knn", description="score that decides")
    against: str | None = Field(None, description="score of the worse side, when it is another; none: the same")
    at: Literal["end", "seconds", "flops", "samples"] = Field(
        "end", description="compare at the end, or at an equal amount of this (needs evaluation.points > 1)"
    )
    claim: str = Field(description="the claim in words")
    source: str = Field("", description="who makes it")


class Grid(Part):
    """A whole ablation: arms × seeds on every data set."""

    name: str = Field(description="how the grid is called")
    question: str = Field(description="what it asks")
    base: str = Field("ijepa-tiny", description="recipe of all arms that name no other")
    data: Names = Field((), description="data sets, when the command line names none")
    overrides: Overrides = Field((), description="recipe keys all arms change")
    budget: Duration | None = Field(None, description="length of every run; none: the recipe's own")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="seeds of every arm")
    evaluation: EvaluationConfig = EvaluationConfig()
    arms: dict[str, ArmConfig] = Field(min_length=1, description="arm name to what it changes")
    expect: tuple[Expectation, ...] = Field((), description="comparisons with their expected direction")


@dataclass(frozen=True)
class GridInfo:
    """A grid that ships with the package. ``header``: the comment block its file begins with."""

    name: str
    path: Path
    grid: Grid
    header: str


def list_grids() -> list[GridInfo]:
    """The grids that ship with openjepa, by name."""
    found = sorted(GRIDS.glob("*.yaml"))
    return [GridInfo(p.stem, p, load_grid(p), read_header(p.read_text(encoding="utf-8"))) for p in found]


def find_grid(name_or_path: str | Path) -> Path:
    """The file of a shipped grid's name or of a path. Raises ConfigError with the nearest name."""
    shipped = {path.stem: path for path in GRIDS.glob("*.yaml")}
    text = str(name_or_path)
    if text in shipped:
        return shipped[text]
    path = Path(text).expanduser()
    if path.is_file():
        return path
    if path.suffix.lower() in (".yaml", ".yml"):
        raise ConfigError(f"grid file '{text}' does not exist{nearest(path.stem, shipped)}")
    raise ConfigError(f"no grid is called '{text}'{nearest(text, shipped)}; see them all: openjepa ablate --list")


def load_grid(name_or_path: str | Path) -> Grid:
    """Read and check a grid: a shipped one by name, or a YAML file.

    Raises:
        ConfigError: one line with every mistake and the nearest valid choice.
    """
    path = find_grid(name_or_path)
    origin = f"grid '{path.stem if path.parent == GRIDS else path}'"
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"), origin)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{origin} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{origin} holds {'nothing' if raw is None else 'no keys'}: write 'key: value' lines")
    return build_grid({"name": path.stem, **raw}, origin)


def build_grid(raw: dict[str, Any], origin: str = "grid") -> Grid:
    """Check plain data, as YAML gives it. Errors as in :func:`load_grid`."""
    try:
        grid = Grid.model_validate(_no_nones(raw))
    except ValidationError as failure:
        mistakes = list(dict.fromkeys(_sentence(error, raw) for error in failure.errors(include_url=False)))
    else:
        mistakes = _mistakes(grid)
    if mistakes:
        count = f"{len(mistakes)} mistakes: " if len(mistakes) > 1 else ""
        raise ConfigError(one_line(f"{origin}: {count}{'; '.join(mistakes)}"))
    return grid


def _no_nones(raw: dict[str, Any]) -> dict[str, Any]:
    """An arm without changes may be written ``base:`` with nothing behind it."""
    arms = raw.get("arms")
    if isinstance(arms, dict):
        return {**raw, "arms": {name: {} if arm is None else arm for name, arm in arms.items()}}
    return raw


def _sentence(error: Any, raw: Any) -> str:
    """One mistake of the schema in words."""
    loc, kind = error["loc"], error["type"]
    where = ".".join(str(part) for part in loc)
    if kind == "extra_forbidden":
        return f"unknown key '{where}'{nearest(loc[-1], _keys_beside(loc))}"
    if kind == "missing":
        return f"'{where}' is missing ({_described(loc)})"
    said = error["msg"].removeprefix("Value error, ").lower()
    value = shown(error.get("input"))
    hint = nearest(error["input"], re.findall(r"'([^']+)'", error["msg"])) if kind == "literal_error" else ""
    return f"{where}: {value if len(value) < 60 else value[:59] + '…'}: {said}{hint}"


def _holder(loc: tuple[Any, ...]) -> type[BaseModel]:
    """The part of the schema that a location's last word belongs to."""
    parts: dict[str, type[BaseModel]] = {"arms": ArmConfig, "expect": Expectation, "evaluation": EvaluationConfig}
    return parts.get(str(loc[0]) if len(loc) > 1 else "", Grid)


def _keys_beside(loc: tuple[Any, ...]) -> Iterable[str]:
    return _holder(loc).model_fields


def _described(loc: tuple[Any, ...]) -> str:
    field = _holder(loc).model_fields.get(str(loc[-1]))
    return field.description or "" if field is not None else ""


def _mistakes(grid: Grid) -> list[str]:
    """What no single key can know."""
    from openjepa.evaluation.evaluate import ALIASES, EVALUATORS

    wrong = [f"arm '{arm}': use letters, digits, space and .+-_ only" for arm in grid.arms if not _ARM.match(arm)]
    if len(set(grid.seeds)) < len(grid.seeds):
        wrong.append(f"seeds: {shown(grid.seeds)} has one twice")
    wrong += [
        f"evaluation.what: no evaluator is called '{name}'{nearest(name, EVALUATORS)}: {', '.join(EVALUATORS)}"
        for name in grid.evaluation.what
        if name not in EVALUATORS and name not in ALIASES
    ]
    known = [ALIASES.get(name, name) for name in grid.evaluation.what]  # scores go by the first name
    for place, expected in enumerate(grid.expect):
        where = f"expect[{place}]"
        for side in (expected.better, expected.worse):
            if side not in grid.arms:
                wrong.append(f"{where}: no arm is called '{side}'{nearest(side, grid.arms)}: {', '.join(grid.arms)}")
        for metric in filter(None, (expected.metric, expected.against)):
            if not any(metric == name or metric.startswith(f"{name} ") for name in known):
                wrong.append(f"{where}.metric: '{metric}' is not measured by evaluation.what{nearest(metric, known)}")
        if expected.better == expected.worse and expected.against in (None, expected.metric):
            wrong.append(f"{where}: '{expected.better}' is compared with itself: name another arm or 'against'")
        if expected.at != "end" and grid.evaluation.points < 2:
            wrong.append(f"{where}.at: {expected.at} needs scores during training: set evaluation.points to 2 or more")
    return wrong
