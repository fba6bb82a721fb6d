"""A fixed tiny run keeps its loss to the fifth digit: refactors change no number (DESIGN §6).

When the mathematics is changed on purpose, write the new numbers with

    OMP_NUM_THREADS=1 python tests/unit/training/test_fixed_run.py

and say in the commit why they moved.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tiny_runs import Generated, numbers, tiny_recipe

from openjepa.training import train

FIXED = (
    "optim.warmup=3 steps",
    "optim.final_weight_decay=0.4",
    "mask.context_mode=padded",
    "log.every=1 steps",
    "train.micro_batch=8",
)
# Loss before training (on the panel), then of each of 12 steps.
LOSSES = [
    0.4455309, 0.4435115, 0.4375801, 0.4341618, 0.4280083, 0.4164918, 0.4210359,
    0.4069085, 0.4097447, 0.4030959, 0.4059473, 0.3988333, 0.3960812,
]  # fmt: skip
LAST = {"weight_decay": 0.4, "momentum": 0.9996667, "grad_total": 0.4962068, "rankme": 4.9250462}


def fixed_run(out: Path) -> tuple[list[float], dict[str, float]]:
    """Losses of all rows, and what the last row says of schedules, gradients and features."""
    train(tiny_recipe(*FIXED), Generated(), out=out, console=False)
    rows = numbers(out)
    last = rows[-1]
    found = {
        "weight_decay": last["weight_decay"],
        "momentum": last["momentum"],
        "grad_total": last["grad_norm"]["total"],
        "rankme": last["health"]["rankme"],
    }
    return [row["loss"] for row in rows], found


def test_the_fixed_run_keeps_its_numbers(tmp_path: Path) -> None:
    losses, last = fixed_run(tmp_path)
    assert losses == pytest.approx(LOSSES, abs=1e-5)
    assert last == pytest.approx(LAST, abs=1e-4)


if __name__ == "__main__":
    import tempfile

    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = fixed_run(Path(folder) / "run")
        print(
            [round(loss, 7) for loss in found[0]], {name: round(value, 7) for name, value in found[1].items()}, sep="\n"
        )
