"""What README and docs tell people to type: verbs, options, recipe keys and Python names exist; every linked file does."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from openjepa.cli import VERBS, dotted_options
from openjepa.config import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^\s*(?:torchrun[^\n]*?-m |\S*/)?openjepa ([^\n#]*)", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    found = [(page.name, line) for page in PAGES for block in blocks(page, "bash") for line in COMMAND.findall(block)]
    assert len(found) > 10
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_the_command_parses(page: str, line: str) -> None:
    words = shlex.split(line)
    if words[0].startswith("-"):
        return
    assert words[0] in VERBS, f"{page}: no verb {words[0]}"
    command = get_command(importlib.import_module(VERBS[words[0]][0]).app)
    arguments = dotted_options(words[1:])
    while hasattr(command, "commands"):
        name = arguments.pop(0)
        assert name in command.commands, f"{page}: openjepa {words[0]} has no {name}"
        command = command.commands[name]
    context = command.make_context(words[0], list(arguments), resilient_parsing=False)
    overrides = [word for word in arguments if re.match(r"^[a-z_]+\.[a-z_.]+=", word)]
    recipe = context.params.get("recipe")
    known = recipe if recipe and not str(recipe).endswith(".yaml") else "ijepa-tiny"
    if overrides:
        load_recipe(known, overrides)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_names_exist(page: Path) -> None:
    import openjepa
    from openjepa.model import Model

    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
                continue
            if node.value.id == "openjepa":
                assert hasattr(openjepa, node.attr), f"{page.name}: openjepa.{node.attr}"
            if node.value.id == "model":
                assert node.attr in Model.__doc__ or hasattr(Model, node.attr), f"{page.name}: model.{node.attr}"


def test_python_and_command_line_share_names() -> None:
    """One signature, two projections: every option of a verb is an argument of its function."""
    from openjepa import api
    from openjepa.cli import evaluate, pretrain
    from openjepa.features import ClipOptions

    ours = set(inspect.signature(pretrain.pretrain).parameters)
    assert ours <= set(inspect.signature(api.pretrain).parameters)
    ours = set(inspect.signature(api.evaluate).parameters)
    ours |= set(inspect.signature(ClipOptions).parameters)  # the argument ``clips``, one option for each of its fields
    for verb in (evaluate.knn, evaluate.linear):
        assert set(inspect.signature(verb).parameters) - {"json"} <= ours


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        place = page.parent / target
        generated = "reference" in target or "reference" in str(page)
        assert generated or place.exists(), f"{page.name} links {target}, which is not there"


def test_the_file_map_names_every_room() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rooms = [path.name for path in (ROOT / "openjepa").iterdir() if path.is_dir() and (path / "__init__.py").exists()]
    missing = [room for room in rooms if f"{room}/" not in readme]
    assert not missing, f"the README's file map leaves out {missing}"
