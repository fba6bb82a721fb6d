"""Key maps of the published checkpoints (official.md §6). Later systems add theirs here."""

from __future__ import annotations

from openjepa.hub.keymaps import Drop, KeyMap, Prefix, Rename, register_map

_POSITIONS = "fixed sincos table: recomputed from the grid, never loaded"
_RUN_STATE = "optimizer state of the published run"

IJEPA_OFFICIAL = register_map(
    KeyMap(
        "ijepa-official",
        "published I-JEPA files: encoder, predictor, target_encoder, each with the prefix 'module.'",
        (
            Drop("encoder.pos_embed", _POSITIONS, ours="online.pos_embed"),
            Drop("target_encoder.pos_embed", _POSITIONS, ours="target.pos_embed"),
            Drop("predictor.predictor_pos_embed", _POSITIONS),
            Drop("opt.{key:rest}", _RUN_STATE),
            Drop("scaler.{key:rest}", _RUN_STATE),
            Rename("encoder.{key:rest}", "online.{key}"),
            Rename("target_encoder.{key:rest}", "target.{key}"),
        ),
        prefixes=tuple(Prefix("module.", under=f"{part}.") for part in ("encoder", "predictor", "target_encoder")),
    )
)
