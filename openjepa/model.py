"""A loaded model as a user holds it: encoders, predictor, preprocessing, and ``embed``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn

from openjepa.config.schema import DataConfig, ModelConfig, Recipe
from openjepa.data import EvalTransform, Normalise, Source, read_image
from openjepa.data.readers import read_picture
from openjepa.data.splits import open_side
from openjepa.errors import DataError
from openjepa.features import extract
from openjepa.hub.adapters import Foreign, is_foreign, open_encoder
from openjepa.hub.model_directory import LoadedModel, Which, load_model
from openjepa.models import VisionTransformer, build_encoder
from openjepa.types import Batch, Encoder

if TYPE_CHECKING:
    from PIL.Image import Image


class AnyModel(ABC):
    """An encoder with its preprocessing: what can embed images and be judged, whoever made it.

    Attributes:
        encoder: the network to use. name: how tables call it. channels: of the images it takes.
        transform: image ``(C, H, W)`` → the evaluation crop, uint8 or 0..1. normalise: a batch of those → encoder input.
        config: the recipe it was made with; None for a foreign encoder.
    """

    encoder: Encoder
    config: Recipe | None
    name: str
    channels: int
    transform: Callable[[Tensor], Tensor]
    normalise: nn.Module

    @property
    @abstractmethod
    def reading(self) -> Recipe:
        """The recipe that data for this encoder is read with: its channels and image size count."""

    @abstractmethod
    def fresh(self) -> Encoder:
        """The same architecture before any training, as a baseline; torch's random state is left alone."""

    def open(self, data: str | Path, side: Literal["train", "val"] = "train") -> Source:
        """A labelled folder, list file or ``scenes`` with as many channels as the encoder takes."""
        return open_side(self.reading, str(data), side)

    def _networks(self) -> list[nn.Module]:
        return [part for part in (self.encoder, self.normalise) if isinstance(part, nn.Module)]

    def to(self, device: str | torch.device) -> Self:
        """Move every network to ``device``; returns the model itself."""
        for part in self._networks():
            part.to(device)
        return self

    def embed(
        self,
        items: str | Path | Image | Tensor | Sequence[str | Path | Image | Tensor],
        *,
        tokens: Literal["pooled", "patch"] = "pooled",
        layers: Literal["last", "last4"] = "last",
        batch_size: int = 64,
    ) -> Tensor:
        """Features of images, with the preprocessing the model was trained with.

        Args:
            items: a path, a PIL image or an image tensor ``(C, H, W)`` (uint8, or float in 0..1), or several of them; a
                4-D tensor ``(B, C, H, W)`` is several.
            tokens: ``pooled`` (mean over patches) or ``patch``. layers: ``last``, or ``last4`` joined.

        Returns:
            ``(N, D)``, or ``(N, patches, D)``, float32 on the CPU, in the order of ``items``.

        Raises:
            DataError: a file that cannot be read, or something that is no image, by name.
        """
        if isinstance(items, Tensor) and items.ndim == 4:
            items = list(items)
        many = list(items) if isinstance(items, list | tuple) else [items]
        if not many:
            raise DataError("nothing to embed: the list is empty")
        assert isinstance(self.encoder, nn.Module)
        device = next(self.encoder.parameters()).device
        found = extract(
            self.encoder,
            self._batches(many, batch_size),
            normalise=self.normalise,
            device=device,
            tokens=tokens,
            layers=layers,
        )
        return found.values

    def _batches(self, items: Sequence[object], size: int) -> Iterator[Batch]:
        for start in range(0, len(items), size):
            images = [self.transform(self._read(item)) for item in items[start : start + size]]
            ids = torch.arange(start, start + len(images))
            kinds = {image.dtype for image in images}
            if len(kinds) > 1:  # 8-bit and deeper files in one batch
                images = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
            yield Batch({"image": torch.stack(images)}, ids, ids)

    def _read(self, item: object) -> Tensor:
        """Anything a user calls an image as ``(C, H, W)``."""
        channels = self.channels
        if isinstance(item, str | Path):
            return read_image(item, channels)
        if isinstance(item, Tensor):
            if item.ndim != 3 or item.shape[0] != channels:
                raise DataError(f"an image tensor is ({channels}, H, W), not {tuple(item.shape)}")
            return item
        from PIL.Image import Image as PilImage

        if isinstance(item, PilImage):
            return read_picture(item, channels)
        raise DataError(f"cannot embed a {type(item).__name__}: give a path, a PIL image or a (C, H, W) tensor")


class Model(AnyModel):
    """What ``openjepa.load`` returns for a run, model or checkpoint directory.

    Attributes:
        online, target, predictor: where the source has them. config: the recipe. Others as in :class:`AnyModel`.
    """

    encoder: VisionTransformer
    config: Recipe

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.encoder = loaded.encoder
        self.online: VisionTransformer | None = loaded.online
        self.target: VisionTransformer | None = loaded.target
        self.predictor: nn.Module | None = loaded.predictor
        self.config = loaded.config
        self.name, self.channels = "trained", loaded.config.data.channels
        self.transform = EvalTransform(loaded.config.data)
        self.normalise = Normalise.for_data(loaded.config.data)

    def __repr__(self) -> str:
        height, width = self.config.image_hw
        encoder = self.encoder
        size = f"{encoder.embed_dim} wide, {encoder.depth} blocks, {height}×{width} px"
        return f"Model({self.config.name}, {size}, from {self.loaded.source})"

    @property
    def reading(self) -> Recipe:
        """The model's own recipe."""
        return self.config

    def fresh(self) -> VisionTransformer:
        """The encoder as a run with this recipe and its seed starts."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return build_encoder(self.config.model, self.config.image_hw, self.channels, self.config.frames).eval()

    def _networks(self) -> list[nn.Module]:
        found = (self.online, self.target, self.predictor, self.encoder, self.normalise)
        return [part for part in found if part is not None]


class ForeignModel(AnyModel):
    """What ``openjepa.load`` returns for ``timm:NAME``, ``hf:ORG/NAME`` or a Hugging Face directory.

    Attributes:
        foreign: where it comes from, its licence and protocol. config: None. Others as in :class:`AnyModel`.
    """

    config: None

    def __init__(self, foreign: Foreign) -> None:
        self.foreign = foreign
        self.encoder, self.config = foreign.encoder, None
        self.name, self.channels = foreign.name, foreign.channels
        self.transform, self.normalise = foreign.transform, foreign.normalise

    def __repr__(self) -> str:
        height, width = self.foreign.transform.size
        about = f"{self.encoder.embed_dim} wide, {height}×{width} px, licence {self.foreign.licence or 'unknown'}"
        return f"ForeignModel({self.name}, {about})"

    @property
    def reading(self) -> Recipe:
        """A recipe that says no more than channels and image size."""
        grey = (0.5,) * self.channels
        data = DataConfig(image_size=self.foreign.transform.size, channels=self.channels, mean=grey, std=grey)
        return Recipe(name=self.name, data=data, model=ModelConfig(patch_size=1))

    def fresh(self) -> Encoder:
        """The same architecture with random weights."""
        return self.foreign.fresh()


def load(path: str | Path, *, which: Which = "deployed") -> Model | ForeignModel:
    """Load a run, model or checkpoint directory, or a foreign encoder: ``timm:NAME``, ``hf:ORG/NAME``, a HF directory.

    which: the ``deployed`` encoder (default), ``target`` or ``online``; a foreign model has but one.
    """
    return ForeignModel(open_encoder(path)) if is_foreign(path) else Model(load_model(path, which))
