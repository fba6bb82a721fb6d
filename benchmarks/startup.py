"""How long ``openjepa --help`` takes beside a bare Python start, in turns (aim: at most 15 ×).

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 15
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "openjepa --help": ["-m", "openjepa", "--help"],
    "openjepa pretrain --help": ["-m", "openjepa", "pretrain", "--help"],
}


def seconds(words: list[str]) -> float:
    """Wall-clock of one start."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print medians and ratios."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, words in COMMANDS.items():
            times[name].append(seconds(words))
    bare = statistics.median(times["python -c pass"])
    for name, values in times.items():
        print(f"{name:<26}{1e3 * statistics.median(values):7.0f} ms {statistics.median(values) / bare:6.1f} ×")


if __name__ == "__main__":
    main()
