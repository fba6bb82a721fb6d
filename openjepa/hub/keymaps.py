"""Key maps: declarative, two-way translations between the names in other people's weight files and ours.

A map is a list of rules, applied in order to a flat dict of tensors; its inverse is the inverted rules in reverse order.
Templates name parts of a key: ``{i:int}`` a number, ``{name}`` one dotted part, ``{key:rest}`` all that follows.

>>> hf = KeyMap("demo", "", (Rename("layer.{i:int}.{key:rest}", "blocks.{i}.{key}"),))
>>> list(hf.apply({"layer.3.norm.weight": torch.ones(2)}).tensors)
['blocks.3.norm.weight']
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from openjepa.errors import CheckpointError, ConfigError, nearest


@dataclass(frozen=True)
class Dropped:
    """A tensor a map leaves out on purpose, and why. It is handed on, so that a caller can check it."""

    tensor: Tensor
    reason: str


@dataclass
class Mapped:
    """Tensors under their new names, and what was left out (by the name it had at that rule)."""

    tensors: dict[str, Tensor]
    dropped: dict[str, Dropped] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)  # values a reversed Drop may put back


class Rule(Protocol):
    """One step of a map: changes ``state`` and knows its own inverse."""

    def apply(self, state: Mapped) -> None:
        """Rewrite ``state.tensors``. Raises CheckpointError when a tensor cannot be translated."""
        ...

    def inverse(self) -> Rule:
        """The rule that undoes this one."""
        ...


@dataclass(frozen=True)
class Prefix:
    """For keys that start with ``under``: take ``remove`` away and put ``add`` there. Only at that place, never inside a key."""

    remove: str = ""
    add: str = ""
    under: str = ""

    def apply(self, state: Mapped) -> None:
        """Keys without ``remove`` at that place keep their name when there is nothing to add."""
        renamed: dict[str, Tensor] = {}
        for key, tensor in state.tensors.items():
            start = self.under + self.remove
            new = self.under + self.add + key.removeprefix(start) if key.startswith(start) else key
            _put(renamed, new, tensor, key)
        state.tensors = renamed

    def inverse(self) -> Prefix:
        """Add what was removed."""
        return Prefix(self.add, self.remove, self.under)


@dataclass(frozen=True)
class Rename:
    """Keys that match template ``source`` become ``target``; others keep their name."""

    source: str
    target: str

    def __post_init__(self) -> None:
        _check_fields(self.source, self.target)

    def apply(self, state: Mapped) -> None:
        """Rename every match."""
        renamed: dict[str, Tensor] = {}
        for key, tensor in state.tensors.items():
            fields = _match(self.source, key)
            _put(renamed, key if fields is None else _fill(self.target, fields), tensor, key)
        state.tensors = renamed

    def inverse(self) -> Rename:
        """The other way round; field kinds move to the new source."""
        return Rename(_with_kinds(self.target, self.source), _plain(self.source))


@dataclass(frozen=True)
class Split:
    """One tensor becomes several equal parts along ``dim`` (``qkv`` → query, key, value)."""

    source: str
    targets: tuple[str, ...]
    dim: int = 0

    def apply(self, state: Mapped) -> None:
        """Split every match. Raises CheckpointError when the size is not a multiple of the parts."""
        out: dict[str, Tensor] = {}
        for key, tensor in state.tensors.items():
            fields = _match(self.source, key)
            if fields is None:
                _put(out, key, tensor, key)
                continue
            if tensor.ndim <= self.dim or tensor.shape[self.dim] % len(self.targets):
                shape = tuple(tensor.shape)
                raise CheckpointError(f"'{key}' {shape} does not split into {len(self.targets)} along axis {self.dim}")
            for target, part in zip(self.targets, tensor.chunk(len(self.targets), self.dim), strict=True):
                _put(out, _fill(target, fields), part, key)
        state.tensors = out

    def inverse(self) -> Merge:
        """Concatenate the parts again."""
        return Merge(tuple(_with_kinds(t, self.source) for t in self.targets), _plain(self.source), self.dim)


@dataclass(frozen=True)
class Merge:
    """Several tensors become one, concatenated along ``dim`` in the order of ``sources`` (query, key, value → ``qkv``)."""

    sources: tuple[str, ...]
    target: str
    dim: int = 0

    def apply(self, state: Mapped) -> None:
        """Merge every complete set. Raises CheckpointError when a part of a set is missing."""
        out: dict[str, Tensor] = {}
        sets: dict[str, dict[int, Tensor]] = {}
        for key, tensor in state.tensors.items():
            hits = [(place, _match(source, key)) for place, source in enumerate(self.sources)]
            found = next(((place, fields) for place, fields in hits if fields is not None), None)
            if found is None:
                _put(out, key, tensor, key)
            else:
                sets.setdefault(_fill(self.target, found[1]), {})[found[0]] = tensor
        for name, parts in sets.items():
            absent = [self.sources[i] for i in range(len(self.sources)) if i not in parts]
            if absent:
                raise CheckpointError(f"'{name}' cannot be put together: no key like '{absent[0]}'")
            _put(out, name, torch.cat([parts[i] for i in range(len(self.sources))], self.dim), name)
        state.tensors = out

    def inverse(self) -> Split:
        """Split again."""
        return Split(_with_kinds(self.target, self.sources[0]), tuple(_plain(s) for s in self.sources), self.dim)


@dataclass(frozen=True)
class Stack:
    """Numbered tensors become one with a new first axis: ``source`` has a field ``{n:int}`` that ``target`` lacks."""

    source: str
    target: str

    def apply(self, state: Mapped) -> None:
        """Stack 0, 1, 2, ... Raises CheckpointError when a number is missing."""
        out: dict[str, Tensor] = {}
        sets: dict[str, dict[int, Tensor]] = {}
        for key, tensor in state.tensors.items():
            fields = _match(self.source, key)
            if fields is None:
                _put(out, key, tensor, key)
            else:
                sets.setdefault(_fill(self.target, fields), {})[int(fields["n"])] = tensor
        for name, parts in sets.items():
            if sorted(parts) != list(range(len(parts))):
                raise CheckpointError(f"'{name}' cannot be stacked: parts {sorted(parts)} are not 0..{len(parts) - 1}")
            _put(out, name, torch.stack([parts[i] for i in range(len(parts))]), name)
        state.tensors = out

    def inverse(self) -> Unstack:
        """One tensor per row again."""
        return Unstack(_with_kinds(self.target, self.source), self.source)


@dataclass(frozen=True)
class Unstack:
    """The rows of a tensor become numbered tensors: ``target`` has a field ``{n:int}`` that ``source`` lacks."""

    source: str
    target: str

    def apply(self, state: Mapped) -> None:
        """Unstack every match."""
        out: dict[str, Tensor] = {}
        for key, tensor in state.tensors.items():
            fields = _match(self.source, key)
            if fields is None:
                _put(out, key, tensor, key)
                continue
            for row, part in enumerate(tensor):
                _put(out, _fill(self.target, {**fields, "n": str(row)}), part, key)
        state.tensors = out

    def inverse(self) -> Stack:
        """Stack again."""
        return Stack(self.target, _plain(self.source))


@dataclass(frozen=True)
class Drop:
    """Keys that match ``pattern`` are left out, for a reason that is recorded."""

    pattern: str
    reason: str

    def apply(self, state: Mapped) -> None:
        """Move matches from the tensors to ``dropped``."""
        for key in [key for key in state.tensors if _match(self.pattern, key) is not None]:
            state.dropped[key] = Dropped(state.tensors.pop(key), self.reason)

    def inverse(self) -> Restore:
        """Put back what the caller hands in."""
        return Restore(self.pattern, self.reason)


@dataclass(frozen=True)
class Restore:
    """The inverse of :class:`Drop`: puts back those ``extras`` of :meth:`KeyMap.apply` that match ``pattern``."""

    pattern: str
    reason: str

    def apply(self, state: Mapped) -> None:
        """Insert matching extras."""
        for key, tensor in state.extras.items():
            if _match(self.pattern, key) is not None:
                _put(state.tensors, key, tensor, key)

    def inverse(self) -> Drop:
        """Leave it out again."""
        return Drop(self.pattern, self.reason)


@dataclass(frozen=True)
class KeyMap:
    """A named translation. ``apply`` reads a foreign file's names; ``inverse().apply`` writes them."""

    name: str
    description: str
    rules: tuple[Rule, ...]

    def apply(self, tensors: Mapping[str, Tensor], extras: Mapping[str, Tensor] | None = None) -> Mapped:
        """Translate all keys; keys no rule speaks of keep their name (the strict loader then reports them).

        extras: on an inverted map, values for keys the map drops on the way in (``online.pos_embed``), by our names.

        Raises:
            CheckpointError: two keys get one name, or a tensor cannot be split, merged or stacked.
        """
        state = Mapped(dict(tensors), {}, extras or {})
        for rule in self.rules:
            try:
                rule.apply(state)
            except CheckpointError as error:
                raise CheckpointError(f"key map '{self.name}': {error}") from error
        return state

    def inverse(self) -> KeyMap:
        """The map from our names to theirs."""
        return KeyMap(f"{self.name} (inverse)", self.description, tuple(r.inverse() for r in reversed(self.rules)))


