"""Low-shot accuracy: logistic regression on a few labelled images per class, drawn several times."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openjepa.errors import ConfigError, DataError
from openjepa.evaluation import logistic
from openjepa.evaluation.intervals import mean_interval
from openjepa.evaluation.labels import Labelled, align, feature_protocol, stratified
from openjepa.evaluation.linear import PENALTIES, choose_penalty
from openjepa.evaluation.score import Score
from openjepa.features import Features

log = logging.getLogger(__name__)

SHOTS: tuple[int | str, ...] = (1, 5, 10, "1%", "10%")
FOLDS = 5
FOLDED_BELOW = 20  # shots per class under which the penalty is chosen by cross-validation and not on one held-out fifth
ONE_SHOT_PENALTY = 1e-2  # with one image of a class nothing can be held out
_CHOICES = tuple(p for p in PENALTIES if 1e-6 <= p <= 1)


@dataclass(frozen=True)
class Shots:
    """How many training images: ``per_class`` of each class, or a ``share`` of all with classes in proportion."""

    label: str
    per_class: int = 0
    share: float = 0.0


def parse_shots(shots: Sequence[int | str]) -> tuple[Shots, ...]:
    """``(1, "5", "10%")`` as shots. Raises ConfigError, one line, when one is neither a count nor a share."""
    found = []
    for word in shots:
        text = str(word).strip().removesuffix("%").strip()
        percent = str(word).strip().endswith("%")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if percent and 0 < number <= 100:
            found.append(Shots(f"{number:g}%", share=number / 100))
        elif not percent and number >= 1 and number == int(number):
            found.append(Shots(f"{int(number)} per class", per_class=int(number)))
        else:
            raise ConfigError(f"shots '{word}' is neither images per class (5) nor a share of train (10%)")
    if not found:
        raise ConfigError("no shots asked: give images per class or shares of train, such as 1,5,10,1%,10%")
    return tuple(dict.fromkeys(found))


def low_shot(
    train: Features,
    val: Features,
    shots: Sequence[int | str] | None = None,
    *,
    draws: int = 5,
    seed: int = 0,
    subject: str = "encoder",
) -> list[Score]:
    """Accuracy of logistic regression fitted on few labels: one score per entry of ``shots``, mean over ``draws``.

    Each draw takes its own training images (seeds ``seed``, ``seed + 1``, …) and is scored on all of val. Channels are
    standardised by *all* of train, which uses no label. The penalty is chosen within the draw: below 20 images per class
    by 5-fold cross-validation (log-loss), above on a held-out fifth, with one image per class fixed; never on val.

    Args:
        train, val: pooled features with labels.
        shots: images per class (``5``) or a share of train (``"10%"``, classes in proportion, at least one of each).
            None: 1, 5, 10 per class, 1 % and 10 %, leaving out with a warning what train is too small for.
        draws: how often.

    Raises:
        DataError: as in :func:`openjepa.evaluation.labels.align`; more shots than a class has images.
        ConfigError: shots that say nothing, or no draw.
    """
    if draws < 1:
        raise ConfigError(f"low-shot needs at least one draw, got {draws}")
    asked = parse_shots(SHOTS if shots is None else shots)
    data = align(train, val)
    scale = logistic.scaling(data.x)
    scores = []
    for shot in asked:
        reason = _too_many(shot, data)
        if reason and shots is not None:
            raise DataError(reason)
        if reason:
            log.warning("low-shot leaves out %s: %s", shot.label, reason)
            continue
        scores.append(_score(shot, data, scale, train, draws, seed, subject))
    return scores


def _too_many(shot: Shots, data: Labelled) -> str:
    """Why the training data does not allow these shots; empty when it does."""
    counts = torch.bincount(data.y, minlength=len(data.classes))
    least = int(counts.argmin())
    if shot.per_class > int(counts[least]):
        return (
            f"{shot.per_class} shots asked but class '{data.classes[least]}' has {int(counts[least])} training images:"
            f" at most {int(counts[least])}"
        )
    if shot.share and round(shot.share * len(data.y)) < len(data.classes):
        return (
            f"{shot.label} of {len(data.y):,} training images is {round(shot.share * len(data.y))}, fewer than the"
            f" {len(data.classes)} classes: at least {100 * len(data.classes) / len(data.y):.2g}%"
        )
    return ""


def _score(
    shot: Shots,
    data: Labelled,
    scale: tuple[Tensor, Tensor],
    train: Features,
    draws: int,
    seed: int,
    subject: str,
) -> Score:
    """All draws of one number of shots."""
    values, penalties, used = [], [], 0
    for draw in range(draws):
        chosen = _draw(shot, data.y, seed + draw)
        # The draw's own axes: a handful of images span a handful of directions, whatever the width of the features.
        basis, labels = logistic.standardise(data.x[chosen], scale), data.y[chosen]
        penalty = _penalty(basis, labels, len(data.classes), seed + draw)
        found = logistic.fit(basis.rows, labels, len(data.classes), penalty, basis.power)
        predicted = found.logits(basis.coordinates(data.val_x)).argmax(1)
        values.append(float((predicted == data.val_y).double().mean()))
        penalties.append(penalty)
        used = len(chosen)
    spread, low, high = mean_interval(values, len(data.val_y))
    smallest = int(torch.bincount(labels, minlength=len(data.classes)).min())
    protocol: dict[str, object] = {
        **feature_protocol(train),
        "model": "multinomial logistic regression",
        "standardised": "train mean and std, all images, no labels",
        "shots": shot.label,
        "draws": draws,
        "c": 1.0 / (sorted(penalties)[len(penalties) // 2] * used),
        "chosen_on": "fixed"
        if smallest < 2
        else "cross-validation within the draw"
        if smallest < FOLDED_BELOW
        else "held-out 20% of the draw",
        "interval": "over draws and val samples",
    }
    return Score(
        f"low-shot {shot.label}",
        sum(values) / draws,
        used,
        len(data.val_y),
        subject,
        protocol,
        data.classes,
        interval=(low, high),
        seed=seed,
        spread=spread if draws > 1 else None,
        draws=tuple(values),
    )


def _draw(shot: Shots, y: Tensor, seed: int) -> Tensor:
    """Indices of the training images of one draw, ascending."""
    if shot.share:
        return stratified(y, round(shot.share * len(y)), seed)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    members = [order[y[order] == label][: shot.per_class] for label in torch.unique(y).tolist()]
    return torch.cat(members).sort().values


def _penalty(basis: logistic.Basis, y: Tensor, classes: int, seed: int) -> float:
    """The penalty that the drawn images choose among themselves."""
    smallest = int(torch.bincount(y, minlength=classes).min())
    if smallest < 2:
        return ONE_SHOT_PENALTY
    if smallest >= FOLDED_BELOW:
        return choose_penalty(basis, y, classes, seed).penalty
    fold, rows = _folds(y, min(FOLDS, smallest), seed), basis.rows
    losses = dict.fromkeys(_CHOICES, 0.0)
    for place in range(int(fold.max()) + 1):
        held = fold == place
        current: logistic.Fit | None = None
        for penalty in _CHOICES:  # from strong to weak, each from the last solution
            current = logistic.fit(rows[~held], y[~held], classes, penalty, basis.power, current, 1e-4)
            log_p = current.logits(rows[held]).log_softmax(1)
            losses[penalty] -= float(log_p.gather(1, y[held][:, None]).sum())
    return min(losses, key=lambda penalty: (losses[penalty], -penalty))


def _folds(y: Tensor, count: int, seed: int) -> Tensor:
    """Fold of each sample, every class spread evenly over all; ``(n,)`` int64."""
    fold = torch.empty(len(y), dtype=torch.int64)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    for label in torch.unique(y).tolist():
        members = order[y[order] == label]
        fold[members] = torch.arange(len(members)) % count
    return fold
