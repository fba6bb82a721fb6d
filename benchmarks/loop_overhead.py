"""Host overhead of the training loop: everything but the step, on a whole run as users start it.

    python benchmarks/loop_overhead.py [--steps N] [--threads 2] [--recipe ijepa-tiny] [override=value …]

``host``: schedules, rows, TensorBoard, checkpoints, progress (aim: with ``data`` at most 3 %). ``data``: waiting for a
batch. ``panel``: the health panel, which is device work, every ``log.every``. Probes are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from measure import console, machine, pin, save, show

from openjepa.config import load_recipe
from openjepa.data import open_source
from openjepa.training import read_rows, train
from openjepa.training.plan import Plan

AIM = 0.03


def measure(recipe_name: str, steps: int, overrides: list[str], data: str) -> dict[str, float]:
    """Shares of the wall-clock over all windows but the first, which warms caches."""
    recipe = load_recipe(recipe_name, overrides)
    source = open_source(data, channels=recipe.data.channels, count=2048 if data == "scenes" else None)
    # Intervals in percent are those of the whole run: a short one must not save and log more often than users do.
    plan = Plan.make(recipe, len(source))
    steps = steps or plan.save_every + plan.log_every
    intervals = [f"log.every={plan.log_every} steps", f"checkpoint.every={plan.save_every} steps", "probe.every=null"]
    recipe = load_recipe(recipe_name, [*overrides, f"train.length={steps} steps", *intervals])
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, source, out=Path(folder) / "run", console=False)
        rows = read_rows(Path(folder) / "run/metrics.jsonl")[1:]
    windows = rows[1:] if len(rows) > 1 else rows
    before = rows[0]["samples"] if len(rows) > 1 else 0
    seconds = []
    for row in windows:
        seconds.append((row["samples"] - before) / row["images_per_s"])
        before = row["samples"]
    total = sum(seconds)
    shares = {
        name: sum(s * row[f"{name}_share"] for s, row in zip(seconds, windows, strict=True)) / total
        for name in ("data", "host", "panel")
    }
    done = windows[-1]["samples"] / recipe.train.batch_size - (rows[0]["step"] if len(rows) > 1 else 0)
    step = total * (1 - sum(shares.values())) / max(done, 1)
    return {**shares, "step_ms": 1000 * step, "images_per_s": recipe.train.batch_size * max(done, 1) / total}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="ijepa-tiny")
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--steps", type=int, default=0, help="0: until the first checkpoint and one row more")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    pin(asked.threads)
    found = measure(asked.recipe, asked.steps, asked.overrides, asked.data)
    overhead = found["data"] + found["host"]
    show(
        f"Loop overhead, {asked.recipe}, {asked.threads} threads",
        ["step ms", "images/s", "data", "host", "data + host", "panel", f"aim {AIM:.0%}"],
        [
            [
                f"{found['step_ms']:.1f}",
                f"{found['images_per_s']:.1f}",
                *(f"{share:.2%}" for share in (found["data"], found["host"], overhead, found["panel"])),
                "met" if overhead <= AIM else "missed",
            ]
        ],
    )
    save(
        "loop_overhead",
        {"machine": machine(torch.device("cpu")), "asked": vars(asked), "found": found, "overhead": overhead},
    )
    console.print(f"data + host {overhead:.2%} of the wall-clock (aim {AIM:.0%})")
    return 0 if overhead <= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
