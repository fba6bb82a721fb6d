"""What users call an image or a video (a path, a picture, a tensor), as pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from openjepa.config.schema import ClipConfig
from openjepa.data import open_source, read_image
from openjepa.data.clips import Clips
from openjepa.data.readers import is_image_name, read_picture
from openjepa.data.video_listing import is_video_name
from openjepa.errors import DataError


def read_image_item(item: object, channels: int, who: str) -> Tensor:
    """Anything a user calls an image as ``(C, H, W)``. who: the encoder, for messages.

    Raises:
        DataError: it cannot be read, or is something else, by name.
    """
    if isinstance(item, str | Path):
        if is_video_name(item) and not is_image_name(item):
            raise DataError(f"{item} is a video, and {who} takes images: see model.seen(ClipOptions(frames=…))")
        return read_image(item, channels)
    if isinstance(item, Tensor):
        if item.ndim != 3 or item.shape[0] != channels:
            raise DataError(f"an image tensor is ({channels}, H, W), not {tuple(item.shape)}")
        return item
    from PIL.Image import Image as PilImage

    if isinstance(item, PilImage):
        return read_picture(item, channels)
    raise DataError(f"cannot embed a {type(item).__name__}: give a path, a PIL image or a (C, H, W) tensor")


def read_clip_item(item: object, channels: int, clip: ClipConfig, who: str) -> Tensor:
    """Anything a user calls a video as the frames ``(T, C, H, W)`` of one clip; of a file, the clip in the middle.

    Raises:
        DataError: it cannot be read, has another length, or is something else, by name.
    """
    if isinstance(item, str | Path):
        frames: Tensor = one_video(item, channels, clip, who).read(0)
        return frames
    if isinstance(item, Tensor):
        if item.ndim != 4 or len(item) != channels:
            raise DataError(f"a clip is a ({channels}, T, H, W) tensor, not {tuple(item.shape)}")
        if item.shape[1] != clip.frames:
            raise DataError(f"a clip of {who} has {clip.frames} frames, not {item.shape[1]}: see ClipOptions(frames=…)")
        return item.transpose(0, 1)
    raise DataError(f"cannot embed a {type(item).__name__}: give the path of a video or a (C, T, H, W) tensor")


def one_video(path: str | Path, channels: int, clip: ClipConfig, who: str) -> Any:
    """A video, or a folder of numbered frames, as a source of one.

    Raises:
        DataError: nothing there, an image, or several videos.
    """
    if is_image_name(path) and not is_video_name(path):
        raise DataError(
            f"{path} is an image, and {who} takes videos: as_images=True embeds it as a clip of one tubelet"
        )
    source = open_source(path, channels=channels, clip=Clips.evaluation(clip))
    if len(source) != 1:
        raise DataError(f"{path} holds {len(source)} videos: name one of them")
    return source


def listed(items: Any, several: int) -> list[Any]:
    """One item or several as a list; a tensor of ``several`` dimensions is several. Raises DataError for none at all."""
    if isinstance(items, Tensor) and items.ndim == several:
        items = list(items)
    many = list(items) if isinstance(items, list | tuple) else [items]
    if not many:
        raise DataError("nothing to embed: the list is empty")
    return many
