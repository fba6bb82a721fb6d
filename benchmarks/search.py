"""Search in a million vectors of width 768 on two threads: milliseconds per query, exact and approximate, and recall.

    python benchmarks/search.py DATA… --model RUN [--rows 1000000] [--threads 2] [--work FOLDER]

Where the vectors come from. The ``train`` side of every DATA folder is embedded by the encoder of RUN with ``layers=last4``:
four layers of 192 numbers, joined, are 768 real numbers per image. A million rows are made of these few thousand by jitter: a
random real row plus a normal draw whose covariance is that of the differences between real rows and their nearest real rows,
halved (so that a jittered row lies about as far from its origin as real neighbours lie from each other, along the directions
in which they differ). Queries are 200 images of the ``test`` sides, which the index has never seen, and 200 more jittered rows that
are not in it.

What is measured. The rows are written as ``openjepa embed`` writes them (.safetensors), opened and indexed by
``openjepa.open_index``, and asked by ``openjepa.search``, one query at a time, everything included but the encoder. Recall is
the share of the 10 exact nearest that the approximate answer holds. Memory is the anonymous kind: pages of the mapped files
are the system's to drop. Aims: below 50 ms, recall@10 of 0.95.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import describe, machine, pin, save, show
from numpy.typing import NDArray

import openjepa
from openjepa.embedding import Rows, iterate
from openjepa.embedding.arrays import write_safetensors_rows
from openjepa.embedding.rows import Layout
from openjepa.searching import Index
from openjepa.searching.approximate import recall
from openjepa.searching.exact import exact_topk

PART = 25_000
ASKED = 200
K = 10


class Memory:
    """The most anonymous memory this process held since the last reading, in GB, looked at 20 times a second."""

    def __init__(self) -> None:
        self.peak = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    self.peak = max(self.peak, int(line.split()[1]) / 1e6)
            time.sleep(0.05)

    def read(self) -> float:
        """The peak; the next one counts from now."""
        peak, self.peak = self.peak, 0.0
        return round(peak, 2)


def real(folders: list[str], model: Any, split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features and labels (told apart between folders) of one side of every folder."""
    values, labels, first = [], [], 0
    for folder in folders:
        place = Path(folder) / split
        for rows in iterate(place, model, layers="last4", workers=0):
            if rows.values is not None:
                values.append(rows.values)
                labels.append(rows.numbers["label"] + first)
        first = int(max(part.max() for part in labels)) + 1
    return np.concatenate(values).astype(np.float32), np.concatenate(labels)


