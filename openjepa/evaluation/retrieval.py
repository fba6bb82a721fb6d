"""Image retrieval: does the whole ranking by cosine, not only its head, bring images of the same class first?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openjepa.errors import DataError
from openjepa.evaluation.intervals import bootstrap
from openjepa.evaluation.knn import mean_row
from openjepa.evaluation.labels import align, feature_protocol
from openjepa.evaluation.score import Score
from openjepa.features import Features

HEADS = (1, 5, 10)  # recall@
_CELLS_AT_ONCE = 4 * 2**20  # of ranking, about 50 bytes each
_ROUND = 12  # decimals of a cosine: equal images are equal whatever the blocked product did to their last digits


@dataclass(frozen=True)
class Ranking:
    """What rankings are worth. average_precision: of each query that has a relevant image, ``(Q',)``; recall: by k, the
    share of those queries with a relevant image among the first k; left_out: queries without any.
    """

    average_precision: Tensor
    recall: dict[int, float]
    left_out: int

    @property
    def mean(self) -> float:
        """Mean average precision."""
        return float(self.average_precision.mean())


def rank(queries: Tensor, labels: Tensor, bank: Tensor, bank_labels: Tensor, *, own: bool = False) -> Ranking:
    """Rank the whole bank for every query by cosine, in float64; equal cosines (to 1e-12) in index order.

    Average precision of a query is the mean, over its relevant images, of the share of relevant ones among all ranked so
    far (Manning et al., Introduction to Information Retrieval, §8.4). A zero row has cosine 0 with everything.

    Args:
        queries, labels: ``(Q, D)``, ``(Q,)``. bank, bank_labels: ``(N, D)``, ``(N,)``.
        own: queries are the bank; each leaves itself out.

    Raises:
        DataError: no query has a relevant image.
    """
    queries, bank = (torch.nn.functional.normalize(x.double(), dim=1, eps=1e-300) for x in (queries, bank))
    places = torch.arange(1, len(bank) + 1, dtype=torch.float64)
    precision, firsts = [], []
    step = max(1, _CELLS_AT_ONCE // len(bank))
    for start in range(0, len(queries), step):
        part = slice(start, min(start + step, len(queries)))
        cosine = (queries[part] @ bank.T).round(decimals=_ROUND)  # (q, N)
        rows = torch.arange(cosine.shape[0])
        if own:
            cosine[rows, rows + start] = -torch.inf  # ranked last, and not counted
        order = cosine.sort(dim=1, descending=True, stable=True).indices
        relevant = bank_labels[order] == labels[part, None]
        if own:
            relevant[:, -1] = False
        count = relevant.sum(1)
        total = (relevant.cumsum(1) / places * relevant).sum(1)
        precision.append(torch.where(count > 0, total / count.clamp_min(1), torch.nan))
        firsts.append(torch.where(count > 0, relevant.to(torch.int8).argmax(1), -1))
    every, first = torch.cat(precision), torch.cat(firsts)
    asked = first >= 0
    if not bool(asked.any()):
        raise DataError("retrieval needs two images of a class: no query has another image of its class to find")
    recall = {k: float((first[asked] < k).double().mean()) for k in HEADS}
    return Ranking(every[asked], recall, int((~asked).sum()))


def retrieval(train: Features, val: Features, *, seed: int = 0, subject: str = "encoder") -> list[Score]:
    """Mean average precision of val images among val (each leaves itself out), and of val images among train.

    Features are centred by the train mean, as for kNN. ``extra`` holds recall@1, 5 and 10: the share of queries with an
    image of their class among the first k. The interval is a bootstrap over queries.

    Raises:
        DataError: as in :func:`openjepa.evaluation.labels.align`, or no val class has two images.
    """
    data = align(train, val)
    mean = mean_row(data.x)
    bank, queries = data.x.double() - mean, data.val_x.double() - mean
    found = {
        "retrieval": rank(queries, data.val_y, queries, data.val_y, own=True),
        "retrieval from train": rank(queries, data.val_y, bank, data.y),
    }
    scores = []
    for name, ranking in found.items():
        ap = ranking.average_precision.numpy()

        def resampled(drawn: NDArray[np.int64], ap: NDArray[np.float64] = ap) -> NDArray[np.float64]:
            return np.asarray(ap[drawn].mean(1))

        protocol: dict[str, object] = {
            **feature_protocol(train),
            "ranked_by": "cosine",
            "centred": "train mean",
            "among": "val, itself left out" if name == "retrieval" else "train",
            "queries_without_match": ranking.left_out or None,
        }
        scores.append(
            Score(
                name,
                ranking.mean,
                len(data.y),
                len(ap),
                subject,
                protocol,
                data.classes,
                interval=bootstrap(len(ap), resampled, ranking.mean, seed, (0.0, 1.0)),
                seed=seed,
                metric="mAP",
                extra={f"recall@{k}": share for k, share in ranking.recall.items()},
            )
        )
    return scores
