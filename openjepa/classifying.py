"""The verb that uses a classifier: the class of every image or video of a folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from openjepa.data import read_batches
from openjepa.data.readers import is_image_name
from openjepa.data.video_listing import is_video_name
from openjepa.errors import ConfigError
from openjepa.features import ClipOptions
from openjepa.features.classify import class_probabilities
from openjepa.hub.atomic import write_file
from openjepa.hub.provenance import PublishedProbe
from openjepa.judging import choose_device
from openjepa.loading import load
from openjepa.model import AnyModel


@dataclass(frozen=True)
class Classified:
    """One file. path: as its source calls it. labels, probabilities: likeliest first. truth: the file's own label, where
    it has one that the classifier knows. error: why it could not be read; then there are no labels.
    """

    path: str
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    truth: str | None = None
    error: str | None = None


def classify(
    data: str | Path,
    model: str | Path | AnyModel,
    *,
    top: int = 1,
    probe: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    clips: ClipOptions | None = None,
) -> Iterator[Classified]:
    """The likeliest classes of every file, in order, as they come; unreadable files come last, with their error.

    Args:
        data: folder of images or videos (labels are not needed), a list file, or one image or video.
        model: a fine-tuned classifier, or what :func:`load` takes together with ``probe``, a published attentive classifier
            for it. top: classes per file.

    Raises:
        ConfigError: the model has no classifier. DataError: nothing there that can be read.
    """
    if top < 1:
        raise ConfigError(f"--top {top}: at least one class per file")
    loaded = model if isinstance(model, AnyModel) else load(model, probe=probe)
    found = loaded.probe
    if found is None:
        raise ConfigError(f"{loaded.name} has no classifier: fine-tune one with --out, or give --probe")
    seen = loaded.seen(clips or ClipOptions()).to(choose_device(device))
    if Path(data).is_file() and (is_image_name(str(data)) or is_video_name(str(data))):
        _, shares = seen.classify([data])
        yield _row(str(data), shares[0], found, top)
        return
    source = seen.open(data, "val")
    bad: dict[str, str] = {}
    for batch in read_batches(source, seen.transform, batch_size=batch_size, workers=workers, bad=bad):
        shares = class_probabilities(
            seen.encoder, found.classifier, [batch], normalise=seen.normalise, device=choose_device(device)
        )
        for index, share in zip(batch.ids.tolist(), shares, strict=True):
            label = source.label(index)
            truth = source.classes[label] if source.classes and label >= 0 else None
            yield _row(source.item_id(index), share, found, top, truth if truth in found.classes else None)
    for name, reason in bad.items():
        yield Classified(name, error=reason)


def _row(path: str, shares: Tensor, probe: PublishedProbe, top: int, truth: str | None = None) -> Classified:
    """The ``top`` likeliest of the probabilities ``(K,)``."""
    values, places = shares.topk(min(top, len(shares)))
    return Classified(path, tuple(map(probe.name_of, places.tolist())), tuple(values.tolist()), truth)


def write_csv(path: str | Path, rows: Sequence[Classified]) -> Path:
    """Rows as a table: path, label and probability of each class, truth, error. Atomic. Raises RunError."""
    most = max((len(row.labels) for row in rows), default=1)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    numbered = [(f"label_{i}", f"probability_{i}") for i in range(1, most + 1)]
    names = [("label", "probability"), *numbered[1:]]
    table.writerow(["path", *(name for pair in names for name in pair), "truth", "error"])
    for row in rows:
        cells = [cell for pair in zip(row.labels, row.probabilities, strict=True) for cell in pair]
        cells += [""] * (2 * most - len(cells))
        table.writerow([row.path, *cells, row.truth or "", row.error or ""])
    return write_file(path, text.getvalue())


def accuracy(rows: Sequence[Classified]) -> tuple[int, int] | None:
    """Right and all of the files that have a label of their own which the classifier knows; None where none has."""
    judged = [row for row in rows if row.labels and row.truth is not None]
    return (sum(row.labels[0] == row.truth for row in judged), len(judged)) if judged else None
