"""From a batch of inputs to one row of features per sample: pooled, patch by patch, frame by frame, or asked by a probe."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openjepa.errors import ConfigError, nearest
from openjepa.features.clips import pooled_over, tokens_over
from openjepa.features.extraction import Layers, Precision, autocast, features_of
from openjepa.model import AnyModel

Tokens = Literal["pooled", "patch", "frame", "attentive"]
TOKENS = ("pooled", "patch", "frame", "attentive")
Dtype = Literal["float32", "float16"]


class Encoding:
    """A frozen encoder with its normalisation on a device.

    Args:
        model: any model, looking at samples as it should (:meth:`openjepa.model.AnyModel.seen`).
        tokens: ``pooled`` (mean over all tokens, ``(D,)`` per row), ``patch`` (all of them, ``(T, D)``), ``frame`` (mean over
            the tokens of each tubelet's frames, ``(t, D)``; clips only), ``attentive`` (what the query of an attentive probe
            reads, ``(D,)``). layers, precision: as in :func:`openjepa.features.extract`.
        dtype: of the features that come out. pooler: of the probe, for ``attentive``.

    Raises:
        ConfigError: an unknown choice, or one this encoder does not have.
    """

    def __init__(
        self,
        model: AnyModel,
        tokens: Tokens = "pooled",
        layers: Layers = "last",
        precision: Precision = "fp32",
        dtype: Dtype = "float32",
        device: str = "cpu",
        pooler: nn.Module | None = None,
    ) -> None:
        _check(model, tokens, layers, precision, dtype, pooler)
        self.model, self.tokens, self.layers, self.precision = model, tokens, layers, precision
        self.device, self.pooler = torch.device(device), pooler
        self.dtype = torch.float16 if dtype == "float16" else torch.float32
        for part in (model.encoder, model.normalise, pooler):
            if isinstance(part, nn.Module):
                part.to(self.device).eval()

    def __call__(self, inputs: Tensor) -> Tensor:
        """``(n, C, …)`` as the transform left it → ``(n, *shape)`` on the device; the work may still be going on there."""
        with torch.no_grad(), autocast(self.device, self.precision):
            if self.tokens == "pooled":
                found = pooled_over(inputs, self._pooled)
            else:
                found = tokens_over(inputs, self._patches, 1, "attend")
                if self.tokens == "frame":
                    found = self._by_frame(found, inputs)
                elif self.tokens == "attentive":
                    assert self.pooler is not None
                    found = self.pooler(found)
                    found = found.squeeze(1) if found.shape[1] == 1 else found
        return found.to(self.dtype)

    def _input(self, view: Tensor) -> Tensor:
        return self.model.normalise(view.to(self.device, non_blocking=True))

    def _pooled(self, view: Tensor) -> Tensor:
        return features_of(self.model.encoder, self._input(view), "pooled", self.layers).float()

    def _patches(self, view: Tensor) -> Tensor:
        return features_of(self.model.encoder, self._input(view), "patch", self.layers).float()

    def _by_frame(self, tokens: Tensor, inputs: Tensor) -> Tensor:
        """``(B, N, D)`` of all segments one after another in time → ``(B, segments·t, D)``."""
        segments = inputs.shape[1] if inputs.ndim == 6 else 1
        steps = segments * (inputs.shape[-3] // tubelet_of(self.model))
        if tokens.shape[1] % steps:
            raise ConfigError(f"{tokens.shape[1]} tokens are no whole number for each of {steps} tubelets: use patch")
        return tokens.unflatten(1, (steps, -1)).mean(2)


def tubelet_of(model: AnyModel) -> int:
    """Frames per token of an encoder of clips; 1 where it sees frames one by one."""
    return int(getattr(model.encoder, "tubelet_size", 1))


def _check(model: AnyModel, tokens: str, layers: str, precision: str, dtype: str, pooler: nn.Module | None) -> None:
    allowed: dict[str, tuple[str, tuple[str, ...]]] = {
        "tokens": (tokens, TOKENS),
        "layers": (layers, ("last", "last4")),
        "precision": (precision, ("fp32", "bf16", "fp16")),
        "dtype": (dtype, ("float32", "float16")),
    }
    for name, (value, choices) in allowed.items():
        if value not in choices:
            raise ConfigError(f"{name}='{value}' is not one of {', '.join(choices)}{nearest(value, choices)}")
    if layers == "last4" and not hasattr(model.encoder, "forward_intermediates"):
        raise ConfigError(f"layers='last4' needs the blocks of an encoder, which {model.name} does not show: use last")
    if tokens == "frame" and model.clip is None:
        raise ConfigError(f"tokens='frame' is of clips, and {model.name} takes images here: use pooled or patch")
    if tokens == "attentive" and pooler is None:
        raise ConfigError(
            f"tokens='attentive' needs an attentive probe, and {model.name} came without one: give --probe"
        )
    if tokens != "attentive" and pooler is not None:
        raise ConfigError("a probe reads tokens='attentive': leave --probe out, or ask for those")
    if tokens == "attentive" and layers == "last4":
        raise ConfigError("an attentive probe reads the last layer: use layers='last'")


def pooler_of(probe: Any, model: AnyModel) -> nn.Module:
    """The pooler of a probe, whose width must be the encoder's. Raises ConfigError."""
    pooler: nn.Module = probe.classifier.pooler
    queries = pooler.query_tokens
    assert isinstance(queries, Tensor)
    width = queries.shape[-1]
    if width != model.encoder.embed_dim:
        raise ConfigError(f"{probe.source} reads tokens of {width} numbers, {model.name} has {model.encoder.embed_dim}")
    return pooler


def pick_device(wish: str) -> str:
    """A device that is there; ``auto`` under a launcher is this rank's GPU. Raises ConfigError."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if wish == "auto":
        if count:
            return f"cuda:{local % count}" if "LOCAL_RANK" in os.environ else "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = wish.partition(":")
    there = {"cpu": 1, "cuda": count, "mps": int(torch.backends.mps.is_available())}.get(kind)
    if there is None or (number and not number.isdecimal()):
        raise ConfigError(
            f"device '{wish}' is none of auto, cpu, cuda, cuda:N, mps{nearest(kind, ('cpu', 'cuda', 'mps'))}"
        )
    if int(number or 0) >= there:
        raise ConfigError(f"device '{wish}' is not there: torch finds {there} {kind} devices here; use cpu or auto")
    return wish
