""":mod:`kill_harness` for a run in stages: ``python stage_kill_harness.py FOLDER KILLS SEED`` prints JSON.

Stages are short and checkpoints frequent, so that kills hit the end of one, the beginning of the next, and what lies between.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import kill_harness
import torch
from tiny_runs import Generated, numbers, tiny_recipe

from openjepa.config import Recipe, build_recipe, stage_recipes
from openjepa.training import StagePart, train_stages
from openjepa.training.compute import flops_per_sample

STAGES = ("a", "b", "c")
_differences = kill_harness.differences


def attempted() -> Recipe:
    """Three stages of twelve steps; the second sees larger images, the third starts its moments anew."""
    raw = tiny_recipe("train.length=12 steps", "checkpoint.every=2 steps").model_dump(mode="json")
    b, c = {"data.image_size": 24, "optim.schedule": "constant"}, {"optim.schedule": "linear"}
    stages = [{"name": "a"}, {"name": "b", "changes": b}, {"name": "c", "changes": c, "keep_optimizer": False}]
    return build_recipe({**raw, "stages": stages})


def attempt(out: Path) -> None:
    """Start the run, or go on with whatever is there."""
    torch.set_num_threads(1)
    recipe = attempted()
    parts = [StagePart(stage, Generated()) for stage in stage_recipes(recipe)]
    train_stages(recipe, parts, out=out, resume=out.is_dir() and any(out.iterdir()), console=False)


def differences(a: Path, b: Path) -> list[str]:
    """What is not equal in any stage, and in the rows of the whole run."""
    wrong = [f"{name}: {what}" for name in STAGES for what in _differences(a / "stages" / name, b / "stages" / name)]
    return wrong + (["whole rows"] if numbers(a) != numbers(b) else [])


if __name__ == "__main__":
    kill_harness.attempted = lambda: stage_recipes(attempted())[0]
    kill_harness.attempt, kill_harness.differences = attempt, differences
    for one in stage_recipes(attempted()):
        flops_per_sample(one)  # counted once here: else every fork counts anew, and that is where all kills would hit
    print(json.dumps(kill_harness.main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
