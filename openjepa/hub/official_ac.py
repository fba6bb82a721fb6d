"""Key map of the published V-JEPA 2-AC files (official.md §2.4, §6.1–§6.2)."""

from __future__ import annotations

from dataclasses import dataclass

from openjepa.hub.keymaps import KeyMap, Prefix, register_map
from openjepa.hub.official import VJEPA2_OFFICIAL

_PARTS = ("encoder", "predictor", "target_encoder")


@dataclass(frozen=True)
class _Tolerated(Prefix):
    """A wrapper's prefix that may be there and is not written back."""

    def add(self, key: str) -> str:
        return key


VJEPA2_AC_OFFICIAL = register_map(
    KeyMap(
        "vjepa2-ac-official",
        "published V-JEPA 2-AC files: the frozen encoder and the action-conditioned predictor, with the prefix 'module.'",
        VJEPA2_OFFICIAL.rules,
        prefixes=(
            *(Prefix("module.", under=f"{part}.") for part in _PARTS),
            *(_Tolerated("backbone.", under=f"{part}.") for part in _PARTS),
        ),
    )
)
