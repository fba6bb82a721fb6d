"""A small regressor from one patch feature to the pixels of its patch: an instrument to see what features hold.

The idea of RCDM (Bordes et al. 2022, arXiv:2112.09164) without its generator: a plain regression on frozen features.
It shows the *mean* of the pixels that a feature allows, so what a feature leaves open comes out as blur, never as
invented detail. It sees one patch at a time, so that no pixel is explained by a neighbour's feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openjepa.errors import DataError
from openjepa.models.positions import sincos2d
from openjepa.objectives import patchify, unpatchify

POSITION = 64  # channels of the position table


class FeatureDecoder(nn.Module):
    """Pixels of a patch from its feature and its place: mean patch at that place + perceptron(feature, place).

    Args:
        embed_dim: width D of the features. grid: patch rows and columns. patch: pixels per side. channels: of the image.
        width: of the two hidden layers.
    """

    feature_mean: Tensor
    feature_std: Tensor
    mean_patch: Tensor
    place: Tensor

    def __init__(self, embed_dim: int, grid: tuple[int, int], patch: int, channels: int = 3, width: int = 512) -> None:
        super().__init__()
        self.grid, self.patch, self.channels = grid, patch, channels
        pixels, tokens = channels * patch * patch, grid[0] * grid[1]
        self.net = nn.Sequential(
            nn.Linear(embed_dim + POSITION, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, pixels)
        )  # fmt: skip
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.register_buffer("feature_mean", torch.zeros(embed_dim))
        self.register_buffer("feature_std", torch.ones(embed_dim))
        self.register_buffer("mean_patch", torch.zeros(tokens, pixels))
        self.register_buffer("place", sincos2d(POSITION, grid), persistent=False)

    def forward(self, features: Tensor, index: Tensor) -> Tensor:
        """``(…, D)`` features of the tokens ``index (…)`` → ``(…, C·p·p)`` pixels, 0..1 but for overshoot."""
        scaled = (features.float() - self.feature_mean) / self.feature_std
        return self.mean_patch[index] + self.net(torch.cat([scaled, self.place[index]], dim=-1))

    def images(self, features: Tensor) -> Tensor:
        """Features of whole images ``(B, N, D)`` → ``(B, C, h·p, w·p)`` in 0..1."""
        with torch.no_grad():
            index = torch.arange(features.shape[1]).expand(len(features), -1)
            return unpatchify(self(features, index), self.grid, self.patch).clamp(0, 1)


@dataclass(frozen=True)
class Fidelity:
    """How well pixels are told, over chosen patches: ``r2`` against the mean patch at each place (0: no better), and
    peak signal-to-noise ratios in dB of the guess and of that mean patch.
    """

    r2: float
    psnr: float
    mean_psnr: float

    def __str__(self) -> str:
        return f"R2 {self.r2:.3f}, PSNR {self.psnr:.1f} dB (mean patch: {self.mean_psnr:.1f} dB)"


def fit_decoder(
    features: Tensor,
    images: Tensor,
    grid: tuple[int, int],
    patch: int,
    *,
    steps: int = 1000,
    width: int = 512,
    tokens: int = 512,
    lr: float = 2e-3,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> FeatureDecoder:
    """Fit a decoder by AdamW on the squared pixel error of random patches, learning rate one cosine down to 0.

    Args:
        features: ``(M, N, D)`` frozen features. images: ``(M, C, H, W)`` uint8 or 0..1, of the same images.
        steps, tokens, lr: updates, patches per update, peak learning rate. on_step: receives step and its loss.

    Raises:
        DataError: fewer than two images, or features that are not finite.
    """
    if len(images) < 2:
        raise DataError(f"a decoder cannot be fitted on {len(images)} image: give a folder with some hundreds")
    if not bool(torch.isfinite(features).all()):
        raise DataError("a decoder cannot be fitted on features that are not finite")
    pixels = patchify(unit(images), patch)  # (M, N, C·p·p)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        decoder = FeatureDecoder(features.shape[-1], grid, patch, images.shape[1], width)
        flat = features.flatten(0, 1)
        decoder.feature_mean.copy_(flat.mean(0))
        decoder.feature_std.copy_(flat.std(0) + 1e-4)
        decoder.mean_patch.copy_(pixels.mean(0))
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=lr, weight_decay=0.01)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: _rate(k, steps))
        answer = pixels.flatten(0, 1)
        for step in range(steps):
            rows = torch.randint(len(flat), (tokens,))
            loss = (decoder(flat[rows], rows % pixels.shape[1]) - answer[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            if on_step is not None:
                on_step(step, float(loss.detach()))
    return decoder.eval()


def _rate(step: int, steps: int) -> float:
    """Share of the peak rate: a short warm-up, then a cosine."""
    warm = max(steps // 20, 1)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def fidelity(decoder: FeatureDecoder, features: Tensor, images: Tensor, where: Tensor | None = None) -> Fidelity:
    """How well ``decoder`` tells the pixels of ``images`` from ``features (M, N, D)``, over the patches ``where (M, N)``."""
    truth = patchify(unit(images), decoder.patch)
    places = torch.ones(truth.shape[:2], dtype=torch.bool) if where is None else where
    row, index = places.nonzero(as_tuple=True)
    with torch.no_grad():
        guess = decoder(features[row, index], index).clamp(0, 1)
    answer, mean = truth[row, index].double(), decoder.mean_patch[index].double()
    error, base = float((guess - answer).square().mean()), float((mean - answer).square().mean())
    return Fidelity(1 - error / max(base, 1e-12), _psnr(error), _psnr(base))


def _psnr(mean_square: float) -> float:
    return -10 * math.log10(max(mean_square, 1e-12))


def unit(images: Tensor) -> Tensor:
    """Images as float32 in 0..1."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()
