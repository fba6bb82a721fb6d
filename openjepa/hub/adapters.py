"""Any timm model or Hugging Face encoder of images or video, judged like our own: ``open_encoder("timm:vit_tiny_…")``.

Names: ``timm:NAME``; ``hf:ORG/NAME``; or a local directory that ``save_pretrained`` wrote. ``@random`` behind it: the
same architecture with random weights, nothing downloaded. ``@96px``: that input size instead of the model's own.
"""

from __future__ import annotations

import json
from pathlib import Path

from openjepa.hub.adapters_base import Foreign, ForeignEncoder, ForeignTransform, ForeignTransformer, Spec, parse_spec
from openjepa.hub.adapters_hf import open_hf
from openjepa.hub.adapters_timm import open_timm

__all__ = [
    "Foreign",
    "ForeignEncoder",
    "ForeignTransform",
    "ForeignTransformer",
    "Spec",
    "is_foreign",
    "open_encoder",
    "parse_spec",
]


def is_foreign(path: str | Path) -> bool:
    """Whether ``path`` means a foreign encoder: ``timm:…``, ``hf:…``, or a directory with a Hugging Face config."""
    text = str(path)
    if text.startswith(("timm:", "hf:")):
        return True
    config = Path(parse_spec(text).name) / "config.json" if text else Path("config.json")
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "model_type" in found and "format" not in found


def open_encoder(name: str | Path) -> Foreign:
    """Open a foreign encoder for evaluation, in evaluation mode on the CPU.

    Raises:
        MissingExtra: its library is not installed; says what to install.
        ConfigError: no such model, or one that is no image encoder.
        CheckpointError: its weights could not be loaded or downloaded.
    """
    spec = parse_spec(str(name))
    return open_timm(spec) if spec.kind == "timm" else open_hf(spec)
