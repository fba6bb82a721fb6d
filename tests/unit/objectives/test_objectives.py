"""Distances, masked sums, target transforms and regularisers against torch and against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openjepa.config.schema import ObjectiveConfig
from openjepa.objectives import covariance, distance, masked_sum, transform_target, variance


@pytest.mark.parametrize(
    ("config", "oracle"),
    [
        (ObjectiveConfig(kind="smooth_l1", beta=2.0), lambda a, b: F.smooth_l1_loss(a, b, reduction="sum", beta=2.0)),
        (ObjectiveConfig(kind="l1"), lambda a, b: F.l1_loss(a, b, reduction="sum")),
        (ObjectiveConfig(kind="l2"), lambda a, b: F.mse_loss(a, b, reduction="sum")),
    ],
)
def test_distances_are_torchs(config: ObjectiveConfig, oracle: object) -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(masked_sum(distance(config, a, b), None), oracle(a, b))


def test_padding_is_left_out_even_when_it_is_not_finite() -> None:
    elements = torch.ones(2, 3, 4)
    elements[1, 2] = float("nan")
    valid = torch.tensor([[True, True, True], [True, True, False]])
    assert masked_sum(elements, valid) == 20


def test_target_transform() -> None:
    x = torch.randn(2, 5, 8).bfloat16()
    normed = transform_target(x, "layer_norm")
    assert normed.dtype == torch.float32
    torch.testing.assert_close(normed.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.var(-1, unbiased=False), torch.ones(2, 5), atol=1e-3, rtol=0)
    assert torch.equal(transform_target(x, "none"), x.float())


def test_variance_and_covariance_by_definition() -> None:
    z = torch.randn(50, 6)
    assert variance(10 * z) == 0
    assert variance(torch.zeros(50, 6)) == pytest.approx(1 - 1e-2)
    cov = torch.cov(z.T)
    expected = (cov.square().sum() - cov.diagonal().square().sum()) / 6
    torch.testing.assert_close(covariance(z), expected)
