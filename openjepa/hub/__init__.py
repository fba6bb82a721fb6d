"""The checkpoint format, strict loading, key maps, model directories and parity with published numbers."""

from openjepa.hub.card import ModelCard
from openjepa.hub.checkpoint import (
    Checkpoint,
    discard_after,
    list_checkpoints,
    load_last,
    prune,
    read_checkpoint,
    save_checkpoint,
)
from openjepa.hub.hf_native import open_hf_model, save_hf_model
from openjepa.hub.keymaps import KeyMap, key_map, list_maps, register_map
from openjepa.hub.model_directory import LoadedModel, load_model, save_model, split_parts
from openjepa.hub.official import IJEPA_OFFICIAL, VJEPA2_OFFICIAL, VJEPA_OFFICIAL
from openjepa.hub.strict import LoadError, LoadReport, load_strict, read_tensors
from openjepa.hub.timm_vit import open_timm_model, save_timm_model
from openjepa.hub.vjepa2_hf import VJEPA2_HF, VJEPA2_PROBE_HF, open_vjepa2, save_vjepa2

__all__ = [
    "IJEPA_OFFICIAL",
    "VJEPA2_HF",
    "VJEPA2_OFFICIAL",
    "VJEPA2_PROBE_HF",
    "VJEPA_OFFICIAL",
    "Checkpoint",
    "KeyMap",
    "LoadError",
    "LoadReport",
    "LoadedModel",
    "ModelCard",
    "discard_after",
    "key_map",
    "list_checkpoints",
    "list_maps",
    "load_last",
    "load_model",
    "load_strict",
    "open_hf_model",
    "open_timm_model",
    "open_vjepa2",
    "prune",
    "read_checkpoint",
    "read_tensors",
    "register_map",
    "save_checkpoint",
    "save_hf_model",
    "save_model",
    "save_timm_model",
    "save_vjepa2",
    "split_parts",
]
