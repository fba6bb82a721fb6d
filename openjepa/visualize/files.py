"""The pictures as files: what ``openjepa visualize`` and the Python API write. Each function returns the path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openjepa.config import load_recipe
from openjepa.data import open_source
from openjepa.errors import ConfigError
from openjepa.visualize import canvas, curves, maps, masks, video_files, views
from openjepa.visualize.animation import film_path
from openjepa.visualize.metrics import read_metrics
from openjepa.visualize.opened import open_any
from openjepa.visualize.output import png_path, write_bytes

IMAGES, VIDEOS = 6, 2  # masks drawn when nothing else is asked for
PCA_IMAGES = 16


def write_masks(
    data: str,
    recipe: str,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    count: int | None = None,
    augment: bool = True,
) -> Path:
    """Masks of ``recipe`` on ``count`` images of ``data``: input, context, targets. Its views, where it draws views.

    Of a video recipe: every mask pair over moving clips, see :func:`openjepa.visualize.video_files.write_tubes`.

    Args:
        out: a PNG, by default ``masks.png``; of clips also ``.gif`` and ``.mp4``, by default ``masks.gif``.
        count: by default 6 images, 2 clips.

    Raises:
        ConfigError, DataError: a wrong recipe, or no readable image.
    """
    loaded = load_recipe(recipe, overrides)
    if loaded.video:
        return video_files.write_tubes(data, loaded, out or "masks.gif", count=count or VIDEOS, augment=augment)
    path, count = png_path(out or "masks.png"), count or IMAGES
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
    out: str | Path | None = None,
    *,
    count: int | None = None,
    frames: int | None = None,
    foreground: bool = False,
    remove_position: bool = False,
    device: str = "cpu",
) -> Path:
    """PCA colours of the patch features of ``count`` images, jointly, each map beside its image.

    Args:
        model: run, checkpoint or model directory, ``timm:NAME``, ``hf:ORG/NAME``.
        data: any folder, list, image or built-in.
        out: a PNG, by default ``pca.png``; of video models also ``.gif`` and ``.mp4``, by default ``pca.gif``.
        count: images (16) or videos (2), spread over the data.
        frames: video models only: of each video, see :func:`openjepa.visualize.video_files.write_time_pca`.
        foreground: background patches grey.
        remove_position: subtract what all images (of clips: all time steps) share at a position first.
        device: where features are computed.

    Raises:
        CheckpointError, ConfigError, DataError: no such model, a wrong argument, or no readable image.
    """
    if out is not None:
        film_path(out)  # a name that is neither picture nor film is refused before the model is read
    found = open_any(model)
    if found.video:
        return video_files.write_time_pca(
            found, data, out or "pca.gif", count=count or VIDEOS, frames=frames, foreground=foreground,
            remove_position=remove_position, device=device,
        )  # fmt: skip
    if frames is not None:
        raise ConfigError(f"--frames {frames} is for video models, and '{found.name}' takes images: leave it out")
    path, count = png_path(out or "pca.png"), count or PCA_IMAGES
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
    found.images_only("similarity")
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
