"""Principal components of features, exact and with a fixed sign, and patch features as colours.

One basis and one colour scale for all rows given, so that a colour means the same in every picture of a set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openjepa.errors import DataError

PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True)
class Pca:
    """A fitted basis. mean ``(D,)``; components ``(K, D)`` orthonormal rows, float64; explained ``(K,)`` variance shares.

    The largest loading (by absolute value, first on a tie) of every component is positive, so that repeated fits and
    other machines give the same signs.
    """

    mean: Tensor
    components: Tensor
    explained: Tensor

    def project(self, x: Tensor) -> Tensor:
        """Coordinates ``(..., K)`` float64 of features ``(..., D)``."""
        return (x.to(self.mean) - self.mean) @ self.components.T


@dataclass(frozen=True)
class Colours:
    """rgb ``(N, 3)`` float32 in 0..1; low, high ``(3,)``: component values drawn as 0 and 1; foreground ``(N,)`` or None."""

    rgb: Tensor
    low: Tensor
    high: Tensor
    explained: Tensor
    foreground: Tensor | None


def fit_pca(x: Tensor, components: int = 3) -> Pca:
    """Principal components of ``(N, D)`` by a float64 SVD of the centred rows.

    Raises:
        DataError: more components than min(N − 1, D), or features that are not finite.
    """
    if x.ndim != 2 or not 1 <= components <= min(len(x) - 1, x.shape[1]):
        raise DataError(f"{components} principal components need more samples or channels than {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise DataError("principal components need finite features")
    x = x.detach().cpu().double()
    mean = x.mean(0)
    _, values, basis = torch.linalg.svd(x - mean, full_matrices=False)
    basis = basis[:components]
    largest = basis.abs().argmax(1, keepdim=True)
    basis = basis * basis.gather(1, largest).sign()
    variance = values.square()
    total = variance.sum()
    explained = variance[:components] / total if total > 0 else torch.zeros(components, dtype=torch.float64)
    return Pca(mean, basis, explained)


def split_foreground(first: Tensor, border: Tensor | None = None) -> Tensor:
    """Split rows in two at Otsu's threshold of the first component ``(N,)`` → ``(N,)`` bool, True: foreground.

    The sign of a component means nothing, so the side that covers less of the ``border`` (``(N,)`` bool, patches at an
    image edge) is foreground; without ``border`` the smaller side is. All False when the values do not differ.
    """
    ordered = first.double().sort().values
    count = len(ordered)
    if count < 2 or ordered[0] == ordered[-1]:
        return torch.zeros_like(first, dtype=torch.bool)
    sizes = torch.arange(1, count, dtype=torch.float64, device=first.device)
    left = ordered.cumsum(0)[:-1] / sizes
    right = (ordered.sum() - ordered.cumsum(0)[:-1]) / (count - sizes)
    between = sizes * (count - sizes) * (left - right).square()  # Otsu 1979: largest variance between the two sides
    at = int(between.argmax())
    upper = first > (ordered[at] + ordered[at + 1]) / 2
    ground = upper if border is None else upper[border]
    lower = ~upper if border is None else ~upper[border]
    return upper if ground.double().mean() <= lower.double().mean() else ~upper


def to_colours(
    x: Tensor,
    *,
    percentiles: tuple[float, float] = PERCENTILES,
    foreground: bool = False,
    border: Tensor | None = None,
) -> Colours:
    """First three joint principal components of ``(N, D)`` features as red, green and blue.

    Args:
        x: patch features of the whole set, images flattened into rows.
        percentiles: each component is cut at these percentiles over all drawn rows and scaled to 0..1.
        foreground: split by the first component (:func:`split_foreground`), fit the colours on the foreground alone and
            draw the rest mid-grey (Oquab et al. 2304.07193 §7.5).
        border: ``(N,)`` bool, which rows lie at the edge of their image.

    Raises:
        DataError: fewer than four rows (or foreground rows), or fewer than three channels.
    """
    mask = split_foreground(fit_pca(x, 1).project(x)[:, 0], border) if foreground else None
    chosen = x if mask is None else x[mask]
    basis = fit_pca(chosen, 3)
    scores = basis.project(chosen)
    low, high = _percentile(scores, percentiles[0]), _percentile(scores, percentiles[1])
    unit = ((scores - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).float()
    rgb = torch.full((len(x), 3), 0.5)
    rgb[slice(None) if mask is None else mask] = unit
    return Colours(rgb, low, high, basis.explained, mask)


def _percentile(x: Tensor, percent: float) -> Tensor:
    """Linear-interpolated percentile over rows; ``torch.quantile`` refuses more than 2²⁴ values."""
    ordered = x.sort(dim=0).values
    place = percent / 100 * (len(x) - 1)
    below = int(place)
    above = min(below + 1, len(x) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
