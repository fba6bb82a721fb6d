"""The pictures of the report: masks, maps and neighbours as ``data:`` images with their captions."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from openjepa.config.schema import Recipe
from openjepa.data import Normalise, Source
from openjepa.data.splits import Splits, open_splits
from openjepa.models import build_encoder
from openjepa.types import Encoder
from openjepa.visualize import canvas, gallery_video, maps, masks, neighbours, samples
from openjepa.visualize.tile import Tile

FEWEST_MAPS = 6  # held-out images drawn however slow the encoder is


def find_splits(
    recipe: Recipe, data: str | None, train: Source | None, held_out: Source | None, origin: str = ""
) -> Splits:
    """The run's data: what the caller handed in, else ``data`` or the recipe's source opened again as the run did.

    Raises:
        DataError: the run's recipe names no data, or it is not there any more.
    """
    if train is not None and held_out is not None:
        apart = f"set apart from {train.name}" if held_out.name == train.name else held_out.name
        return Splits(train, held_out, origin or apart)
    if data is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": data})})
    found = open_splits(recipe)
    return Splits(
        found.train if train is None else train,
        found.held_out if held_out is None else held_out,
        found.origin if held_out is None else origin or held_out.name,
    )


def mask_tiles(recipe: Recipe, source: Source, count: int = 6) -> list[dict[str, Any]]:
    """Mask previews: three pictures and a caption each."""
    return [
        {
            "tiles": [
                Tile(canvas.data_uri(picture), f"{column} of {preview.name}", {})
                for column, picture in zip(
                    masks.COLUMNS, (preview.original, preview.context, preview.targets), strict=True
                )
            ],
            "name": preview.name,
            "context": preview.context_share,
            "targets": preview.target_share,
            "blocks": preview.blocks,
            "kept": preview.kept,
        }
        for preview in masks.mask_previews(source, recipe, count=count)
    ]


def untrained(recipe: Recipe) -> Encoder:
    """A fresh encoder of the recipe: its own initialisation and seed, no training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build_encoder(recipe.model, recipe.image_hw, recipe.data.channels, recipe.frames)


def map_tiles(
    recipe: Recipe, encoder: Encoder, held_out: Source, *, count: int, seconds: float, device: str
) -> dict[str, Any]:
    """PCA maps of trained and untrained patch features on held-out images, and how much of them is position.

    Of ``count`` images as many are drawn as both encoders manage in about ``seconds``, at least :data:`FEWEST_MAPS`. Of
    clips the maps move, see :func:`openjepa.visualize.gallery_video.map_tiles`.
    """
    if recipe.video:
        return gallery_video.map_tiles(recipe, encoder, untrained(recipe), held_out, count=count, device=device)
    chosen = samples.gather(held_out, recipe.data, count)
    normalise = Normalise.for_data(recipe.data)
    patch = (recipe.model.patch_size,) * 2
    height, width = chosen.images.shape[-2:]

    def features(model: Encoder, start: int, stop: int) -> Tensor:
        return maps.patch_features(model, chosen.images[start:stop], normalise, device=device)

    begun = time.monotonic()
    first = features(encoder, 0, FEWEST_MAPS)
    each_takes = (time.monotonic() - begun) / len(first)
    many = min(max(len(first), int(seconds / (2 * each_takes))), len(chosen))
    trained = torch.cat([first, features(encoder, len(first), many)]) if many > len(first) else first
    found = {"trained": trained, "untrained": features(untrained(recipe), 0, many)}
    drawn = {"trained": maps.pca_maps(found["trained"])}
    if many > 1:
        drawn["trained, less position"] = maps.pca_maps(found["trained"], centre="position")
    drawn["untrained"] = maps.pca_maps(found["untrained"])
    groups = []
    for k, tile in enumerate(maps.tiles(chosen.images[:many])):
        pictures = [Tile(canvas.data_uri(canvas.fit(tile, 224)), f"held-out image {chosen.names[k]}", {})]
        for name, each in drawn.items():
            picture = maps.map_tile(each.colours[k], patch, height, width)
            pictures.append(
                Tile(canvas.data_uri(canvas.fit(picture, 224)), f"{name} features of {chosen.names[k]}", {})
            )
        groups.append({"tiles": pictures, "name": chosen.names[k]})
    return {
        "groups": groups,
        "columns": ["image", *drawn],
        "note": drawn["trained"].note,
        "position": {name: maps.position_share(values) for name, values in found.items()},
    }


def neighbour_tiles(
    recipe: Recipe, encoder: Encoder, splits: Splits, *, queries: int, k: int, most: int, seconds: float, device: str
) -> dict[str, Any]:
    """Queries with their nearest training images."""
    normalise = Normalise.for_data(recipe.data)
    rows, searched = neighbours.neighbour_rows(
        encoder, normalise, recipe.data, splits.train, splits.held_out,
        queries=queries, k=k, most=most, seconds=seconds, device=device,
    )  # fmt: skip
    return {
        "rows": [
            {
                "query": Tile(_small(row.image), f"query {row.name}", {"class": row.class_name, "name": row.name}),
                "found": [
                    Tile(_small(n.image), f"neighbour {n.name}",
                         {"class": n.class_name, "right": n.right, "similarity": n.similarity, "name": n.name})
                    for n in row.neighbours
                ],
            }
            for row in rows
        ],
        "right": neighbours.right_share(rows),
        "chance": _chance(splits.train),
        "searched": searched,
    }  # fmt: skip


def _chance(source: Source) -> float | None:
    """How often two random images share a class; None without classes."""
    labels = torch.tensor([source.label(i) for i in samples.spaced(len(source), 2000)])
    labels = labels[labels >= 0]
    if not len(labels):
        return None
    shares = labels.bincount().double() / len(labels)
    return float(shares.square().sum())


def _small(image: canvas.Image) -> str:
    """A tile of at most 112 pixels as a ``data:`` address."""
    return canvas.data_uri(canvas.tile(image, 112))
