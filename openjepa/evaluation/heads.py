"""Many linear heads trained together on the same features: one matrix product for all, a learning rate and a decay for each.

Gradients are written out (softmax minus one-hot, times features), so that a step is two products and one pass over the
logits. Logits are kept as ``(heads, classes, batch)``: the softmax then runs along contiguous memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from openjepa.errors import ConfigError, nearest

OptimizerName = Literal["sgd", "adamw"]
Products = Literal["auto", "fp32", "bf16"]
OnEpoch = Callable[[int, int], None]  # epochs done, epochs in all

MOMENTUM = 0.9  # of SGD
RATES = {"sgd": (0.03, 0.1, 0.3, 1.0, 3.0), "adamw": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)}
BETAS, EPS = (0.9, 0.999), 1e-8  # of AdamW
BN_EPS = 1e-6  # as in MAE's probe (2111.06377 §A.1)
SMALLEST = (
    -70.0
)  # log-probabilities below this count as this: exp would give denormal numbers, which take 100 × as long


@dataclass(frozen=True)
class HeadGrid:
    """Learning rate × weight decay, all pairs trained at once, and how.

    lrs: peak learning rates (cosine to 0, no warm-up), as used, not scaled by the batch; None: five of the
    optimizer. weight_decays: λ of each; added
    to the gradient by SGD, decoupled in AdamW. Biases do not decay. batch_norm: affine-free batch normalisation before
    the head (2111.06377 §A.1), its statistics shared by all heads; at the end they are those of all training samples.
    products: precision of the two matrix products of a step; ``auto`` is bf16 for normalised features where the
    processor multiplies it in hardware (AMX, CUDA), else fp32. Weights, softmax and the final logits are float32 always.
    """

    lrs: tuple[float, ...] | None = None
    weight_decays: tuple[float, ...] = (0.0, 1e-4, 1e-3, 1e-2)
    epochs: int = 100
    batch_size: int = 1024
    optimizer: OptimizerName = "sgd"
    batch_norm: bool = True
    products: Products = "auto"

    def __post_init__(self) -> None:
        check_grid(self.rates, self.weight_decays, self.epochs, self.batch_size)
        for name, value, choices in (
            ("optimizer", self.optimizer, ("sgd", "adamw")),
            ("products", self.products, ("auto", "fp32", "bf16")),
        ):
            if value not in choices:
                raise ConfigError(f"{name}='{value}' is not one of {', '.join(choices)}{nearest(value, choices)}")

    @property
    def rates(self) -> tuple[float, ...]:
        """Peak learning rates."""
        return self.lrs if self.lrs is not None else RATES.get(self.optimizer, RATES["sgd"])

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """(learning rate, weight decay) of each head, in order."""
        return [(lr, decay) for lr in self.rates for decay in self.weight_decays]

    def uses_bf16(self, device: torch.device) -> bool:
        """Whether products run in bf16. ``auto`` wants normalised features: raw ones may sit far from 0."""
        return self.products == "bf16" or (self.products == "auto" and self.batch_norm and multiplies_bf16(device))


@dataclass(frozen=True)
class Heads:
    """Trained heads for raw features (normalisation folded in). weight ``(H, K, D)``, bias ``(H, K)`` float32."""

    weight: Tensor
    bias: Tensor
    pairs: list[tuple[float, float]] = field(default_factory=list)

    def logits(self, x: Tensor, head: int) -> Tensor:
        """``(N, D)`` → ``(N, K)`` of one head, float32."""
        return torch.addmm(self.bias[head], x.float(), self.weight[head].T)


def check_grid(lrs: tuple[float, ...], decays: tuple[float, ...], epochs: int, batch_size: int) -> None:
    """Raise ConfigError, in one line, for a grid that cannot be trained."""
    if not lrs or not decays:
        raise ConfigError("a grid of heads needs at least one learning rate and one weight decay")
    if any(not (math.isfinite(lr) and lr > 0) for lr in lrs) or any(not (math.isfinite(d) and d >= 0) for d in decays):
        raise ConfigError(f"learning rates {list(lrs)} must be above 0 and weight decays {list(decays)} not below it")
    if epochs < 1 or batch_size < 2:
        raise ConfigError(f"a grid needs epochs >= 1 and batches of at least 2, got {epochs} and {batch_size}")


def cosine(step: int, total: int) -> float:
    """Share of the peak learning rate at ``step`` of ``total``: from 1 to (nearly) 0."""
    return 0.5 * (1 + math.cos(math.pi * step / total))


def spans(count: int, batch_size: int) -> list[tuple[int, int]]:
    """``count`` samples cut into batches of nearly one size, the largest not above ``batch_size``: none is dropped."""
    parts = max(math.ceil(count / batch_size), 1)
    edges = [round(i * count / parts) for i in range(parts + 1)]
    return list(itertools.pairwise(edges))


def train_heads(
    x: Tensor, y: Tensor, classes: int, grid: HeadGrid, *, seed: int = 0, on_epoch: OnEpoch | None = None
) -> Heads:
    """Train every head of ``grid`` on features ``x (N, D)`` float32 and labels ``y (N,)``, with cross-entropy.

    Weights start at 0, so nothing is random but the order of samples, which ``seed`` draws.
    """
    work = _Work(x, y, classes, grid)
    cuts = spans(len(x), grid.batch_size)
    total, step = grid.epochs * len(cuts), 0
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(grid.epochs):
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for start, stop in cuts:
            work.step(order[start:stop], cosine(step, total))
            step += 1
        if on_epoch is not None:
            on_epoch(epoch + 1, grid.epochs)
    return work.finish()


class _Work:
    """State of one training: weights ``(H·K, D)`` with the bias as a column of its own, and the buffers of a step."""

    def __init__(self, x: Tensor, y: Tensor, classes: int, grid: HeadGrid) -> None:
        self.x, self.y, self.grid, self.classes = x, y, grid, classes
        self.heads = len(grid.pairs)
        rows, width, device = self.heads * classes, x.shape[1], x.device
        self.weight = torch.zeros(rows, width, device=device)
        self.bias = torch.zeros(rows, 1, device=device)
        self.lr, self.decay = (
            torch.tensor(values, device=device).repeat_interleave(classes)[:, None]
            for values in zip(*grid.pairs, strict=True)
        )
        self.bf16 = grid.uses_bf16(device)
        slots = 1 if grid.optimizer == "sgd" else 2
        self.state = [[torch.zeros_like(part) for _ in range(slots)] for part in (self.weight, self.bias)]
        self.steps = 0
        self.onehot = torch.eye(classes, device=device)
        # Buffers for one batch, made once: fresh memory costs a page fault every 4 KiB, which is dearer than the sums.
        most = min(len(x), grid.batch_size)
        self._rows, self._squares = (torch.empty(most, width, device=device) for _ in range(2))
        self._cast = torch.empty(most, width, device=device, dtype=torch.bfloat16)

    def step(self, index: Tensor, share: float) -> None:
        """One update of all heads on the samples ``index``; ``share`` of each peak learning rate."""
        rows = torch.index_select(self.x, 0, index, out=self._rows[: len(index)])  # (B, D)
        weight = self.weight
        if self.grid.batch_norm:
            self._normalise(rows)
        if self.bf16:
            rows, weight = self._cast[: len(index)].copy_(rows), weight.bfloat16()
        logits = (weight @ rows.T).float()  # (H·K, B), contiguous along the batch
        residual = self._residual(logits.add_(self.bias), self.onehot[self.y[index]].T.contiguous())
        slope = (residual.to(rows.dtype) @ rows).float()
        self._update(slope, residual.sum(1, keepdim=True), share)

    def _normalise(self, rows: Tensor) -> None:
        """Batch normalisation without parameters, in place; two passes, because features may sit far from 0."""
        rows.sub_(rows.mean(0))
        squares = torch.mul(rows, rows, out=self._squares[: len(rows)])
        rows.mul_(squares.mean(0).add_(BN_EPS).rsqrt_())

    def _residual(self, logits: Tensor, onehot: Tensor) -> Tensor:
        """(softmax − one-hot)/B of ``(H·K, B)`` logits, in place."""
        count = logits.shape[1]
        by_head = logits.view(self.heads, self.classes, count)
        by_head.sub_(by_head.amax(1, keepdim=True)).clamp_min_(SMALLEST).exp_()
        by_head.mul_(by_head.sum(1, keepdim=True).reciprocal_()).sub_(onehot)
        return logits.div_(count)

    def _update(self, slope: Tensor, bias_slope: Tensor, share: float) -> None:
        self.steps += 1
        rate = self.lr * share
        if self.grid.optimizer == "sgd":
            self.state[0][0].mul_(MOMENTUM).add_(slope).addcmul_(self.weight, self.decay)
            self.state[1][0].mul_(MOMENTUM).add_(bias_slope)
            self.weight.addcmul_(self.state[0][0], rate, value=-1)
            self.bias.addcmul_(self.state[1][0], rate, value=-1)
            return
        self.weight.mul_(1 - rate * self.decay)
        for part, gradient, (first, second) in zip(
            (self.weight, self.bias), (slope, bias_slope), self.state, strict=True
        ):
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            scale = (second / (1 - BETAS[1] ** self.steps)).sqrt_().add_(EPS)
            part.sub_(rate * (first / scale) / (1 - BETAS[0] ** self.steps))

    def finish(self) -> Heads:
        """Heads for raw features: W/σ and b − Wμ/σ with the statistics of all training samples."""
        weight, bias = self.weight.double(), self.bias.double()
        if self.grid.batch_norm:
            mean, var = moments(self.x)
            weight = weight * (var + BN_EPS).rsqrt()
            bias = bias - weight @ mean[:, None]
        shape = (self.heads, self.classes)
        return Heads(weight.float().view(*shape, -1), bias.float().view(shape), self.grid.pairs)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(D,)`` float64 of ``x (N, D)``: float32 sums over short chunks, added up in float64.

    torch's own reduction over rows takes several times as long.
    """
    chunks = x.split(1024)
    mean = torch.stack([chunk.sum(0) for chunk in chunks]).double().sum(0) / len(x)
    squares = [(chunk - mean.to(x.dtype)).square_().sum(0) for chunk in chunks]
    return mean, torch.stack(squares).double().sum(0) / len(x)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether bf16 products run in hardware built for them: CUDA, or a CPU with AMX."""
    if device.type == "cpu":
        probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
        return bool(probe and probe())
    return device.type == "cuda" and torch.cuda.is_bf16_supported()
