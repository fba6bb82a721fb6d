"""A run in stages: each an ordinary run directory below ``stages/``, together one run that every verb reads.

``OUT/config.yaml`` is the whole recipe, ``OUT/stages/NAME`` a run of its own, ``OUT/metrics.jsonl`` the rows of all stages
with steps, samples and seconds counted through, ``OUT/model`` the model of the newest stage. A stage starts from the last
checkpoint of the one before; what has begun is found on disk, so that a kill between or inside stages loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openjepa.config import Recipe, load_recipe
from openjepa.data import Source
from openjepa.errors import RunError
from openjepa.hub.atomic import clean_stale, link_directory, write_error, write_file
from openjepa.training.assemble import Stage
from openjepa.training.engine import Engine
from openjepa.training.initial import InitialWeights, fit_initial
from openjepa.training.lanes import match_sources
from openjepa.training.lock import RunLock
from openjepa.training.loop import train
from openjepa.training.metrics import finite, read_rows
from openjepa.training.plan import Plan
from openjepa.training.progress import Event, Reporter
from openjepa.training.run import (
    BAD_FILES,
    CONFIG,
    LOG,
    METRICS,
    MODEL,
    PADDED_FILES,
    STAGES,
    RunDirectory,
    check_same,
    read_run,
)
from openjepa.training.session import Probe, RunResult
from openjepa.training.world import World

_COUNTED = ("step", "samples", "seconds", "flops", "epoch")  # go on counting where the stage before stopped


@dataclass(frozen=True)
class Part:
    """One stage, ready to be trained: its whole recipe, its data (of each stream) and its scores on the way."""

    recipe: Recipe
    source: Source | Sequence[Source]
    probes: Sequence[Probe] = ()

    def plan(self, world: int) -> Plan:
        """The stage's arithmetic on so many processes."""
        return Plan.make(self.recipe, sum(map(len, match_sources(self.recipe, self.source))), world)


