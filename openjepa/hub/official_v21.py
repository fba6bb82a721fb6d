"""Key maps of the published V-JEPA 2.1 files (family.md §1.6): the names are ours but for wrappers and sections."""

from __future__ import annotations

from openjepa.hub.keymaps import Drop, KeyMap, Prefix, Rename, Rule, Sole, register_map

_PARTS = ("encoder", "predictor", "target_encoder", "ema_encoder")
_WRAPPED = tuple(Prefix(prefix, under=f"{part}.") for part in _PARTS for prefix in ("module.", "backbone."))
_RUN_STATE = "optimizer state of the published run"


def _rules(slow: str, other: str) -> tuple[Rule, ...]:
    """Both names of the slow average are read; ``slow`` is written."""
    return (
        Drop("opt.{key:rest}", _RUN_STATE),
        Drop("scaler.{key:rest}", _RUN_STATE),
        Rename("encoder.{key:rest}", "online.{key}"),
        Rename(f"{slow}.{{key:rest}}", "target.{key}"),
        Rename(f"{other}.{{key:rest}}", "target.{key}"),
        Sole("predictor.mask_tokens.0", "predictor.mask_token"),  # our name where there is one for all pairs
    )


VJEPA21_OFFICIAL = register_map(
    KeyMap(
        "vjepa2_1-official",
        "published V-JEPA 2.1 files (g, G): encoder, predictor, target_encoder, with the prefix 'module.backbone.'",
        _rules("target_encoder", "ema_encoder"),
        prefixes=_WRAPPED,
    )
)

VJEPA21_DISTILLED = register_map(
    KeyMap(
        "vjepa2_1-distilled",
        "V-JEPA 2.1 distilled from G (B, L): encoder, predictor, ema_encoder, with the prefix 'module.backbone.'",
        _rules("ema_encoder", "target_encoder"),
        prefixes=_WRAPPED,
    )
)
