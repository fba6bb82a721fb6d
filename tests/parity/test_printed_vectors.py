"""The numbers printed in the project's fact sheet (official.md §1.5, §1.6, §5.1), so that a public clone has them too."""

from __future__ import annotations

import pytest
import torch

from openjepa.config.duration import Duration
from openjepa.config.schema import OptimConfig, TargetConfig
from openjepa.models.positions import sincos1d, sincos2d, sincos3d
from openjepa.models.rotary import axis_width, rotary3d, rotate
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


CLIP_TOKEN = {  # (t 1, r 2, c 3), D = 16
    True: ".841471 .046399 .002154 .540302 .998923 .999998 .909297 .092699 .004309 -.416147 .995694 .999991 "
    ".141120 .138798 .006463 -.989992",
    False: ".841471 .099833 .01 .001 .540302 .995004 .99995 1 .909297 .019999 -.416147 .9998 .141120 .029996 -.989992 .99955",
}
TURNED = {  # head of 12, x = 1..12, (t 1, r 2, c 3)
    "tiled": "-1.142640 2.009900 -1.744977 4.029800 -7.536519 6.098793 -10.187407 8.138391 -10.321133 10.265460 "
    "-12.583358 12.324551",
    "interleaved": "-1.142640 1.922076 2.959851 4.029800 -7.536519 2.049606 6.838611 8.138391 -10.321133 -8.629845 "
    "10.635104 12.324551",
}


def printed(text: str) -> torch.Tensor:
    return torch.tensor([float(number) for number in text.split()])


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("grid", [(2, 3, 4), (4, 5, 7)])
def test_sincos3d_token(uniform: bool, grid: tuple[int, int, int]) -> None:
    table = sincos3d(16, grid, uniform)
    token = (1 * grid[1] + 2) * grid[2] + 3
    torch.testing.assert_close(table[token], printed(CLIP_TOKEN[uniform]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("dim", "third"), [(192, 64), (384, 128), (768, 256), (1024, 342), (1280, 428), (1408, 470), (1664, 556)]
)
def test_uniform_thirds_are_cut_from_the_right(dim: int, third: int) -> None:
    """Released widths: 1024, 1280, 1408 and 1664 lose two to four of the column's cosines."""
    place = sincos3d(dim, (3, 3, 3))[(2 * 3 + 1) * 3 + 2]
    axes = torch.cat([sincos1d(third, torch.tensor([float(m)]))[0] for m in (2, 1, 2)]).float()
    assert len(axes) - dim in (0, 2, 4)
    torch.testing.assert_close(place, axes[:dim], atol=1e-6, rtol=0)


@pytest.mark.parametrize("pairing", ["tiled", "interleaved"])
@pytest.mark.parametrize("grid", [(2, 3, 4), (4, 5, 7)])
def test_rotation_of_a_head(pairing: str, grid: tuple[int, int, int]) -> None:
    token = (1 * grid[1] + 2) * grid[2] + 3
    turned = rotate(torch.arange(1.0, 13.0)[None], rotary3d(12, grid, pairing)[:, token : token + 1])
    torch.testing.assert_close(turned[0], printed(TURNED[pairing]), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("head", "size"), [(24, 8), (32, 10), (64, 20), (80, 26), (88, 28), (104, 34)])
def test_channels_that_turn_with_each_axis(head: int, size: int) -> None:
    assert axis_width(head) == size
    x = torch.randn(60, head)
    turned = rotate(x, rotary3d(head, (3, 4, 5), "tiled"))
    assert torch.equal(turned[:, 3 * size :], x[:, 3 * size :])
    assert not torch.allclose(turned[-1, 3 * size - 2 : 3 * size], x[-1, 3 * size - 2 : 3 * size])


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
