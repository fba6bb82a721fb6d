"""An opened index: unit vectors of a store, and above some size an approximate index, both kept beside the store.

Cosines are of *centred* features (the mean of the index is subtracted), as the kNN score does: features of one encoder share
a large mean, so that plain cosines of any two pictures lie near 1. ``centre=False`` gives plain cosines.

Small stores are read into memory. Larger ones get a working folder ``<store>.search``: the unit vectors, memory-mapped, and
the approximate index. It is written whole or not at all, and made again when the store has changed.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openjepa.errors import DataError, require
from openjepa.hub.atomic import clean_stale, new_directory
from openjepa.searching.approximate import (
    SMALLEST,
    Approximate,
    Tuning,
    build_approximate,
    open_approximate,
)
from openjepa.searching.exact import Floats, Rows, exact_topk
from openjepa.searching.table import Table, mean_of, unit_rows

log = logging.getLogger(__name__)

FORMAT = 1
_VECTORS, _MEAN, _LISTS, _ABOUT = "vectors.npy", "mean.npy", "lists.faiss", "about.json"
_FEW = 20_000  # allowed rows up to which a filtered question is answered exactly
_RARE = 0.02  # share of allowed rows below which it is too


@dataclass(frozen=True)
class Index:
    """Unit vectors and what answers questions about them.

    Attributes:
        table: the store's rows. unit: ``(N, D)`` float32. mean: what was subtracted; None without centring.
        approximate: None where answers are exact.
    """

    table: Table
    unit: Floats
    mean: NDArray[np.float64] | None
    approximate: Approximate | None = None

    def __len__(self) -> int:
        return len(self.table)

    @property
    def method(self) -> str:
        """How it answers, in words."""
        if self.approximate is None:
            return f"exact, {len(self):,} rows"
        tuning = self.approximate.tuning
        return f"approximate, {len(self):,} rows, {tuning.probes} of {tuning.lists:,} lists, recall {tuning.recall:.3f}"

    def project(self, features: NDArray[np.floating]) -> Floats:
        """Features ``(Q, D)`` of a model as unit queries ``(Q, D)``.

        Raises:
            DataError: another width, or numbers that are not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.table.width:
            shape = "×".join(str(n) for n in features.shape[1:])
            raise DataError(
                f"the query has {shape} numbers and a vector of {self.table.path} {self.table.width}: another model, "
                "layer or kind of token"
            )
        if not np.isfinite(features).all():
            raise DataError("the query's features are not finite")
        return unit_rows(features, self.mean)

    def nearest(
        self, queries: Floats, k: int, *, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float64], Rows]:
        """The ``k`` rows most like each unit query ``(Q, D)``, or as many as are allowed.

        Returns:
            cosines ``(Q, k)`` and rows ``(Q, k)``.

        Raises:
            DataError: no row is allowed.
        """
        rows = None if allowed is None else np.flatnonzero(allowed)
        count = len(self) if rows is None else len(rows)
        if count == 0:
            raise DataError(f"no row of {self.table.path} meets the conditions")
        k = min(k, count)
        few = rows is not None and (count <= _FEW or count <= _RARE * len(self))
        if self.approximate is None or few or k > len(self) // 20:
            return exact_topk(self.unit, queries, k, rows=rows)
        cosine, found = self.approximate.topk(queries, k, allowed=allowed)
        if (found < 0).any():  # the lists that were read held fewer than k allowed rows
            return exact_topk(self.unit, queries, k, rows=rows)
        return cosine, found


