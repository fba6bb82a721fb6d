"""Looks inside a model as files: attention, decoded features, reconstructions. Each function returns the path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from openjepa.config.schema import Recipe
from openjepa.errors import ConfigError, nearest
from openjepa.hub.opening import open_own
from openjepa.visualize import attention_maps, canvas, gallery, inside, inside_film, latent, reconstruction, samples
from openjepa.visualize.animation import film_path
from openjepa.visualize.attention_maps import AttentionMaps
from openjepa.visualize.decoded import Instrument, Subject, instrument, plane
from openjepa.visualize.opened import open_any
from openjepa.visualize.output import png_path, write_bytes
from openjepa.visualize.video_files import write_film

Part = Literal["encoder", "predictor"]
IMAGES, ROWS, CLIPS = 6, 8, 2  # drawn when nothing else is asked for: attention, reconstructions, either of clips
ATTENDING = ("narrow", "pixel")  # kinds of predictor whose mask tokens attend to a context


def write_attention(
    model: str | Path,
    data: str,
    out: str | Path | None = None,
    *,
    part: str = "encoder",
    layer: int = -1,
    head: str = "mean",
    patch: tuple[int, int] | None = None,
    rollout: bool = False,
    count: int | None = None,
    device: str = "cpu",
) -> Path:
    """Attention maps of the encoder over whole images, or of the predictor from hidden patches to visible ones.

    Args:
        model: run, checkpoint or model directory, ``timm:NAME``. data: any folder, list, image or built-in. part: ``encoder`` or
            ``predictor``. layer, head, patch, rollout: see :func:`openjepa.visualize.attention_maps.encoder_attention`.
        out: a PNG, by default ``attention.png``; of video models also ``.gif`` and ``.mp4``, by default
            ``attention.gif``, with a map for each tubelet. count: images (6) or clips (2), spread over the data.

    Raises:
        CheckpointError, ConfigError, DataError: no such model, part, layer, head or patch, or no readable image.
    """
    if out is not None:
        film_path(out)  # a name that is neither picture nor film is refused before the model is read
    if part not in ("encoder", "predictor"):
        hint = nearest(part, ("encoder", "predictor"))
        raise ConfigError(f"--part {part} is neither encoder nor predictor{hint}")
    opened = open_any(model)
    path = film_path(out or "attention.gif") if opened.video else png_path(out or "attention.png")
    chosen = opened.gather(data, count or (CLIPS if opened.video else IMAGES))
    images = opened.normalise(chosen.images)
    if part == "predictor":
        if rollout:
            raise ConfigError("--rollout follows the encoder's blocks: with --part predictor leave it out")
        if opened.loaded is None:
            raise ConfigError(f"'{opened.name}' comes without a predictor: use --part encoder")
        found = predictor_maps(opened.loaded, images, layer=layer, head=head, patch=patch, device=device)
    else:
        if isinstance(opened.encoder, nn.Module):
            opened.encoder.to(device)
        found = attention_maps.encoder_attention(
            opened.encoder, images.to(device), layer=layer, head=head, patch=patch, rollout=rollout
        )
    title = (
        f"Attention of the {part}, {', '.join(found.names) if len(found.names) < 3 else 'all heads'} · {opened.name}"
    )
    if opened.video:
        film = inside_film.attention_film(
            chosen.images, found, opened.encoder.patch_size, opened.tubelet, title=title, seconds=opened.seconds(data),
            captions=chosen.names,
        )  # fmt: skip
        return write_film(path, film)
    sheet = inside.attention_sheet(chosen.images, found, opened.encoder.patch_size, title)
    return write_bytes(path, canvas.png(sheet))


def predictor_maps(
    loaded: latent.LoadedModel,
    images: torch.Tensor,
    *,
    layer: int = -1,
    head: str = "mean",
    patch: tuple[int, int] | None = None,
    device: str = "cpu",
) -> AttentionMaps:
    """Predictor attention on normalised ``images`` under masks as training draws them (ones that hide ``patch``).

    Raises:
        ConfigError: the predictor has no attention, or nothing is hidden.
    """
    recipe = loaded.config
    if recipe.predictor.kind not in ATTENDING or loaded.predictor is None:
        raise ConfigError(
            f"predictor.kind {recipe.predictor.kind} has no attention to draw: use --part encoder"
            if loaded.predictor is not None or recipe.predictor.kind not in ATTENDING
            else f"'{loaded.source}' was saved without its predictor: use --part encoder"
        )
    if patch is None:
        group = latent.draw_masks(recipe, len(images))
    else:
        patch = attention_maps.inside(patch, recipe.grid)
        group = latent.masks_hiding(recipe, len(images), patch)
    encoder = (loaded.online or loaded.encoder).to(device)
    return attention_maps.predictor_attention(
        encoder, loaded.predictor.to(device), images.to(device), group.to(device), prefix=recipe.predictor.kind == "pixel",
        layer=layer, head=head, patch=patch,
    )  # fmt: skip


def write_decode(
    model: str | Path,
    data: str,
    out: str | Path = "decoded.png",
    *,
    count: int = 8,
    steps: int = 1000,
    images: int = 4000,
    seed: int = 0,
    again: bool = False,
    device: str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
) -> tuple[Path, Instrument]:
    """What features hold: a decoder fitted on ``data`` (kept in the model directory), shown on its held-out images.

    Args:
        model: run or model directory, or checkpoint. data: folder, list or built-in, some hundred images at least; part
            of it is held out by the rule of training. count: rows. steps, images: length of the fit, images at most.
        again: fit anew even when a decoder is kept.

    Returns:
        The picture's path, and the decoder with its figures.

    Raises:
        CheckpointError, ConfigError, DataError, RunError: one line each.
    """
    path = png_path(out)
    loaded = open_own(model)
    recipe: Recipe = loaded.config
    plane(recipe)  # a model of clips is refused before any video is read
    apart = recipe.model_copy(update={"probe": recipe.probe.model_copy(update={"val": None})})
    splits = gallery.find_splits(apart, data, None, None)
    tool = instrument(
        loaded, lambda: splits, steps=steps, most=images, seed=seed, device=device, again=again, on_step=on_step
    )
    held = samples.gather(splits.held_out, recipe.data, count)
    title = f"What features hold, decoded to pixels · {_name(model)}, held-out images"
    sheet = inside.decoded_sheet(Subject(loaded, device), tool, held.images, title)
    return write_bytes(path, canvas.png(sheet)), tool


def write_reconstructions(
    model: str | Path,
    data: str,
    out: str | Path | None = None,
    *,
    count: int | None = None,
    device: str = "cpu",
) -> Path:
    """What a masked-pixel model (MAE, VideoMAE) makes of hidden patches: ``count`` images or clips of ``data``, a row each.

    Args:
        out: a PNG, by default ``reconstructions.png``; of VideoMAE also ``.gif`` and ``.mp4``, by default
            ``reconstructions.gif``. count: images (8) or clips (2).

    Raises:
        CheckpointError, ConfigError, DataError: no such model, one that predicts no pixels, or no readable image.
    """
    if out is not None:
        film_path(out)
    opened = open_any(model)
    if opened.loaded is None:
        raise ConfigError(f"'{opened.name}' comes without a pixel predictor: there is nothing to reconstruct with")
    path = film_path(out or "reconstructions.gif") if opened.video else png_path(out or "reconstructions.png")
    latent.rebuild_pixel(opened.loaded)  # a model that reconstructs nothing is refused before any image is read
    chosen = opened.gather(data, count or (CLIPS if opened.video else ROWS))
    made = reconstruction.reconstruct(opened.loaded, chosen.images, device=device)
    title = f"Reconstruction of hidden patches · {_name(model)}"
    if opened.video:
        return write_film(path, inside_film.reconstruction_film(made, title=title, seconds=opened.seconds(data)))
    return write_bytes(path, canvas.png(reconstruction.reconstruction_sheet(made, title)))


def _name(model: str | Path) -> str:
    """The last part of a path, as a title."""
    return Path(model).resolve().name
