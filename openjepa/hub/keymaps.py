"""Key maps: declarative, two-way translations between the names in other people's weight files and ours.

A map strips prefixes and then offers each key to its rules in order: the first that matches takes it, keys no rule
speaks of keep their name. The inverse inverts each rule, keeps their order (special ones first), and puts the prefixes
back last. Templates name parts of a key: ``{i:int}`` a number, ``{name}`` one dotted part, ``{key:rest}`` all that follows.

>>> demo = KeyMap("demo", "", (Rename("layer.{i:int}.{key:rest}", "blocks.{i}.{key}"),))
>>> list(demo.apply({"layer.3.norm.weight": torch.ones(2)}).tensors)
['blocks.3.norm.weight']
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
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


@dataclass(frozen=True)
class Mapped:
    """Tensors under their new names, and what was left out, by our name for it where there is one."""

    tensors: dict[str, Tensor]
    dropped: dict[str, Dropped]


@dataclass
class Work:
    """A translation under way: keys no rule has taken yet, results, and values that dropped keys may be given back."""

    pending: dict[str, Tensor]
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    done: dict[str, Tensor] = field(default_factory=dict)
    dropped: dict[str, Dropped] = field(default_factory=dict)

    def take(self, template: str) -> Iterator[tuple[str, dict[str, str], Tensor]]:
        """Take every pending key that matches: key, fields, tensor."""
        for key in list(self.pending):
            fields = _match(template, key)
            if fields is not None:
                yield key, fields, self.pending.pop(key)

    def put(self, key: str, tensor: Tensor, origin: str) -> None:
        """Enter a result under a name that must be free."""
        if key in self.done:
            raise CheckpointError(f"'{origin}' and another key both become '{key}'")
        self.done[key] = tensor


class Rule(Protocol):
    """One line of a map."""

    def apply(self, work: Work) -> None:
        """Take matching keys and enter their results. Raises CheckpointError when a tensor cannot be translated."""
        ...

    def inverse(self) -> Rule:
        """The rule that undoes this one."""
        ...


@dataclass(frozen=True)
class Rename:
    """Keys that match template ``source`` become ``target``."""

    source: str
    target: str

    def __post_init__(self) -> None:
        _check_fields(self.source, self.target)

    def apply(self, work: Work) -> None:
        """Rename every match."""
        for key, fields, tensor in work.take(self.source):
            work.put(_fill(self.target, fields), tensor, key)

    def inverse(self) -> Rename:
        """The other way round; field kinds move to the new source."""
        return Rename(_with_kinds(self.target, self.source), _plain(self.source))


@dataclass(frozen=True)
class Split:
    """One tensor becomes several equal parts along ``dim`` (``qkv`` → query, key, value)."""

    source: str
    targets: tuple[str, ...]
    dim: int = 0

    def __post_init__(self) -> None:
        for target in self.targets:
            _check_fields(self.source, target)

    def apply(self, work: Work) -> None:
        """Split every match. Raises CheckpointError when the size is not a multiple of the parts."""
        count = len(self.targets)
        for key, fields, tensor in work.take(self.source):
            if tensor.ndim <= self.dim or tensor.shape[self.dim] % count:
                raise CheckpointError(
                    f"'{key}' {tuple(tensor.shape)} does not split into {count} along axis {self.dim}"
                )
            for target, part in zip(self.targets, tensor.chunk(count, self.dim), strict=True):
                work.put(_fill(target, fields), part, key)

    def inverse(self) -> Merge:
        """Concatenate the parts again."""
        return Merge(tuple(_with_kinds(t, self.source) for t in self.targets), _plain(self.source), self.dim)


@dataclass(frozen=True)
class Merge:
    """Several tensors become one, concatenated along ``dim`` in the order of ``sources`` (query, key, value → qkv)."""

    sources: tuple[str, ...]
    target: str
    dim: int = 0

    def __post_init__(self) -> None:
        for source in self.sources:
            _check_fields(source, self.target)

    def apply(self, work: Work) -> None:
        """Merge every complete set. Raises CheckpointError when a part of a set is missing."""
        sets: dict[str, dict[int, Tensor]] = {}
        for place, source in enumerate(self.sources):
            for _, fields, tensor in work.take(source):
                sets.setdefault(_fill(self.target, fields), {})[place] = tensor
        for name, parts in sets.items():
            absent = [source for place, source in enumerate(self.sources) if place not in parts]
            if absent:
                raise CheckpointError(f"'{name}' cannot be put together: no key like '{absent[0]}'")
            work.put(name, torch.cat([parts[place] for place in range(len(parts))], self.dim), name)

    def inverse(self) -> Split:
        """Split again."""
        return Split(_with_kinds(self.target, self.sources[0]), tuple(_plain(s) for s in self.sources), self.dim)


@dataclass(frozen=True)
class Stack:
    """Numbered tensors become one with a new first axis: ``source`` has a field ``{n:int}`` that ``target`` lacks.

    sole: the name of number 0 where it is the only one, if it then has another.
    """

    source: str
    target: str
    sole: str | None = None

    def apply(self, work: Work) -> None:
        """Stack 0, 1, 2, ... Raises CheckpointError when a number is missing."""
        sets: dict[str, dict[int, Tensor]] = {}
        for _, fields, tensor in work.take(self.source):
            sets.setdefault(_fill(self.target, fields), {})[int(fields["n"])] = tensor
        if self.sole in work.pending:
            sets.setdefault(self.target, {})[0] = work.pending.pop(self.sole)
        for name, parts in sets.items():
            if sorted(parts) != list(range(len(parts))):
                raise CheckpointError(f"'{name}' cannot be stacked: parts {sorted(parts)} are not 0..{len(parts) - 1}")
            work.put(name, torch.stack([parts[number] for number in range(len(parts))]), name)

    def inverse(self) -> Unstack:
        """One tensor per row again."""
        return Unstack(_with_kinds(self.target, self.source), self.source, self.sole)


@dataclass(frozen=True)
class Unstack:
    """The rows of a tensor become numbered tensors: ``target`` has a field ``{n:int}`` that ``source`` lacks.

    sole: what the only row is called instead, if it is.
    """

    source: str
    target: str
    sole: str | None = None

    def apply(self, work: Work) -> None:
        """Unstack every match."""
        for key, fields, tensor in work.take(self.source):
            for row, part in enumerate(tensor):
                name = self.sole if self.sole is not None and len(tensor) == 1 else self.target
                work.put(_fill(name, {**fields, "n": str(row)}), part, key)

    def inverse(self) -> Stack:
        """Stack again."""
        return Stack(self.target, _plain(self.source), self.sole)


@dataclass(frozen=True)
class Sole:
    """``source``, number 0 of a numbered set, becomes ``target`` where it is the only one of the set.

    For sets that have another name with one member: ``mask_tokens.0`` alone is ``mask_token``.
    """

    source: str
    target: str
    back: bool = False

    def apply(self, work: Work) -> None:
        """Rename, unless there is a number 1 too."""
        name, origin = (self.source, self.target) if self.back else (self.target, self.source)
        second = f"{self.source.removesuffix('0')}1"
        if origin in work.pending and second not in work.pending:
            work.put(name, work.pending.pop(origin), origin)

    def inverse(self) -> Sole:
        """The other way round."""
        return Sole(self.source, self.target, not self.back)


@dataclass(frozen=True)
class Drop:
    """Keys that match ``source`` are left out, for a ``reason`` that is recorded; ``ours`` is our name for them."""

    source: str
    reason: str
    ours: str | None = None

    def apply(self, work: Work) -> None:
        """Move matches to what was dropped."""
        for key, fields, tensor in work.take(self.source):
            work.dropped[_fill(self.ours or key, fields)] = Dropped(tensor, self.reason)

    def inverse(self) -> Restore:
        """Put back what the caller hands in."""
        ours = self.source if self.ours is None else _with_kinds(self.ours, self.source)
        return Restore(ours, _plain(self.source), self)


@dataclass(frozen=True)
class Restore:
    """Inverse of :class:`Drop`: those ``extras`` of :meth:`KeyMap.apply` that match ``source`` become ``target``."""

    source: str
    target: str
    undoes: Drop

    def apply(self, work: Work) -> None:
        """Insert matching extras."""
        for key, tensor in work.extras.items():
            fields = _match(self.source, key)
            if fields is not None:
                work.put(_fill(self.target, fields), tensor, key)

    def inverse(self) -> Drop:
        """Leave it out again."""
        return self.undoes


@dataclass(frozen=True)
class Prefix:
    """For keys that start with ``under``, ``prefix`` right behind it is stripped; never inside a key."""

    prefix: str
    under: str = ""

    def strip(self, key: str) -> str:
        """The key without the prefix; keys that do not have it stay as they are."""
        start = self.under + self.prefix
        return self.under + key.removeprefix(start) if key.startswith(start) else key

    def add(self, key: str) -> str:
        """The key with the prefix."""
        return self.under + self.prefix + key.removeprefix(self.under) if key.startswith(self.under) else key


@dataclass(frozen=True)
class KeyMap:
    """A named translation. ``apply`` reads a foreign file's names; ``inverse().apply`` writes them.

    rules: tried in order for each key. prefixes: stripped before the rules (``adds``: put back after them).
    """

    name: str
    description: str
    rules: tuple[Rule, ...]
    prefixes: tuple[Prefix, ...] = ()
    adds: bool = False

    def apply(self, tensors: Mapping[str, Tensor], extras: Mapping[str, Tensor] | None = None) -> Mapped:
        """Translate all keys; keys no rule speaks of keep their name (the strict loader then reports them).

        extras: on an inverted map, values for keys the map drops on the way in (``online.pos_embed``), by our names.

        Raises:
            CheckpointError: two keys get one name, or a tensor cannot be split, merged or stacked.
        """
        try:
            work = Work(dict(tensors) if self.adds else _rekey(tensors, self._strip), extras or {})
            for rule in self.rules:
                rule.apply(work)
            for key, tensor in work.pending.items():
                work.put(key, tensor, key)
            return Mapped(_rekey(work.done, self._add) if self.adds else work.done, work.dropped)
        except CheckpointError as error:
            raise CheckpointError(f"key map '{self.name}': {error}") from error

    def inverse(self) -> KeyMap:
        """The map from our names to theirs (or back)."""
        name = self.name.removesuffix(" (inverse)") + ("" if self.adds else " (inverse)")
        return KeyMap(name, self.description, tuple(r.inverse() for r in self.rules), self.prefixes, not self.adds)

    def _strip(self, key: str) -> str:
        for prefix in self.prefixes:
            key = prefix.strip(key)
        return key

    def _add(self, key: str) -> str:
        for prefix in reversed(self.prefixes):
            key = prefix.add(key)
        return key


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


def _rekey(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Rename every key; no two may become one."""
    work = Work({})
    for key, tensor in tensors.items():
        work.put(rename(key), tensor, key)
    return work.done
