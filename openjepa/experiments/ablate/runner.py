"""The runner: every cell that is not finished in its own process, several at a time, each on its own share of the machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from openjepa.experiments.ablate.cells import Cell
from openjepa.experiments.ablate.store import STOPPED, Store, read_json
from openjepa.hub.atomic import write_file

_POLL = 0.05  # seconds between looks at the workers
_CELLS_PER_WORKER = 20  # then a fresh process: what a long-lived one gathers (memory, caches) stays bounded
_PATIENCE = 60.0  # seconds a worker gets to save its run when the ablation is interrupted
Say = Callable[[str], None]


@dataclass(frozen=True)
class Slots:
    """How the machine is shared. jobs: cells at once; threads: of each; gpus: CUDA device numbers, round robin."""

    jobs: int
    threads: int
    gpus: tuple[str, ...] = ()

    @classmethod
    def make(cls, jobs: int | None = None, threads: int | None = None) -> Slots:
        """``jobs`` defaults to one per GPU; without a GPU to the cores, at most four. Cores are split evenly."""
        import torch

        count = torch.cuda.device_count()
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        gpus = tuple(visible[:count] if visible else map(str, range(count)))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        jobs = jobs or (len(gpus) if gpus else min(cores, 4))
        return cls(jobs, threads or max(cores // jobs, 1), gpus)


@dataclass
class Tally:
    """What a sitting did. failed: cell label and seed with the reason."""

    done: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class _Worker:
    """A process that takes cells one after another. cell: the one it is busy with."""

    process: subprocess.Popen[bytes]
    cell: Cell | None = None
    began: float = 0.0
    cells: int = 0


class Runner:
    """Runs cells; see :meth:`run`. Errors of single cells are recorded, never raised."""

    def __init__(self, store: Store, slots: Slots, *, say: Say, retry: bool = False) -> None:
        self._store, self._slots, self._say, self._retry = store, slots, say, retry
        self._workers: dict[int, _Worker] = {}  # by slot
        self._spent: dict[str, list[float]] = {}
        self.tally = Tally()

    def run(self, cells: Sequence[Cell], names: Mapping[str, str]) -> Tally:
        """Do what is not done; ``names`` are the data sets as shown.

        A KeyboardInterrupt asks the workers to save and stop, and is raised again when they have.
        """
        waiting = self._waiting(cells)
        self._total, self._left = len(waiting), len(waiting)
        self._names = names
        try:
            while waiting or self._busy():
                for slot in range(self._slots.jobs):
                    if waiting and not self._is_busy(slot) and (cell := self._next(waiting)) is not None:
                        self._start(slot, cell)
                time.sleep(_POLL)
                for slot in [slot for slot in self._workers if self._is_busy(slot)]:
                    self._look(slot)
        except BaseException:
            self._stop_all()
            raise
        self._dismiss()
        return self.tally

    def _is_busy(self, slot: int) -> bool:
        return slot in self._workers and self._workers[slot].cell is not None

    def _busy(self) -> list[Cell]:
        return [worker.cell for worker in self._workers.values() if worker.cell is not None]

    def _waiting(self, cells: Sequence[Cell]) -> list[Cell]:
        """Cells to do: neither finished nor (without ``retry``) failed."""
        waiting = []
        for cell in cells:
            if self._store.finished(cell) is not None:
                self.tally.kept += 1
            elif (reason := self._store.failure(cell)) is not None and not self._retry:
                self.tally.failed[f"{cell.label} s{cell.seed}"] = reason
            else:
                waiting.append(cell)
        return waiting

    def _next(self, waiting: list[Cell]) -> Cell | None:
        """The first cell whose run directory no other worker is using."""
        busy = {cell.run_key for cell in self._busy()}
        found = next((cell for cell in waiting if cell.run_key not in busy), None)
        if found is not None:
            waiting.remove(found)
        return found

    def _start(self, slot: int, cell: Cell) -> None:
        """Give a cell to the slot's worker, a new one where there is none or it has done many."""
        worker = self._workers.get(slot)
        if worker is not None and worker.cells >= _CELLS_PER_WORKER:
            self._end_worker(self._workers.pop(slot))
            worker = None
        if worker is None:
            worker = self._workers[slot] = _Worker(self._spawn(slot))
        failed_before = self._store.failure(cell) is not None
        task = self._store.put_task(cell, fresh=failed_before, threads=self._slots.threads)
        self._store.failure_file(cell).unlink(missing_ok=True)
        worker.cell, worker.began, worker.cells = cell, time.monotonic(), worker.cells + 1
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died between two cells: the next look says how
            worker.process.stdin.write(f"{task}\n".encode())
            worker.process.stdin.flush()

    def _spawn(self, slot: int) -> subprocess.Popen[bytes]:
        threads = str(self._slots.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if self._slots.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._slots.gpus[slot % len(self._slots.gpus)]
        with (self._store.root / "logs" / f"worker-{slot}.txt").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "openjepa.experiments.ablate.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches this process only, which then asks the workers to save
            )

    def _look(self, slot: int) -> None:
        """Whether the slot's worker is done with its cell, or gone; said in a line."""
        worker = self._workers[slot]
        cell = worker.cell
        assert cell is not None
        ended = worker.process.poll() is not None
        result = self._store.finished(cell)
        if result is None and not ended:
            return
        if ended:
            self._end_worker(self._workers.pop(slot))
        worker.cell = None
        self._left -= 1
        seconds = time.monotonic() - worker.began
        name = f"{cell.label} s{cell.seed}"
        if result is not None:
            self.tally.done += 1
            self._spent.setdefault(cell.kind, []).append(seconds)
            text = "  ".join(f"{label} {value:.1f}" for label, value in result["values"].items())
        else:
            reason = self._reason(cell, worker.process.returncode)
            self.tally.failed[name] = reason
            text = f"failed: {reason}"
        place = f"[{self._total - self._left}/{self._total}]"
        left = f"   {_clock(self._estimate())} left" if self._left else ""
        self._say(f"{place} {self._names.get(cell.data, cell.data)}  {name}  {text}   {seconds:.0f} s{left}")

    def _reason(self, cell: Cell, code: int) -> str:
        """Why there is no result; recorded, unless a signal asked the training to stop and it may go on."""
        known = self._store.failure(cell)
        if known is not None:
            return known
        if code == STOPPED:
            return "stopped by a signal; it goes on from its checkpoint the next time"
        by = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        reason = f"the worker was {by}{hint}: see {self._store.log_file(cell)}"
        write_file(self._store.failure_file(cell), {"error": reason, "label": cell.label, "seed": cell.seed})
        return reason

    def _estimate(self) -> float:
        """Seconds left: cells left × the mean of those done, over the cells at a time."""
        done = [seconds for kind in self._spent.values() for seconds in kind]
        return self._left * sum(done) / max(len(done), 1) / self._slots.jobs

    def _stop_all(self) -> None:
        """Ask the workers to save and stop; end those that do not."""
        if self._busy():
            self._say(f"stopping {len(self._busy())} cells; the same command goes on from here")
        for worker in self._workers.values():
            if worker.cell is not None:
                worker.process.terminate()
        deadline = time.monotonic() + _PATIENCE
        for worker in self._workers.values():
            if worker.cell is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(deadline - time.monotonic(), 0.1))
        self._dismiss()

    def _dismiss(self) -> None:
        for worker in self._workers.values():
            self._end_worker(worker)
        self._workers = {}

    def _end_worker(self, worker: _Worker) -> None:
        """Close the input, which ends the worker."""
        assert worker.process.stdin is not None
        with contextlib.suppress(OSError):
            worker.process.stdin.close()
        try:
            worker.process.wait(5)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


