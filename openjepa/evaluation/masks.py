"""Mask consistency: is an image under one mask nearest to the same image under another?"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from openjepa.data import Source, Subset, read_batches
from openjepa.errors import ConfigError, DataError
from openjepa.evaluation.request import Bench
from openjepa.evaluation.score import Score, wilson
from openjepa.features import broken_rows, input_of, views_of
from openjepa.types import Encoder, Ids

IMAGES = 1_000
KEEP = 0.25
DrawViews = Callable[[Tensor], tuple[Ids, Ids]]  # places (B,) to the tokens of two views
_ROWS = 1024


def mask_consistency(
    bench: Bench,
    *,
    keep: float = KEEP,
    views: DrawViews | None = None,
    views_name: str = "",
    images: int = IMAGES,
    seed: int = 0,
    subject: str = "encoder",
) -> Score:
    """Encode each validation image twice, under two masks, and look for it among all the others.

    Both views are mean-pooled over the tokens they show and centred by the mean of all. ``value`` is the share of images
    whose nearest neighbour by cosine, among the second views of all images, is their own (chance: 1 / images). ``extra``:
    margin, the mean of (cosine with its own second view − largest cosine with another image's), and chance.

    Args:
        bench: encoder and data; the encoder must take ``keep`` ids.
        keep: share of patches each view shows. Up to one half the two views share no patch.
        views: instead of that, a function that draws two views for places, named ``views_name`` in the protocol.
        images: at most, drawn by ``seed`` (the score depends on how many there are: compare equal numbers only).

    Raises:
        ConfigError: ``keep`` is not in (0, 1), or the encoder cannot encode a part of an image.
        DataError: fewer than two readable images, or features that are not finite.
    """
    if not 0 < keep < 1:
        raise ConfigError(f"masks: keep is the share of patches shown, between 0 and 1, got {keep:g}")
    encoder = _masked_encoder(bench.encoder)
    source = _some(bench.val_source, images, seed)
    first, second = _encode(encoder, bench, source, views or _RandomViews(bench, keep, seed))
    own, other = _search(first, second)
    right, count = int((own > other).sum()), len(own)
    protocol: dict[str, object] = {
        "views": views_name
        or f"random {keep:.0%} of patches each, {'no patch in both' if keep <= 0.5 else 'overlapping'}",
        "centred": "mean of both views",
        "metric": "cosine",
        "images": count,
    }
    return Score(
        "masks",
        right / count,
        0,
        count,
        subject,
        protocol,
        interval=wilson(right, count),
        seed=seed,
        metric="top-1",
        extra={"margin": float((own - other).mean()), "chance": 1 / count},
    )


class _RandomViews:
    """Two draws of patches per image, a pure function of the seed and the image's place."""

    def __init__(self, bench: Bench, keep: float, seed: int) -> None:
        self._patch = bench.encoder.patch_size if bench.encoder is not None else (1, 1)
        self._keep, self._seed = keep, seed
        self._tubelet = int(getattr(bench.encoder, "tubelet_size", 1))
        self.grid: tuple[int, ...] = (1, 1)

    def fit(self, images: Tensor) -> None:
        """Take the token grid of images ``(B, C, H, W)`` or clips ``(B, C, T, H, W)``."""
        plane = images.shape[-2] // self._patch[0], images.shape[-1] // self._patch[1]
        self.grid = plane if images.ndim == 4 else (images.shape[2] // self._tubelet, *plane)

    def __call__(self, places: Tensor) -> tuple[Ids, Ids]:
        tokens = math.prod(self.grid)
        count = max(1, round(self._keep * tokens))
        orders = []
        for place in places.tolist():
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + place)
            first = torch.randperm(tokens, generator=generator)
            again = first.flip(0) if 2 * count <= tokens else torch.randperm(tokens, generator=generator)
            orders.append(torch.stack([first[:count], again[:count]]))
        both = torch.stack(orders).sort(dim=-1).values  # (B, 2, count)
        return Ids(both[:, 0]), Ids(both[:, 1])


def _masked_encoder(encoder: Encoder | None) -> Any:
    if encoder is None or "keep" not in inspect.signature(encoder.forward_features).parameters:
        raise ConfigError(f"masks needs an encoder that can encode some patches, which {type(encoder).__name__} cannot")
    return encoder


def _some(source: Source, images: int, seed: int) -> Source:
    """At most ``images`` of the source, drawn by ``seed``."""
    if images >= len(source):
        return source
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    return Subset(source, order[:images].sort().values.tolist())


@torch.no_grad()
def _encode(encoder: Any, bench: Bench, source: Source, views: Any) -> tuple[Tensor, Tensor]:
    """Pooled features of both views, ``(N, D)`` float64."""
    device = torch.device(bench.device)
    modules = [m for m in (encoder, bench.normalise) if isinstance(m, nn.Module)]
    modes = [module.training for module in modules]
    for module in modules:
        module.to(device).eval()
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    done = 0
    try:
        for batch in read_batches(source, bench.transform, batch_size=bench.batch_size, workers=bench.workers):
            images = bench.normalise(views_of(input_of(batch))[0].to(device))  # of a video, one clip
            if isinstance(views, _RandomViews):
                views.fit(images)
            places = torch.arange(done, done + len(images))
            done += len(images)
            for side, ids in zip(sides, views(places), strict=True):
                tokens = encoder.forward_features(images, ids.to(device)).double().cpu()  # (B, K, D)
                if tokens.shape[1] != ids.index.shape[1]:
                    raise ConfigError(
                        f"masks needs an encoder that encodes only what it is shown: {type(encoder).__name__} does not"
                    )
                shown = torch.ones(ids.index.shape) if ids.valid is None else ids.valid.cpu()
                weight = shown.double()[..., None]
                side.append((tokens * weight).sum(1) / weight.sum(1))
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)
    if done < 2:
        raise DataError(f"masks needs at least two readable images in {source.name}, got {done}")
    first, second = torch.cat(sides[0]), torch.cat(sides[1])
    if len(broken := broken_rows(first + second)):
        raise DataError(f"{len(broken)} of {done} features are not finite: the encoder is broken")
    return first, second


def _search(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine of each first view with its own second view, and the largest with another image's; ``(N,)`` each."""
    mean = (first.mean(0) + second.mean(0)) / 2
    first, second = (torch.nn.functional.normalize(x - mean, dim=1) for x in (first, second))
    own, other = [], []
    for start in range(0, len(first), _ROWS):
        cosine = first[start : start + _ROWS] @ second.T
        rows = torch.arange(len(cosine))
        own.append(cosine[rows, rows + start].clone())
        cosine[rows, rows + start] = -torch.inf
        other.append(cosine.amax(1))
    return torch.cat(own), torch.cat(other)
