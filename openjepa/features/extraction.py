"""Features of a whole source: one pass of a frozen encoder in evaluation order, in constant memory except the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from openjepa.errors import ConfigError, DataError, nearest
from openjepa.features.clips import (
    ACROSS,
    Across,
    describe_input,
    frame_differences,
    frame_pixels,
    input_of,
    pooled_over,
    tokens_over,
)
from openjepa.types import Batch, Encoder

if TYPE_CHECKING:
    from openjepa.data import Source

TokenKind = Literal["pooled", "patch"]
Layers = Literal["last", "last4"]
Precision = Literal["fp32", "bf16", "fp16"]
OnProgress = Callable[[int], None]  # called with the number of samples done so far

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Features:
    """What an encoder says of the readable samples of a source, in source order.

    values: ``(N, D)`` float32 on the CPU, or ``(N, T, D)`` for patch tokens (``(N, G, T, D)`` where G views of a video are
    pooled apart, see :mod:`openjepa.features.clips`). ids: ``(N,)`` int64 index in the source.
    labels: ``(N,)`` int64, -1 where a sample has none; None when no sample has one. item_ids: path of each sample
    inside its source (empty when unknown). classes: names the labels index, or None. protocol: how it was computed.
    bad: samples that could not be read, with the reason.
    """

    values: Tensor
    ids: Tensor
    labels: Tensor | None = None
    item_ids: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    bad: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, index: Tensor) -> Features:
        """The samples ``index`` (int64, or bool ``(N,)``) names, in that order."""
        places = index.nonzero().flatten() if index.dtype == torch.bool else index
        items = tuple(self.item_ids[i] for i in places.tolist()) if self.item_ids else ()
        labels = None if self.labels is None else self.labels[places]
        return replace(self, values=self.values[places], ids=self.ids[places], labels=labels, item_ids=items)


def pool(tokens: Tensor, how: Literal["mean", "max"] = "mean") -> Tensor:
    """Pool patch tokens ``(B, N, D)`` to ``(B, D)`` float32; I-JEPA's protocol averages them (official.md §7.5)."""
    if how not in ("mean", "max"):
        raise ConfigError(f"unknown pooling '{how}': mean or max{nearest(how, ('mean', 'max'))}")
    tokens = tokens.float()
    return tokens.mean(1) if how == "mean" else tokens.amax(1)


def extract(
    encoder: Encoder,
    batches: Iterable[Batch],
    *,
    normalise: nn.Module,
    device: str | torch.device = "cpu",
    tokens: TokenKind = "pooled",
    layers: Layers = "last",
    precision: Precision = "fp32",
    source: Source | None = None,
    on_progress: OnProgress | None = None,
    views: int = 1,
    across: Across = "attend",
    dtype: torch.dtype = torch.float32,
) -> Features:
    """Run ``encoder`` over ``batches`` without gradients and collect its features.

    Args:
        encoder: any :class:`openjepa.types.Encoder`; moved to ``device``, its training mode is put back afterwards.
        batches: evaluation batches with ``inputs["image"]`` ``(B, C, H, W)`` or ``inputs["video"]`` ``(B, C, T, H, W)``
            (``(B, V, C, T, H, W)`` for V views of each video), as the transform left them.
        normalise: maps those to the encoder's input, on the device.
        tokens: ``pooled``: mean over patch tokens and views, ``(N, D)``; ``patch``: all of them, ``(N, T, D)``.
        layers: ``last`` (after the final norm), or ``last4``: the last four blocks, each through the final norm, joined
            along channels to 4D (the published linear-probe protocol, official.md §7.5).
        precision: of the forward pass; pooling and the result are float32.
        source: gives item ids and class names, and lets the result be allocated once.
        on_progress: called after each batch with the number of samples done.
        views, across: spatial views of each segment of a video, and what is pooled together
            (:mod:`openjepa.features.clips`). dtype: in which the result is kept.

    Raises:
        DataError: no batch at all. ConfigError: an unknown choice, or ``last4`` of an encoder without intermediates.
    """
    _check_choices(encoder, tokens, layers, precision, across)
    device = torch.device(device)
    table = _Table(None if source is None else len(source))
    protocol: dict[str, Any] = {"tokens": tokens, "layers": layers, "precision": precision, "norm": "final"}

    def encode(view: Tensor) -> Tensor:
        return features_of(encoder, normalise(view.to(device, non_blocking=True)), tokens, layers).float()

    with frozen(encoder, normalise, device), autocast(device, precision):
        for batch in batches:
            x = input_of(batch)
            values = pooled_over(x, encode) if tokens == "pooled" else tokens_over(x, encode, views, across)
            protocol.update(describe_input(x, views, across, tokens))
            table.add(values.to(dtype).cpu(), batch)
            if on_progress is not None:
                on_progress(table.count)
    return table.finish(source, protocol)


