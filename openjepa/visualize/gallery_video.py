"""The moving pictures of a video run's report: mask tubes, PCA maps through time and surprise as small GIFs, and filmstrips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from openjepa.config.data_parts import ClipConfig
from openjepa.config.schema import Recipe
from openjepa.data import Normalise, Source
from openjepa.hub.model_directory import LoadedModel
from openjepa.types import Encoder
from openjepa.visualize import canvas, clips, maps, samples, surprise, surprise_film, time_maps, tubes
from openjepa.visualize.animation import Frames, gif_uri
from openjepa.visualize.canvas import Image
from openjepa.visualize.surprise_film import Shown
from openjepa.visualize.tile import Tile

SIDE = 128  # pixels of a moving tile, at most
FILM = 64  # pixels of a frame in a filmstrip, at most
SHOWN = 8  # frames of a filmstrip, spread over the clip
CLIPS = 4  # with maps, at most: moving pictures are large
MASKED = 3  # with masks, at most
FRAMES = 32  # of a video whose surprise is shown, at most (of longer clips: one clip)


def clip_of(recipe: Recipe) -> ClipConfig:
    """The clip of a video recipe."""
    assert recipe.data.clip is not None
    return recipe.data.clip


def uri(picture: Image, seconds: float, side: int = SIDE) -> str:
    """A picture ``(H, W, 3)``, or frames ``(T, H, W, 3)`` as a GIF, as a ``data:`` address."""
    if picture.ndim == 3:
        return canvas.data_uri(canvas.fit(picture, side))
    return gif_uri(np.stack([canvas.fit(frame, side) for frame in picture]), seconds)


def filmstrip(frames: Frames, count: int = SHOWN) -> Image:
    """``count`` frames of a clip side by side."""
    chosen = [canvas.fit(frames[k], FILM) for k in samples.spaced(len(frames), count)]
    gap = np.full((chosen[0].shape[0], 2, 3), 255, dtype=np.uint8)
    return np.concatenate([part for frame in chosen for part in (frame, gap)][:-1], axis=1)


def mask_tiles(recipe: Recipe, source: Source, count: int) -> dict[str, Any]:
    """Training clips with every mask pair over them, moving, and each as a filmstrip below."""
    previews, names = tubes.tube_previews(source, recipe, count=min(count, MASKED))
    seconds = clips.seconds_per_frame(source, clip_of(recipe))
    groups = []
    for preview in previews:
        panels = [preview.original, *preview.pairs]
        lines = [filmstrip(panel) for panel in panels]
        gap = np.full((4, lines[0].shape[1], 3), 255, dtype=np.uint8)
        strip = np.concatenate([part for line in lines for part in (line, gap)][:-1], axis=0)
        groups.append(
            {
                "tiles": _tiles(panels, ["clip", *names], preview.name, seconds),
                "name": preview.name,
                "caption": preview.caption(names),
                "strip": Tile(canvas.data_uri(strip), f"filmstrips of {preview.name}: clip, {', '.join(names)}", {}),
            }
        )
    return {"groups": groups, "columns": ["clip", *names]}


def map_tiles(
    recipe: Recipe, trained: Encoder, untrained: Encoder, held_out: Source, *, count: int, device: str
) -> dict[str, Any]:
    """PCA maps through time of trained and untrained patch features of held-out clips, and how much of them is position."""
    chosen = samples.gather(held_out, recipe.data, min(count, CLIPS))
    normalise = Normalise.for_data(recipe.data)
    seconds = clips.seconds_per_frame(held_out, clip_of(recipe))
    found = {
        name: maps.patch_features(encoder, chosen.images, normalise, device=device)  # (M, t, h, w, D)
        for name, encoder in (("trained", trained), ("untrained", untrained))
    }
    drawn = {
        "trained": time_maps.pca_through_time(list(found["trained"])),
        "trained, less position": time_maps.pca_through_time(list(found["trained"]), remove_position=True),
        "untrained": time_maps.pca_through_time(list(found["untrained"])),
    }
    columns = ["clip", *drawn]
    groups = []
    for k, name in enumerate(chosen.names):
        panels = _map_panels(recipe, chosen.images[k], [d.colours.reshape(len(chosen), -1, *d.colours.shape[1:])[k]
                                                        for d in drawn.values()])  # fmt: skip
        groups.append({"tiles": _tiles(panels, columns, name, seconds), "name": name})
    return {
        "groups": groups,
        "columns": columns,
        "note": drawn["trained"].note,
        "position": {name: maps.position_share(values) for name, values in found.items()},
    }


def _map_panels(recipe: Recipe, clip: Tensor, colours: Sequence[Image]) -> list[Frames]:
    """The clip and its maps as frames of one size."""
    plain = clips.to_rgb(clip)
    size, patch = (plain.shape[1], plain.shape[2]), (recipe.model.patch_size,) * 2
    drawn = [time_maps.map_frames(c, len(plain), recipe.model.tubelet_size, patch, size) for c in colours]
    return [time_maps.tiles(part, SIDE) for part in (plain, *drawn)]


def surprise_tiles(loaded: LoadedModel, held_out: Source, *, count: int, device: str) -> dict[str, Any]:
    """Held-out videos with their prediction errors as heat, and a strip with the error of each time step below.

    Raises:
        ConfigError: the model predicts nothing. CheckpointError: it was saved without its predictor.
    """
    recipe = loaded.config
    surprise.subject(loaded)
    mode = "future" if recipe.mask.kind == "none" else "masked"
    surprise.check_mode(recipe, mode)
    videos = clips.whole_videos(held_out, recipe.data, count, max(FRAMES, clip_of(recipe).frames))
    others = clips.compared_with(held_out, recipe.data) if surprise.centres(loaded) else None
    shown = [
        Shown(
            video.name,
            clips.to_rgb(video.clip),
            surprise.surprise(loaded, video.clip, mode, others=others, device=device),
            video.seconds,
        )
        for video in videos
    ]
    film = surprise_film.surprise_film(shown, "", tile=160)
    groups = []
    for row, each in enumerate(shown):
        video, heat = film.rows[row]
        gap = np.full((len(video), video.shape[1], 8, 3), 255, dtype=np.uint8)
        strips = np.stack([film.strips[row](frame) for frame in range(len(video))])
        whole = np.concatenate([np.concatenate([video, gap, heat], axis=2), strips], axis=1)
        tile = Tile(gif_uri(whole, each.seconds), f"prediction error over {each.name}", {})
        groups.append({"tiles": [tile], "name": each.name, "caption": film.captions[row]})
    assert film.legend is not None
    return {
        "groups": groups,
        "notes": film.notes,
        "legend": Tile(canvas.data_uri(film.legend), "scale of the error", {}),
    }


def _tiles(panels: Sequence[Image], columns: Sequence[str], name: str, seconds: float) -> list[Tile]:
    return [Tile(uri(panel, seconds), f"{column} of {name}", {}) for panel, column in zip(panels, columns, strict=True)]
