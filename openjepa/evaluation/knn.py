"""k-nearest-neighbour accuracy: no training, exact; k and temperature given, or chosen from a grid on train alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from openjepa.errors import ConfigError
from openjepa.evaluation.labels import Labelled, align, feature_protocol, score_of, stratified
from openjepa.evaluation.score import Score
from openjepa.features import Features, cosine_topk

log = logging.getLogger(__name__)

CHOICE_SAMPLES = 5_000  # training samples whose neighbours among the others choose k and temperature
_ROWS = 4096  # rows widened to float64 at once

Temperature = float | None


@dataclass(frozen=True)
class Cell:
    """One place of the grid: k neighbours, and the temperature of their votes (None: majority)."""

    k: int
    temperature: Temperature

    @property
    def vote(self) -> str:
        """The vote in words."""
        return "majority" if self.temperature is None else f"exp(cosine/{self.temperature:g})"


def knn(
    train: Features,
    val: Features | None,
    *,
    k: int | Sequence[int] = 20,
    temperature: Temperature | Sequence[Temperature] = 0.07,
    centre: bool = True,
    subject: str = "encoder",
    seed: int = 0,
) -> Score:
    """Accuracy of the vote of the ``k`` training samples with the largest cosine.

    With several ``k`` or temperatures the pair is chosen by the leave-one-out accuracy of a stratified draw of training
    samples (at most 5,000, by ``seed``) among all of train; equal accuracies go to the pair named first. The best pair
    *on val* is ``grid_max``: what choosing on the test images would have reported.

    Args:
        train, val: pooled features with labels; classes are matched by name. ``val=None``: leave-one-out on ``train``.
        k: neighbours; lowered with a warning when there are fewer training samples. One, or a grid.
        temperature: T weighs a neighbour of cosine s by exp(s / T) (Wu et al. 1805.01978 eq. 7, T = .07); None is a plain
            majority. Equal votes go to the class that comes first in class order (as in scikit-learn). One, or a grid.
        centre: subtract the mean of ``train`` from both sides before the cosine.
        subject, seed: copied into the score; without a grid nothing here is random.

    Raises:
        DataError: labels or features do not allow a score (see :func:`openjepa.evaluation.labels.align`).
        ConfigError: ``k`` or ``temperature`` is not positive, or a grid without ``val``.
    """
    ks, temperatures = _grid(k, temperature)
    if val is None and len(ks) * len(temperatures) > 1:
        raise ConfigError("a kNN grid needs val: leave-one-out scores would be chosen on themselves")
    data = align(train, train if val is None else val)
    ks = _fitting(ks, len(data.y) - 1 if val is None or len(ks) * len(temperatures) > 1 else len(data.y))
    cells = [Cell(count, t) for count in ks for t in temperatures]
    bank, queries = _sides(data, centre)
    own = torch.arange(len(data.y)) if val is None else None
    cosine, index = cosine_topk(queries, bank, max(ks), exclude=own)
    found = {cell: _predict(cell, cosine, index, data) for cell in cells}
    chosen, about = cells[0], dict[str, object]()
    if len(cells) > 1:
        chosen, about = _choose(cells, bank, data, seed)
        about["grid"] = f"k {', '.join(map(str, ks))} × T {', '.join(_named(t) for t in temperatures)}"
    protocol: dict[str, object] = {
        **feature_protocol(train),
        "metric": "cosine",
        "centred": "train mean" if centre else "no",
        "k": chosen.k,
        "vote": chosen.vote,
        "split": "leave-one-out" if val is None else "train/val",
        **about,
    }
    score = score_of("knn", found[chosen], data, protocol=protocol, seed=seed, subject=subject)
    if len(cells) == 1:
        return score
    return replace(score, grid_max=max(float((p == data.val_y).double().mean()) for p in found.values()))


def vote(cosine: Tensor, labels: Tensor, classes: int, temperature: Temperature) -> Tensor:
    """Class ``(Q,)`` with the most votes of neighbours with ``cosine (Q, k)`` and ``labels (Q, k)``; ties: the lowest."""
    relative = cosine - cosine[:, :1]  # to the nearest, so that exp never overflows
    weights = torch.ones_like(cosine) if temperature is None else (relative / temperature).exp()
    votes = torch.zeros(len(cosine), classes, dtype=torch.float64, device=cosine.device)
    votes.scatter_add_(1, labels, weights.double())
    best = votes.max(1, keepdim=True).values
    return (votes == best).to(torch.int8).argmax(1)


def centred(x: Tensor, mean: Tensor) -> Tensor:
    """``x (N, D) - mean (D,)`` computed in float64 and kept in float32, without a float64 copy of all rows."""
    out = torch.empty_like(x, dtype=torch.float32)
    for start in range(0, len(x), _ROWS):
        out[start : start + _ROWS] = x[start : start + _ROWS].double() - mean
    return out


def mean_row(x: Tensor) -> Tensor:
    """Mean of the rows of ``x (N, D)`` in float64, ``(D,)``."""
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for start in range(0, len(x), _ROWS):
        total += x[start : start + _ROWS].double().sum(0)
    return total / len(x)


def _sides(data: Labelled, centre: bool) -> tuple[Tensor, Tensor]:
    """Bank and queries."""
    if not centre:
        return data.x, data.val_x
    mean = mean_row(data.x)
    bank = centred(data.x, mean)
    return bank, bank if data.val_x is data.x else centred(data.val_x, mean)


def _predict(cell: Cell, cosine: Tensor, index: Tensor, data: Labelled) -> Tensor:
    return vote(cosine[:, : cell.k], data.y[index[:, : cell.k]], len(data.classes), cell.temperature)


def _choose(cells: Sequence[Cell], bank: Tensor, data: Labelled, seed: int) -> tuple[Cell, dict[str, object]]:
    """The pair with the best leave-one-out accuracy of some training samples, and how it was chosen."""
    drawn = stratified(data.y, CHOICE_SAMPLES, seed)
    cosine, index = cosine_topk(bank[drawn], bank, max(cell.k for cell in cells), exclude=drawn)
    right = [float((_predict(cell, cosine, index, data) == data.y[drawn]).double().mean()) for cell in cells]
    best = max(right)
    about: dict[str, object] = {
        "chosen_on": f"leave-one-out of {len(drawn):,} train samples",
        "chosen_accuracy": best,
    }
    return cells[right.index(best)], about


def _grid(
    k: int | Sequence[int], temperature: Temperature | Sequence[Temperature]
) -> tuple[list[int], list[Temperature]]:
    """Both as lists without repetition, checked."""
    ks = list(dict.fromkeys([k] if isinstance(k, int) else k))
    single = temperature is None or isinstance(temperature, int | float)
    wanted: list[Temperature] = list(dict.fromkeys([temperature] if single else temperature))  # type: ignore[list-item, arg-type]
    if not ks or not wanted or min(ks) < 1 or any(t is not None and not t > 0 for t in wanted):
        raise ConfigError(
            f"kNN needs k >= 1 and temperature > 0 (or none for a majority), got k={k}, temperature={temperature}"
        )
    return ks, wanted


def _fitting(ks: Sequence[int], most: int) -> list[int]:
    """Counts lowered to what there is."""
    for count in ks:
        if count > most:
            log.warning("k=%d is more than the %d training samples: k=%d is used", count, most, most)
    return list(dict.fromkeys(min(count, most) for count in ks))


def _named(temperature: Temperature) -> str:
    return "none" if temperature is None else f"{temperature:g}"
