"""What every foreign encoder shares: the parsed name, the shape of its tokens, and its own way of preparing an image."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openjepa.config.schema import DataConfig
from openjepa.data import Normalise
from openjepa.data.transforms import cover
from openjepa.errors import ConfigError
from openjepa.hub.provenance import PublishedProbe
from openjepa.types import Encoder, Ids

_log = logging.getLogger(__name__)
_SUFFIX = re.compile(r"@(random|(\d+)px)$")
_MODES = {
    "lanczos": "bicubic",
    "hamming": "bicubic",
    "box": "bilinear",
    "random": "bilinear",
    "nearest-exact": "nearest",
}


@dataclass(frozen=True)
class Spec:
    """A foreign encoder's name, taken apart: ``timm:NAME``, ``hf:ORG/NAME`` or a directory, with ``@random``, ``@96px``.

    kind, name: whose and which. random: same architecture, nothing downloaded. pixels: side of the input, instead of
    the model's own. text: as it was given.
    """

    kind: Literal["timm", "hf"]
    name: str
    text: str
    random: bool = False
    pixels: int | None = None


def parse_spec(text: str) -> Spec:
    """Take a name apart; what has no ``timm:`` or ``hf:`` in front is a Hugging Face directory.

    Raises:
        ConfigError: nothing is named.
    """
    kind, _, rest = text.partition(":") if text.startswith(("timm:", "hf:")) else ("hf", "", text)
    drawn, pixels = False, None
    while found := _SUFFIX.search(rest):
        rest = rest[: found.start()]
        drawn, pixels = drawn or found[1] == "random", pixels if found[2] is None else int(found[2])
    if not rest:
        raise ConfigError(f"'{text}' names no model: write timm:vit_tiny_patch16_224 or hf:facebook/vit-mae-base")
    if pixels == 0:
        raise ConfigError(f"'{text}' asks for images of 0 px")
    return Spec("timm" if kind == "timm" else "hf", rest, text, drawn, pixels)


class ForeignTransform:
    """An image as the foreign model's own preprocessing cuts it; nothing random.

    Args:
        size: height and width of the result. resized: what the image is resized to before the centre is cut.
        how: ``cover`` keeps the aspect and covers ``resized``; ``squash`` resizes to it exactly.
        mode: resampling filter; those that torchvision lacks for tensors are replaced by the nearest, with a warning.
    """

    def __init__(
        self, size: tuple[int, int], resized: tuple[int, int], how: Literal["cover", "squash"], mode: str
    ) -> None:
        self.size, self.resized, self.how = size, resized, how
        self.mode = _MODES.get(mode, mode)
        self.at_least = max(resized)
        if self.mode != mode:
            _log.warning(
                "images are resized with %s: %s, which the model asks for, has no tensor version", self.mode, mode
            )

    def __call__(self, image: Tensor) -> Tensor:
        """``(C, h, w)`` to ``(C, H, W)``, dtype kept."""
        if self.how == "cover":
            return cover(image, self.resized, self.size, self.mode)
        from torchvision.transforms.v2 import functional as kernels

        if tuple(image.shape[1:]) != self.resized:
            mode = kernels.InterpolationMode(self.mode)
            image = kernels.resize_image(image, list(self.resized), mode, antialias=True)
        return cover(image, self.resized, self.size, self.mode)

    def __repr__(self) -> str:
        return f"ForeignTransform(size={self.size}, resized={self.resized}, how={self.how}, mode={self.mode})"


@dataclass(frozen=True)
class Preparation:
    """How a foreign model wants its images: the transform, and mean and deviation per channel in 0..1."""

    transform: ForeignTransform
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self) -> Normalise:
        """Pixels to the model's input."""
        return Normalise(self.mean, self.std)


