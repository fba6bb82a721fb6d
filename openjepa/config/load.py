"""Recipes from files and names: reading, ``extends``, overrides, validation, listing, writing and comparing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openjepa.config.explain import check
from openjepa.config.overrides import merge, override
from openjepa.config.schema import Recipe
from openjepa.config.stages import stage_recipes
from openjepa.config.text import dump_yaml, one_line, parse_yaml, shown
from openjepa.errors import ConfigError, nearest

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
ABSENT = "–"  # what diff_recipes says where one of the two has no such key


@dataclass(frozen=True)
class RecipeInfo:
    """A recipe that ships with the package. ``header``: the comment block its file begins with, without ``#``."""

    name: str
    path: Path
    system: str
    form: str
    header: str


def _files() -> dict[str, Path]:
    """Shipped recipes by name (the file's stem), sorted by system and name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*/*.yaml"), key=lambda p: (p.parent.name, p.stem))}


def _find(name_or_path: str | Path, beside: Path | None = None) -> Path:
    """The file behind a recipe name, a YAML path or a run directory; relative paths may also lie ``beside`` a file."""
    text = str(name_or_path)
    files = _files()
    if isinstance(name_or_path, str) and text in files:
        return files[text]
    path = Path(text).expanduser()
    if beside is not None and not path.is_absolute() and (beside / path).exists():
        path = beside / path
    if path.is_dir():
        if (path / "config.yaml").is_file():
            return path / "config.yaml"
        raise ConfigError(f"'{text}' is a directory without config.yaml: give a recipe name, a YAML file or a run")
    if path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1:
        if path.is_file():
            return path
        raise ConfigError(f"recipe file '{text}' does not exist{nearest(path.stem, files)}")
    raise ConfigError(f"no recipe is called '{text}'{nearest(text, files)}; see them all: openjepa recipes list")


def _read(path: Path) -> dict[str, Any]:
    """The mapping a recipe file holds.

    Raises:
        ConfigError: not readable, not UTF-8, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe '{path}' is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"recipe '{path}' cannot be read: {error.strerror}") from error
    raw = parse_yaml(text, f"recipe '{path}'")
    if not isinstance(raw, dict):
        raise ConfigError(f"recipe '{path}' holds {'nothing' if raw is None else 'no keys'}: write 'key: value' lines")
    return raw


def _extend(raw: dict[str, Any], beside: Path | None, chain: tuple[str, ...], origin: str) -> dict[str, Any]:
    """Resolve ``extends``: the named recipe with this one's keys laid over it."""
    if "extends" not in raw:
        return raw
    base = raw["extends"]
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{origin}: extends: {shown(base)} is not the name or path of a recipe")
    try:
        path = _find(base, beside)
    except ConfigError as error:
        raise ConfigError(f"{origin}: extends: {error}") from error
    where = str(path.resolve())
    if where in chain:
        raise ConfigError(f"{origin}: recipes extend each other in a circle: {' -> '.join([*chain, where])}")
    parent = _extend(_read(path), path.parent, (*chain, where), f"recipe '{path}'")
    return merge(parent, {key: value for key, value in raw.items() if key != "extends"})


def build_recipe(raw: dict[str, Any], overrides: Sequence[str] = (), origin: str = "recipe") -> Recipe:
    """Validate plain data (as YAML gives it) with overrides on top; ``extends`` is resolved first.

    Raises:
        ConfigError: one line that names every mistake with the nearest valid key, the type or the allowed values.
    """
    resolved, mistakes = override(_extend(raw, None, (), origin), overrides)
    recipe, found = check(resolved)
    mistakes += found
    if recipe is not None and not mistakes:
        try:
            stage_recipes(recipe)
        except ConfigError as error:
            raise ConfigError(one_line(f"{origin}: {error} (all keys: openjepa recipes keys)")) from error
        return recipe
    count = f"{len(mistakes)} mistakes: " if len(mistakes) > 1 else ""
    raise ConfigError(one_line(f"{origin}: {count}{'; '.join(mistakes)} (all keys: openjepa recipes keys)"))


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name (``ijepa-tiny``), file (``x.yaml``) or run directory, with overrides ``a.b=c`` on top.

    A file without ``name`` is called after itself, also when it extends a recipe that has one.

    Raises:
        ConfigError: no such recipe (with the nearest name), not YAML (with the line), or mistakes in it (all of them).
    """
    path = _find(name_or_path)
    raw = _read(path)
    origin = f"recipe '{path.stem if path.is_relative_to(RECIPES) else path}'"
    resolved = _extend(raw, path.parent, (str(path.resolve()),), origin)
    return build_recipe({**resolved, "name": raw.get("name", path.stem)}, overrides, origin)


def read_header(text: str) -> str:
    """The comment block a file begins with, without the ``#`` signs."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return "\n".join(lines)


def list_recipes() -> list[RecipeInfo]:
    """The recipes that ship with the package, by system and name."""
    out = []
    for name, path in _files().items():
        raw = _extend(_read(path), path.parent, (str(path.resolve()),), f"recipe '{name}'")
        system, form = str(raw.get("system", path.parent.name)), str(raw.get("form", "custom"))
        out.append(RecipeInfo(name, path, system, form, read_header(path.read_text(encoding="utf-8"))))
    return out


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML; :func:`build_recipe` of it gives an equal recipe."""
    return dump_yaml(recipe.model_dump(mode="json"))


def _leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def diff_recipes(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ, as (key, value in a, value in b), in the schema's order.

    A value is :data:`ABSENT` where one of the two has no such key (another kind of mask).
    """
    left, right = dict(_leaves(a.model_dump(mode="json"))), dict(_leaves(b.model_dump(mode="json")))
    keys = [*left, *(key for key in right if key not in left)]
    rows = [(key, left.get(key, ABSENT), right.get(key, ABSENT)) for key in keys]
    return [row for row in rows if row[1] != row[2]]