class Jitter:
    """Rows made of real ones. ``part(k)`` is always the same."""

    def __init__(self, values: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        self.values, self.labels = values, labels
        unit = values - values.mean(0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        _, near = exact_topk(unit, unit, 2)
        away = values - values[np.where(near[:, 0] == np.arange(len(values)), near[:, 1], near[:, 0])]
        scale, directions = np.linalg.eigh(0.5 * (away.T @ away).astype(np.float64) / len(away))
        self.root = (directions * np.sqrt(np.maximum(scale, 0))).T.astype(np.float32)  # z @ root has the covariance

    def origins(self, part: int, count: int) -> NDArray[np.int64]:
        """The real rows that a part starts from."""
        return np.random.default_rng((1, part)).integers(0, len(self.values), count)

    def part(self, part: int, count: int) -> NDArray[np.float32]:
        """``(count, D)`` jittered rows."""
        z = np.random.default_rng((2, part)).standard_normal((count, self.values.shape[1]), dtype=np.float32)
        return self.values[self.origins(part, count)] + z @ self.root


class Part(Rows):
    """Rows whose features are drawn when they are written, since columns are written one after another."""

    def filled(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """The features, drawn now."""
        assert isinstance(self.values, Lazy)
        return self.values.draw()


class Lazy:
    """Features that are not drawn yet."""

    def __init__(self, draw: Callable[[], NDArray[np.float32]]) -> None:
        self.draw = draw


def write_store(path: Path, jitter: Jitter, rows: int) -> None:
    """The million, as ``openjepa embed`` would write it."""

    def parts() -> Iterator[Rows]:
        for number, start in enumerate(range(0, rows, PART)):
            n = min(PART, rows - start)
            names = [f"row{start + i:07d}" for i in range(n)]
            numbers = {
                "index": np.arange(start, start + n),
                "label": jitter.labels[jitter.origins(number, n)],
                "start": np.full(n, np.nan),
                "end": np.full(n, np.nan),
            }
            texts = {"id": names, "path": [""] * n, "error": [""] * n}
            yield Part(texts, numbers, Lazy(lambda number=number, n=n: jitter.part(number, n)))  # type: ignore[arg-type, misc]

    about = {
        "format": 1, "model": {"name": "benchmark", "fingerprint": "benchmark"}, "settings": {"tokens": "pooled"},
        "classes": None, "shape": [jitter.values.shape[1]], "dtype": "float32", "stamp": f"jitter {rows}",
    }  # fmt: skip
    layout = Layout.of(parts(), (jitter.values.shape[1],), "float32", about)
    write_safetensors_rows(path, layout, parts)


def milliseconds(ask: Callable[[int], object], count: int) -> tuple[float, float]:
    """Median and 95th percentile of single questions."""
    ask(0)
    taken = []
    for number in range(count):
        start = time.perf_counter()
        ask(number)
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken), float(np.quantile(taken, 0.95))


def found_rows(index: Index, queries: NDArray[np.float32], **options: Any) -> NDArray[np.int64]:
    return np.array([[hit.row for hit in openjepa.search(index, q, k=K, **options).hits] for q in queries])


def measure(path: Path, questions: dict[str, NDArray[np.float32]], label: int) -> dict[str, Any]:
    """Build, open, ask."""
    memory, result = Memory(), {}
    marks = [(time.perf_counter(), "reading")]
    index = openjepa.open_index(path, say=lambda sentence: marks.append((time.perf_counter(), sentence)))
    marks.append((time.perf_counter(), "done"))
    result["build"] = {
        name.split(" of ")[0]: round(later[0] - at, 1) for (at, name), later in itertools.pairwise(marks)
    }
    result["build_seconds"] = round(marks[-1][0] - marks[0][0], 1)
    result["build_anonymous_gb"] = memory.read()
    assert index.approximate is not None
    result["tuning"] = vars(index.approximate.tuning)
    del index
    start = time.perf_counter()
    index = openjepa.open_index(path)
    result["open_seconds"] = round(time.perf_counter() - start, 2)
    exact = openjepa.open_index(path, approximate=False)
    memory.read()
    where = [f"label={label}"]
    for name, queries in questions.items():
        true = exact_topk(exact.unit, exact.project(queries), K)[1]
        result[name] = {"recall@10": round(recall(found_rows(index, queries), true), 4)}
        for kind, opened, count in (("approximate", index, ASKED), ("exact", exact, 20)):
            times = milliseconds(lambda n, o=opened, q=queries: openjepa.search(o, q[n], k=K), count)
            result[name][f"{kind}_ms"], result[name][f"{kind}_ms_95"] = (round(t, 2) for t in times)
    queries = next(iter(questions.values()))[:20]
    result["filter"] = {
        "where": where[0],
        "share": round(float(np.mean(np.array(index.table.columns["label"]) == label)), 4),
        "recall@10": round(recall(found_rows(index, queries, where=where), found_rows(exact, queries, where=where)), 4),
        "approximate_ms": round(milliseconds(lambda n: openjepa.search(index, queries[n], k=K, where=where), 20)[0], 1),
    }
    result["query_anonymous_gb"] = memory.read()
    place = path.with_name(f"{path.name}.search")
    result["disk_gb"] = {item.name: round(item.stat().st_size / 1e9, 2) for item in (path, *sorted(place.iterdir()))}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folders with train/ and test/")
    parser.add_argument("--model", required=True, help="run directory of an encoder whose last four layers join to 768")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--work",
        type=Path,
        help="folder for about 7 GB, where features are kept for another time (default: a temporary one, removed at the end)",
    )
    options = parser.parse_args()
    pin(options.threads)
    import faiss
    import torch

    faiss.omp_set_num_threads(options.threads)
    facts = machine(torch.device("cpu"))
    describe(facts)
    began = time.perf_counter()
    work = options.work or Path(tempfile.mkdtemp(prefix="openjepa-search-"))
    work.mkdir(parents=True, exist_ok=True)
    kept = work / "real.npz"
    if not kept.is_file():
        model = openjepa.load(options.model)
        found = [real(options.data, model, split) for split in ("train", "test")]
        np.savez(kept, values=found[0][0], labels=found[0][1], held_out=found[1][0])
    with np.load(kept) as file:
        values, labels, held_out = file["values"], file["labels"], file["held_out"]
    embedded = time.perf_counter() - began
    jitter = Jitter(values, labels)
    generator = np.random.default_rng(0)
    questions = {
        "held-out images": held_out[generator.choice(len(held_out), ASKED, replace=False)],
        "jittered rows": jitter.part(10**6, ASKED),
    }
    path = work / "million.safetensors"
    try:
        shutil.rmtree(f"{path}.search", ignore_errors=True)
        write_store(path, jitter, options.rows)
        result = measure(path, questions, int(np.bincount(labels).argmax()))
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    seconds = round(time.perf_counter() - began, 1)
    report(options.rows, values, embedded, seconds, result)
    payload = {"rows": options.rows, "real_rows": len(values), "width": values.shape[1], "seconds": seconds, **result}
    save("search", {"machine": facts, "embed_seconds": round(embedded, 1), **payload})


def report(rows: int, values: NDArray[np.float32], embedded: float, seconds: float, result: dict[str, Any]) -> None:
    table = []
    for name in ("held-out images", "jittered rows"):
        found = result[name]
        for kind in ("approximate", "exact"):
            share = found["recall@10"] if kind == "approximate" else 1
            table.append((name, kind, found[f"{kind}_ms"], found[f"{kind}_ms_95"], share))
    notes = [
        f"{rows:,} rows of {values.shape[1]} made of {len(values):,} real ones; all in {seconds:.0f} s, embedding {embedded:.0f}",
        f"built in {result['build_seconds']} s ({result['build_anonymous_gb']} GB anonymous memory), {result['tuning']}",
        f"opened again in {result['open_seconds']} s; questions hold {result['query_anonymous_gb']} GB; on disk {result['disk_gb']}",
        f"with a condition: {result['filter']}",
    ]
    show("search", ("queries", "index", "ms, median", "ms, 95 %", "recall@10"), table, notes)


if __name__ == "__main__":
    main()
