"""The strict loader: every key and shape matches, or the caller has named what may differ, or nothing is loaded."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from openjepa.errors import CheckpointError
from openjepa.hub.keymaps import Dropped, KeyMap, key_map
from openjepa.hub.tensorfile import read_tensors

__all__ = ["Entry", "LoadError", "LoadReport", "load_strict", "match", "read_tensors"]

Status = Literal["loaded", "tied", "missing", "unexpected", "mis-shaped", "mis-typed", "dropped"]
_BAD: tuple[Status, ...] = ("missing", "unexpected", "mis-shaped", "mis-typed")


@dataclass(frozen=True)
class Entry:
    """One key. Shapes and dtypes are None on the side that does not have it; ``allowed``: the caller named it."""

    key: str
    status: Status
    expected: tuple[int, ...] | None = None
    found: tuple[int, ...] | None = None
    expected_dtype: torch.dtype | None = None
    found_dtype: torch.dtype | None = None
    allowed: bool = False
    note: str = ""

    @property
    def bad(self) -> bool:
        """Whether this entry keeps the load from happening."""
        return self.status in _BAD and not self.allowed


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_strict` found, one entry per key. ``unused``: patterns the caller named that matched no key."""

    module: str
    entries: tuple[Entry, ...]
    unused: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Full match, but for what was allowed."""
        return not any(entry.bad for entry in self.entries)

    def keys(self, status: Status) -> list[str]:
        """Keys with this status."""
        return [entry.key for entry in self.entries if entry.status == status]

    @property
    def counts(self) -> dict[str, int]:
        """Number of keys per status."""
        return dict(Counter(entry.status for entry in self.entries))

    def summary(self) -> str:
        """One line: counts, and the first keys of each kind that do not match."""
        parts = []
        for status in _BAD:
            bad = [entry for entry in self.entries if entry.status == status and entry.bad]
            if bad:
                names = ", ".join(_describe(entry) for entry in bad[:3]) + (", …" if len(bad) > 3 else "")
                parts.append(f"{len(bad)} {status} ({names})")
        loaded = len(self.keys("loaded")) + len(self.keys("tied"))
        return f"{self.module}: {loaded} of {self._expected()} tensors match" + "".join(f"; {part}" for part in parts)

    def table(self, *, all_rows: bool = False) -> str:
        """Plain text table of every key that was not simply loaded (or of all), counts in the first line."""
        counts = ", ".join(f"{number} {status}" for status, number in self.counts.items())
        rows = [entry for entry in self.entries if all_rows or entry.status != "loaded" or entry.note]
        lines = [f"{self.module}: {counts or 'nothing to load'}"]
        if rows:
            cells = [("key", "status", "expected", "found", "note"), *(_cells(entry) for entry in rows)]
            widths = [max(len(row[i]) for row in cells) for i in range(5)]
            lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        lines += [f"pattern '{pattern}' matched nothing" for pattern in self.unused]
        return "\n".join(line.rstrip() for line in lines)

    def _expected(self) -> int:
        return sum(1 for entry in self.entries if entry.status not in ("unexpected", "dropped"))


class LoadError(CheckpointError):
    """Weights do not match the model. ``str()`` is one line, ``report.table()`` has every key."""

    def __init__(self, report: LoadReport) -> None:
        super().__init__(f"{report.summary()}: nothing was loaded")
        self.report = report


def load_strict(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
    keymap: KeyMap | str | None = None,
) -> LoadReport:
    """Load ``tensors`` into ``module``: everything, or nothing and :class:`LoadError`.

    allow_missing: keys of the module (shell patterns, ``"predictor.*"``) that may keep the values they have.
    allow_unexpected: keys of ``tensors`` that may be left out. A key named in both may also have another shape.
    keymap: translates the keys of ``tensors`` first. Floating dtypes are converted to the module's. Modules on the
    meta device take the tensors over instead of copying.

    Raises:
        CheckpointError: (:class:`LoadError`) any key that is missing, unexpected, mis-shaped or of another kind of
            dtype and not named; or a module on the meta device would keep tensors without data.
    """
    dropped: Mapping[str, Dropped] = {}
    if keymap is not None:
        mapped = (key_map(keymap) if isinstance(keymap, str) else keymap).apply(tensors)
        tensors, dropped = mapped.tensors, mapped.dropped
    report = match(module, tensors, allow_missing=allow_missing, allow_unexpected=allow_unexpected, dropped=dropped)
    if not report.ok:
        raise LoadError(report)
    _assign(module, {key: tensors[key] for key in report.keys("loaded")})
    return report


def match(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
    dropped: Mapping[str, Dropped] | None = None,
) -> LoadReport:
    """Compare ``tensors`` with the state of ``module`` and load nothing (arguments: :func:`load_strict`)."""
    may_miss, may_exceed = _Patterns(allow_missing), _Patterns(allow_unexpected)
    state = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    tied = _tied_keys(module)
    entries = []
    for key, mine in state.items():
        found = tensors.get(key)
        if found is not None:
            both = _both(may_miss.allow(key), may_exceed.allow(key)) if _clash(mine, found) else False
            entries.append(_compare(key, mine, found, both))
        elif any(other in tensors for other in tied.get(key, ())):
            entries.append(Entry(key, "tied", tuple(mine.shape), expected_dtype=mine.dtype, note="shares memory"))
        else:
            allowed = may_miss.allow(key)
            entries.append(Entry(key, "missing", tuple(mine.shape), expected_dtype=mine.dtype, allowed=allowed))
    for key, found in tensors.items():
        if key not in state:
            allowed = may_exceed.allow(key)
            entries.append(Entry(key, "unexpected", None, tuple(found.shape), None, found.dtype, allowed))
    for key, drop in (dropped or {}).items():
        entries.append(Entry(key, "dropped", None, tuple(drop.tensor.shape), None, drop.tensor.dtype, note=drop.reason))
    return LoadReport(type(module).__name__, tuple(entries), (*may_miss.unused(), *may_exceed.unused()))


class _Patterns:
    """Shell patterns that remember which of them were of use."""

    def __init__(self, patterns: Iterable[str]) -> None:
        assert not isinstance(patterns, str), "patterns are a list of strings"
        self.used = dict.fromkeys(patterns, False)

    def allow(self, key: str) -> bool:
        hits = [pattern for pattern in self.used if fnmatch.fnmatchcase(key, pattern)]
        self.used.update(dict.fromkeys(hits, True))
        return bool(hits)

    def unused(self) -> list[str]:
        return [pattern for pattern, used in self.used.items() if not used]


def _both(first: bool, second: bool) -> bool:
    """And, with both sides evaluated (both remember that they were asked)."""
    return first and second


def _clash(mine: Tensor, found: Tensor) -> bool:
    return mine.shape != found.shape or mine.is_floating_point() != found.is_floating_point()


def _compare(key: str, mine: Tensor, found: Tensor, allowed: bool) -> Entry:
    status: Status = "loaded"
    if mine.shape != found.shape:
        status = "mis-shaped"
    elif mine.is_floating_point() != found.is_floating_point():
        status = "mis-typed"
    note = f"{_short(found.dtype)} → {_short(mine.dtype)}" if found.dtype != mine.dtype else ""
    return Entry(key, status, tuple(mine.shape), tuple(found.shape), mine.dtype, found.dtype, allowed, note)


def _tied_keys(module: nn.Module) -> dict[str, list[str]]:
    """Key → the other keys that name the very same parameter."""
    groups: dict[int, list[str]] = {}
    for key, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(key)
    return {key: [other for other in keys if other != key] for keys in groups.values() for key in keys if len(keys) > 1}


def _assign(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy into place; on the meta device take over (cast) and tie again what was tied."""
    state = module.state_dict()
    if not any(value.is_meta for value in state.values() if isinstance(value, Tensor)):
        module.load_state_dict(dict(tensors), strict=False)
        return
    ties = _tied_keys(module)
    _refuse_empty(module, {*tensors, *(other for key in tensors for other in ties.get(key, ()))})
    module.load_state_dict({k: v.to(state[k].dtype) for k, v in tensors.items()}, strict=False, assign=True)
    for key in tensors:
        for other in ties.get(key, ()):
            owner, _, name = other.rpartition(".")
            setattr(module.get_submodule(owner), name, module.get_parameter(key))


def _refuse_empty(module: nn.Module, filled: set[str]) -> None:
    """Raise before anything is changed when a tensor would stay without data, as a computed buffer on meta does."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    empty = [name for name, value in named if value.is_meta and name not in filled]
    if empty:
        names = ", ".join(empty[:3]) + (", …" if len(empty) > 3 else "")
        raise CheckpointError(
            f"{type(module).__name__} is on the meta device and {len(empty)} tensors would stay without data ({names})"
        )


def _short(dtype: torch.dtype | None) -> str:
    return "" if dtype is None else str(dtype).removeprefix("torch.")


def _describe(entry: Entry) -> str:
    if entry.status == "mis-shaped":
        return f"{entry.key} {entry.found} for {entry.expected}"
    return f"{entry.key} {_short(entry.found_dtype)}" if entry.status == "mis-typed" else entry.key


def _cells(entry: Entry) -> tuple[str, str, str, str, str]:
    status = entry.status + (" (allowed)" if entry.allowed else "")
    expected = "" if entry.expected is None else f"{entry.expected} {_short(entry.expected_dtype)}"
    found = "" if entry.found is None else f"{entry.found} {_short(entry.found_dtype)}"
    return entry.key, status, expected, found, entry.note
