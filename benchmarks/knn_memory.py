"""Memory of kNN: 10,000 queries against 100,000 training samples of width 768, inputs included, in a process of its own.

    python benchmarks/knn_memory.py [--queries 10000] [--bank 100000] [--width 768] [--grid] [--limit 4.0]

Aim: at most 4 GB of resident memory at the peak, of which torch and openjepa alone are shown beside it. Fails above.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from measure import console, machine, save

GB = 1e9
_CHILD = """
import json, resource, sys, time
import torch
from openjepa.evaluation import knn
from openjepa.features import Features
bank, queries, width, grid, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
base = peak()
classes = tuple(map(str, range(100)))
def side(count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 100, (count,), generator=generator)
    centres = torch.randn(100, width, generator=torch.Generator().manual_seed(9))
    values = torch.randn(count, width, generator=generator)
    for start in range(0, count, 4096):
        values[start : start + 4096].add_(centres[labels[start : start + 4096]], alpha=0.1)
    return Features(values, torch.arange(count), labels, (), classes)
train, val = side(bank, 0), side(queries, 1)
inputs = peak()
start = time.perf_counter()
many = dict(k=(1, 5, 10, 20, 50), temperature=(0.03, 0.07, 0.2, None)) if grid else {}
score = knn(train, val, **many)
out = dict(base=base, inputs=inputs, peak=peak(), seconds=time.perf_counter() - start, accuracy=score.value)
print(json.dumps(out))
"""


def main() -> int:
    """Measure, show, save; 1 when the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--bank", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--grid", action="store_true", help="choose k and temperature on train as well")
    parser.add_argument("--limit", type=float, default=4.0, help="GB of resident memory at the peak")
    given = parser.parse_args()
    numbers = [given.bank, given.queries, given.width, int(given.grid), given.threads]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _CHILD, *map(str, numbers)], capture_output=True, text=True)
    if done.returncode:
        console.print(done.stderr, markup=False)
        return 1
    found = json.loads(done.stdout)
    console.print(
        f"{given.queries:,} queries against {given.bank:,} × {given.width}"
        f"{', k and temperature chosen on train' if given.grid else ''}: peak {found['peak'] / GB:.2f} GB"
        f" (torch and openjepa {found['base'] / GB:.2f}, with the features {found['inputs'] / GB:.2f}),"
        f" {found['seconds']:.0f} s on {given.threads} thread; limit {given.limit:g} GB",
        markup=False,
    )
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 >= found["peak"]
    about = {
        "settings": vars(given),
        **found,
        "wall": time.perf_counter() - started,
        "machine": machine(torch.device("cpu")),
    }
    save("knn_memory_grid" if given.grid else "knn_memory", about)
    return int(found["peak"] > given.limit * GB)


if __name__ == "__main__":
    sys.exit(main())
