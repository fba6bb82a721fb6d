"""``kill -9`` at 100 random moments of a tiny run; after each the run is resumed, and at the end compared bit for bit.

    python benchmarks/faults.py [--kills 100] [--seed 0]

``make test`` does 20 of them (``tests/faults/test_kill.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from measure import machine, save, show

HARNESS = Path(__file__).resolve().parents[1] / "tests/faults/kill_harness.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(HARNESS), folder, str(asked.kills), str(asked.seed)],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    if done.returncode:
        return done.returncode
    found = json.loads(done.stdout)
    show(
        "kill -9 at random moments",
        ["kills", "runs", "different steps hit", "differences from the uninterrupted run", "seconds"],
        [
            [
                str(found["kills"]),
                str(found["runs"]),
                str(len(set(found["steps"]))),
                str(len(found["differences"])),
                str(found["seconds"]),
            ]
        ],
    )
    save("faults", {"machine": machine(torch.device("cpu")), "asked": vars(asked), "found": found})
    return 1 if found["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
