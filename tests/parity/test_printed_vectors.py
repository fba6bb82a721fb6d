"""The numbers printed in the project's fact sheet (official.md §1.5, §5.1), so that a public clone has them too."""

from __future__ import annotations

import pytest
import torch

from openjepa.config.duration import Duration
from openjepa.config.schema import OptimConfig, TargetConfig
from openjepa.models.positions import sincos2d
from openjepa.optim import Schedule

HIGH = [0.841471, 0.01, 0.540302, 0.99995]  # position 1, width 4: sin 1, sin .01, cos 1, cos .01
ZERO = [0.0, 0.0, 1.0, 1.0]  # position 0


@pytest.mark.parametrize(("order", "expected"), [("column_first", ZERO + HIGH), ("row_first", HIGH + ZERO)])
@pytest.mark.parametrize("grid", [(2, 2), (3, 5), (14, 14)])
def test_sincos2d_token_row_1_column_0(order: str, expected: list[float], grid: tuple[int, int]) -> None:
    table = sincos2d(8, grid, order)
    assert table.dtype == torch.float32
    torch.testing.assert_close(table[grid[1]], torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("order", "expected"), [("column_first", HIGH + ZERO), ("row_first", ZERO + HIGH)])
def test_sincos2d_token_row_0_column_1(order: str, expected: list[float]) -> None:
    torch.testing.assert_close(sincos2d(8, (3, 4), order)[1], torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.fixture
def vjepa_large() -> Schedule:
    """V-JEPA L: 300 epochs of 300 steps, 40 of them warm-up, schedules laid out for 1.25 times the run."""
    optim = OptimConfig(
        lr=6.25e-4,
        start_lr=2e-4,
        final_lr=1e-6,
        warmup=Duration(40, "epochs"),
        stretch=1.25,
        weight_decay=0.04,
        final_weight_decay=0.4,
    )
    return Schedule(optim, TargetConfig(momentum=(0.998, 1.0)), total=90_000, steps_per_epoch=300, batch_size=3072)


@pytest.mark.parametrize(
    ("counter", "lr", "decay"),
    [
        (1, 2.000354e-4, None),
        (6_000, 4.125e-4, None),
        (12_000, 6.25e-4, 0.050012),
        (45_000, 4.732039e-4, 0.164377),
        (90_000, 7.504222e-5, 0.365623),
    ],
)
def test_schedules_of_vjepa_large(vjepa_large: Schedule, counter: int, lr: float, decay: float | None) -> None:
    """The published counter starts at 1, our step at 0."""
    assert vjepa_large.lr(counter - 1) == pytest.approx(lr, rel=1e-6)
    if decay is not None:
        assert vjepa_large.weight_decay(counter - 1) == pytest.approx(decay, abs=1e-6)


def test_momentum_of_vjepa_large_ends_at_four_fifths(vjepa_large: Schedule) -> None:
    assert vjepa_large.momentum(0) == 0.998
    assert vjepa_large.momentum(90_000 - 1) == pytest.approx(0.9996, abs=1e-6)


def test_ijepa_momentum_is_linear_without_stretch() -> None:
    schedule = Schedule(OptimConfig(), TargetConfig(), total=1000, steps_per_epoch=100, batch_size=8)
    assert schedule.momentum(250) == pytest.approx(0.997, abs=1e-9)
