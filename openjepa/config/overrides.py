"""Dotted overrides ``a.b=c`` and how one recipe is laid over another."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from openjepa.config.describe import kinds
from openjepa.config.schema import Recipe
from openjepa.config.text import parse_yaml, shown
from openjepa.errors import ConfigError

_KEY = re.compile(r"^[A-Za-z_][\w-]*(\.\w[\w-]*)*$")
_CHANGES = ("stages", "changes")
# Sections that are one of several kinds of part: setting another kind starts that section afresh.
CHOICES = {name: field.get_default() for name, field in Recipe.model_fields.items() if kinds(field)}


def split_overrides(overrides: Sequence[str]) -> tuple[list[tuple[str, Any]], list[str]]:
    """Parse ``a.b=c``, ``--a.b=c`` and ``--a.b c`` into (key, value) pairs and a list of mistakes.

    Values are YAML: ``0.1``, ``true``, ``[0.3, 1]``, ``none`` where the key may be none, text otherwise.
    """
    pairs: list[tuple[str, Any]] = []
    mistakes: list[str] = []
    items = list(overrides)
    while items:
        item = items.pop(0)
        key, equals, value = item.removeprefix("--").partition("=")
        if not equals and item.startswith("--") and items and not items[0].startswith("--"):
            equals, value = "=", items.pop(0)
        key = key.strip().replace("-", "_")
        if not equals or not _KEY.match(key):
            mistakes.append(f"override '{item}' must look like key.sub=value")
            continue
        try:
            pairs.append((key, parse_yaml(value, f"override '{item}'")))
        except ConfigError:
            mistakes.append(f"override '{item}' has a value that is not YAML (quote text with special characters)")
    return pairs, mistakes


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay ``over`` on ``base``: sections merge, values and lists replace, another ``kind`` replaces the whole part."""
    out = copy.deepcopy(base)
    for key, value in over.items():
        old = out.get(key)
        if key in CHOICES and isinstance(value, dict) and isinstance(old, dict):
            default = CHOICES[key].kind
            if "kind" in value and value["kind"] != old.get("kind", default):
                old = None
        out[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else copy.deepcopy(value)
    return out


def is_none(value: Any) -> bool:
    """Whether a plain value is none: YAML null, or the word."""
    return value is None or (isinstance(value, str) and value.lower() in ("none", "null"))


def _parts(key: str) -> list[str]:
    """The steps of a dotted path; what follows ``stages.N.changes`` is itself a dotted key, and one step."""
    parts = key.split(".")
    return [*parts[:3], ".".join(parts[3:])] if len(parts) > 3 and (parts[0], parts[2]) == _CHANGES else parts


def _set(raw: dict[str, Any], key: str, value: Any) -> str | None:
    """Set one dotted key in place; a sentence when the path leads through something that holds no keys."""
    *path, last = _parts(key)
    node: Any = raw
    for depth, part in enumerate(path):
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                return f"'{'.'.join(path[:depth])}' has no entry '{part}' (it has {len(node)}, counted from 0)"
            node = node[int(part)]
        else:
            if is_none(node.get(part)):  # a section that is off, or was not mentioned: its first key switches it on
                node[part] = {}
            node = node[part]
        if not isinstance(node, dict | list):
            here = ".".join(path[: depth + 1])
            return f"'{here}' holds the value {shown(node)} and no further keys, so '{key}' cannot be set"
    if isinstance(node, list):
        if not last.isdigit() or int(last) >= len(node):
            return f"'{'.'.join(path)}' has no entry '{last}' (it has {len(node)}, counted from 0)"
        node[int(last)] = value
    elif isinstance(value, dict) and isinstance(node.get(last), dict):
        node[last] = merge({last: node[last]}, {last: value})[last]
    else:
        node[last] = value
    return None


def override(raw: dict[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """``raw`` with overrides applied (a copy), and the mistakes in them. A part's ``kind`` is set before its keys."""
    pairs, mistakes = split_overrides(overrides)
    out, found = set_keys(raw, pairs)
    return out, mistakes + found


def set_keys(raw: dict[str, Any], pairs: Sequence[tuple[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """``raw`` with dotted keys set (a copy), and the mistakes in them. A part's ``kind`` is set before its keys."""
    out = copy.deepcopy(raw)
    mistakes: list[str] = []
    first = {f"{name}.kind" for name in CHOICES}
    for key, value in sorted(pairs, key=lambda pair: pair[0] not in first):
        section = key.partition(".")[0]
        if key in first and isinstance(out.get(section), dict):
            out = merge(out, {section: {"kind": value}})
            continue
        mistake = _set(out, key, value)
        if mistake:
            mistakes.append(mistake)
    return out, mistakes


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``raw`` with dotted overrides applied; ``raw`` itself is not changed. Keys are checked later, by validation.

    ``mask.kind=random`` on a recipe with another kind of mask starts that section afresh, whatever the order of the
    overrides, because the keys of the old kind mean nothing to the new one.

    Raises:
        ConfigError: an override is not ``key=value``, or leads through something that has no keys.
    """
    out, mistakes = override(raw, overrides)
    if mistakes:
        raise ConfigError("; ".join(mistakes))
    return out
