"""``openjepa.load``: whatever names a model becomes a model."""

from __future__ import annotations

from pathlib import Path

from openjepa.hub.adapters import is_foreign, open_encoder
from openjepa.hub.model_directory import Which, load_model
from openjepa.model import ForeignModel, Model

__all__ = ["load"]


def load(path: str | Path, *, which: Which = "deployed") -> Model | ForeignModel:
    """Load a run, model or checkpoint directory, or a foreign encoder: ``timm:NAME``, ``hf:ORG/NAME``, a HF directory.

    which: the ``deployed`` encoder (default), ``target`` or ``online``; a foreign model has but one.
    """
    return ForeignModel(open_encoder(path)) if is_foreign(path) else Model(load_model(path, which))
