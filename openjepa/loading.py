"""``openjepa.load``: whatever names a model becomes a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openjepa.hub.adapters import Foreign
from openjepa.hub.model_directory import Which
from openjepa.hub.opening import open_any
from openjepa.model import ForeignModel, Model

__all__ = ["load"]


def load(
    path: str | Path,
    *,
    which: Which = "deployed",
    hints: Mapping[str, Any] | None = None,
    probe: str | Path | None = None,
) -> Model | ForeignModel:
    """Load a model, whatever names it.

    Args:
        path: a run, model or checkpoint directory; a weight file as its authors published it (``.pt``, ``.pth.tar``,
            ``.safetensors``); a Hugging Face directory, ``hf:ORG/NAME`` or ``timm:NAME``; a URL; or a published model by
            name (``"vjepa2-vitl-256"``, see ``openjepa models list``), which is downloaded once.
        which: the ``deployed`` encoder (the slow average where there is one), ``target`` or ``online``.
        hints: what a file's tensors do not tell (``{"heads": 16}``); an error asks for them. probe: a published attentive
            classifier for this encoder.

    Returns:
        a :class:`Model` (encoders, predictor, recipe, provenance) for what we can train on; a :class:`ForeignModel`, an
        encoder with its own preprocessing, for any other network of timm or transformers.

    Raises:
        CheckpointError, ConfigError, MissingExtra: one line each.
    """
    opened = open_any(path, which=which, hints=hints, probe=probe)
    return ForeignModel(opened) if isinstance(opened, Foreign) else Model(opened)
