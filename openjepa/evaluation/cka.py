"""How alike are two encoders? Linear centred kernel alignment of their features of the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openjepa.data import Source, read_batches
from openjepa.errors import ConfigError, DataError
from openjepa.evaluation.request import Bench
from openjepa.evaluation.score import Z95, Score
from openjepa.features import Features, broken_rows, cached_extract, input_of, pool, views_of

GROUPS = 20  # of the jackknife


def linear_cka(x: Tensor, y: Tensor, *, unbiased: bool = False) -> float:
    """Linear CKA of ``x (N, D)`` and ``y (N, E)``, rows of the same images: 1 when equal up to rotation and one scale.

    Kornblith et al. 1905.00414 eq. 3–4: ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of centred features, or, with N × N kernels K, the same
    number from ⟨K, L⟩ / (‖K‖ ‖L‖) where there are fewer images than channels.

    Args:
        unbiased: estimate each inner product without the bias of few images (Song et al. 2012 eq. 5; Nguyen et al.
            2010.15327 eq. 3). It is near 0 for unrelated features even when N < D, and may be slightly negative.

    Raises:
        DataError: the two differ in rows, have fewer than 2 (unbiased: 4), are not finite, or do not vary at all.
    """
    x, y = _checked(x, y, 4 if unbiased else 2)
    x, y = x - x.mean(0), y - y.mean(0)
    product = _unbiased if unbiased else _biased
    with_x, with_y = product(x, x), product(y, y)
    if not (with_x > 0 and with_y > 0):
        raise DataError("CKA is not defined: one of the two encoders gives every image the same features")
    return product(x, y) / math.sqrt(with_x * with_y)


def cka_interval(x: Tensor, y: Tensor, *, unbiased: bool = False, seed: int = 0) -> tuple[float, float]:
    """95 % interval of :func:`linear_cka` by the delete-a-group jackknife (20 groups drawn by ``seed``; Wolter 2007 §4).

    A bootstrap would repeat images, and repeated rows are alike in every encoder: it is biased upwards here.
    """
    x, y = _checked(x, y, 2)
    value = linear_cka(x, y, unbiased=unbiased)
    groups = min(GROUPS, len(x) // 4)
    if groups < 2:
        return (-1.0 if unbiased else 0.0), 1.0
    place = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)) % groups
    parts = [linear_cka(x[place != g], y[place != g], unbiased=unbiased) for g in range(groups)]
    mean = sum(parts) / groups
    half = Z95 * math.sqrt((groups - 1) / groups * sum((part - mean) ** 2 for part in parts))
    return max(value - half, -1.0 if unbiased else 0.0), min(value + half, 1.0)


def cka_matrix(xs: Sequence[Tensor], ys: Sequence[Tensor], *, unbiased: bool = False) -> list[list[float]]:
    """:func:`linear_cka` of every layer of one encoder with every layer of another: rows ``xs``, columns ``ys``."""
    return [[linear_cka(x, y, unbiased=unbiased) for y in ys] for x in xs]


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found. scores: one per pair of encoders; matrix: CKA of layer i of the first encoder (row) with
    layer j of the second (column), empty when not asked.
    """

    scores: tuple[Score, ...]
    matrix: tuple[tuple[float, ...], ...] = ()


def compare(
    first: Bench,
    second: Bench,
    names: tuple[str, str],
    *,
    unbiased: bool = False,
    per_layer: bool = False,
    seed: int = 0,
) -> Comparison:
    """Linear CKA of the pooled features that two encoders give the images of their ``val_source`` (the same data).

    Raises:
        DataError: as in :func:`linear_cka`. ConfigError: ``per_layer`` of an encoder without intermediate layers.
    """
    sides = [_features(bench) for bench in (first, second)]
    common = sorted(set(sides[0].ids.tolist()) & set(sides[1].ids.tolist()))
    x, y = (_rows_of(side, common) for side in sides)
    protocol: dict[str, object] = {
        "tokens": "pooled",
        "layers": f"{first.layers} / {second.layers}",
        "kernel": "linear",
        "estimate": "unbiased" if unbiased else "biased",
        "interval": f"delete-a-group jackknife, {GROUPS} groups",
        "images": len(common),
    }
    score = Score(
        "cka",
        linear_cka(x, y, unbiased=unbiased),
        0,
        len(common),
        f"{names[0]} and {names[1]}",
        protocol,
        interval=cka_interval(x, y, unbiased=unbiased, seed=seed),
        seed=seed,
        metric="cka",
    )
    if not per_layer:
        return Comparison((score,))
    stacks = [_layers(bench) for bench in (first, second)]
    matrix = cka_matrix(stacks[0], stacks[1], unbiased=unbiased)
    return Comparison((score,), tuple(tuple(row) for row in matrix))


def _features(bench: Bench) -> Features:
    assert bench.encoder is not None
    return cached_extract(bench.encoder, bench.val_source, bench.transform, **bench.protocol, **bench.reading)


def _rows_of(features: Features, ids: Sequence[int]) -> Tensor:
    """Rows of the samples ``ids``, in that order."""
    place = {sample: row for row, sample in enumerate(features.ids.tolist())}
    return features.values[[place[sample] for sample in ids]]


@torch.no_grad()
def _layers(bench: Bench) -> list[Tensor]:
    """Mean-pooled output of every block, ``(N, D)`` each."""
    encoder: Any = bench.encoder
    if not hasattr(encoder, "forward_intermediates"):
        raise ConfigError(f"CKA per layer needs forward_intermediates, which {type(encoder).__name__} lacks")
    for module in (encoder, bench.normalise):
        assert isinstance(module, nn.Module)
        module.to(bench.device).eval()
    found: list[list[Tensor]] = []
    source: Source = bench.val_source
    for batch in read_batches(source, bench.transform, batch_size=bench.batch_size, workers=bench.workers):
        images = bench.normalise(views_of(input_of(batch))[0].to(bench.device))  # of a video, one clip
        found.append([pool(tokens).cpu() for tokens in encoder.forward_intermediates(images)])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def _biased(x: Tensor, y: Tensor) -> float:
    """⟨XXᵀ, YYᵀ⟩ of centred features, by whichever of ‖YᵀX‖² and the kernels is smaller."""
    if len(x) > max(x.shape[1], y.shape[1]):
        return float((y.T @ x).square().sum())
    return float(((x @ x.T) * (y @ y.T)).sum())


def _unbiased(x: Tensor, y: Tensor) -> float:
    """n(n − 3) times the unbiased estimate, with the diagonals of both kernels taken out; no kernel is formed."""
    n = len(x)
    own_x, own_y = x.square().sum(1), y.square().sum(1)  # diagonals
    sums_x, sums_y = x @ x.sum(0) - own_x, y @ y.sum(0) - own_y  # row sums of the kernels without them
    inner = _biased(x, y) - float(own_x @ own_y)
    outer = float(sums_x.sum() * sums_y.sum()) / ((n - 1) * (n - 2))
    return inner + outer - 2 / (n - 2) * float(sums_x @ sums_y)


def _checked(x: Tensor, y: Tensor, least: int) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise DataError(
            f"CKA needs (N, D) and (N, E) features of the same images, got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    if len(x) < least:
        raise DataError(f"CKA needs at least {least} images, got {len(x)}")
    for name, values in (("first", x), ("second", y)):
        if len(broken := broken_rows(values)):
            raise DataError(f"{len(broken)} of {len(values)} features of the {name} encoder are not finite")
    return x.double(), y.double()