class ForeignEncoder(nn.Module):
    """Somebody else's network with the interface of :class:`openjepa.types.Encoder`: patch tokens only, normalised.

    Args:
        network: what computes. tokens: the network on a normalised batch → ``(B, N, D)`` patch tokens after the final
            norm. name: for messages. size, channels: of its input.
        settings: what changes the features and is neither a weight nor a module's own number, as text; a part of the
            key under which features are cached.

    Raises:
        ConfigError: the network does not give a grid of tokens for an image.
    """

    def __init__(
        self,
        network: nn.Module,
        tokens: Callable[[nn.Module, Tensor], Tensor],
        *,
        name: str,
        size: tuple[int, int],
        channels: int,
        settings: str,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.network = network.eval()
        self._read, self._name = tokens, name
        self.image_size, self.channels, self.settings = size, channels, settings
        with torch.no_grad():
            sample = tokens(self.network, torch.zeros(1, channels, *size))
        if sample.ndim != 3:
            raise ConfigError(f"'{name}' gives features of shape {tuple(sample.shape)}, not patch tokens (B, N, D)")
        count, self.embed_dim = sample.shape[1:]
        self.num_features = self.embed_dim
        self.grid = grid or _grid_of(count, size, name)
        self.patch_size = (size[0] // self.grid[0], size[1] // self.grid[1])

    def forward_features(self, x: Tensor, keep: Ids | None = None) -> Tensor:
        """``(B, C, H, W)`` normalised → ``(B, N, D)`` patch tokens after the model's own final norm, row-major.

        Raises:
            ConfigError: ``keep`` is given; the wrapped model sees whole images only.
        """
        if keep is not None:
            raise ConfigError(f"'{self._name}' sees whole images only: masks need an encoder of openjepa's")
        return self._read(self.network, x)

    forward = forward_features


class ForeignTransformer(ForeignEncoder):
    """A foreign encoder made of equal blocks, so that any of them can be read (:meth:`forward_intermediates`)."""

    def __init__(
        self,
        network: nn.Module,
        tokens: Callable[[nn.Module, Tensor], Tensor],
        taps: Callable[[nn.Module, Tensor, Sequence[int], bool], list[Tensor]],
        blocks: Sequence[nn.Module],
        **about: Any,
    ) -> None:
        super().__init__(network, tokens, **about)
        self._taps, self._blocks = taps, list(blocks)
        self.depth = len(self._blocks)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, first to last."""
        return self._blocks

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        keep: Ids | None = None,
        norm: Literal["final", "none"] = "final",
    ) -> list[Tensor]:
        """Patch tokens ``(B, N, D)`` of chosen blocks, in ascending order.

        Args:
            indices: block numbers (negative ones count from the end), or n for the last n; None for all.
            norm: each through the model's final norm, or as the block left it.
        """
        if keep is not None:
            raise ConfigError(f"'{self._name}' sees whole images only: masks need an encoder of openjepa's")
        if indices is None:
            indices = range(self.depth)
        elif isinstance(indices, int):
            indices = range(max(self.depth - indices, 0), self.depth)
        wanted = sorted({i % self.depth for i in indices})
        return self._taps(self.network, x, wanted, norm == "final")


@dataclass(frozen=True)
class Foreign:
    """A foreign encoder ready to be judged.

    encoder: frozen or trainable like any module. transform, normalise: the model's own preprocessing. name: as the user
    wrote it. protocol: what a score's reader should know. licence: of the weights, where their source says it. data: how
    clips are read, for encoders of video. probe: a classifier that was fine-tuned with it.
    """

    encoder: Encoder
    transform: Any
    normalise: Normalise
    name: str
    channels: int
    protocol: Mapping[str, Any]
    licence: str | None
    build: Callable[[], Encoder]
    data: DataConfig | None = None
    probe: PublishedProbe | None = None

    def fresh(self, seed: int = 0) -> Encoder:
        """The same architecture with random weights; torch's random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build()


def _grid_of(count: int, size: tuple[int, int], name: str) -> tuple[int, int]:
    """Rows and columns of ``count`` tokens over an image: of its shape, as exactly as whole numbers allow."""
    height = max(round(math.sqrt(count * size[0] / size[1])), 1)
    if count % height:
        raise ConfigError(f"'{name}' gives {count} tokens for an image of {size[0]}×{size[1]} px, which are no grid")
    return height, count // height


def flatten_map(features: Tensor, channels_last: bool) -> Tensor:
    """A feature map ``(B, D, h, w)``, or ``(B, h, w, D)``, as row-major tokens ``(B, h·w, D)``."""
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)


def normed(norm: nn.Module | None, tokens: Tensor) -> Tensor:
    """``(B, N, D)`` through a layer norm over channels, wherever its module expects the channels; others as they are."""
    if isinstance(norm, nn.LayerNorm):  # timm's LayerNorm2d is one too
        return nn.functional.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return tokens if norm is None else norm(tokens)
