"""What keys a recipe has: one table read from the schema's models; help, error messages and docs are made from it."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from openjepa.config.duration import Duration
from openjepa.config.schema import Recipe

_NAMES: dict[Any, tuple[str, str]] = {  # annotation → (one, several)
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", "true or false"),
    type(None): ("none", "none"),
    Duration: ("a duration (a number and one of steps, epochs, samples, %)", "durations"),
}


@dataclass(frozen=True)
class KeyInfo:
    """One key of a recipe.

    key: dotted path; ``[]`` stands for a list position (``objective.regularisers[].weight``).
    type: what a value must be, in words that finish the sentence "… is not …".
    default: the default as a recipe would spell it; None where there is none or where it is none; see ``required``.
    allowed: the named values ('auto', 'none' and choices); empty where any value of the type goes.
    description: the schema's help text.
    when: ``"mask.kind=random"`` for a key that exists only under that choice, else ``""``.
    section: the key holds further keys and no value of its own; with ``nullable`` the whole section may be none.
    required: the key has no default. nullable: none (YAML null) is a value.
    """

    key: str
    type: str
    default: Any
    allowed: tuple[str, ...]
    description: str
    when: str = ""
    section: bool = False
    required: bool = False
    nullable: bool = False

    @property
    def leaf(self) -> str:
        """The last part of the dotted path."""
        return self.key.rsplit(".", 1)[-1]


def split_annotation(annotation: Any, metadata: Sequence[Any] = ()) -> tuple[Any, list[Any]]:
    """Unwrap ``Annotated`` (any depth) into the bare annotation and all of its constraints."""
    found = list(metadata)
    while get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        for item in extra:
            found.extend(item.metadata if isinstance(item, FieldInfo) else [item])
    return annotation, found


def members(annotation: Any) -> list[Any]:
    """The alternatives of a union, or the annotation itself."""
    bare, _ = split_annotation(annotation)
    return list(get_args(bare)) if get_origin(bare) in (Union, types.UnionType) else [annotation]


def _limits(metadata: Sequence[Any]) -> str:
    """Bounds in words: `` between 0 and 1``, `` above 0``, or nothing."""
    low = next((m for m in metadata if isinstance(m, annotated_types.Ge | annotated_types.Gt)), None)
    high = next((m for m in metadata if isinstance(m, annotated_types.Le | annotated_types.Lt)), None)
    if isinstance(low, annotated_types.Ge) and isinstance(high, annotated_types.Le):
        return f" between {low.ge} and {high.le}"
    words = []
    if low is not None:
        words.append(f"at least {low.ge}" if isinstance(low, annotated_types.Ge) else f"above {low.gt}")
    if high is not None:
        words.append(f"at most {high.le}" if isinstance(high, annotated_types.Le) else f"below {high.lt}")
    return f" {' and '.join(words)}" if words else ""


def _tuple_words(annotation: Any) -> str:
    """``a pair of numbers``, ``a list of integers``, ``a list of sections``."""
    args = get_args(annotation)
    element, metadata = split_annotation(args[0])
    several = "sections" if is_section(element) else _NAMES[element][1]
    size = "a list" if len(args) == 2 and args[1] is Ellipsis else "a pair" if len(args) == 2 else f"{len(args)}"
    return f"{size} of {several}{_limits(metadata)}"


def in_words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a value of this annotation must be, in words: ``an integer at least 1 or 'auto'``."""
    annotation, metadata = split_annotation(annotation, metadata)
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(m, () if m is type(None) else metadata) for m in get_args(annotation))
    if origin is Literal:
        values = get_args(annotation)
        return f"'{values[0]}'" if len(values) == 1 else f"one of {', '.join(map(str, values))}"
    if origin is tuple:
        return _tuple_words(annotation)
    if is_section(annotation):
        return "a section"
    if origin is dict:
        return "a mapping of dotted recipe keys to values"
    return _NAMES[annotation][0] + (_limits(metadata) if annotation in (int, float) else "")


def is_section(annotation: Any) -> bool:
    """Whether the annotation is a recipe part (a model) rather than a value."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def optional_section(annotation: Any) -> type[BaseModel] | None:
    """The part of a ``Part | None``, or None."""
    parts = members(annotation)
    sections = [part for part in parts if is_section(part)]
    return sections[0] if len(sections) == 1 and type(None) in parts and len(parts) == 2 else None


def list_element(annotation: Any) -> type[BaseModel] | None:
    """The part a ``tuple[Part, ...]`` holds, or None."""
    bare, _ = split_annotation(annotation)
    args = get_args(bare) if get_origin(bare) is tuple else ()
    return args[0] if args and is_section(args[0]) else None


def kinds(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The parts a discriminated union chooses from, by the value of its ``kind``; empty for any other field."""
    if field.discriminator is None:
        return {}
    models = [m for m in members(field.annotation) if is_section(m)]
    return {get_args(m.model_fields["kind"].annotation)[0]: m for m in models}


def _allowed(annotation: Any) -> tuple[str, ...]:
    """Named values of an annotation, choices before 'none'."""
    names: list[str] = []
    for member in members(annotation):
        bare, _ = split_annotation(member)
        if get_origin(bare) is Literal:
            names += map(str, get_args(bare))
        elif bare is bool:
            names += ["true", "false"]
        elif bare is type(None):
            names.append("none")
    return tuple(names)


def plain(value: Any) -> Any:
    """A default as a recipe file would spell it: durations as text, tuples as lists, parts as dicts."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Duration) else value


def _field_default(field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=True)
    return None if default is PydanticUndefined else plain(default)


def _describe(model: type[BaseModel], prefix: str, when: str) -> Iterator[KeyInfo]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        annotation, text = field.annotation, field.description or ("which kind of part" if name == "kind" else "")
        choices, element, optional = kinds(field), list_element(annotation), optional_section(annotation)
        part = annotation if is_section(annotation) else optional
        if part is not None:
            assert isinstance(part, type)
            summary = text or (part.__doc__ or "").split("\n")[0]
            words, named = ("a section", ()) if optional is None else ("a section or none", ("none",))
            yield KeyInfo(key, words, None, named, summary, when, section=True, nullable=optional is not None)
            yield from _describe(part, f"{key}.", when)
        elif choices:
            yield KeyInfo(key, "a section", None, (), text or "One of several kinds of part.", when, section=True)
            default = _field_default(field)["kind"]
            words = f"one of {', '.join(choices)}"
            yield KeyInfo(f"{key}.kind", words, default, tuple(choices), "which kind of part", when)
            for kind, part in choices.items():
                found = _describe(part, f"{key}.", f"{key}.kind={kind}")
                yield from (info for info in found if info.key != f"{key}.kind")
        else:
            yield KeyInfo(
                key, in_words(annotation, field.metadata), _field_default(field), _allowed(annotation), text, when,
                required=field.is_required(), nullable=type(None) in members(annotation),
            )  # fmt: skip
            if element is not None:
                yield from _describe(element, f"{key}[].", when)


@lru_cache(maxsize=1)
def _all_keys() -> tuple[KeyInfo, ...]:
    return tuple(_describe(Recipe, "", ""))


def describe_schema() -> list[KeyInfo]:
    """Every key a recipe may have, in the schema's order, sections before what they hold."""
    return list(_all_keys())
