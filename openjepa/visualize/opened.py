"""Any encoder a user names, ready to be drawn: ours with its recipe, or timm's and Hugging Face's with their own cuts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn

from openjepa.config.schema import DataConfig, Recipe
from openjepa.data import Normalise, Source, eval_transform, open_source
from openjepa.data.clips import Clips
from openjepa.data.transforms import Transform
from openjepa.errors import ConfigError
from openjepa.hub.adapters import Foreign
from openjepa.hub.model_directory import LoadedModel
from openjepa.hub.opening import open_any as open_model
from openjepa.types import Encoder
from openjepa.visualize import samples
from openjepa.visualize.clips import seconds_per_frame
from openjepa.visualize.samples import Samples


@dataclass(frozen=True)
class Opened:
    """An encoder with its preprocessing. loaded: what else lies in its directory, and data: how it was trained to see;
    None for a foreign encoder.
    """

    encoder: Encoder
    transform: Transform
    normalise: nn.Module
    channels: int
    name: str
    loaded: LoadedModel | None = None
    data: DataConfig | None = None

    @property
    def video(self) -> bool:
        """Whether the encoder was made for clips."""
        return self.data is not None and self.data.clip is not None

    @property
    def tubelet(self) -> int:
        """Frames of one token."""
        return getattr(self.encoder, "tubelet_size", 1)

    def seconds(self, data: str) -> float:
        """How long a frame of its clips of ``data`` lasts."""
        assert self.data is not None
        assert self.data.clip is not None
        return seconds_per_frame(self.open(data), self.data.clip)

    def open(self, data: str) -> Source:
        """A folder, list, file or built-in, read as this encoder wants it: images, or clips.

        Raises:
            DataError: it is not there, or holds nothing to read.
        """
        if self.loaded is not None and self.video:
            return open_videos(self.loaded.config, data)
        return open_source(data, channels=self.channels)

    def gather(self, data: str, count: int) -> Samples:
        """``count`` images, or middle clips of videos, spread over ``data``, cut as this encoder wants them.

        Raises:
            DataError: nothing can be read.
        """
        return samples.gather(self.open(data), self.data or DataConfig(), count, transform=self.transform)

    def images_only(self, picture: str, instead: str = "pca or surprise") -> None:
        """Refuse a video model for a picture that has no form for clips.

        Raises:
            ConfigError: it is one.
        """
        if self.video:
            raise ConfigError(f"visualize {picture} is for image models, and '{self.name}' takes clips: use {instead}")


def open_videos(recipe: Recipe, data: str) -> Source:
    """A video, folder, list or ``scenes`` as clips of ``recipe``.

    Raises:
        DataError: it is not there, or holds no video. ConfigError: the recipe is for images.
    """
    if recipe.data.clip is None:
        raise ConfigError(f"recipe {recipe.name} is for images: it has no clips (data.clip.frames)")
    clips = Clips.evaluation(recipe.data.clip)
    if data == "scenes":
        return open_source(data, channels=recipe.data.channels, clip=clips, scene_size=max(32, *recipe.image_hw))
    return open_source(data, channels=recipe.data.channels, clip=clips)


def open_any(model: str | Path) -> Opened:
    """Open whatever :func:`openjepa.load` opens.

    Raises:
        CheckpointError, ConfigError, MissingExtra: one line each.
    """
    found = open_model(model)
    if isinstance(found, Foreign):
        return Opened(found.encoder, found.transform, found.normalise, found.channels, found.name)
    data = found.config.data
    name = Path(model).resolve().name
    transform = cast(Transform, eval_transform(data))
    return Opened(found.encoder, transform, Normalise.for_data(data), data.channels, name, found, data)
