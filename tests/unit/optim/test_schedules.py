"""Schedules against published values and their own promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openjepa.config.duration import Duration
from openjepa.config.schema import OptimConfig, TargetConfig
from openjepa.optim import Schedule


def vjepa_large() -> Schedule:
    """V-JEPA L: 300 iterations per epoch, 300 epochs, schedules laid out for 1.25 × that (official.md §5.1)."""
    optim = OptimConfig(
        lr=6.25e-4,
        start_lr=2e-4,
        final_lr=1e-6,
        warmup=Duration(40, "epochs"),
        stretch=1.25,
        weight_decay=0.04,
        final_weight_decay=0.4,
    )
    return Schedule(optim, TargetConfig(momentum=(0.998, 1.0)), total=90000, steps_per_epoch=300, batch_size=3072)


def test_published_values() -> None:
    schedule = vjepa_large()
    printed_lr = {1: 2.000354e-4, 6000: 4.125e-4, 12000: 6.25e-4, 45000: 4.732039e-4, 90000: 7.504222e-5}
    for step, value in printed_lr.items():
        assert schedule.lr(step - 1) == pytest.approx(value, rel=2e-6)
    for step, value in {12000: 0.050012, 45000: 0.164377, 90000: 0.365623}.items():
        assert schedule.weight_decay(step - 1) == pytest.approx(value, rel=2e-5)
    assert schedule.momentum(89999) == pytest.approx(0.9996, abs=1e-5)


@given(total=st.integers(2, 5000), warm=st.integers(0, 60), kind=st.sampled_from(["cosine", "constant", "wsd"]))
def test_lr_stays_within_its_bounds_and_peaks(total: int, warm: int, kind: str) -> None:
    optim = OptimConfig(
        lr=1e-3,
        start_lr=1e-5,
        final_lr=1e-6,
        schedule=kind,
        warmup=Duration(warm, "percent"),
        decay=Duration(20, "percent"),
    )
    schedule = Schedule(optim, TargetConfig(), total=total, steps_per_epoch=10, batch_size=4)
    values = [schedule.lr(s) for s in range(total)]
    assert all(1e-6 * 0.999 <= v <= 1e-3 * 1.001 for v in values)
    if total >= 50:
        assert max(values) > 0.8e-3
    if kind != "constant" and total >= 50:
        assert values[-1] < 0.1e-3


def test_a_warmup_longer_than_the_run_is_shortened_and_said() -> None:
    optim = OptimConfig(warmup=Duration(40, "epochs"))
    schedule = Schedule(optim, TargetConfig(), total=100, steps_per_epoch=50, batch_size=4)
    assert schedule.warmup == 10
    assert "never peak" in schedule.notes[0]


def test_momentum_forms() -> None:
    def momentum(kind: str, step: int) -> float:
        target = TargetConfig(momentum=(0.9, 1.0), momentum_schedule=kind)
        return Schedule(OptimConfig(), target, total=100, steps_per_epoch=10, batch_size=4).momentum(step)

    assert momentum("constant", 99) == 0.9
    assert momentum("linear", 50) == pytest.approx(0.95)
    assert momentum("cosine", 25) == pytest.approx(1 - 0.1 * 0.5 * (1 + 0.5**0.5))
