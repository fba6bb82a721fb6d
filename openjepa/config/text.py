"""YAML in and out, with the YAML 1.2 meaning of plain words: ``on`` and ``no`` are text, ``1e-3`` is a number.

YAML 1.1, which PyYAML speaks by default, would read the key ``on`` as True, ``1e-3`` as text and ``1:30`` as 90.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, SequenceNode

from openjepa.errors import ConfigError

_FLOAT = re.compile(
    r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.Inf|\.INF)$"
    r"|^(?:\.nan|\.NaN|\.NAN)$"
)
_RESOLVERS = (
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")),
    ("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789.")),
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
)


class _Loader(yaml.SafeLoader):
    """Safe loader: YAML 1.2 scalars, no duplicate keys, no aliases (``extends`` is the way to share), text keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own name)

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Refuse aliases: they allow endless and exponentially large recipes."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise ConstructorError(None, None, "aliases (*name) are not supported, use extends", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are text and occur once."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                raise ConstructorError(None, None, f"key '{key.value}' occurs twice", key.start_mark)
            seen.add(key.value)
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


class _Dumper(yaml.SafeDumper):
    """Safe dumper that also quotes the words our loader reads as numbers, so both YAML versions read it back."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never write anchors."""
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> SequenceNode:
        """Lists of plain values on one line, all else as blocks."""
        flat = not any(isinstance(item, dict | list | tuple) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)


def _install_resolvers() -> None:
    _Loader.yaml_implicit_resolvers = {}
    for tag, pattern, first in _RESOLVERS:
        _Loader.add_implicit_resolver(tag, pattern, first)
        _Dumper.add_implicit_resolver(tag, pattern, first)


_install_resolvers()


def parse_yaml(text: str, origin: str) -> Any:
    """Read one YAML document. ``origin`` names it in errors.

    Raises:
        ConfigError: not YAML; says the line and column.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = " ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{origin}: not valid YAML{where}: {one_line(reason)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{origin}: not valid YAML: {one_line(str(error))}") from error


def dump_yaml(value: Any) -> str:
    """Write plain data as block YAML with short lists on one line, keys in the given order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)


def one_line(text: str) -> str:
    """``text`` with line breaks and other control characters turned into spaces, runs of spaces into one."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def shown(value: Any) -> str:
    """A value as one short word for messages and tables: ``none``, ``true``, ``[0.3, 1]``, ``'text'``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(v) for v in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {shown(v)}" for k, v in value.items()) + "}"
    return str(value)
