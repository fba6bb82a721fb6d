"""What schedules promise; the published values they reproduce are in tests/parity/test_printed_vectors.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openjepa.config.duration import Duration
from openjepa.config.schema import OptimConfig, TargetConfig
from openjepa.optim import Schedule


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


def cooldown(total: int = 12_000, **changes: object) -> Schedule:
    """V-JEPA 2's cooldown: 40 epochs of 300 steps, straight from 5.25e-4 towards 1e-6, laid out for 1.25 times that."""
    keys = {"lr": 5.25e-4, "final_lr": 1e-6, "schedule": "linear", "warmup": Duration(0, "steps"), "stretch": 1.25}
    optim = OptimConfig(**(keys | changes))  # type: ignore[arg-type]
    target = TargetConfig(momentum=(0.99925, 0.99925), momentum_schedule="constant")
    return Schedule(optim, target, total=total, steps_per_epoch=300, batch_size=3072)


def test_the_published_cooldown_stops_at_80_percent_of_its_way() -> None:
    """official.md §5.1: the last learning rate is 1.058e-4, not 1e-6."""
    plan = cooldown()
    assert plan.lr(11_999) == pytest.approx(1.058e-4, rel=1e-9)
    assert plan.lr(0) == pytest.approx(5.25e-4 - 5.24e-4 / 15_000, rel=1e-9)
    assert plan.momentum(0) == plan.momentum(11_999) == 0.99925


def test_linear_goes_straight_from_the_end_of_warmup_to_the_final_rate() -> None:
    plan = cooldown(total=1_000, stretch=1.0, warmup=Duration(200, "steps"), start_lr=1e-4)
    assert plan.lr(199) == pytest.approx(5.25e-4)
    assert plan.lr(599) == pytest.approx((5.25e-4 + 1e-6) / 2)
    assert plan.lr(999) == pytest.approx(1e-6)
    steps = [plan.lr(s + 1) - plan.lr(s) for s in range(200, 999)]
    assert max(steps) - min(steps) < 1e-15


def test_vjepa2_pretraining_stays_at_its_peak_after_warmup() -> None:
    optim = OptimConfig(lr=5.25e-4, start_lr=1e-4, final_lr=5.25e-4, schedule="constant", warmup=Duration(40, "epochs"))
    plan = Schedule(optim, TargetConfig(), total=240_000, steps_per_epoch=300, batch_size=3072)
    assert plan.lr(0) == pytest.approx(1e-4 + 4.25e-4 / 12_000)
    assert {plan.lr(s) for s in (12_000, 100_000, 239_999)} == {5.25e-4}
