"""The recipe: its schema, its files, overrides, and errors that name every mistake in one line. Imports no torch."""

from openjepa.config.describe import KeyInfo, describe_schema
from openjepa.config.duration import Duration
from openjepa.config.load import (
    ABSENT,
    RecipeInfo,
    build_recipe,
    diff_recipes,
    dump_recipe,
    list_recipes,
    load_recipe,
)
from openjepa.config.overrides import apply_overrides
from openjepa.config.schema import Recipe
from openjepa.config.stages import stage_recipes

__all__ = [
    "ABSENT",
    "Duration",
    "KeyInfo",
    "Recipe",
    "RecipeInfo",
    "apply_overrides",
    "build_recipe",
    "describe_schema",
    "diff_recipes",
    "dump_recipe",
    "list_recipes",
    "load_recipe",
    "stage_recipes",
]
