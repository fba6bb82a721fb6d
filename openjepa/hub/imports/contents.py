"""What lies in a weight file or a Hugging Face directory, before anything is built from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from openjepa.errors import CheckpointError, ConfigError, nearest
from openjepa.hub.tensorfile import read_tensors

HINTS = {
    "family": "whose file it is: "
    + ", ".join(("I-JEPA", "V-JEPA", "V-JEPA 2", "V-JEPA 2.1", "V-JEPA 2-AC", "Point-JEPA")),
    "heads": "attention heads of the encoder",
    "predictor_heads": "attention heads of the predictor",
    "image_size": "pixels of a side, or [height, width]",
    "frames": "frames of a clip",
    "fps": "frames a second of a clip",
    "groups": "Point-JEPA: groups of points a cloud is cut into",
    "group_size": "Point-JEPA: points of a group",
    "extrinsics": "V-JEPA 2-AC: whether the predictor is conditioned on the camera's pose",
    "frame_causal": "V-JEPA 2-AC: whether a frame sees only itself and those before it",
    "uniform_power": "V-JEPA: whether time, row and column have equally many channels of the position table",
}
_TRUTHS = ("extrinsics", "frame_causal", "uniform_power")
_COUNTS = ("heads", "predictor_heads", "frames", "groups", "group_size")
_META, _GOLDEN = "meta.json", "checkpoint.pt"
_INDEX = "model.safetensors.index.json"
_WRAPPERS = ("module.", "backbone.")


@dataclass(frozen=True)
class Contents:
    """Weights as they lie in a file, and what is known beside them.

    path: the file or directory. tensors: all of them, flat, by the file's names. config: ``config.json`` beside them
    (Hugging Face), else empty. hints: what the tensors do not tell, from the caller or from ``meta.json`` beside the file.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    hints: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by name, the wrappers' ``module.`` and ``backbone.`` taken out behind the section."""
        return {_unwrapped(key): tuple(value.shape) for key, value in self.tensors.items()}

    def sections(self) -> list[str]:
        """First parts of the names: ``encoder``, ``predictor``, ``target_encoder``, …; those of a run's state left out."""
        return sorted({key.split(".")[0] for key in self.tensors} - {"opt", "scaler"})

    def has(self, *names: str) -> bool:
        """Whether every one of these tensors is there (names as in :attr:`shapes`)."""
        return all(name in self.shapes for name in names)

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """Shape of a tensor that must be there and have so many axes. Raises CheckpointError in one line."""
        found = self.shapes.get(name)
        if found is None:
            raise CheckpointError(f"'{self.path}' has no '{name}'{nearest(name, self.shapes)}: it is damaged or cut")
        if len(found) != axes:
            raise CheckpointError(f"'{self.path}': '{name}' has shape {found}, not {axes} axes")
        return found

    def count(self, prefix: str) -> int:
        """How many numbered parts stand behind ``prefix``: ``count("encoder.blocks.")`` is the depth."""
        numbers = {key.removeprefix(prefix).split(".")[0] for key in self.shapes if key.startswith(prefix)}
        return sum(number.isdigit() for number in numbers)

    def hint(self, name: str, default: Any = None) -> Any:
        """A hint, or ``default``."""
        value = self.hints.get(name)
        return default if value is None else value

    def ask(self, name: str, why: str) -> ConfigError:
        """The error for what the file does not tell: says which hint to give."""
        return ConfigError(f"'{self.path}' does not tell {why}: give hints={{'{name}': …}} ({HINTS[name]})")


def read_contents(path: str | Path, hints: Mapping[str, Any] | None = None) -> Contents:
    """Read a weight file, a Hugging Face directory, or a directory with ``checkpoint.pt`` and ``meta.json``.

    hints: see :data:`HINTS`; they come before what ``meta.json`` says.

    Raises:
        ConfigError: an unknown hint, or one of the wrong kind. CheckpointError: unreadable, truncated, or a pickle with code
            (nothing is executed).
    """
    path, given = Path(path), dict(hints or {})
    for name in given:
        if name not in HINTS:
            raise ConfigError(f"no hint '{name}'{nearest(name, HINTS)}: there are {', '.join(HINTS)}")
        _check_kind(name, given[name], "the hint")
    if path.is_dir() and (path / _GOLDEN).is_file():
        path = path / _GOLDEN
    if path.is_dir():
        return Contents(path, _directory(path), _json(path / "config.json"), given)
    if not path.exists():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CheckpointError(f"there is no '{path}'{nearest(path.name, siblings)}")
    beside = _json(path.parent / _META) if (path.parent / _META).is_file() else {}
    told = {name: value for name, value in beside.items() if name in HINTS}
    for name, value in told.items():
        _check_kind(name, value, f"'{path.parent / _META}':")
    return Contents(path, read_tensors(path), {}, {**told, **given})


def _check_kind(name: str, value: object, where: str) -> None:
    """Raise ConfigError for a value that cannot be what a hint stands for; None says nothing, and may."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if name in _TRUTHS:
        good, kind = isinstance(value, bool), "true or false"
    elif name in _COUNTS:
        good, kind = whole and value >= 1, "a whole number from 1"  # type: ignore[operator]
    elif name == "fps":
        good, kind = (whole or isinstance(value, float)) and value > 0, "a number above 0"  # type: ignore[operator]
    elif name == "image_size":
        pair = list(value) if isinstance(value, list | tuple) else [value]
        good = len(pair) <= 2 and bool(pair) and all(type(side) is int and side >= 1 for side in pair)
        kind = "pixels of a side, or [height, width]"
    else:
        good, kind = isinstance(value, str), "a name"
    if value is not None and not good:
        raise ConfigError(f"{where} {name} = {value!r} is not {kind} ({HINTS[name]})")


def _directory(folder: Path) -> dict[str, Tensor]:
    """All tensors of a Hugging Face directory, of one file or of the parts an index names."""
    if (folder / _INDEX).is_file():
        try:
            parts = sorted({Path(name).name for name in _json(folder / _INDEX)["weight_map"].values()})
        except (KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"'{folder / _INDEX}' cannot be read: it has no weight_map") from error
        return {key: value for part in parts for key, value in read_tensors(folder / part).items()}
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return read_tensors(folder / name)
    raise CheckpointError(f"'{folder}' has no model.safetensors")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"'{path}' is no table")
    return found


def _unwrapped(key: str) -> str:
    """The name without wrappers, which stand at the beginning or behind the section."""
    head, _, rest = key.partition(".")
    for wrapper in _WRAPPERS:
        rest = rest.removeprefix(wrapper)
        if f"{head}." == wrapper:
            return _unwrapped(rest)
    return f"{head}.{rest}" if rest else head
