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
