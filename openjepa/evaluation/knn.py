"""k-nearest-neighbour accuracy: no training, no choice to tune, exact."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from openjepa.errors import ConfigError
from openjepa.evaluation.labels import align, score_of
from openjepa.evaluation.score import Score
from openjepa.features import Features, cosine_topk

log = logging.getLogger(__name__)


def knn(
    train: Features,
    val: Features | None,
    *,
    k: int = 20,
    temperature: float | None = 0.07,
    centre: bool = True,
    subject: str = "encoder",
    seed: int = 0,
) -> Score:
    """Accuracy of the vote of the ``k`` training samples with the largest cosine.

    Args:
        train, val: pooled features with labels; classes are matched by name. ``val=None``: leave-one-out on ``train``.
        k: neighbours; lowered with a warning when there are fewer training samples.
        temperature: T weighs a neighbour of cosine s by exp(s / T) (Wu et al. 1805.01978 eq. 7, T = .07); None is a plain
            majority. Equal votes go to the class that comes first in class order (as in scikit-learn).
        centre: subtract the mean of ``train`` from both sides before the cosine.
        subject, seed: copied into the score; nothing here is random.

    Raises:
        DataError: labels or features do not allow a score (see :func:`openjepa.evaluation.labels.align`).
        ConfigError: ``k`` or ``temperature`` is not positive.
    """
    if k < 1 or (temperature is not None and not temperature > 0):
        raise ConfigError(f"kNN needs k >= 1 and temperature > 0 (or none for a majority), got k={k}, {temperature}")
    data = align(train, train if val is None else val)
    most = len(data.y) - (val is None)
    if k > most:
        log.warning("k=%d is more than the %d training samples: k=%d is used", k, most, most)
    used = min(k, most)
    mean = data.x.double().mean(0) if centre else torch.zeros(data.x.shape[1], dtype=torch.float64)
    bank, queries = (data.x.double() - mean).float(), (data.val_x.double() - mean).float()
    own = torch.arange(len(data.y)) if val is None else None
    cosine, index = cosine_topk(queries, bank, used, exclude=own)
    predicted = vote(cosine, data.y[index], len(data.classes), temperature)
    protocol: dict[str, object] = {
        **{key: train.protocol[key] for key in ("tokens", "layers", "precision", "max_side") if key in train.protocol},
        "metric": "cosine",
        "centred": "train mean" if centre else "no",
        "k": used,
        "vote": "majority" if temperature is None else f"exp(cosine/{temperature:g})",
        "split": "leave-one-out" if val is None else "train/val",
    }
    return score_of("knn", predicted, data, protocol=protocol, seed=seed, subject=subject)


def vote(cosine: Tensor, labels: Tensor, classes: int, temperature: float | None) -> Tensor:
    """Class ``(Q,)`` with the most votes of neighbours with ``cosine (Q, k)`` and ``labels (Q, k)``; ties: the lowest."""
    relative = cosine - cosine[:, :1]  # to the nearest, so that exp never overflows
    weights = torch.ones_like(cosine) if temperature is None else (relative / temperature).exp()
    votes = torch.zeros(len(cosine), classes, dtype=torch.float64, device=cosine.device)
    votes.scatter_add_(1, labels, weights.double())
    best = votes.max(1, keepdim=True).values
    return (votes == best).to(torch.int8).argmax(1)
