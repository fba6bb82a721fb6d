"""Pictures of the report that look inside a model: attention, decoded features, reconstructions, and views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openjepa.config.schema import Recipe
from openjepa.data import Normalise, Source
from openjepa.hub.model_directory import LoadedModel
from openjepa.visualize import (
    attention_maps,
    clips,
    gallery_video,
    inside,
    inside_files,
    inside_film,
    reconstruction,
    samples,
    views,
)
from openjepa.visualize.attention import attentions
from openjepa.visualize.attention_maps import AttentionMaps
from openjepa.visualize.canvas import Image
from openjepa.visualize.decoded import Subject, kept_instrument
from openjepa.visualize.gallery_video import uri
from openjepa.visualize.tile import Tile

SIDE = 192  # pixels of a tile, at most
MOVING = 128  # of one that moves


def view_tiles(recipe: Recipe, source: Source, count: int = 6) -> list[dict[str, Any]]:
    """Views of training images, a row each."""
    return [
        {
            "tiles": _tiles([preview.original, *preview.views], views.columns(preview), preview.name),
            "columns": views.columns(preview),
            "name": preview.name,
        }
        for preview in views.view_previews(source, recipe.data, count=count, seed=recipe.seed)
    ]


def attention_tiles(loaded: LoadedModel, held_out: Source, *, count: int, device: str) -> dict[str, Any]:
    """Attention of the first and the last encoder block, its rollout, and the predictor's, on held-out images.

    Each column has its own scale; ``tops`` says what its brightest colour means.
    """
    recipe = loaded.config
    chosen = samples.gather(held_out, recipe.data, _fewer(recipe, count))
    images = Normalise.for_data(recipe.data)(chosen.images).to(device)
    encoder = loaded.encoder.to(device)
    depth = len(attentions(encoder))
    found: dict[str, AttentionMaps] = {}
    for layer in sorted({0, depth - 1}):
        found[f"encoder block {layer}"] = attention_maps.encoder_attention(encoder, images, layer=layer)
    found["rollout"] = attention_maps.encoder_attention(encoder, images, rollout=True)
    if recipe.predictor.kind in inside_files.ATTENDING and loaded.predictor is not None and recipe.mask.kind != "none":
        found["predictor"] = inside_files.predictor_maps(loaded, images, device=device)
    columns, tops = ["clip" if recipe.video else "image"], {}
    rows: list[list[Image]] = [[] for _ in chosen.names]
    patch = (recipe.model.patch_size,) * 2
    for name, maps in found.items():
        tops[name] = inside.attention_top(maps)
        columns += ["visible", name] if name == "predictor" else [name]
        if recipe.video:
            drawn = inside_film.attention_panels(chosen.images, maps, patch, recipe.model.tubelet_size, tops[name])
        else:
            drawn = inside.attention_tiles(chosen.images, maps, patch, tops[name])
        for row, tiles in zip(rows, drawn, strict=True):
            row += tiles[1:] if row else tiles
    seconds = clips.seconds_per_frame(held_out, gallery_video.clip_of(recipe)) if recipe.video else 0.0
    groups = [{"tiles": _tiles(row, columns, n, seconds), "name": n} for row, n in zip(rows, chosen.names, strict=True)]
    predictor = found.get("predictor")
    return {
        "groups": groups,
        "columns": columns,
        "tops": tops,
        "even": found["rollout"].even,
        "to_visible": None if predictor is None else float(1 - predictor.elsewhere.mean()),
    }


def decoded_tiles(loaded: LoadedModel, held_out: Source, *, count: int, device: str) -> dict[str, Any] | None:
    """Held-out images decoded from their features and from predictions; None where no decoder is kept with the model."""
    tool = kept_instrument(loaded)
    if tool is None:
        return None
    subject = Subject(loaded, device)
    chosen = samples.gather(held_out, loaded.config.data, count)
    rows, captions = inside.decoded_tiles(subject, tool, chosen.images)
    columns = list(inside.decoded_columns(subject))
    return {
        "groups": _groups(rows, columns, chosen.names, captions),
        "columns": columns,
        "notes": inside.decoded_notes(tool, inside.space_notes(subject)),
    }


def reconstruction_tiles(loaded: LoadedModel, held_out: Source, *, count: int, device: str) -> dict[str, Any] | None:
    """Held-out images with their hidden patches reconstructed; None where the method predicts no pixels."""
    if loaded.config.method != "masked_pixel":
        return None
    recipe = loaded.config
    chosen = samples.gather(held_out, recipe.data, _fewer(recipe, count))
    made = reconstruction.reconstruct(loaded, chosen.images, device=device)
    seconds = clips.seconds_per_frame(held_out, gallery_video.clip_of(recipe)) if recipe.video else 0.0
    groups = _groups(made.rows, made.columns, chosen.names, made.captions, seconds)
    return {"groups": groups, "columns": list(made.columns), "notes": made.notes}


def _fewer(recipe: Recipe, count: int) -> int:
    """Moving pictures are large: two clips of them are shown at most."""
    return min(count, 2) if recipe.video else count


def _groups(
    rows: Sequence[Sequence[Image]],
    columns: Sequence[str],
    names: Sequence[str],
    captions: Sequence[str],
    seconds: float = 0.0,
) -> list[dict[str, Any]]:
    return [
        {"tiles": _tiles(row, columns, name, seconds), "name": name, "caption": caption}
        for row, name, caption in zip(rows, names, captions, strict=True)
    ]


def _tiles(pictures: Sequence[Image], columns: Sequence[str], name: str, seconds: float = 0.0) -> list[Tile]:
    """Pictures of :data:`SIDE` pixels at most; frames ``(T, H, W, 3)`` are smaller, and move."""
    return [
        Tile(uri(p, seconds, SIDE if p.ndim == 3 else MOVING), f"{column} of {name}", {})
        for p, column in zip(pictures, columns, strict=True)
    ]
