"""Anything :func:`openjepa.load` opens, as the weights a run starts from (``pretrain --init``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openjepa.errors import CheckpointError
from openjepa.hub.model_directory import Which
from openjepa.hub.timm_start import encoder_weights
from openjepa.loading import load
from openjepa.model import AnyModel, ForeignModel, Model
from openjepa.training import InitialWeights


def initial_weights(
    what: str | Path | AnyModel,
    which: Which = "deployed",
    predictor: bool = True,
    hints: Mapping[str, Any] | None = None,
) -> InitialWeights:
    """Encoder, target and predictor of a model, as a run takes them.

    Args:
        what: anything :func:`load` opens, or what it returned. which: both encoders from the ``online`` or ``target`` one;
            ``deployed``: each from its own. predictor: False starts it fresh. hints: as :func:`load` takes them.

    Raises:
        CheckpointError: a foreign model that is no plain vision transformer. Others as :func:`load`.
    """
    model = what if isinstance(what, AnyModel) else load(what, which=which, hints=hints)
    if isinstance(model, Model):
        source = str(what) if isinstance(what, str | Path) else str(model.loaded.source)
        return InitialWeights.of(model.loaded, which=which, predictor=predictor, source=source)
    if isinstance(model, ForeignModel):
        weights = encoder_weights(model.foreign)
        return InitialWeights(model.name, weights, weights, None, "it has none" if predictor else "as asked")
    raise CheckpointError(f"{model.name} shows its encoder in parts: start from the model itself")