def raw_pixels(
    batches: Iterable[Batch],
    *,
    max_side: int = 32,
    centre_image: bool = True,
    differences: bool = False,
    source: Source | None = None,
    on_progress: OnProgress | None = None,
) -> Features:
    """The baseline every encoder must beat: flattened pixels in 0..1, as features ``(N, C·H·W)``.

    Of a clip: four frames of at most 16 px (:func:`openjepa.features.clips.frame_pixels`), averaged over views.

    Args:
        max_side: larger images are averaged down until no side is longer, so that the baseline stays affordable (and
            gets better: neighbours of small images are less noisy).
        centre_image: subtract each image's mean over all its pixels and channels, so that brightness does not decide.
            This makes the baseline stronger: 37.8 → 39.4 % kNN on the reference CIFAR-10 subset.
        differences: of clips, differences between frames instead (:func:`openjepa.features.clips.frame_differences`).

    Raises:
        DataError: no batch at all, or differences of images.
    """
    table = _Table(None if source is None else len(source))
    protocol: dict[str, Any] = {"tokens": "raw pixels", "max_side": max_side, "image_mean_removed": centre_image}
    for batch in batches:
        x = input_of(batch)
        if x.ndim >= 5:
            protocol = {"tokens": "frame differences" if differences else "pixels of four frames", "max_side": 16}
            table.add(pooled_over(x, lambda view: _of_clip(view, differences)), batch)
        elif differences:
            raise DataError("frame differences are of clips: these are images")
        else:
            table.add(_of_images(x, max_side, centre_image), batch)
        if on_progress is not None:
            on_progress(table.count)
    return table.finish(source, protocol)


def _unit(x: Tensor) -> Tensor:
    """Pixels in 0..1."""
    return x.float() / (1.0 if x.is_floating_point() else 255.0)


def _of_clip(x: Tensor, differences: bool) -> Tensor:
    return frame_differences(_unit(x)) if differences else frame_pixels(_unit(x))


def _of_images(images: Tensor, max_side: int, centre_image: bool) -> Tensor:
    """``(B, C, H, W)`` → ``(B, C·h·w)``."""
    images = _unit(images)
    scale = max(images.shape[-2:]) / max_side
    if scale > 1:
        size = tuple(max(1, round(side / scale)) for side in images.shape[-2:])
        images = nn.functional.interpolate(images, size=size, mode="area")
    pixels = images.flatten(1)
    return pixels - pixels.mean(1, keepdim=True) if centre_image else pixels


def _check_choices(encoder: Encoder, tokens: str, layers: str, precision: str, across: str) -> None:
    allowed = {
        "tokens": (tokens, ("pooled", "patch")),
        "layers": (layers, ("last", "last4")),
        "precision": (precision, ("fp32", "bf16", "fp16")),
        "across": (across, ACROSS),
    }
    for name, (value, choices) in allowed.items():
        if value not in choices:
            raise ConfigError(f"{name}='{value}' is not one of {', '.join(choices)}{nearest(value, choices)}")
    if layers == "last4" and not hasattr(encoder, "forward_intermediates"):
        raise ConfigError(
            f"layers='last4' needs forward_intermediates, which {type(encoder).__name__} lacks: use 'last'"
        )


def features_of(encoder: Any, images: Tensor, tokens: TokenKind, layers: Layers) -> Tensor:
    """``(B, D)`` or ``(B, T, D)`` for normalised images; 4D wide for the last four layers."""
    if layers == "last":
        taps = [encoder.forward_features(images)]  # (B, T, D)
    else:
        taps = list(encoder.forward_intermediates(images, 4))
        if len(taps) != 4:
            raise ConfigError(f"layers='last4' needs four blocks, this encoder gave {len(taps)}: use layers='last'")
    return torch.cat([pool(tap) if tokens == "pooled" else tap.float() for tap in taps], dim=-1)


@contextmanager
def frozen(encoder: Any, normalise: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode on ``device`` without gradients; the training mode of every part comes back afterwards."""
    modules = [m for m in (encoder, normalise) if isinstance(m, nn.Module)]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.to(device).eval()
    try:
        # Not inference_mode: a position table that a model caches inside it could not be trained with afterwards.
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass in ``precision``; it does nothing for fp32."""
    enabled = precision != "fp32"
    return torch.autocast(device.type, dtype=_AUTOCAST.get(precision, torch.bfloat16), enabled=enabled)


class _Table:
    """Rows collected batch by batch into one tensor that is allocated once (or doubles when the count is unknown)."""

    def __init__(self, expected: int | None) -> None:
        self.count = 0
        self._expected = expected
        self._values: Tensor | None = None
        self._ids: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, values: Tensor, batch: Batch) -> None:
        need = self.count + len(values)
        if self._values is None:
            self._values = values.new_empty((max(self._expected or 0, need), *values.shape[1:]))
        elif values.shape[1:] != self._values.shape[1:]:
            shapes = f"{tuple(values.shape[1:])} after {tuple(self._values.shape[1:])}"
            raise DataError(f"features changed their shape between batches ({shapes}): resize images to one size")
        if need > len(self._values):
            grown = values.new_empty((max(need, 2 * len(self._values)), *values.shape[1:]))
            grown[: self.count] = self._values[: self.count]
            self._values = grown
        self._values[self.count : need] = values
        self.count = need
        self._ids.append(batch.ids.cpu())
        labels = torch.full((len(values),), -1) if batch.labels is None else batch.labels.cpu()
        self._labels.append(labels.to(torch.int64))

    def finish(self, source: Source | None, protocol: Mapping[str, Any]) -> Features:
        if self._values is None or self.count == 0:
            raise DataError(f"no readable sample in {getattr(source, 'name', 'the data')}: there is nothing to encode")
        ids, labels = torch.cat(self._ids).to(torch.int64), torch.cat(self._labels)
        items = () if source is None else tuple(source.item_id(i) for i in ids.tolist())
        names = None if source is None or source.classes is None else tuple(source.classes)
        values = self._values[: self.count]
        if self.count < len(self._values) * 0.75:  # give back what many bad files or the last doubling left over
            values = values.clone()
        return Features(values, ids, labels if bool((labels >= 0).any()) else None, items, names, protocol)
