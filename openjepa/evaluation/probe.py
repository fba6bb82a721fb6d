"""Scores during training: the same evaluators on a fixed subset whose images are read once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from openjepa.data import Source, Subset, read_batches
from openjepa.errors import DataError
from openjepa.evaluation.knn import knn
from openjepa.evaluation.labels import stratified
from openjepa.evaluation.linear import linear
from openjepa.features import Features, extract
from openjepa.types import Batch, Encoder

log = logging.getLogger(__name__)

KEEP_BYTES = 2**30  # transformed images of both sides are kept in memory up to this size

Probe = Callable[[Encoder, nn.Module, str | torch.device], Mapping[str, float]]


def make_probe(
    train_source: Source,
    val_source: Source,
    transform: Any,
    *,
    max_train: int = 10_000,
    max_val: int = 2_000,
    k: int = 20,
    seed: int = 0,
    batch_size: int = 128,
    workers: int = 0,
) -> Probe:
    """Build a probe: ``probe(encoder, normalise, device) -> {"knn": …, "linear": …}`` (accuracies 0..1).

    The samples are drawn once, classes in proportion, by ``seed``; images are decoded on the first call and kept as the
    transform returns them while both sides fit in 1 GiB, else read again each time. Protocol as in
    :func:`openjepa.evaluation.knn` and :func:`openjepa.evaluation.linear`. Random states are left alone.

    Raises:
        DataError: a source has no labels (at once, not in the middle of training). Calling the probe raises DataError
            when the labels do not allow a score. An encoder whose features are not finite scores nothing: the probe
            warns and returns an empty mapping, because it is the run's health that has to say so.
    """
    train = _Kept(_subset(train_source, max_train, seed, "train"), transform, batch_size, workers)
    val = _Kept(_subset(val_source, max_val, seed, "val"), transform, batch_size, workers)

    def probe(encoder: Encoder, normalise: nn.Module, device: str | torch.device) -> Mapping[str, float]:
        sides: list[Features] = []
        for kept in (train, val):
            found = extract(encoder, kept.batches(), normalise=normalise, device=device, source=kept.source)
            if not bool(torch.isfinite(found.values).all()):
                log.warning("the probe has no score: the encoder's features are not finite")
                return {}
            sides.append(found)
        return {
            "knn": knn(sides[0], sides[1], k=k, seed=seed).value,
            "linear": linear(sides[0], sides[1], seed=seed).value,
        }

    return probe


class _Kept:
    """Evaluation batches of a source, in memory after the first pass when they are small."""

    def __init__(self, source: Source, transform: Any, batch_size: int, workers: int) -> None:
        self.source = source
        self._transform, self._batch_size, self._workers = transform, batch_size, workers
        self._batches: list[Batch] | None = None

    def batches(self) -> Iterator[Batch]:
        """All batches in order."""
        if self._batches is not None:
            yield from self._batches
            return
        kept: list[Batch] | None = []
        size = 0
        bad: dict[str, str] = {}
        reader = read_batches(self.source, self._transform, batch_size=self._batch_size, workers=self._workers, bad=bad)
        for batch in reader:
            size += sum(tensor.nbytes for tensor in batch.inputs.values())
            kept = None if kept is None or size > KEEP_BYTES // 2 else [*kept, batch]
            yield batch
        if bad:
            log.warning("the probe skips %d unreadable files of %s", len(bad), self.source.name)
        self._batches = kept


def _subset(source: Source, most: int, seed: int, side: str) -> Source:
    """At most ``most`` labelled samples, classes in proportion."""
    labels = torch.tensor([source.label(i) for i in range(len(source))], dtype=torch.int64)  # (N,)
    labelled: Tensor = (labels >= 0).nonzero().flatten()
    if len(labelled) == 0:
        raise DataError(f"the {side} data of the probe ({source.name}) has no labels")
    return Subset(source, labelled[stratified(labels[labelled], most, seed)].tolist())
