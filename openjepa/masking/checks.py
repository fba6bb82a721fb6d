"""What every masker refuses, said the same way."""

from __future__ import annotations

from math import prod

from openjepa.errors import ConfigError


def check_share(name: str, pair: tuple[float, float]) -> None:
    """A range of shares must reach above 0; else :class:`ConfigError`. (The schema keeps it within 0..1 and ascending.)"""
    if pair[1] <= 0:
        raise ConfigError(f"{name} is ({pair[0]:g}, {pair[1]:g}), which is nothing: give (low, high) with high above 0")


def size_of(grid: tuple[int, ...]) -> str:
    """A grid in words: '8x14x14'."""
    return "x".join(str(side) for side in grid)


def check_grid(grid: tuple[int, ...], smallest: int = 1) -> None:
    """A grid must have two tokens to split, and ``smallest`` patches a side; else :class:`ConfigError`."""
    if min(grid) < smallest or prod(grid) < 2:
        raise ConfigError(
            f"masks need at least {max(2, smallest * smallest)} patches, {smallest} a side, not a {size_of(grid)} grid: "
            "raise data.image_size or lower model.patch_size"
        )


def plane(grid: tuple[int, ...], kind: str) -> tuple[int, int]:
    """The (rows, columns) of an image's grid; :class:`ConfigError` for a clip's, of which masks of ``kind`` know nothing."""
    if len(grid) != 2:
        raise ConfigError(
            f"mask.kind {kind} is for images, not for a {size_of(grid)} grid: choose tubes, random_tube or random for clips"
        )
    return grid[0], grid[1]


def volume(grid: tuple[int, ...]) -> tuple[int, int, int]:
    """(tubelets, rows, columns) of any grid: an image is a clip of one tubelet."""
    depth, height, width = (1, *grid)[-3:]
    return depth, height, width


def modality(grid: tuple[int, ...]) -> str:
    """The input that a grid belongs to by default; whoever feeds images as clips of one tubelet says so itself."""
    return "image" if len(grid) == 2 else "video"
