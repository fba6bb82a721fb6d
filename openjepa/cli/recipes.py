"""``openjepa recipes``: list, show and compare recipes, and look up their keys. Loads no torch."""

from __future__ import annotations

import fnmatch
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from openjepa.config import (
    KeyInfo,
    describe_schema,
    diff_recipes,
    dump_recipe,
    list_recipes,
    load_recipe,
)
from openjepa.config.load import read_header
from openjepa.config.text import shown
from openjepa.errors import ConfigError, nearest

app = typer.Typer(
    help="List, show and compare recipes, and look up their keys.", add_completion=False, no_args_is_help=True
)
_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
_WIDE = 160  # columns when the output is a file or a pipe


def _console() -> Console:
    """A console on stdout; wide and plain where nobody watches."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


def _value(value: object) -> str:
    """A value as it is typed: text without quotes."""
    return value if isinstance(value, str) else shown(value)


def _field(header: str, name: str) -> str:
    """A ``name: …`` line of a recipe header, with its continuation lines, or ``""``."""
    found: list[str] = []
    for line in header.splitlines():
        if line.startswith(f"{name}:"):
            found.append(line.partition(":")[2].strip())
        elif found and line.startswith("  "):
            found.append(line.strip())
        elif found:
            break
    return " ".join(found)


@app.command("list")
def show_list() -> None:
    """List the recipes that come with openjepa."""
    table = Table("recipe", "form", "what it is", "score", box=None, pad_edge=False)
    for info in list_recipes():
        title = info.header.split("\n\n")[0].replace("\n", " ")
        table.add_row(info.name, info.form, title, _field(info.header, "score"))
    _console().print(table)


@app.command("show", context_settings=_OVERRIDES)
def show_recipe(
    name: Annotated[str, typer.Argument(help="recipe name, YAML file or run directory")],
    overrides: Annotated[list[str] | None, typer.Argument(help="changes such as optim.lr=3e-4")] = None,
) -> None:
    """Print a whole recipe as YAML, with every key and your changes; the output is a recipe file."""
    recipe = load_recipe(name, overrides or [])
    out = _console()
    for info in list_recipes():
        if info.name == name:
            text = info.path.read_text(encoding="utf-8")
            for line in read_header(text).splitlines():
                out.print(f"# {line}".rstrip(), markup=False, soft_wrap=True, style="dim")
    out.print(dump_recipe(recipe), markup=False, soft_wrap=True, end="")


@app.command("diff")
def show_diff(
    a: Annotated[str, typer.Argument(help="recipe name, YAML file or run directory")],
    b: Annotated[str, typer.Argument(help="the one to compare with")],
) -> None:
    """Show the keys in which two recipes differ."""
    rows = diff_recipes(load_recipe(a), load_recipe(b))
    if not rows:
        _console().print("no difference")
        return
    table = Table("key", a, b, box=None, pad_edge=False)
    for key, left, right in rows:
        table.add_row(key, _value(left), _value(right))
    _console().print(table)


def find_keys(pattern: str) -> list[KeyInfo]:
    """Keys matching a wildcard, a section name, or a word in the key or its description.

    Raises:
        ConfigError: nothing matches; names the nearest key.
    """
    every, word = describe_schema(), pattern.lower()
    if any(sign in pattern for sign in "*?["):
        found = [info for info in every if fnmatch.fnmatchcase(info.key, word)]
    else:
        found = [info for info in every if info.key == word or info.key.startswith(f"{word}.")]
        found = found or [info for info in every if word in info.key or word in info.description.lower()]
    if not found:
        raise ConfigError(f"no recipe key matches '{pattern}'{nearest(word, (info.key for info in every))}")
    return found


@app.command("keys")
def show_keys(
    pattern: Annotated[str, typer.Argument(help="section, wildcard ('mask.*') or word; none: all keys")] = "*",
) -> None:
    """Explain the keys a recipe may have: type, default, meaning."""
    table = Table(Column("key", no_wrap=True), "value", "default", "meaning", box=None, pad_edge=False)
    for info in find_keys(pattern):
        meaning = f"{info.description} (only with {info.when})" if info.when else info.description
        if info.section:
            table.add_row(info.key, "", "", meaning, style="bold")
        else:
            table.add_row(info.key, info.type, "(required)" if info.required else _value(info.default), meaning)
    _console().print(table)
