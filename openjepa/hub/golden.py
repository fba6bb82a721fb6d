"""Golden directories and the ledger in which a parity check enters what it compared.

A golden directory holds ``meta.json``, ``io.safetensors`` and ``checkpoint.pt`` (DESIGN §3): what a published program
computed from a small random model. A system registers one function that recomputes it with our code; the ledger makes
sure that no tensor of the file is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openjepa.errors import CheckpointError, nearest
from openjepa.hub.tensorfile import read_safetensors, read_tensors

TOLERANCE = 1e-5  # of the largest absolute value of the reference; fp32 on CPU


@dataclass(frozen=True)
class Golden:
    """One golden directory in memory. checkpoint: every tensor of ``checkpoint.pt``, flat, with the published names."""

    path: Path
    meta: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    checkpoint: Mapping[str, Tensor]

    def need(self, name: str) -> Any:
        """An entry of meta.json, dotted names reach inside. Raises CheckpointError when it is missing."""
        value: Any = self.meta
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise CheckpointError(f"'{self.path}' is malformed: meta.json has no '{name}'")
            value = value[part]
        return value

    def number(self, name: str) -> float:
        """A numeric entry of meta.json."""
        value = self.need(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"'{self.path}' is malformed: meta.json says {name} = {value!r}, which is no number")
        return value

    def integer(self, name: str, least: int = 1) -> int:
        """A whole number of at least ``least`` in meta.json."""
        value = self.number(name)
        if value != int(value) or value < least:
            raise CheckpointError(
                f"'{self.path}' is malformed: {name} = {value} is no whole number of at least {least}"
            )
        return int(value)

    def tensor(self, name: str) -> Tensor:
        """A tensor of io.safetensors. Raises CheckpointError when it is missing."""
        if name not in self.tensors:
            raise CheckpointError(f"'{self.path}' is malformed: io.safetensors has no '{name}'")
        return self.tensors[name]


@dataclass(frozen=True)
class Row:
    """One comparison: largest absolute difference over the largest absolute value of the reference."""

    name: str
    error: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Within tolerance; NaN is not."""
        return self.error <= TOLERANCE


@dataclass
class Ledger:
    """What was compared. ``inputs`` are tensors a check reads and does not recompute (images, masks)."""

    golden: Golden
    rows: list[Row] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

    def input(self, *names: str) -> None:
        """Declare tensors of the file as inputs."""
        self.inputs.extend(names)

    def compare(self, name: str, ours: Tensor | None) -> None:
        """Compare with the tensor ``name`` of the file, when it has one. ``None``: our code made no such tensor."""
        if name in self.golden.tensors:
            self.compare_with(name, ours, self.golden.tensors[name])

    def compare_with(
        self, name: str, ours: Tensor | Sequence[float] | None, reference: Tensor | Sequence[float]
    ) -> None:
        """Compare with any reference."""
        if ours is None:
            self.rows.append(Row(name, float("inf"), "our code has none"))
            return
        mine, theirs = (torch.as_tensor(value).detach().double() for value in (ours, reference))
        if mine.shape != theirs.shape:
            note = f"shape {tuple(mine.shape)} instead of {tuple(theirs.shape)}"
            self.rows.append(Row(name, float("inf"), note))
            return
        self.rows.append(Row(name, relative_error(mine, theirs)))

    @property
    def unchecked(self) -> list[str]:
        """Tensors of the file that are neither compared nor inputs."""
        seen = {row.name for row in self.rows} | set(self.inputs)
        return [name for name in self.golden.tensors if name not in seen]

    @property
    def passed(self) -> bool:
        """Something was compared, all of it within tolerance, and nothing left out."""
        return bool(self.rows) and all(row.ok for row in self.rows) and not self.unchecked


Check = Callable[[Golden, Ledger], None]
_CHECKS: dict[str, Check] = {}


def register_check(family: str) -> Callable[[Check], Check]:
    """Make a function the parity check of the systems whose ``meta.json`` says ``family``."""

    def register(check: Check) -> Check:
        assert family not in _CHECKS, family
        _CHECKS[family] = check
        return check

    return register


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """Max |ours − reference| / max |reference|; 0 when both are zero, infinite when only the reference is."""
    if reference.numel() == 0:
        return 0.0
    difference, scale = float((ours - reference).abs().max()), float(reference.abs().max())
    if scale == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / scale


def read_golden(path: str | Path) -> Golden:
    """Read a golden directory. Raises CheckpointError, in one line, when a part is missing or cannot be read."""
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"'{path}' is no directory")
    for name in ("meta.json", "io.safetensors", "checkpoint.pt"):
        if not (path / name).is_file():
            raise CheckpointError(f"'{path}' is no golden directory: {name} is missing")
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' is malformed: meta.json cannot be read ({error})") from error
    if not isinstance(meta, dict):
        raise CheckpointError(f"'{path}' is malformed: meta.json is no table")
    tensors, _ = read_safetensors(path / "io.safetensors")
    return Golden(path, meta, tensors, read_tensors(path / "checkpoint.pt"))


def check_golden(path: str | Path) -> Ledger:
    """Recompute a golden directory with our code.

    Raises:
        CheckpointError: the directory is malformed, or no check knows its family.
    """
    golden = read_golden(path)
    family = golden.need("family")
    if family not in _CHECKS:
        known = ", ".join(sorted(_CHECKS))
        raise CheckpointError(f"'{path}': no parity check for '{family}'{nearest(family, _CHECKS)}; there is: {known}")
    ledger = Ledger(golden)
    _CHECKS[family](golden, ledger)
    if not any(row.name in golden.tensors for row in ledger.rows) and not ledger.unchecked:
        raise CheckpointError(f"'{path}' is malformed: io.safetensors holds inputs only, nothing to check")
    return ledger
