"""Where weights come from: what a user must know of a file that somebody else trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from openjepa.models.attentive import ActionClassifier, AttentiveClassifier
from openjepa.models.linear_head import LinearHead


@dataclass(frozen=True)
class Provenance:
    """The origin of imported weights.

    source: what was opened, as it was given. layout: whose names it has (``"vjepa2-official"``). which: the encoder that
    is handed out, by the file's own name (``"target_encoder"``). licence: of the weights; None where nobody says.
    name: the catalogue's, where it is a published model. notes: one line each of what the numbers depend on
    (preprocessing, what was assumed, what was left out). sha256: of the file, where it was computed.
    """

    source: str
    layout: str
    which: str
    licence: str | None = None
    name: str | None = None
    notes: tuple[str, ...] = ()
    sha256: str | None = None

    def __str__(self) -> str:
        """One line: what, whose encoder, under which licence."""
        return f"{self.name or self.source} ({self.layout}, {self.which}), licence of the weights: {self.licence or 'unknown'}"


def provenance_in(info: Mapping[str, Any]) -> Provenance | None:
    """The ``provenance`` entry of a model directory's ``config.json``; None where it has none that can be read."""
    found = info.get("provenance")
    if not isinstance(found, Mapping):
        return None
    known = {entry.name for entry in fields(Provenance)}
    told: dict[str, Any] = {
        name: tuple(value) if name == "notes" else value for name, value in found.items() if name in known
    }
    return Provenance(**told) if {"source", "layout", "which"} <= told.keys() else None


@dataclass(frozen=True)
class PublishedProbe:
    """A classifier that came with weights, or was fine-tuned: tokens ``(B, N, D)`` to logits ``(B, classes)``.

    That of Epic-Kitchens gives three: verbs, nouns, actions.

    classes: their names in the order of the logits; empty where the file has none. source: the file.
    """

    classifier: AttentiveClassifier | ActionClassifier | LinearHead
    classes: tuple[str, ...]
    source: str

    def name_of(self, number: int) -> str:
        """Name of a class; its number where the file has no names."""
        return self.classes[number] if number < len(self.classes) else str(number)
