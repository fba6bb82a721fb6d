"""From images or clips to the probabilities of classes: an encoder and a classifier on its tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from openjepa.errors import ConfigError
from openjepa.features.clips import input_of, views_of
from openjepa.features.extraction import frozen
from openjepa.types import Batch, Encoder


def class_probabilities(
    encoder: Encoder,
    classifier: nn.Module,
    batches: Iterable[Batch],
    *,
    normalise: nn.Module,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Probabilities ``(N, K)`` float32 on the CPU, in the order of the batches; several views of a video are averaged.

    classifier: tokens ``(B, N, D)`` to logits ``(B, K)``. One that reads the class token says so by ``prefix``.

    Raises:
        ConfigError: the classifier gives several answers at once. DataError: no batch at all.
    """
    found = []
    where = torch.device(device)
    with frozen(encoder, normalise, where), frozen(classifier, normalise, where):
        for batch in batches:
            views = [_logits(encoder, classifier, normalise(view.to(device))) for view in views_of(input_of(batch))]
            found.append(torch.stack([logits.float().softmax(-1) for logits in views]).mean(0).cpu())
    return torch.cat(found)


def _logits(encoder: Encoder, classifier: nn.Module, x: Tensor) -> Tensor:
    asked: dict[str, Any] = {"prefix": True} if getattr(classifier, "prefix", False) else {}  # with the class token
    tokens = encoder.forward_features(x, **asked)
    logits = classifier(tokens)
    if not isinstance(logits, Tensor):
        raise ConfigError("this classifier gives several answers at once (verbs, nouns, actions): call it on tokens")
    return logits
