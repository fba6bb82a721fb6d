"""What every masker refuses, said the same way."""

from __future__ import annotations

from openjepa.errors import ConfigError


def check_share(name: str, pair: tuple[float, float]) -> None:
    """A range of shares must reach above 0; else :class:`ConfigError`. (The schema keeps it within 0..1 and ascending.)"""
    if pair[1] <= 0:
        raise ConfigError(f"{name} is ({pair[0]:g}, {pair[1]:g}), which is nothing: give (low, high) with high above 0")


def check_grid(grid: tuple[int, int], smallest: int = 1) -> None:
    """A grid must have two tokens to split, and ``smallest`` patches a side; else :class:`ConfigError`."""
    height, width = grid
    if min(grid) < smallest or height * width < 2:
        raise ConfigError(
            f"masks need at least {max(2, smallest * smallest)} patches, {smallest} a side, not a {height}x{width} grid: "
            "raise data.image_size or lower model.patch_size"
        )
