"""A fine-tuned classifier on disk: its encoder as any model, a linear head and the names of its classes beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from openjepa.errors import CheckpointError
from openjepa.hub.provenance import PublishedProbe
from openjepa.hub.strict import load_strict
from openjepa.hub.tensorfile import read_safetensors
from openjepa.models.linear_head import LinearHead, Pooling

CLASSIFIER = "classifier.safetensors"
ENTRY = "classifier"  # of config.json


def pack_classifier(probe: PublishedProbe) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors for :data:`CLASSIFIER` and the entry of ``config.json`` that says what they are.

    Raises:
        CheckpointError: it is no linear head.
    """
    head = probe.classifier
    if not isinstance(head, LinearHead):
        raise CheckpointError(f"a {type(head).__name__} is not saved with a model: only linear heads are")
    about = {"pooling": head.pooling, "width": head.weight.shape[1], "classes": list(probe.classes)}
    return {name: value.detach() for name, value in head.state_dict().items()}, about


def read_classifier(folder: Path, info: Mapping[str, Any]) -> PublishedProbe | None:
    """The classifier ``config.json`` (``info``) of a model directory speaks of; None where it speaks of none.

    Raises:
        CheckpointError: its file is missing or does not match.
    """
    about = info.get(ENTRY)
    if about is None:
        return None
    try:
        classes, width, pooling = tuple(map(str, about["classes"])), int(about["width"]), about["pooling"]
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling '{pooling}'")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"'{folder}' describes no classifier this version knows ({error})") from error
    if not (folder / CLASSIFIER).is_file():
        raise CheckpointError(f"'{folder}' is incomplete: {CLASSIFIER} is missing")
    head = LinearHead(width, len(classes), pooling)
    try:
        load_strict(head, read_safetensors(folder / CLASSIFIER, copy=True)[0])
    except CheckpointError as error:
        raise CheckpointError(f"'{folder / CLASSIFIER}' does not match its description: {error}") from error
    return PublishedProbe(head.eval(), classes, str(folder))
