"""Key maps of the published checkpoints (official.md §6). Later systems add theirs here."""

from __future__ import annotations

from openjepa.hub.keymaps import Drop, KeyMap, Prefix, Rename, Rule, Sole, register_map

_POSITIONS = "fixed sincos table: recomputed from the grid, never loaded"
_UNREAD = "sincos table left in the file: the published model is rotary and never reads it"
_RUN_STATE = "optimizer state of the published run"
_PARTS = ("encoder", "predictor", "target_encoder", "ema_encoder")


def _positions(reason: str) -> tuple[Rule, ...]:
    return (
        Drop("encoder.pos_embed", reason, ours="online.pos_embed"),
        Drop("target_encoder.pos_embed", reason, ours="target.pos_embed"),
        Drop("ema_encoder.pos_embed", reason),
        Drop("predictor.predictor_pos_embed", reason),
    )


_RUN: tuple[Rule, ...] = (Drop("opt.{key:rest}", _RUN_STATE), Drop("scaler.{key:rest}", _RUN_STATE))
_ENCODERS: tuple[Rule, ...] = (
    Rename("encoder.{key:rest}", "online.{key}"),
    Rename("target_encoder.{key:rest}", "target.{key}"),
    Rename("ema_encoder.{key:rest}", "target.{key}"),  # distilled files; written back under the usual name
)
_ONE_TOKEN = Sole("predictor.mask_tokens.0", "predictor.mask_token")  # our name where there is one for all pairs

IJEPA_OFFICIAL = register_map(
    KeyMap(
        "ijepa-official",
        "published I-JEPA files: encoder, predictor, target_encoder, each with the prefix 'module.'",
        (*_positions(_POSITIONS), *_RUN, *_ENCODERS),
        prefixes=tuple(Prefix("module.", under=f"{part}.") for part in _PARTS),
    )
)

# Two prefixes per section: of the data-parallel wrapper, and of the one that runs the network once per mask.
_WRAPPED = tuple(Prefix(prefix, under=f"{part}.") for part in _PARTS for prefix in ("module.", "backbone."))

VJEPA_OFFICIAL = register_map(
    KeyMap(
        "vjepa-official",
        "published V-JEPA files: encoder, predictor, target_encoder, each with the prefix 'module.backbone.'",
        (*_positions(_POSITIONS), *_RUN, *_ENCODERS, _ONE_TOKEN),
        prefixes=_WRAPPED,
    )
)

VJEPA2_OFFICIAL = register_map(
    KeyMap(
        "vjepa2-official",
        "published V-JEPA 2 files: encoder, predictor, target_encoder, each with the prefix 'module.backbone.'",
        (*_positions(_UNREAD), *_RUN, *_ENCODERS, _ONE_TOKEN),
        prefixes=_WRAPPED,
    )
)
