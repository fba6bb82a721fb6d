"""Projector and batch norm against torch's own."""

from __future__ import annotations

import torch
from torch import nn

from openjepa.models.projector import BatchNorm, Projector, perceptron


def test_batch_norm_is_torchs_in_training_mode() -> None:
    torch.manual_seed(0)
    x = (3 * torch.randn(17, 5, dtype=torch.float64) + 100).requires_grad_()
    ours, theirs = BatchNorm(5).double(), nn.BatchNorm1d(5).double()
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.weight.copy_(torch.linspace(0.5, 2, 5))
            layer.bias.copy_(torch.linspace(-1, 1, 5))
    torch.testing.assert_close(ours(x), theirs(x))
    grads = [torch.autograd.grad((layer(x) ** 3).sum(), [x, layer.weight]) for layer in (ours, theirs)]
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(ours.eval()(x), theirs(x))  # statistics of the batch also in evaluation


def test_sums_over_processes_give_the_joint_batch() -> None:
    """What one of two processes computes when both hold halves of a batch."""
    torch.manual_seed(0)
    x = 3 * torch.randn(12, 4, dtype=torch.float64) + 50
    whole, half = BatchNorm(4).double(), BatchNorm(4).double()
    mine, other = x[:5], x[5:]
    mean = x.mean(dim=0)
    others = iter([torch.cat([other.sum(0), torch.tensor([7.0])]), (other - mean).square().sum(0)])
    half.total = lambda part: part + next(others)
    torch.testing.assert_close(half(mine), whole(x)[:5])


def test_the_last_layer_is_bare_and_hidden_ones_have_what_they_need() -> None:
    normed, plain = perceptron((6, 8, 9, 4), "batch"), perceptron((6, 8, 4), "none")
    assert [type(layer).__name__ for layer in normed] == ["Linear", "BatchNorm", "ReLU"] * 2 + ["Linear"]
    assert [type(layer).__name__ for layer in plain] == ["Linear", "ReLU", "Linear"]
    assert [layer.bias is None for layer in normed if isinstance(layer, nn.Linear)] == [True, True, True]
    assert [layer.bias is None for layer in plain if isinstance(layer, nn.Linear)] == [False, True]
    assert perceptron((6, 4), "batch")[0].weight.shape == (4, 6)


def test_prediction_head_is_there_when_asked_for() -> None:
    torch.manual_seed(0)
    z = torch.randn(5, 3)
    without = Projector(embed_dim=6, hidden=(8,), dim=3)
    assert without.predict(z) is z
    with_head = Projector(embed_dim=6, hidden=(8,), dim=3, prediction_hidden=7)
    assert with_head(torch.randn(5, 6)).shape == with_head.predict(z).shape == (5, 3)
    assert not torch.equal(with_head.predict(z), z)
    assert {name.split(".")[0] for name in with_head.state_dict()} == {"project", "prediction"}
