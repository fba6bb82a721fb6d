"""``openjepa.load``: whatever names a model becomes a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from openjepa.hub.adapters import Foreign
from openjepa.hub.model_directory import Which
from openjepa.hub.opening import open_any
from openjepa.model import ForeignModel, Model

__all__ = ["load"]

_SAID = "preprocessing"  # notes that change numbers are said at load; all are in ``model.provenance.notes``
_log = logging.getLogger(__name__)


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

    The licence of weights that somebody else trained is said on the log.

    Raises:
        CheckpointError, ConfigError, MissingExtra: one line each.
    """
    opened = open_any(path, which=which, hints=hints, probe=probe)
    if isinstance(opened, Foreign):
        _say(f"{opened.name}: licence of the weights: {opened.licence or 'unknown'}")
        return ForeignModel(opened)
    if opened.provenance is not None:
        _say(str(opened.provenance))
        for note in opened.provenance.notes:
            if note.startswith(_SAID):
                _say(f"{opened.provenance.name or opened.provenance.source}: {note}")
    return Model(opened)


@cache
def _say(line: str) -> None:
    """One line on the log, once in a process: whose weights these are is never a surprise."""
    _log.warning("%s", line)
