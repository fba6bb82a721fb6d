"""Layouts: whose names a file has, and how it becomes our model. Each system registers its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from openjepa.config.schema import Recipe
from openjepa.errors import CheckpointError, ConfigError, nearest
from openjepa.hub.imports.contents import Contents
from openjepa.hub.keymaps import KeyMap
from openjepa.hub.model_directory import LoadedModel, Which

Read = Callable[[Contents, Which], LoadedModel]


@dataclass(frozen=True)
class Layout:
    """One way to name the tensors of a model.

    name, about: for tables and messages. family: what ``hints={"family": …}`` and meta.json call it. recognise: whether
    a file's names and shapes are this layout's. recipe: the architecture, inferred. key_map: their names to ours (parts
    ``online``, ``target``, ``predictor``). read: for what is no plain renaming (a directory with its own config), the
    whole way; then recipe and key_map may still be given, for inspection. notes: of every file of this layout.
    """

    name: str
    about: str
    family: str
    recognise: Callable[[Contents], bool]
    recipe: Callable[[Contents], Recipe] | None = None
    key_map: KeyMap | None = None
    read: Read | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.read is not None or (self.recipe is not None and self.key_map is not None), self.name


_LAYOUTS: dict[str, Layout] = {}


def register_layout(layout: Layout) -> Layout:
    """Make a layout known. A name is taken once."""
    assert layout.name not in _LAYOUTS, layout.name
    _LAYOUTS[layout.name] = layout
    return layout


def layouts() -> list[Layout]:
    """All known layouts, by name."""
    return [_LAYOUTS[name] for name in sorted(_LAYOUTS)]


def recognise(contents: Contents) -> Layout:
    """The one layout a file has.

    Raises:
        ConfigError: several fit (the hint ``family`` decides), or no such family.
        CheckpointError: none fits.
    """
    family = contents.hint("family")
    families = sorted({layout.family for layout in _LAYOUTS.values()})
    if family is not None and family not in families:
        raise ConfigError(f"no family '{family}'{nearest(family, families)}: choose from {', '.join(families)}")
    fitting = [layout for layout in layouts() if layout.recognise(contents)]
    if family is not None:
        chosen = [layout for layout in fitting if layout.family == family]
        if not chosen and fitting:
            found = ", ".join(layout.family for layout in fitting)
            raise CheckpointError(f"'{contents.path}' does not hold {family}: its names are those of {found}")
        fitting = chosen
    if len(fitting) > 1:
        raise contents.ask("family", f"which of {' and '.join(layout.family for layout in fitting)} it is")
    if fitting:
        return fitting[0]
    some = ", ".join(list(contents.tensors)[:3]) or "nothing"
    kind = contents.config.get("model_type")
    what = f"model_type {kind!r}" if kind else f"names such as {some}"
    raise CheckpointError(f"'{contents.path}' is in no layout we know ({what}): {', '.join(_LAYOUTS)}")
