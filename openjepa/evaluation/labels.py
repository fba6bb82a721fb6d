"""Labels of two folders brought to one numbering, by class *name*, and samples chosen by class."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openjepa.errors import DataError, nearest
from openjepa.evaluation.score import Score, wilson
from openjepa.features import Features, broken_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelled:
    """Pooled features ``x (N, D)`` float32 and labels ``y (N,)`` int64 into ``classes``, for both sides."""

    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor
    classes: tuple[str, ...]


def align(train: Features, val: Features) -> Labelled:
    """Drop unlabelled samples and number both sides by the class names of ``train``.

    Raises:
        DataError: a side has no labels, ``train`` has one class only, ``val`` has a class ``train`` has not, features
            are not ``(N, D)``, of different width, or not finite.
    """
    names = {}
    for side, features in (("train", train), ("val", val)):
        names[side] = present_classes(features, side)
        check_values(features, side)
    if train.values.shape[1] != val.values.shape[1]:
        raise DataError(f"train features are {train.values.shape[1]} wide and val features {val.values.shape[1]}")
    classes = names["train"]
    if len(classes) < 2:
        raise DataError(f"the train samples all have class '{classes[0]}': a score needs at least two classes")
    unknown = [name for name in names["val"] if name not in set(classes)]
    if len(unknown) == len(names["val"]):
        raise DataError(
            f"val and train share no class (val: {_listed(names['val'])}; train: {_listed(classes)}): lay out both folders"
            " the same way, one subfolder per class"
        )
    if unknown:
        listed = ", ".join(f"'{name}'{nearest(name, classes)}" for name in unknown[:3])
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise DataError(f"val has classes that train has not: {listed}{more}; train has {_listed(classes)}")
    missing = [name for name in classes if name not in set(names["val"])]
    if missing:
        log.info("no val sample of %d classes (%s): they are not part of the score", len(missing), _listed(missing))
    x, y = _numbered(train, classes)
    val_x, val_y = _numbered(val, classes)
    return Labelled(x, y, val_x, val_y, classes)


def present_classes(features: Features, side: str) -> tuple[str, ...]:
    """Names of the classes that occur, in name order of the source. Raises DataError when there is no label."""
    if features.labels is None or not bool((features.labels >= 0).any()):
        raise DataError(
            f"the {side} samples have no labels: give a folder with one subfolder per class (two or more), or a list of"
            " 'path label'"
        )
    found = torch.unique(features.labels[features.labels >= 0]).tolist()
    return tuple(_name(features, label) for label in found)


def check_values(features: Features, side: str) -> None:
    """Raise DataError when features are not a finite ``(N, D)``."""
    values = features.values
    if values.ndim != 2:
        raise DataError(f"the {side} features have shape {tuple(values.shape)}: scores need pooled (N, D) features")
    broken = broken_rows(values)
    if len(broken):
        first = int(broken[0])
        item = f" (first: {features.item_ids[first]})" if features.item_ids else ""
        raise DataError(f"{len(broken)} of {len(values)} {side} features are not finite{item}: the encoder is broken")


def stratified(labels: Tensor | Sequence[int], count: int, seed: int) -> Tensor:
    """Indices of at most ``count`` samples, classes in proportion, drawn by ``seed``; ``(n,)`` int64 ascending.

    Shares are rounded by largest remainder; every class keeps one sample as long as ``count`` allows. Samples without
    a label (-1) count as a class of their own.
    """
    labels = torch.as_tensor(labels, dtype=torch.int64)
    if count >= len(labels):
        return torch.arange(len(labels))
    classes, sizes = torch.unique(labels, return_counts=True)
    quota = sizes.double() * count / len(labels)
    take = quota.floor().to(torch.int64)
    if count >= len(classes):
        take.clamp_min_(1)
    # Largest remainder first, then the larger class, so that the choice depends on nothing but counts.
    while int(take.sum()) != count:
        short = int(take.sum()) < count
        gap = torch.where((take < sizes) if short else (take > 1), quota - take, -torch.inf if short else torch.inf)
        place = int(gap.argmax() if short else gap.argmin())
        take[place] += 1 if short else -1
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    chosen = [order[labels[order] == c][:n] for c, n in zip(classes.tolist(), take.tolist(), strict=True)]
    return torch.cat(chosen).sort().values


def score_of(
    name: str,
    predicted: Tensor,
    data: Labelled,
    *,
    protocol: dict[str, object],
    seed: int = 0,
    subject: str = "encoder",
) -> Score:
    """Accuracy of predictions ``(n_val,)`` with its interval and the accuracy of each class."""
    right = predicted == data.val_y
    per_class = {
        label: float(right[data.val_y == i].double().mean())
        for i, label in enumerate(data.classes)
        if bool((data.val_y == i).any())
    }
    correct, total = int(right.sum()), len(right)
    absent = [label for label in data.classes if label not in per_class]
    about = {**protocol, "no_val_images_of": _listed(absent)} if absent else protocol
    return Score(
        name=name,
        value=correct / total,
        n_train=len(data.y),
        n_val=total,
        subject=subject,
        protocol=about,
        classes=data.classes,
        per_class=per_class,
        interval=wilson(correct, total),
        seed=seed,
    )


def feature_protocol(features: Features) -> dict[str, object]:
    """The part of a score's protocol that says which features it is of."""
    kept = ("tokens", "layers", "precision", "max_side")
    return {key: features.protocol[key] for key in kept if key in features.protocol}


def _numbered(features: Features, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Labelled rows and their labels as indices into ``classes``."""
    assert features.labels is not None
    kept = features.labels >= 0
    index = {name: i for i, name in enumerate(classes)}
    labels = features.labels[kept]
    table = torch.zeros(int(labels.max()) + 1, dtype=torch.int64)
    for label in torch.unique(labels).tolist():
        table[label] = index[_name(features, label)]
    values = features.values if bool(kept.all()) else features.values[kept]  # no copy of what may be a gigabyte
    return values.float(), table[labels]


def _name(features: Features, label: int) -> str:
    return str(label) if features.classes is None else features.classes[label]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
