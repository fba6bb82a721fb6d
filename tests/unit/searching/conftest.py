"""Stores made of arrays: what ``openjepa embed`` would have written, without an encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


@dataclass
class ArrayStore:
    """Vectors in memory behind the face of a store."""

    path: Path
    values: NDArray[np.float32]
    ids: Sequence[str]
    paths: Sequence[str]
    meta: dict[str, NDArray[Any]] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    stamp: str = "one"
    model: str = "m"

    def __post_init__(self) -> None:
        self.shape = self.values.shape[1:]
        self.ok = ~np.isnan(self.values).reshape(len(self.values), -1).any(1)

    def __len__(self) -> int:
        return len(self.values)

    def chunks(self, rows: int = 7) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(self), rows):
            yield self.values[start : start + rows]


def make_store(path: Path, values: NDArray[Any], **changes: Any) -> ArrayStore:
    """Items ``a/0000.png``, … in order, two classes in turns."""
    names = [f"a/{i:04d}.png" for i in range(len(values))]
    facts: dict[str, Any] = {
        "ids": names,
        "paths": [str(path.parent / name) for name in names],
        "meta": {"label": np.arange(len(values)) % 2, "index": np.arange(len(values))},
        "classes": ("cat", "dog"),
    }
    return ArrayStore(path, np.asarray(values, np.float32), **{**facts, **changes})


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    """300 random vectors of width 12 with a large common mean, as features have."""
    return np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32) + 3


@pytest.fixture
def store(tmp_path: Path, vectors: NDArray[np.float32]) -> ArrayStore:
    return make_store(tmp_path / "f.npz", vectors)
