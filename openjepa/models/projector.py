"""Perceptrons behind a mean-pooled view: the projector where views are compared, and BYOL's prediction of a projection."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

BATCH_NORM_EPS = 1e-5


class BatchNorm(nn.Module):
    """Batch normalisation of ``(B, D)`` by the statistics of the batch at hand, in training and in evaluation.

    No running averages: a projector is thrown away after training, an EMA target must not lag behind its weights (BYOL
    normalises both branches by the batch, 2006.07733 §F), and nothing but weights has then to be saved or averaged.

    Attributes:
        total: sums a tensor over the processes of a run, with gradient. A method sets it; statistics are then those of
            the joint batch on every backend (torch's SyncBatchNorm knows CUDA only, and waits for processes that try
            batch sizes at their own pace).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.total: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D)`` → ``(B, D)`` in x's dtype: zero mean and unit variance (over N), then scale and shift."""
        z = x if x.dtype == torch.float64 else x.float()
        if self.total is None:
            variance, mean = torch.var_mean(z, dim=0, correction=0)
        else:
            sums = self.total(torch.cat([z.sum(dim=0), z.new_full((1,), len(z))]))
            count = sums[-1]
            mean = sums[:-1] / count
            # Deviations from the joint mean, not E[x²] − E[x]²: that would cancel in float32.
            variance = self.total((z - mean).square().sum(dim=0)) / count
        z = (z - mean) * torch.rsqrt(variance + BATCH_NORM_EPS)
        return (z * self.weight + self.bias).to(x.dtype)

    def extra_repr(self) -> str:
        """Width."""
        return str(len(self.weight))


def perceptron(widths: Sequence[int], norm: Literal["batch", "none"]) -> nn.Sequential:
    """Linear layers from ``widths[0]`` to ``widths[-1]``; between them batch norm (or nothing) and ReLU.

    The last layer is bare: no norm, no bias (VICReg 2105.04906 §4.2, BYOL 2006.07733 §3.3). Hidden layers have a bias where no
    norm takes it away. Weights are drawn as torch draws them (uniform within 1/√fan-in), as in the published code.
    """
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(widths), start=1):
        last = number == len(widths) - 1
        layers.append(nn.Linear(before, after, bias=norm == "none" and not last))
        if not last:
            layers += [BatchNorm(after), nn.ReLU()] if norm == "batch" else [nn.ReLU()]
    return nn.Sequential(*layers)


class Projector(nn.Module):
    """Pooled features to projections ``(B, D) → (B, P)``, and projections to predictions of each other where asked for.

    Args:
        embed_dim: encoder width D. hidden: widths of the hidden layers. dim: width P of the projection.
        prediction_hidden: BYOL: width of the one hidden layer of the prediction head; None: no such head.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        hidden: Sequence[int],
        dim: int,
        norm: Literal["batch", "none"] = "batch",
        prediction_hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.project = perceptron((embed_dim, *hidden, dim), norm)
        self.prediction = None if prediction_hidden is None else perceptron((dim, prediction_hidden, dim), norm)

    def forward(self, pooled: Tensor) -> Tensor:
        """Projections of mean-pooled features."""
        return self.project(pooled)

    def predict(self, projection: Tensor) -> Tensor:
        """What the other view's projection should be; without a head, the projection itself."""
        return projection if self.prediction is None else self.prediction(projection)
