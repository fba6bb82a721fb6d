"""The pictures as files: what ``openjepa visualize`` and the Python API write. Each function returns the path."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from openjepa.config import load_recipe
from openjepa.data import open_source
from openjepa.errors import ConfigError, RunError
from openjepa.visualize import canvas, curves, maps, masks, views
from openjepa.visualize.metrics import read_metrics
from openjepa.visualize.opened import open_any


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file whole or not at all, making its folder.

    Raises:
        RunError: the disk is full, the folder is not writable, …
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content)
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise RunError(f"'{path}' cannot be written: {error.strerror or error}") from error
    return path


def png_path(out: str | Path) -> Path:
    """``out``, which has to end in ``.png``."""
    path = Path(out)
    if path.suffix.lower() != ".png":
        raise ConfigError(f"pictures are written as PNG, so '{path}' should be '{path.with_suffix('.png')}'")
    return path


def write_masks(
    data: str,
    recipe: str,
    out: str | Path = "masks.png",
    *,
    overrides: Sequence[str] = (),
    count: int = 6,
    augment: bool = True,
) -> Path:
    """Masks of ``recipe`` on ``count`` images of ``data``: input, context, targets. Its views, where it draws views.

    Raises:
        ConfigError, DataError: a wrong recipe, or no readable image.
    """
    path = png_path(out)
    loaded = load_recipe(recipe, overrides)
    source = open_source(data, channels=loaded.data.channels)
    if loaded.data.views:
        drawn = views.view_previews(source, loaded.data, count=count, seed=loaded.seed)
        return write_bytes(path, canvas.png(views.view_sheet(drawn, f"Views of {loaded.name} on {source.name}")))
    previews = masks.mask_previews(source, loaded, count=count, augment=augment)
    grid = f"{loaded.grid[0]} × {loaded.grid[1]} patches"
    return write_bytes(path, canvas.png(masks.mask_sheet(previews, f"Masks of {loaded.name} on {source.name}, {grid}")))


def write_pca(
    model: str | Path,
    data: str,
    out: str | Path = "pca.png",
    *,
    count: int = 16,
    foreground: bool = False,
    remove_position: bool = False,
    device: str = "cpu",
) -> Path:
    """PCA colours of the patch features of ``count`` images, jointly, each map beside its image.

    Args:
        model: run, checkpoint or model directory, ``timm:NAME``, ``hf:ORG/NAME``.
        data: any folder, list, image or built-in.
        out: a PNG.
        count: images, spread over the data.
        foreground: background patches grey.
        remove_position: subtract what all images share at a position first.
        device: where features are computed.

    Raises:
        CheckpointError, ConfigError, DataError: no such model, a wrong argument, or no readable image.
    """
    path = png_path(out)
    found = open_any(model)
    chosen = found.gather(data, count)
    features = maps.patch_features(found.encoder, chosen.images, found.normalise, device=device)
    centre = "position" if remove_position else "joint"
    drawn = maps.pca_maps(features, foreground=foreground, centre=centre)  # type: ignore[arg-type]
    title = f"PCA of patch features · {found.name}"
    sheet = maps.pca_sheet(chosen.images, {"features": drawn}, found.encoder.patch_size, title=title)
    return write_bytes(path, canvas.png(sheet))


def write_similarity(
    model: str | Path,
    data: str,
    patch: tuple[int, int],
    out: str | Path = "similarity.png",
    *,
    image: int = 0,
    count: int = 9,
    device: str = "cpu",
) -> Path:
    """How alike every patch is to one: ``patch`` (row, column) of picture ``image`` among ``count`` of ``data``.

    Raises:
        CheckpointError, ConfigError, DataError: no such model or patch, or no readable image.
    """
    path = png_path(out)
    found = open_any(model)
    chosen = found.gather(data, count)
    features = maps.patch_features(found.encoder, chosen.images, found.normalise, device=device)
    values = maps.similarity(features, patch, image=image)
    title = f"Similarity to patch {patch[0]},{patch[1]} · {found.name}"
    sheet = maps.similarity_sheet(chosen.images, values, patch, found.encoder.patch_size, image=image, title=title)
    return write_bytes(path, canvas.png(sheet))


def write_curves(run: str | Path, out: str | Path = "curves.png") -> Path:
    """All loss and health curves of a run on one sheet.

    Raises:
        RunError: the run has no metrics yet. MissingExtra: matplotlib is not installed.
    """
    path = png_path(out)
    figure = curves.curves_figure(read_metrics(run), title=Path(run).resolve().name)
    return write_bytes(path, curves.figure_png(figure))
