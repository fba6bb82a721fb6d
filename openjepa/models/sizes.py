"""The sizes of the published vision transformers, by timm's names (official.md §1.1)."""

from __future__ import annotations

from dataclasses import dataclass

from openjepa.errors import ConfigError, nearest


@dataclass(frozen=True)
class Size:
    """Width ``dim``, number of blocks ``depth``, attention ``heads`` and MLP hidden width ``int(dim * mlp_ratio)``."""

    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0


SIZES: dict[str, Size] = {
    "vit_tiny": Size(192, 12, 3),
    "vit_small": Size(384, 12, 6),
    "vit_base": Size(768, 12, 12),
    "vit_large": Size(1024, 24, 16),
    "vit_huge": Size(1280, 32, 16),
    "vit_giant": Size(1408, 40, 16, 48 / 11),
    "vit_gigantic": Size(1664, 48, 16, 64 / 13),
}


def size_named(name: str) -> Size:
    """The size called ``name``.

    Raises:
        ConfigError: no such size; names the nearest.
    """
    if name not in SIZES:
        raise ConfigError(f"no model size '{name}'{nearest(name, SIZES)}: choose from {', '.join(SIZES)}")
    return SIZES[name]
