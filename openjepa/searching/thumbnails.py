"""Small pictures of what was found: of an image file, or of one moment of a video."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openjepa.config.schema import ClipConfig
from openjepa.data import read_image
from openjepa.data.video_listing import is_video_name
from openjepa.errors import DataError, OpenJepaError
from openjepa.features.items import one_video
from openjepa.visualize import canvas

SIDE = 200  # pixels


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a ``data:`` address, or the reason why there is none."""

    uri: str = ""
    reason: str = ""


def thumbnail(path: str, at: float | None = None, name: str = "") -> Thumbnail:
    """The picture of a file, at most 200 pixels on its longer side.

    Args:
        at: seconds into a video; None for images. name: id of the item, which says the member of a tar shard.
    """
    if not path:
        return Thumbnail(reason="this item is no file of its own")
    if not Path(path).exists():
        return Thumbnail(reason="the file is no longer there")
    try:
        return Thumbnail(canvas.data_uri(canvas.fit(_picture(path, at, name), SIDE)))
    except OpenJepaError as error:
        return Thumbnail(reason=" ".join(str(error).split()))


def _picture(path: str, at: float | None, name: str) -> canvas.Image:
    if path.lower().endswith(".tar"):
        return canvas.to_rgb(read_image(_member(path, name), at_least=SIDE, name=name))
    if at is None and not is_video_name(path) and not Path(path).is_dir():
        return canvas.to_rgb(read_image(path, at_least=SIDE))
    source = one_video(path, 3, ClipConfig(frames=1, fps=1.0), "search")
    with source.video(0) as video:
        shown = video.at(np.array([video.duration / 2 if at is None else at]))
    if len(shown) == 0:
        raise DataError(f"{path} has no frame there")
    return canvas.to_rgb(shown[0])


def _member(shard: str, name: str) -> bytes:
    """The bytes of an image inside a shard; its id is ``shard.tar/member``."""
    wanted = name.split(f"{Path(shard).name}/", 1)[-1]
    if is_video_name(wanted.split("@")[0]):
        raise DataError("a video inside a shard")
    try:
        with tarfile.open(shard) as archive:
            file = archive.extractfile(wanted)
            if file is None:
                raise KeyError(wanted)
            return file.read()
    except (OSError, KeyError, tarfile.TarError) as error:
        raise DataError(f"'{wanted}' cannot be read from {Path(shard).name}") from error
