"""``openjepa.ablate``: lay grids out, run what is missing, write tables and pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openjepa.data.splits import open_splits
from openjepa.errors import ConfigError, DataError, MissingExtra, nearest
from openjepa.evaluation.evaluate import asked
from openjepa.evaluation.labels import align
from openjepa.evaluation.tokens import names_only
from openjepa.experiments.ablate.cells import Cell, Expanded, expand, short_names
from openjepa.experiments.ablate.grid import Grid, build_grid, find_grid, load_grid
from openjepa.experiments.ablate.results import collect
from openjepa.experiments.ablate.runner import Runner, Say, Slots, Tally, estimate
from openjepa.experiments.ablate.store import Store
from openjepa.experiments.ablate.table import markdown
from openjepa.hub.atomic import write_file

DEFAULT_OUT = "runs/ablations"
_log = logging.getLogger(__name__)
GridLike = str | Path | Grid | Mapping[str, Any]


@dataclass(frozen=True)
class AblationResult:
    """What :func:`ablate` made.

    out: everything. results: per grid what its ``results.json`` holds. tally: cells done, kept and failed in this sitting.
    files: what was written for people. notes: what could not be written and why.
    """

    out: Path
    results: tuple[Mapping[str, Any], ...]
    tally: Tally
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def complete(self) -> bool:
        """Whether no cell of these grids is missing."""
        return not any(arm["missing"] for found in self.results for data in found["data"] for arm in data["arms"])


@dataclass(frozen=True)
class Plan:
    """What :func:`ablate` would do. cells: all, each once. todo: those not finished. seconds: how long that takes here,
    as far as ``how`` can know.
    """

    cells: tuple[Cell, ...]
    todo: tuple[Cell, ...]
    slots: Slots
    seconds: float | None
    how: str
    names: Mapping[str, str]


def ablate(
    grid: GridLike | Sequence[GridLike],
    data: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path = DEFAULT_OUT,
    overrides: Sequence[str] = (),
    steps: int | None = None,
    seeds: Sequence[int] | None = None,
    only: Sequence[str] = (),
    jobs: int | None = None,
    threads: int | None = None,
    retry: bool = False,
    on_line: Say | None = None,
) -> AblationResult:
    """Run one grid or several: arms × seeds × data sets, each cell an ordinary run in its own process.

    What is finished in ``out`` is kept, a half-trained run goes on from its checkpoint, and cells that several grids
    have in common are computed once.

    Args:
        grid: shipped name, YAML file, :class:`Grid` or plain data; or several.
        data: folders of labelled images, list files or ``"scenes"``; empty: those the grid names.
        out: where cells and results go. overrides: recipe keys for every arm. steps: length of every run, instead of
            the grid's budget. seeds: instead of the grid's. only: ``"arm"``, ``"arm/seed"`` or ``"*/seed"``: the other
            cells are left for later.
        jobs: cells at once. threads: CPU threads of each. retry: run failed cells again, from the start.
        on_line: receives the progress lines.

    Raises:
        ConfigError, DataError: a grid, recipe or data set is wrong. RunError: ``out`` is in use or cannot be written.
            A cell that fails is no error: it is recorded and named in the table.
    """
    say = on_line or _log.info
    expanded = _expand(grid, data, steps=steps, seeds=seeds, overrides=overrides)
    _check_labels(expanded)
    store = Store(Path(out))
    with _opened(store):
        cells = _chosen(_all_cells(expanded), only)
        runner = Runner(store, Slots.make(jobs, threads), say=say, retry=retry)
        try:
            tally = runner.run(cells, _names(expanded))
        finally:  # also after an interruption: what is there is shown
            written = [_write(collect(one, store), store.root / one.grid.name) for one in expanded]
    results = tuple(found for found, _, _ in written)
    files = tuple(path for _, paths, _ in written for path in paths)
    return AblationResult(Path(out), results, tally, files, tuple(dict.fromkeys(n for _, _, n in written if n)))


def plan(
    grid: GridLike | Sequence[GridLike],
    data: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path = DEFAULT_OUT,
    overrides: Sequence[str] = (),
    steps: int | None = None,
    seeds: Sequence[int] | None = None,
    only: Sequence[str] = (),
    jobs: int | None = None,
    threads: int | None = None,
    retry: bool = False,
) -> Plan:
    """What :func:`ablate` would do with the same arguments. Nothing is written."""
    expanded = _expand(grid, data, steps=steps, seeds=seeds, overrides=overrides)
    store, slots = Store(Path(out)), Slots.make(jobs, threads)
    cells = _chosen(_all_cells(expanded), only)
    todo = [c for c in cells if store.finished(c) is None and (retry or store.failure(c) is None)]
    seconds, how = estimate(store, todo, slots)
    return Plan(tuple(cells), tuple(todo), slots, seconds, how, _names(expanded))


@contextmanager
def _opened(store: Store) -> Iterator[None]:
    lock = store.open()
    try:
        yield
    finally:
        lock.release()


def _expand(
    grid: GridLike | Sequence[GridLike],
    data: str | Path | Sequence[str | Path],
    *,
    steps: int | None,
    seeds: Sequence[int] | None,
    overrides: Sequence[str],
) -> list[Expanded]:
    """The grids laid out; two of one name would write into one folder."""
    several = [grid] if isinstance(grid, str | Path | Grid | Mapping) else list(grid)
    sources = [str(data)] if isinstance(data, str | Path) else [str(name) for name in data]
    if not several:
        raise ConfigError("no grid is given; see them all: openjepa ablate --list")
    out: list[Expanded] = []
    for one in several:
        beside = find_grid(one).parent if isinstance(one, str | Path) else None
        loaded = one if isinstance(one, Grid) else build_grid(dict(one)) if isinstance(one, Mapping) else load_grid(one)
        if seeds is not None:
            loaded = loaded.model_copy(update={"seeds": tuple(dict.fromkeys(seeds))})
        if any(other.grid.name == loaded.name for other in out):
            raise ConfigError(f"two grids are called '{loaded.name}': give one of them another name")
        out.append(expand(loaded, sources, steps=steps, overrides=overrides, beside=beside))
    return out


def _check_labels(expanded: Sequence[Expanded]) -> None:
    """Look at labels and classes of every data set before anything trains: each cell would fail only after its training.

    Raises:
        DataError: as :func:`openjepa.evaluation.labels.align`, with the data set's name.
    """
    for one in expanded:
        if all(entry.data != "labelled" for entry in asked(one.grid.evaluation.what)):
            continue
        cells = {cell.data: cell for cell in one.cells.values() if cell.kind == "trained"}
        for data, cell in cells.items():
            try:
                splits = open_splits(cell.recipe)
                align(names_only(splits.train), names_only(splits.held_out))
            except DataError as error:
                raise DataError(f"grid '{one.grid.name}' cannot be scored on '{data}': {error}") from error


def _all_cells(expanded: Sequence[Expanded]) -> list[Cell]:
    """Cells of all grids, each once: baselines first (they are short and tell early), then seed by seed over all arms,
    so that an early stop leaves whole seeds.
    """
    every = {key: cell for one in expanded for key, cell in one.cells.items()}
    return sorted(every.values(), key=lambda cell: (cell.kind == "trained", cell.seed))


def _chosen(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """Cells that ``only`` names; all when it is empty. Baselines stay with their seed."""
    if not only:
        return list(cells)
    arms = list(dict.fromkeys(cell.label for cell in cells if cell.kind == "trained"))
    seeds = {cell.seed for cell in cells}
    wanted: set[tuple[str, int]] = set()
    for word in only:
        arm, _, seed = word.partition("/")
        if arm != "*" and arm not in arms:
            raise ConfigError(f"--only {word}: no arm is called '{arm}'{nearest(arm, arms)}: {', '.join(arms)}")
        if seed and (not seed.isdecimal() or int(seed) not in seeds):
            raise ConfigError(f"--only {word}: no such seed; there are {', '.join(map(str, sorted(seeds)))}")
        wanted |= {(a, s) for a in (arms if arm == "*" else [arm]) for s in ([int(seed)] if seed else seeds)}
    return [
        cell
        for cell in cells
        if ((cell.label, cell.seed) in wanted if cell.kind == "trained" else cell.seed in {s for _, s in wanted})
    ]


def _names(expanded: Sequence[Expanded]) -> dict[str, str]:
    return short_names(list(dict.fromkeys(cell.data for one in expanded for cell in one.cells.values())))


def _write(results: dict[str, Any], folder: Path) -> tuple[dict[str, Any], list[Path], str]:
    """results.json, table.md and the pictures of one grid; a note where pictures cannot be drawn."""
    files = [
        write_file(folder / "results.json", results),
        write_file(folder / "table.md", markdown(results).encode()),
    ]
    if not any(arm["scores"] for data in results["data"] for arm in data["arms"]):
        return results, files, ""
    try:
        from openjepa.experiments.ablate.plot import compute_png, scores_png

        files.append(write_file(folder / "plot.png", scores_png(results)))
        files.append(write_file(folder / "compute.png", compute_png(results)))
    except MissingExtra as error:
        return results, files, f"no pictures: {error}"
    return results, files, ""
