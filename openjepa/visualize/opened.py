"""Any encoder a user names, ready to be drawn: ours with its recipe, or timm's and Hugging Face's with their own cuts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from openjepa.config.schema import DataConfig
from openjepa.data import EvalTransform, Normalise, open_source
from openjepa.data.transforms import Transform
from openjepa.hub.adapters import is_foreign, open_encoder
from openjepa.hub.model_directory import LoadedModel, load_model
from openjepa.types import Encoder
from openjepa.visualize import samples
from openjepa.visualize.samples import Samples


@dataclass(frozen=True)
class Opened:
    """An encoder with its preprocessing. loaded: what else lies in its directory; None for a foreign encoder."""

    encoder: Encoder
    transform: Transform
    normalise: nn.Module
    channels: int
    name: str
    loaded: LoadedModel | None = None

    def gather(self, data: str, count: int) -> Samples:
        """``count`` images spread over ``data``, cut as this encoder wants them.

        Raises:
            DataError: nothing can be read.
        """
        source = open_source(data, channels=self.channels)
        return samples.gather(source, DataConfig(), count, transform=self.transform)


def open_any(model: str | Path) -> Opened:
    """Open a run, model or checkpoint directory, ``timm:NAME``, ``hf:ORG/NAME`` or a Hugging Face directory.

    Raises:
        CheckpointError, ConfigError, MissingExtra: one line each.
    """
    if is_foreign(model):
        found = open_encoder(model)
        return Opened(found.encoder, found.transform, found.normalise, found.channels, found.name)
    loaded = load_model(model)
    data = loaded.config.data
    name = Path(model).resolve().name
    return Opened(loaded.encoder, EvalTransform(data), Normalise.for_data(data), data.channels, name, loaded)
