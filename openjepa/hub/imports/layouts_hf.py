"""Directories of Hugging Face ``transformers`` and timm as layouts: each has a ``config.json``, so nothing is guessed."""

from __future__ import annotations

from openjepa.config.schema import Recipe
from openjepa.hub import ijepa_hf, mae_hf, timm_vit, videomae_hf, vjepa2_hf
from openjepa.hub.hf_directory import HfDirectory, beside, finish
from openjepa.hub.hf_native import NATIVE, Native
from openjepa.hub.imports.contents import Contents
from openjepa.hub.imports.layout import Layout, register_layout
from openjepa.hub.keymaps import KeyMap
from openjepa.hub.model_directory import LoadedModel, Which

_MAPS: dict[str, tuple[KeyMap, ...]] = {
    ijepa_hf.KIND: (ijepa_hf.IJEPA_HF, ijepa_hf.IJEPA_CLASSIFIER_HF),
    mae_hf.KIND: (mae_hf.MAE_HF, mae_hf.MAE_MODEL_HF),
    videomae_hf.KIND: (videomae_hf.VIDEOMAE_HF, videomae_hf.VIDEOMAE_MODEL_HF),
    vjepa2_hf.KIND: (vjepa2_hf.VJEPA2_HF, vjepa2_hf.VJEPA2_CLASSIFIER_HF),
}


def directory_of(contents: Contents) -> HfDirectory:
    """The same directory as the readers of :mod:`openjepa.hub.hf_native` take it."""
    return beside(contents.path, contents.config, contents.tensors)


def is_timm(contents: Contents) -> bool:
    """Names of an image encoder without sections, with a table of positions."""
    names = ("patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight")
    if "model_type" in contents.config or not contents.has(*names):
        return False
    return len(contents.shapes["patch_embed.proj.weight"]) == 4


def _layout(native: Native, keymap: KeyMap) -> Layout:
    """One kind of names of one system."""

    def recognise(contents: Contents) -> bool:
        return contents.config.get("model_type") == native.kind and native.map_of(directory_of(contents)) is keymap

    def recipe(contents: Contents) -> Recipe:
        return native.draft(directory_of(contents)).recipe

    def read(contents: Contents, which: Which) -> LoadedModel:
        return native.finish(directory_of(contents), which)

    return Layout(keymap.name, keymap.description, native.family, recognise, recipe, keymap, read)


def _timm_recipe(contents: Contents) -> Recipe:
    return timm_vit.draft_timm(directory_of(contents), contents.hints).recipe


def _timm(contents: Contents, which: Which) -> LoadedModel:
    directory = directory_of(contents)
    return finish(directory, timm_vit.draft_timm(directory, contents.hints), which)


LAYOUTS = tuple(register_layout(_layout(native, keymap)) for native in NATIVE.values() for keymap in _MAPS[native.kind])
TIMM = register_layout(
    Layout(
        timm_vit.TIMM_VIT.name,
        timm_vit.TIMM_VIT.description,
        "timm",
        is_timm,
        _timm_recipe,
        timm_vit.TIMM_VIT,
        _timm,
    )
)
