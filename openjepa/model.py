"""A loaded model as a user holds it: encoders, predictor, preprocessing, and ``embed``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from openjepa.config.schema import Recipe
from openjepa.data import EvalTransform, Normalise, read_image
from openjepa.data.readers import read_picture
from openjepa.errors import DataError
from openjepa.features import extract
from openjepa.hub.model_directory import LoadedModel
from openjepa.models import NarrowPredictor, VisionTransformer
from openjepa.types import Batch

if TYPE_CHECKING:
    from PIL.Image import Image


class Model:
    """What ``openjepa.load`` returns.

    Attributes:
        encoder: the network to use. online, target, predictor: where the source has them. config: the recipe.
        transform: image ``(C, H, W)`` → the evaluation crop, uint8 or 0..1. normalise: a batch of those → encoder input.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.encoder: VisionTransformer = loaded.encoder
        self.online: VisionTransformer | None = loaded.online
        self.target: VisionTransformer | None = loaded.target
        self.predictor: NarrowPredictor | None = loaded.predictor
        self.config: Recipe = loaded.config
        self.transform = EvalTransform(loaded.config.data)
        self.normalise: nn.Module = Normalise.for_data(loaded.config.data)

    def __repr__(self) -> str:
        height, width = self.config.image_hw
        encoder = self.encoder
        size = f"{encoder.embed_dim} wide, {encoder.depth} blocks, {height}×{width} px"
        return f"Model({self.config.name}, {size}, from {self.loaded.source})"

    def to(self, device: str | torch.device) -> Model:
        """Move every network to ``device``; returns the model itself."""
        for part in (self.online, self.target, self.predictor, self.encoder, self.normalise):
            if part is not None:
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
        channels = self.config.data.channels
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