_MAPS: dict[str, KeyMap] = {}


def register_map(keymap: KeyMap) -> KeyMap:
    """Make a map known by its name. A name is taken once."""
    assert keymap.name not in _MAPS, keymap.name
    _MAPS[keymap.name] = keymap
    return keymap


def key_map(name: str) -> KeyMap:
    """The map called ``name``. Raises ConfigError naming the nearest one."""
    if name not in _MAPS:
        raise ConfigError(f"no key map '{name}'{nearest(name, _MAPS)}: choose from {', '.join(sorted(_MAPS))}")
    return _MAPS[name]


def list_maps() -> list[KeyMap]:
    """All known maps, by name."""
    return [_MAPS[name] for name in sorted(_MAPS)]


_FIELD = re.compile(r"\{(\w+)(?::(int|rest))?\}")
_KINDS = {None: r"[^.]+", "int": r"\d+", "rest": r".+"}


@cache
def _compile(template: str) -> re.Pattern[str]:
    """The regular expression of a template."""
    parts, end = [], 0
    for found in _FIELD.finditer(template):
        parts.append(re.escape(template[end : found.start()]) + f"(?P<{found[1]}>{_KINDS[found[2]]})")
        end = found.end()
    return re.compile("".join(parts) + re.escape(template[end:]))


def _match(template: str, key: str) -> dict[str, str] | None:
    found = _compile(template).fullmatch(key)
    return None if found is None else found.groupdict()


def _fill(template: str, fields: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda found: fields[found[1]], template)


def _plain(template: str) -> str:
    return _FIELD.sub(lambda found: f"{{{found[1]}}}", template)


def _with_kinds(template: str, source: str) -> str:
    """``template`` with the field kinds of ``source``."""
    kinds = {found[1]: found[0] for found in _FIELD.finditer(source)}
    return _FIELD.sub(lambda found: kinds[found[1]], template)


def _check_fields(source: str, target: str) -> None:
    mine, theirs = ({found[1] for found in _FIELD.finditer(text)} for text in (source, target))
    assert mine == theirs, f"'{source}' and '{target}' name different fields: not invertible"


def _put(out: dict[str, Tensor], key: str, tensor: Tensor, origin: str) -> None:
    """Insert under a name that must be free."""
    if key in out:
        raise CheckpointError(f"'{origin}' and another key both become '{key}'")
    out[key] = tensor