def open_table(
    table: Table,
    *,
    approximate: bool = True,
    centre: bool = True,
    keep: str | Path | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Index:
    """The index of a table: from memory, from the folder kept beside the store, or built and kept there.

    Args:
        approximate: allow approximate answers from 20,000 rows on. centre: subtract the mean. keep: the folder; by default
            ``<store>.search``. say: hears what takes long.

    Raises:
        DataError: no row has a feature, or one is not finite. RunError: the folder cannot be written.
        MissingExtra: faiss is not installed and ``approximate`` wants it.
    """
    if len(table) == 0:
        raise DataError(f"{table.path} holds no feature: nothing can be found in it")
    if len(table) < SMALLEST:
        mean = mean_of(table) if centre else None
        return Index(table, np.concatenate([_checked(table, block, mean) for block in table.stream()]), mean)
    if approximate:
        require("faiss", "search")
    place = Path(keep) if keep is not None else table.path.with_name(f"{table.path.name}.search")
    found = _reopen(place, table, centre)
    if found is None:
        say(f"reading {len(table):,} vectors of {table.path}")
        found = _write_vectors(place, table, centre)
    if not approximate:
        return Index(table, found.unit, found.mean)
    if found.approximate is None:
        built = build_approximate(found.unit, say=say)
        _add_lists(place, built)
        found = _reopen(place, table, centre)
        assert found is not None, "it was written a moment ago"
    return found


def _checked(table: Table, block: Floats, mean: NDArray[np.float64] | None) -> Floats:
    """The block's unit rows. Raises DataError where a number is not finite."""
    if not np.isfinite(block).all():
        raise DataError(f"{table.path} holds features that are not finite: embed again, or look at the model")
    return unit_rows(block, mean)


def _write_vectors(place: Path, table: Table, centre: bool) -> Index:
    """Keep the unit vectors, then open them."""
    clean_stale(place.parent)
    mean = mean_of(table) if centre else None
    with new_directory(place) as scratch:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(table), table.width)}
        with (scratch / _VECTORS).open("wb") as file:  # not through a memory map: a full disk would kill the process
            np.lib.format.write_array_header_2_0(file, header)
            for block in table.stream():
                file.write(_checked(table, block, mean).astype("<f4", copy=False).data)
        if mean is not None:
            np.save(scratch / _MEAN, mean)
        _describe(scratch, {"signature": table.signature, "rows": len(table), "width": table.width, "centre": centre})
    found = _reopen(place, table, centre)
    assert found is not None, "it was written a moment ago"
    return found


def _add_lists(place: Path, built: Approximate) -> None:
    """Keep the approximate index beside the vectors: a new folder with links to the old files."""
    about = json.loads((place / _ABOUT).read_text(encoding="utf-8"))
    with new_directory(place) as scratch:
        for name in (_VECTORS, _MEAN):
            if (place / name).is_file():
                _link(place / name, scratch / name)
        built.save(scratch / _LISTS)
        _describe(scratch, {**about, "tuning": asdict(built.tuning)})


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system has them, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _describe(folder: Path, about: dict[str, Any]) -> None:
    """Write what the folder holds, with the sizes of its files."""
    sizes = {item.name: item.stat().st_size for item in sorted(folder.iterdir()) if item.name != _ABOUT}
    text = json.dumps({**about, "format": FORMAT, "files": sizes}, indent=1)
    (folder / _ABOUT).write_text(text + "\n", encoding="utf-8")


def _reopen(place: Path, table: Table, centre: bool) -> Index | None:
    """What is kept for this very store; None when there is nothing, or it is of another state or damaged."""
    wanted = {"signature": table.signature, "rows": len(table), "width": table.width, "centre": centre}
    try:
        about = json.loads((place / _ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT or any(about[name] != value for name, value in wanted.items()):
            log.info("%s is of another state of the store and is made again", place)
            return None
        if any((place / name).stat().st_size != size for name, size in about["files"].items()):
            raise ValueError("a file has another size")
        # copy-on-write, not read-only: torch takes arrays it may write to; nothing ever does
        unit = np.load(place / _VECTORS, mmap_mode="c")
        mean = np.load(place / _MEAN) if centre else None
        lists = None
        if about.get("tuning"):
            lists = open_approximate(place / _LISTS, Tuning(**about["tuning"]), unit)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        log.warning("%s is damaged and is made again (%s)", place, str(error).splitlines()[0])
        return None
    return Index(table, unit, mean, lists)
