"""What is known of one published model before anything of it is downloaded, as the catalogue's tables say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

UNKNOWN = "unknown"  # a licence that our references do not name


@dataclass(frozen=True)
class Source:
    """One place a model's weights can be had from.

    kind: ``hf`` (a Hugging Face repository) or ``official`` (the authors' server). where: ``ORG/NAME``, or a URL.
    encoders: the file's names for the encoders in it; empty where the source does not say. predictor: whether it holds
    one. sha256: of the file at a URL, where it is known. notes: one line each of what differs from the other sources.
    """

    kind: Literal["hf", "official"]
    where: str
    encoders: tuple[str, ...] = ()
    predictor: bool = False
    sha256: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As it can be given to ``openjepa.load``."""
        return f"hf:{self.where}" if self.kind == "hf" else self.where


@dataclass(frozen=True)
class ProbeSource:
    """A published attentive probe: its task, its URL, how clips were cut for its score, and what to know of it."""

    task: str
    url: str
    protocol: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Published:
    """One published model.

    name, aliases: what :func:`openjepa.load` takes. family, about, paper: of the system. size: as the field writes it
    (``"ViT-L/16"``). encoder, predictor: widths, depths, heads; empty where there is none. parameters,
    predictor_parameters: learned numbers (fixed position tables are not counted). resolution: pixels of a side. frames: of
    a clip; None for images. licence: of the weights, ``unknown`` where our references name none. commercial: whether it
    allows commercial use; None where nobody can say without reading its terms. licence_from: who says so. sources: the
    first is taken unless another is asked for. probes: attentive classifiers for this encoder. classifier: the task of one
    that is part of the weights. scores: published, in per cent, frozen encoder. data, remarks: in words. hints: what the
    official file's tensors do not tell.
    """

    name: str
    aliases: tuple[str, ...]
    family: str
    about: str
    paper: str
    size: str
    encoder: Mapping[str, Any]
    parameters: int
    predictor: Mapping[str, Any]
    predictor_parameters: int
    resolution: int
    frames: int | None
    licence: str
    commercial: bool | None
    licence_from: str
    sources: tuple[Source, ...]
    probes: tuple[ProbeSource, ...] = ()
    classifier: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    data: str = ""
    remarks: tuple[str, ...] = ()
    hints: Mapping[str, Any] = field(default_factory=dict)

    @property
    def default(self) -> Source:
        """Where the weights come from when nothing else is asked for."""
        return self.sources[0]

    def use(self) -> str:
        """The licence with what it means, in a few words: ``"CC-BY-NC-4.0: not for commercial use"``."""
        if self.commercial is False:
            return f"{self.licence}: not for commercial use"
        if self.commercial is None:
            return f"{self.licence}: read the terms before any use"
        return self.licence

    def to_json(self) -> dict[str, Any]:
        """Everything, for ``--json``."""
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "family": self.family,
            "size": self.size,
            "parameters": self.parameters,
            "predictor_parameters": self.predictor_parameters,
            "encoder": dict(self.encoder),
            "predictor": dict(self.predictor),
            "resolution": self.resolution,
            "frames": self.frames,
            "licence": self.licence,
            "commercial_use": self.commercial,
            "licence_from": self.licence_from,
            "sources": [{"name": s.kind, "load": str(s), "encoders": list(s.encoders)} for s in self.sources],
            "probes": {probe.task: probe.url for probe in self.probes},
            "classifier": self.classifier,
            "scores": dict(self.scores),
            "data": self.data,
            "paper": self.paper,
            "remarks": list(self.remarks),
        }