@dataclass(frozen=True)
class _Run:
    """The larger run: where it is, its stages, and how many steps each has."""

    recipe: Recipe
    out: Path
    parts: Sequence[Part]
    steps: tuple[int, ...]
    world: World

    def place(self, number: int) -> Path:
        """Run directory of a stage."""
        return self.out / STAGES / self.recipe.stages[number].name

    def begun(self, number: int) -> bool:
        """Whether a stage has a directory that somebody has worked in."""
        return any((self.place(number) / name).exists() for name in (CONFIG, RunLock.FILE))

    def done(self, number: int) -> bool:
        """Whether a stage is finished: a later one has begun, or all of its steps and its model are there."""
        if any(self.begun(later) for later in range(number + 1, len(self.parts))):
            return True
        if not (self.place(number) / CONFIG).is_file():
            return False
        info = read_run(self.place(number))
        return info.status == "finished" and info.has_model and info.step >= self.steps[number]

    def rows(self, number: int) -> list[dict[str, Any]]:
        """Rows of stages up to and with ``number``, counted through."""
        rows: list[dict[str, Any]] = []
        for place in range(number + 1):
            join = self._join(place, rows[-1] if rows else {})
            rows += [join(row) for row in read_rows(self.place(place) / METRICS) if not rows or row.get("step")]
        return rows

    def join(self, number: int) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """What turns a row of a stage into one of the whole run."""
        before = self.rows(number - 1) if number else []
        return self._join(number, before[-1] if before else {})

    def _join(self, number: int, last: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        name = self.recipe.stages[number].name

        def join(row: Mapping[str, Any]) -> dict[str, Any]:
            sums = {key: row[key] + (last.get(key) or 0) for key in _COUNTED if row.get(key) is not None}
            health = {**row.get("health", {}), "total_steps": sum(self.steps)}
            return {**row, **sums, "health": health, "stage": name}

        return join


def train_stages(
    recipe: Recipe,
    parts: Sequence[Part],
    *,
    out: str | Path,
    resume: bool = False,
    init: str | Path | InitialWeights | None = None,
    overwrite: bool = False,
    on_event: Callable[[Event], None] | None = None,
    console: bool = True,
) -> RunResult:
    """Train the stages of ``recipe`` one after another into run directory ``out``; arguments as of :func:`train`.

    parts: one per stage (:func:`openjepa.config.stage_recipes` gives the recipes). init: weights for the first stage.
    Events of a stage are passed on with ``data["stage"]``; their steps are those of the stage.

    Raises:
        As :func:`train`; RunError also when the run in ``out`` has other stages, or a begun stage another recipe.
    """
    out = Path(out)
    assert len(parts) == len(recipe.stages)
    world = Engine(parts[0].recipe.train).world  # the processes decide together; every stage then joins this group
    with ExitStack() as stack:
        stack.enter_context(world.guarded(lambda: f"continue with --out {out} --resume"))
        plans = [part.plan(world.size) for part in parts]
        run = _Run(recipe, out, parts, tuple(plan.total for plan in plans), world)

        if init is not None and not resume:
            fit_initial(parts[0].recipe, init)  # before anything on disk is touched

        def claim() -> None:
            directory = RunDirectory.claim(out, resume=resume, init=init, overwrite=overwrite)
            stack.callback(directory.close)
            _check(run)
            clean_stale(out)
            shape = {"steps": sum(run.steps), "batch": plans[-1].batch, "images": plans[-1].images}
            directory.describe(recipe, {**shape, "stages": dict(zip(_names(recipe), run.steps, strict=True))})

        world.on_first(claim)
        reporter = Reporter(out / LOG, speaks=world.first, console=console)
        result = _train_all(run, init, reporter, on_event, console)
        return _together(run, result)


def _train_all(
    run: _Run,
    init: str | Path | InitialWeights | None,
    reporter: Reporter,
    on_event: Callable[[Event], None] | None,
    console: bool,
) -> RunResult:
    """Stage after stage, from the first that is not finished, until the end or a stop. The result of the newest."""
    last = len(run.parts) - 1
    for number in range(last + 1):
        done, resume = run.world.on_first(lambda n=number: (run.done(n), run.begun(n)))  # type: ignore[misc]
        if done and number < last:
            reporter.say(f"{_which(run, number)} is finished")
            continue
        result = _train_one(
            run, number, resume, init if number == 0 and not resume else None, reporter, on_event, console
        )
        if number == last or not result.finished:
            return result
    raise AssertionError("the last stage always gives a result")


def _names(recipe: Recipe) -> list[str]:
    return [stage.name for stage in recipe.stages]


def _check(run: _Run) -> None:
    """What was begun must be the same experiment, stage by stage."""
    if (run.out / CONFIG).is_file():
        before = _names(load_recipe(run.out / CONFIG))
        if before != _names(run.recipe):
            was = f"stages {', '.join(before)}" if before else "no stages"
            raise RunError(
                f"'{run.out}' was started with {was}, not {', '.join(_names(run.recipe))}: choose another --out"
            )
    for number, part in enumerate(run.parts):
        check_same(run.place(number), part.recipe)


def _which(run: _Run, number: int) -> str:
    return f"stage {number + 1} of {len(run.parts)} ({run.recipe.stages[number].name})"


def _train_one(
    run: _Run,
    number: int,
    resume: bool,
    init: str | Path | InitialWeights | None,
    reporter: Reporter,
    on_event: Callable[[Event], None] | None,
    console: bool,
) -> RunResult:
    """Train or go on with one stage; keeps the whole run's rows and model up to date."""
    part, place = run.parts[number], run.place(number)
    length = f"{part.recipe.frames} frames of " if part.recipe.video else ""
    height, width = part.recipe.image_hw
    reporter.say(f"{_which(run, number)}: {run.steps[number]} steps on {length}{width} x {height} px")
    rows = _Rows(run, number, on_event)
    try:
        result = train(
            part.recipe,
            part.source,
            out=place,
            resume=resume,
            init=init,
            probes=part.probes,
            on_event=rows,
            console=console,
            stage=Stage(run.out, run.place(number - 1) if number else None, run.recipe.stages[number].keep_optimizer),
        )
    finally:
        rows.close()
    run.world.on_first(lambda: link_directory(place / MODEL, run.out / MODEL))
    return result


class _Rows:
    """Listens to a stage: writes its rows into the whole run's ``metrics.jsonl``, and passes every event on."""

    def __init__(self, run: _Run, number: int, on_event: Callable[[Event], None] | None) -> None:
        self._run, self._number, self._on_event = run, number, on_event
        self._join = run.join(number)
        self._path = run.out / METRICS
        self._fresh = False

    def __call__(self, event: Event) -> None:
        """One event of the stage (the first process alone hears them)."""
        if event.kind == "row" and not self._fresh:  # not before: a resumed stage has only now cut its rows
            self._write_all()
            self._fresh = True
        elif event.kind == "row" and (self._number == 0 or event.data.get("step")):
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(_line(self._join(event.data)))
            except OSError as error:
                raise write_error(self._path, error) from error
        if self._on_event is not None:
            self._on_event(replace(event, data={**event.data, "stage": self._run.recipe.stages[self._number].name}))

    def close(self) -> None:
        """The stage is over: its rows once more, without any that a rollback took back."""
        if self._run.world.first and self._path.parent.is_dir():
            self._write_all()

    def _write_all(self) -> None:
        write_file(self._path, "".join(_line(row) for row in self._run.rows(self._number)).encode())


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def _together(run: _Run, last: RunResult) -> RunResult:
    """The result of the whole run: the newest stage's verdict, everything else summed."""
    number = next(n for n in range(len(run.parts)) if run.place(n) == last.run_dir)
    rows = run.rows(number)
    for name, found in ((BAD_FILES, last.bad), (PADDED_FILES, last.padded)):
        if found:
            run.world.on_first(lambda name=name, found=found: write_file(run.out / name, dict(found)))  # type: ignore[misc]
    step = sum(run.steps[:number]) + last.step
    row = rows[-1] if rows else {}
    return replace(last, run_dir=run.out, step=step, total=sum(run.steps), metrics=row)
