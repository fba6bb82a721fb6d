"""Do classes form clusters? k-means on the features without labels, and how well its clusters agree with the classes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openjepa.errors import DataError, require
from openjepa.evaluation.intervals import RESAMPLES, around
from openjepa.evaluation.knn import centred, mean_row
from openjepa.evaluation.labels import Labelled, align, feature_protocol
from openjepa.evaluation.score import Score
from openjepa.features import Features

INITS = 10
_CELLS_AT_ONCE = 5_000_000  # of resampled contingency tables
Table = NDArray[np.float64]


def kmeans(
    train: Features,
    val: Features,
    *,
    inits: int = INITS,
    seed: int = 0,
    subject: str = "encoder",
) -> list[Score]:
    """NMI, ARI and Hungarian accuracy of k-means clusters, k = number of classes: three scores.

    Clusters are fitted on ``train`` without labels (scikit-learn, k-means++, ``inits`` starts, features centred by the
    train mean and scaled to unit length); validation samples go to the nearest centre. The score is that of the start
    with the least inertia, which needs no label; ``draws`` and ``spread`` are over all starts. Accuracy matches clusters
    to classes one to one (Kuhn 1955) by *train* labels, so that val chooses nothing.

    Raises:
        DataError: as in :func:`openjepa.evaluation.labels.align`, or fewer training samples than classes.
        MissingExtra: scikit-learn is not installed.
    """
    data = align(train, val)
    clusters = len(data.classes)
    rows, val_rows = _unit_rows(data)
    if len(rows) <= clusters:
        raise DataError(f"k-means needs more training samples than its {clusters} clusters, got {len(rows)}")
    tables, inertia = [], []
    for start in range(inits):
        fitted = _fit(rows, clusters, seed + start)
        on_train, on_val = fitted.labels_, fitted.predict(val_rows)
        match = match_clusters(contingency(on_train, data.y.numpy(), clusters))
        tables.append(contingency(match[on_val], data.val_y.numpy(), clusters))
        inertia.append(float(fitted.inertia_))
    best = int(np.argmin(inertia))
    protocol: dict[str, object] = {
        **feature_protocol(train),
        "clusters": clusters,
        "fitted_on": "train, no labels",
        "rows": "centred by train mean, unit length",
        "inits": inits,
        "shown": "least inertia",
        "matched_on": "train labels",
    }
    scores = []
    for metric, measure in MEASURES.items():
        draws = tuple(float(measure(table[None])[0]) for table in tables)
        scores.append(
            Score(
                "kmeans",
                draws[best],
                len(rows),
                len(val_rows),
                subject,
                protocol,
                data.classes,
                interval=_interval(tables[best], measure, draws[best], seed, -1.0 if metric == "ari" else 0.0),
                seed=seed,
                metric=metric,
                spread=float(np.std(draws, ddof=1)) if inits > 1 else None,
                draws=draws,
            )
        )
    return scores


def contingency(clusters: NDArray[Any], labels: NDArray[Any], count: int) -> Table:
    """How many samples each pair (cluster, class) has, ``(count, count)``."""
    table = np.zeros((count, count))
    np.add.at(table, (clusters, labels), 1)
    return table


def match_clusters(table: Table) -> NDArray[np.int64]:
    """Class of each cluster, one to one, with the most samples in agreement (Kuhn 1955)."""
    solve = require("scipy.optimize", "eval").linear_sum_assignment
    clusters, classes = solve(-table)
    match = np.empty(len(table), np.int64)
    match[clusters] = classes
    return match


def accuracy_of(tables: Table) -> Table:
    """Share on the diagonal of contingency tables ``(R, K, K)`` of matched clusters; ``(R,)``."""
    return np.asarray(np.trace(tables, axis1=1, axis2=2) / tables.sum((1, 2)))


def nmi_of(tables: Table) -> Table:
    """Normalised mutual information I(U; V) / mean of H(U) and H(V) of tables ``(R, K, K)``; ``(R,)`` in 0..1.

    Strehl & Ghosh 2002, with the arithmetic mean; two sides of one group each agree perfectly: 1.
    """
    joint = tables / tables.sum((1, 2), keepdims=True)
    h_rows, h_columns = _entropy(joint.sum(2)), _entropy(joint.sum(1))
    information = h_rows + h_columns - _entropy(joint.reshape(len(joint), -1))
    mean = (h_rows + h_columns) / 2
    return np.where(mean > 0, information / np.where(mean > 0, mean, 1), 1.0).clip(0, 1)


def ari_of(tables: Table) -> Table:
    """Adjusted Rand index of tables ``(R, K, K)`` (Hubert & Arabie 1985 eq. 5); ``(R,)``: 1 equal, 0 by chance."""
    pairs = _pairs(tables).sum((1, 2))
    rows, columns = _pairs(tables.sum(2)).sum(1), _pairs(tables.sum(1)).sum(1)
    everything = _pairs(tables.sum((1, 2)))
    expected, most = rows * columns / everything, (rows + columns) / 2
    same = most == expected
    return np.where(same, 1.0, (pairs - expected) / np.where(same, 1, most - expected))


MEASURES: dict[str, Callable[[Table], Table]] = {"accuracy": accuracy_of, "nmi": nmi_of, "ari": ari_of}


def _entropy(shares: Table) -> Table:
    """−Σ p log p over the last axis."""
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(-1)


def _pairs(counts: Table) -> Table:
    return counts * (counts - 1) / 2


def _interval(
    table: Table, measure: Callable[[Table], Table], value: float, seed: int, low: float
) -> tuple[float, float]:
    """Bootstrap over validation samples: drawing samples is drawing cells of the table."""
    total, filled = int(table.sum()), np.flatnonzero(table)
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // table.size)
    found: list[float] = []
    while len(found) < RESAMPLES:
        drawn = np.zeros((min(at_once, RESAMPLES - len(found)), table.size))
        drawn[:, filled] = generator.multinomial(total, table.flat[filled] / total, len(drawn))
        found += measure(drawn.reshape(-1, *table.shape)).tolist()
    return around(value, np.array(found), (low, 1.0))


def _unit_rows(data: Labelled) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both sides centred by train, rows of length 1."""
    mean = mean_row(data.x)

    def unit(x: Tensor) -> NDArray[np.float32]:
        found: NDArray[np.float32] = torch.nn.functional.normalize(centred(x, mean), dim=1).numpy()
        return found

    return unit(data.x), unit(data.val_x)


def _fit(rows: NDArray[np.float32], clusters: int, seed: int) -> Any:
    """One start of scikit-learn's k-means."""
    cluster = require("sklearn.cluster", "eval")
    with warnings.catch_warnings():  # collapsed features have fewer distinct points than clusters: the score says so
        warnings.simplefilter("ignore")
        return cluster.KMeans(clusters, n_init=1, random_state=seed).fit(rows)