def _clock(seconds: float) -> str:
    whole = max(int(seconds), 0)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def estimate(store: Store, cells: Sequence[Cell], slots: Slots) -> tuple[float | None, str]:
    """Seconds that ``cells`` would take here and how that is known; None when nothing was measured yet.

    Cells finished in this store are the measure: a trained cell counts by the samples it sees.
    """
    spent: dict[str, list[float]] = {"trained": [], "random": [], "pixels": []}
    per_sample: list[float] = []
    for path in sorted(store.root.glob("scores/*.json")):
        result = read_json(path)
        cost: dict[str, float] = (result or {}).get("cost", {})
        if result is None or "score" not in cost:
            continue
        spent[result["kind"]].append(cost["score"])
        if cost.get("train") and result.get("samples"):
            per_sample.append(cost["train"] / result["samples"])
    if not per_sample:
        return None, "nothing is measured here yet: the first finished cell tells"
    total = 0.0
    for cell in cells:
        known = spent[cell.kind] or spent["trained"]
        total += sum(known) / len(known)
        if cell.kind == "trained":
            total += sum(per_sample) / len(per_sample) * _samples(cell)
    return total / slots.jobs, f"from {len(per_sample)} finished cells, {slots.jobs} at a time"


def _samples(cell: Cell) -> float:
    """Images a cell trains on, where its length says so without looking at the data."""
    length, batch = cell.recipe.train.length, cell.recipe.train.batch_size
    return length.value if length.unit == "samples" else length.value * batch if length.unit == "steps" else 0.0
