"""What an evaluator is and what it is given: features or a whole bench, and the settings that define its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from openjepa.data import Source
from openjepa.errors import ConfigError, nearest
from openjepa.evaluation.score import Score
from openjepa.features import Across, Features
from openjepa.features.clips import describe_source
from openjepa.features.extraction import Layers, Precision
from openjepa.types import Encoder

Needs = Literal["pooled", "patch", "encoder"]
Side = Literal["train", "val"]


@dataclass(frozen=True)
class Settings:
    """What the evaluators read.

    k, temperature: of kNN, one or a grid. c: of linear (None: chosen on held-out train). shots, draws: of low-shot (None:
    1, 5, 10, 1 % and 10 %, as far as the data goes). seed: of draws. options: of evaluators that have more to set, by
    evaluator name; each checks its own and names the ones it knows.
    """

    k: int | tuple[int, ...] = 20
    temperature: float | tuple[float | None, ...] | None = 0.07
    shots: tuple[int | str, ...] | None = None
    draws: int = 5
    c: float | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"the seed of an evaluation is a whole number from 0 to 2^32 - 1, got {self.seed}")


@dataclass(frozen=True)
class Bench:
    """All it takes to encode: for evaluators that run the encoder themselves, or ask the data more than its labels.

    encoder: None when raw pixels are judged. normalise: pixels to its input. transform: evaluation transform of both
    sides; val_transform: of the val side, where it shows more views of each video. across: what of several clips is pooled
    together. differences: the pixels are differences between frames. predictor: of the encoder, where it has one. Others
    as in :func:`openjepa.features.cached_extract`.
    """

    encoder: Encoder | None
    normalise: nn.Module
    transform: Any
    train_source: Source
    val_source: Source
    device: str = "cpu"
    layers: Layers = "last"
    precision: Precision = "fp32"
    batch_size: int = 64
    workers: int = 0
    cache_dir: str | Path | None = None
    val_transform: Any = None
    across: Across = "attend"
    differences: bool = False
    predictor: nn.Module | None = None

    def side(self, name: Side) -> tuple[Source, Any]:
        """Source and transform of a side."""
        if name == "train":
            return self.train_source, self.transform
        return self.val_source, self.val_transform or self.transform

    @property
    def protocol(self) -> dict[str, Any]:
        """How features are made, as arguments of ``extract`` and ``cached_extract``."""
        return {
            "normalise": self.normalise,
            "device": self.device,
            "layers": self.layers,
            "precision": self.precision,
            "across": self.across,
        }

    @property
    def reading(self) -> dict[str, Any]:
        """How data is read, as arguments of ``cached_extract``."""
        return {"batch_size": self.batch_size, "workers": self.workers, "cache_dir": self.cache_dir}

    @property
    def clips(self) -> dict[str, Any]:
        """What a protocol says of the clips both sides are seen in; empty for images."""
        found = describe_source(self.val_source)
        views = [int(getattr(self.side(name)[1], "views", 1)) for name in ("train", "val")]
        if not found:
            return {}
        several = max(views) * found["segments"] > 1
        same = views[0] == views[1]
        return {
            **found,
            "views": (views[0] if same else f"{views[0]} in train, {views[1]} in val") if several else None,
            "across": self.across if several else None,
        }


@dataclass(frozen=True)
class Request:
    """One evaluator's task.

    subject: how its scores call what is judged. train, val: features, pooled ``(N, D)`` or patch tokens ``(N, T, D)`` as
    the evaluator needs; None for one that needs the encoder. bench: encoder and sources; None when only features exist.
    on_epoch: told (epochs done, of how many) by evaluators that train something.
    """

    subject: str
    settings: Settings = field(default_factory=Settings)
    train: Features | None = None
    val: Features | None = None
    bench: Bench | None = None
    on_epoch: Callable[[int, int], None] | None = None

    @property
    def pair(self) -> tuple[Features, Features]:
        """Features of both sides; what an evaluator that needs ``pooled`` or ``patch`` works on."""
        assert self.train is not None
        assert self.val is not None
        return self.train, self.val

    @property
    def place(self) -> Bench:
        """The bench of an evaluator that needs it."""
        assert self.bench is not None
        return self.bench


@dataclass(frozen=True)
class Evaluator:
    """An entry of ``EVALUATORS``.

    run: from a request to scores. needs: ``pooled`` or ``patch`` features in ``Request.train`` and ``val``, or the
    ``encoder`` in ``Request.bench``. help: one line. cheap: part of ``all``. pixels: raw pixels can be judged although
    it is not ``pooled`` (which they always can). data: ``labelled`` train and val, only ``val`` (labels unused), or
    ``none``: it brings its own. video: for encoders of clips only. predictor: it asks the predictor. sees: ``clips`` of each
    video, as many as asked for, or ``one clip``, or ``images`` alone. masked: it hides patches, which encoders of single
    frames do not.
    """

    name: str
    run: Callable[[Request], list[Score]]
    needs: Needs = "pooled"
    help: str = ""
    cheap: bool = False
    pixels: bool = False
    data: Literal["labelled", "val", "none"] = "labelled"
    video: bool = False
    predictor: bool = False
    sees: Literal["clips", "one clip", "images"] = "clips"
    masked: bool = False


def options_of(name: str, settings: Settings, known: tuple[str, ...]) -> dict[str, Any]:
    """An evaluator's entry of ``settings.options``. Raises ConfigError for an option it does not know."""
    given = dict(settings.options.get(name, {}))
    for key in given:
        if key not in known:
            raise ConfigError(f"{name} has no option '{key}': {', '.join(known)}{nearest(key, known)}")
    return given
