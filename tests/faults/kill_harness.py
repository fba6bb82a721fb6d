"""``kill -9`` at random moments of a tiny run, resume, and compare with the run that was never killed.

One process imports torch; every attempt is a fork of it, so a kill costs a fraction of a second. Used by
``test_kill.py`` (20 kills) and ``benchmarks/faults.py`` (100): ``python kill_harness.py FOLDER KILLS SEED`` prints JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torchvision.transforms.v2.functional  # noqa: F401  else every fork imports it again, a second each
from tiny_runs import Generated, differences, in_child, tiny_recipe

from openjepa.config import Recipe
from openjepa.training import read_rows, train
from openjepa.training.compute import flops_per_sample

STEPS = 40


def attempted() -> Recipe:
    """What is run."""
    return tiny_recipe(f"train.length={STEPS} steps", "checkpoint.every=2 steps")


def attempt(out: Path) -> None:
    """Start the run, or go on with whatever is there."""
    torch.set_num_threads(1)
    recipe = attempted()
    resume = out.is_dir() and any(out.iterdir())
    train(recipe, Generated(), out=out, resume=resume, console=False)


def finish(out: Path) -> int:
    """Run to the end in a child; its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(in_child(lambda: attempt(out)), 0)[1])


def kill_at_random(out: Path, dice: random.Random, longest: float) -> bool:
    """One attempt, killed after a random time; False when it had already ended in good order."""
    child = in_child(lambda: attempt(out))
    time.sleep(dice.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"an attempt ended with exit code {code}")
    return code != 0


def main(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill ``kills`` times, over as many runs as that takes; every run is finished and compared."""
    dice = random.Random(seed)
    flops_per_sample(attempted())  # counted once here instead of in every fork: kills are to hit the training
    began = time.monotonic()
    assert finish(folder / "whole") == 0
    length = 0.6 * (time.monotonic() - began)  # so that most runs are killed more than once
    done, runs, wrong, steps = 0, 0, [], []
    while done < kills:
        out, runs = folder / f"run-{runs:03d}", runs + 1
        while done < kills and kill_at_random(out, dice, length):
            done += 1
            rows = read_rows(out / "metrics.jsonl")
            steps.append(rows[-1]["step"] if rows else -1)
        if finish(out) != 0:
            raise SystemExit(f"{out} cannot be resumed")
        wrong += [f"{out.name}: {name}" for name in differences(folder / "whole", out)]
    seconds = round(time.monotonic() - began, 1)
    return {"kills": done, "runs": runs, "differences": wrong, "steps": steps, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
