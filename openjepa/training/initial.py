"""The weights a run starts from (``--init``): encoder, target and predictor of another model, made to fit the recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from openjepa.config import Recipe
from openjepa.config.schema import DataConfig
from openjepa.data import Normalise
from openjepa.errors import CheckpointError, ConfigError, RunError
from openjepa.hub.atomic import write_file
from openjepa.hub.fit import EncoderWeights, Fitted, fit_encoder, fit_predictor, on_meta
from openjepa.hub.model_directory import LoadedModel, Which
from openjepa.hub.opening import open_own
from openjepa.methods import Method, build_method
from openjepa.training.progress import Reporter
from openjepa.training.run import INITIAL

_HEAD = "weights from "
T = TypeVar("T")


@dataclass(frozen=True)
class InitialWeights:
    """What a run may start from.

    source: where it comes from, in words. online, target: the encoder that learns and the slow or frozen one; both are given
    the same weights where a model has but one. predictor: None where there is none, or it is to start fresh. why_fresh: the
    reason, in words. data: how its pixels were normalised, where known.
    """

    source: str
    online: EncoderWeights
    target: EncoderWeights
    predictor: nn.Module | None = None
    why_fresh: str = "it has none"
    data: DataConfig | None = None

    @classmethod
    def of(
        cls, model: LoadedModel, *, which: Which = "deployed", predictor: bool = True, source: str | None = None
    ) -> InitialWeights:
        """The parts of a loaded model.

        which: ``deployed`` continues both encoders, each from its own; ``online`` or ``target`` starts both from that one.
        predictor: False starts it fresh.
        """
        chosen = {"deployed": model.encoder, "online": model.online, "target": model.target}[which]
        if chosen is None:
            raise ConfigError(f"{source or model.source} has no {which} encoder")
        deployed = EncoderWeights.of(chosen)
        separate = which == "deployed" and model.online is not None
        online = EncoderWeights.of(model.online) if separate and model.online is not None else deployed
        where = source or str(model.source)
        data = model.config.data
        if not predictor:
            return cls(where, online, deployed, None, "as asked", data)
        return cls(where, online, deployed, model.predictor, data=data)


@dataclass(frozen=True)
class Start:
    """Initial weights that fit a recipe. notes: what a user should know, one line each."""

    source: str
    online: Fitted
    target: Fitted | None
    predictor: Fitted | None
    notes: tuple[str, ...]

    def load_into(self, method: Method) -> None:
        """Load every part; what is not there stays as it was drawn."""
        self.online.load_into(method.online)
        if method.target is not None and self.target is not None:
            self.target.load_into(method.target)
        if self.predictor is not None:
            self.predictor.load_into(method.predictor)
        method.after_loading()

    @property
    def lines(self) -> list[str]:
        """What loaded, part by part, for the log."""
        parts = {"online": self.online, "target": self.target, "predictor": self.predictor}
        return [f"{name}: {part.summary}" for name, part in parts.items() if part is not None]

    @property
    def table(self) -> str:
        """Every key of every part: ours, theirs, and what was done."""
        blocks = [replace(part.report, module=name).table(all_rows=True) for name, part in self._parts.items()]
        return "\n\n".join([f"{_HEAD}{self.source}", *blocks, *self.notes]) + "\n"

    def tell(self, reporter: Reporter, run_dir: Path | None) -> None:
        """Say what was loaded and what was not; the table of keys becomes a file of the run."""
        for name, part in self._parts.items():
            reporter.say(f"  {name}: {part.summary}")
        for note in self.notes:
            reporter.warn(note)
        if run_dir is not None:
            write_file(run_dir / INITIAL, self.table)

    @property
    def _parts(self) -> dict[str, Fitted]:
        found = {"online": self.online, "target": self.target, "predictor": self.predictor}
        return {name: part for name, part in found.items() if part is not None}


def check_not_lost(run_dir: Path, resumable: Path) -> None:
    """Raise RunError when a run that began from other weights was killed before it saved anything: they are not in it."""
    path = run_dir / INITIAL
    if path.is_file():
        source = path.read_text(encoding="utf-8").splitlines()[0].removeprefix(_HEAD)
        raise RunError(
            f"'{resumable}' started from the weights in {source} and had saved nothing yet: start it again with --init "
            "and --overwrite"
        )


def open_initial(init: str | Path | InitialWeights) -> InitialWeights:
    """A run, model or checkpoint directory as initial weights; what was opened already stays as it is."""
    return init if isinstance(init, InitialWeights) else InitialWeights.of(open_own(init), source=str(init))


def fit_initial(recipe: Recipe, init: str | Path | InitialWeights) -> Start:
    """Make the weights fit what the recipe builds. Nothing large is built, and nothing on disk is touched.

    Raises:
        CheckpointError: they do not; one line with what to set.
    """
    weights = open_initial(init)
    method = on_meta(lambda: build_method(recipe))
    assert isinstance(method, Method)
    wrong: list[CheckpointError] = []

    def fit(make: Callable[[], T]) -> T | None:
        try:
            return make()
        except CheckpointError as error:
            wrong.append(error)
            return None

    online = target = fit(lambda: fit_encoder(method.online, weights.online))
    if method.target is None:
        target = None
    elif weights.target is not weights.online and online is not None:
        target = fit(lambda: fit_encoder(method.target, weights.target) if method.target is not None else None)
    predictor = fit(lambda: _predictor(method, weights))
    if wrong or online is None or predictor is None:
        reasons = "; ".join(str(error) for error in wrong)
        raise CheckpointError(f"--init {weights.source} does not fit this recipe: {reasons}") from wrong[0]
    notes = (*online.notes, *_pixel_notes(recipe, weights), *predictor[1])
    return Start(weights.source, online, target, predictor[0], notes)


def _pixel_notes(recipe: Recipe, weights: InitialWeights) -> list[str]:
    """A word where pixels are normalised otherwise than the weights know them."""
    if weights.data is None or weights.data.channels != recipe.data.channels:
        return []
    theirs, ours = Normalise.for_data(weights.data), Normalise.for_data(recipe.data)
    if torch.equal(theirs.mean, ours.mean) and torch.equal(theirs.std, ours.std):
        return []
    return [f"pixels: the weights know {theirs.extra_repr()}, the recipe has {ours.extra_repr()}"]


def _predictor(method: Method, weights: InitialWeights) -> tuple[Fitted | None, list[str]]:
    """The predictor's weights, or why it starts fresh."""
    if not any(True for _ in method.predictor.parameters()):
        return None, []
    if weights.predictor is None:
        return None, [f"the predictor starts fresh: {weights.why_fresh}"]
    if type(method.predictor) is not type(weights.predictor):
        theirs, ours = type(weights.predictor).__name__, type(method.predictor).__name__
        return None, [f"the predictor starts fresh: the weights have a {theirs}, the recipe a {ours}"]
    found = fit_predictor(method.predictor, weights.predictor)
    return found, list(found.notes)
