"""What every benchmark needs: pinned threads, interleaved repetitions, the machine's own matmul rate, tables and JSON.

Absolute times mean little on a shared machine; ratios of programs that take turns in one process do.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
console = Console(width=160)


@dataclass(frozen=True)
class Times:
    """Seconds of one contender, one number per round: on the wall, and of processor time (all threads of this process)."""

    seconds: tuple[float, ...]
    processor: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.seconds)

    @property
    def busy(self) -> float:
        """Processor time of the middle round; it does not count waiting for a neighbour."""
        return statistics.median(self.processor)

    @property
    def spread(self) -> float:
        """Half the range between the quartiles, as a share of the median (half the full range below four rounds)."""
        if len(self.seconds) < 4:
            return (max(self.seconds) - min(self.seconds)) / 2 / self.median
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median


@dataclass(frozen=True)
class Gemm:
    """One matrix product of a step: ``(rows, inner) @ (inner, columns)``, ``count`` times forward, with or without its
    two backward products.
    """

    rows: int
    inner: int
    columns: int
    count: int
    backward: bool

    @property
    def flops(self) -> float:
        """Floating-point operations, a multiply-add counting two."""
        return 2.0 * self.rows * self.inner * self.columns * self.count * (3 if self.backward else 1)


def pin(threads: int) -> None:
    """Use ``threads`` CPU threads for everything torch does."""
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for child processes


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of one call, device included."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def take_turns(
    contenders: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warmup: int = 1
) -> dict[str, Times]:
    """Time contenders in turns, the order moved on by one each round, so that a busy neighbour hits all alike."""
    for work in contenders.values():
        for _ in range(warmup):
            work()
    names = list(contenders)
    taken: dict[str, list[float]] = {name: [] for name in names}
    busy: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.process_time()
            taken[name].append(seconds_of(contenders[name], device))
            busy[name].append(time.process_time() - start)
    return {name: Times(tuple(taken[name]), tuple(busy[name])) for name in names}


def paired_ratio(slow: Times, fast: Times) -> tuple[float, float, float]:
    """Median, lowest and highest of ``slow / fast`` round by round."""
    ratios = [a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def gemm_seconds(
    gemms: Iterable[Gemm], dtype: torch.dtype, device: torch.device, rounds: int = 3
) -> tuple[float, float]:
    """Seconds the bare products of a step take, each shape timed on its own (median of ``rounds``) times its count.

    Returns:
        Wall seconds, and seconds of processor time.
    """
    total = busy = 0.0
    for gemm in gemms:
        x = torch.randn(gemm.rows, gemm.inner, device=device, dtype=dtype)
        weight = torch.randn(gemm.columns, gemm.inner, device=device, dtype=dtype)
        grad = torch.randn(gemm.rows, gemm.columns, device=device, dtype=dtype)
        products: list[Callable[[], torch.Tensor]] = [lambda x=x, w=weight: x @ w.T]
        if gemm.backward:
            products += [lambda g=grad, w=weight: g @ w, lambda g=grad, x=x: g.T @ x]
        for product in products:
            product()
            times = take_turns({"": product}, rounds, device, warmup=0)[""]
            total += gemm.count * times.median
            busy += gemm.count * times.busy
    return total, busy


def machine(device: torch.device) -> dict[str, object]:
    """Where the numbers were taken."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((ln.split(":")[1].strip() for ln in info.read_text().splitlines() if "model name" in ln), model)
    return {
        "cpu": model,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "torch": torch.__version__,
        "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


def describe(facts: Mapping[str, object]) -> None:
    console.print(
        f"{facts['cpu']} · {facts['device']} · {facts['threads']} threads of {facts['cores']} cores · "
        f"load {facts['load']} · torch {facts['torch']} · {facts['time']}",
        highlight=False,
    )
    load, cores = facts["load"], facts["cores"]
    if isinstance(load, list) and isinstance(cores, int) and load[0] > cores / 2:
        console.print("the machine is busy with other work: read the ratios, not the absolute numbers", style="yellow")


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], notes: Iterable[str] = ()) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)
    for note in notes:
        console.print(f"  {note}", highlight=False, markup=False)


def save(name: str, payload: Mapping[str, object]) -> Path:
    """Write ``benchmarks/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(payload, indent=1) + "\n")
    console.print(f"written: {path}", highlight=False)
    return path
