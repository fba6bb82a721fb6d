"""From a decoded image to a training or evaluation input, with torchvision v2 kernels on uint8 (or 0..1 float) tensors.

Everything works on the last two axes, so several frames in front of them share one crop, one flip and one draw of every
colour (:mod:`openjepa.data.clip_transforms`).

The kernels of ``torchvision.transforms.v2.functional`` are called directly: for 32-pixel images the v2 classes spend
more time on looking for tensors in their arguments than on the pixels. Nothing that would change nothing is run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from openjepa.config.schema import AugmentConfig, DataConfig
from openjepa.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_LONGEST = 3.0  # aspect beyond which an image is cut before it is resized: a 1 × 10,000 strip would need gigabytes


class Transform(Protocol):
    """``(C, h, w)`` to ``(C, H, W)``. at_least: pixels it needs on the short side of its input."""

    at_least: int

    def __call__(self, image: Tensor) -> Tensor:
        """Transform one image."""
        ...


@functools.cache
def _kernels() -> Any:
    """``torchvision.transforms.v2.functional``, imported when the first image comes."""
    from torchvision.transforms.v2 import functional

    return functional


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of ``data.image_size``."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _resize(image: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Anti-aliased resize; nothing when the size is right."""
    if tuple(image.shape[-2:]) == size:
        return image
    kernels = _kernels()
    return kernels.resize_image(image, list(size), kernels.InterpolationMode(mode), antialias=True)


def _centre(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle ``size`` pixels, as a view; sides that are shorter are kept whole."""
    h, w = min(size[0], image.shape[-2]), min(size[1], image.shape[-1])
    top, left = round((image.shape[-2] - h) / 2), round((image.shape[-1] - w) / 2)
    return image[..., top : top + h, left : left + w]


def cover(image: Tensor, size: tuple[int, int], inner: tuple[int, int] | None, mode: str) -> Tensor:
    """Resize ``(..., C, h, w)`` so that it just covers ``size``, then cut ``inner`` from its centre (None: cut nothing).

    Of images longer than 3 : 1 (against the wanted shape) only the middle is resized.
    """
    height, width = image.shape[-2:]
    scale = max(size[0] / height, size[1] / width)
    image = _centre(image, (math.ceil(_LONGEST * size[0] / scale), math.ceil(_LONGEST * size[1] / scale)))
    height, width = image.shape[-2:]
    if size[0] * width >= size[1] * height:  # the long side rounds down, as in torchvision's Resize
        target = size[0], max(size[0] * width // height, size[1])
    else:
        target = max(size[1] * height // width, size[0]), size[1]
    image = _resize(image, target, mode)
    return image if inner is None else _centre(image, inner)


class EvalTransform:
    """Resize until the image covers ``image_size / eval_crop``, then cut the centre: nothing random.

    Args:
        config: image_size, eval_crop and interpolation are used.
    """

    def __init__(self, config: DataConfig) -> None:
        self.size = sides(config.image_size)
        self.covered = round(self.size[0] / config.eval_crop), round(self.size[1] / config.eval_crop)
        self.mode = config.interpolation
        self.at_least = max(self.covered)

    def __call__(self, image: Tensor) -> Tensor:
        """``(C, h, w)`` to ``(C, H, W)``, dtype kept."""
        return cover(image, self.covered, self.size, self.mode)

    def __repr__(self) -> str:
        return f"EvalTransform(size={self.size}, covered={self.covered}, mode={self.mode})"


def random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random box (Szegedy et al., arXiv:1409.4842: area uniform, ratio log-uniform).

    Ten tries of torch's global RNG, drawn at once; then the largest centred box of the nearest ratio allowed.
    """
    draws = torch.rand(40).tolist()
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for k in range(0, 40, 4):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[k])
        shape = math.exp(low + (high - low) * draws[k + 1])
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(draws[k + 2] * (height - h + 1)), int(draws[k + 3] * (width - w + 1)), h, w
    shape = min(max(width / height, ratio[0]), ratio[1])
    h, w = max(min(height, round(width / shape)), 1), max(min(width, round(height * shape)), 1)
    return (height - h) // 2, (width - w) // 2, h, w


class TrainTransform:
    """Random-resized crop (or cover and centre crop), flip, colour jitter, gray, blur, solarise, as ``data.augment`` says.

    Draws from torch's global RNG, which the loader seeds per sample.

    Args:
        config: image_size, interpolation, channels and augment are used. key: where ``augment`` stands in the recipe.

    Raises:
        ConfigError: colour transforms on data that has not 3 channels, or a range that is empty.
    """

    def __init__(self, config: DataConfig, key: str = "data.augment") -> None:
        augment = config.augment
        _check(augment, config.channels, key)
        self.size = sides(config.image_size)
        self.mode = config.interpolation
        self.augment = augment
        smallest = 1.0
        if augment.random_resized_crop:
            thin = min(augment.crop_ratio[0], 1 / augment.crop_ratio[1])
            smallest = math.sqrt(augment.crop_scale[0] * min(thin, 1.0))
        self.at_least = math.ceil(max(self.size) / smallest)
        self._colour = _colour_steps(augment)

    def __call__(self, image: Tensor) -> Tensor:
        """``(..., C, h, w)`` to ``(..., C, H, W)``, dtype kept; one draw for everything in front of ``C``."""
        augment = self.augment
        if augment.random_resized_crop:
            top, left, h, w = random_box(image.shape[-2], image.shape[-1], augment.crop_scale, augment.crop_ratio)
            image = _resize(image[..., top : top + h, left : left + w], self.size, self.mode)
        else:
            image = cover(image, self.size, self.size, self.mode)
        if augment.flip > 0 and float(torch.rand(())) < augment.flip:
            image = image.flip(-1)
        for probability, step in self._colour:
            if float(torch.rand(())) < probability:
                image = step(image)
        return image

    def __repr__(self) -> str:
        return f"TrainTransform(size={self.size}, mode={self.mode}, {self.augment})"


def _check(augment: AugmentConfig, channels: int, key: str) -> None:
    """Raise ConfigError for settings that cannot work."""
    for name, limit in (("crop_scale", 1.0), ("crop_ratio", math.inf)):
        low, high = getattr(augment, name)
        if not 0 < low <= high <= limit:
            raise ConfigError(f"{key}.{name} {[low, high]} must be a range above 0" + (" up to 1" * (limit == 1)))
    if channels != 3:
        for name in ("color_jitter", "grayscale"):
            if getattr(augment, name) > 0:
                raise ConfigError(f"{key}.{name} needs 3 channels and data.channels is {channels}: set it to 0")
    if augment.color_jitter > 2.5:
        raise ConfigError(
            f"{key}.color_jitter {augment.color_jitter:g} is above 2.5, where hue has turned half-way round"
        )


def _colour_steps(augment: AugmentConfig) -> list[tuple[float, Callable[[Tensor], Tensor]]]:
    """``(probability, transform)`` of what changes colours and sharpness, in order; only those that can happen."""
    steps: list[tuple[float, Callable[[Tensor], Tensor]]] = []
    if augment.color_jitter > 0 and augment.color_jitter_prob > 0:
        steps.append((augment.color_jitter_prob, _Jitter(augment.color_jitter, augment.color_saturation)))
    if augment.grayscale > 0:
        steps.append((augment.grayscale, _gray))
    if augment.blur > 0:
        steps.append((augment.blur, functools.partial(_blur, sigmas=augment.blur_sigma)))
    if augment.solarize > 0:
        steps.append((augment.solarize, _solarise))
    return steps


class _Jitter:
    """Brightness and contrast within ±.8s, saturation within ±``saturation``·s and hue within ±.2s, in random order.

    SimCLR (arXiv:2002.05709 §A) takes .8 for saturation too, BYOL (arXiv:2006.07733 table 6) half of that.
    """

    def __init__(self, strength: float, saturation: float = 0.8) -> None:
        reach = (0.8 * strength, 0.8 * strength, saturation * strength)
        self.low, self.high = [max(0.0, 1 - r) for r in reach], [1 + r for r in reach]
        self.hue = 0.2 * strength

    def __call__(self, image: Tensor) -> Tensor:
        kernels = _kernels()
        order = torch.randperm(4).tolist()
        draws = torch.rand(4).tolist()
        factor = [low + (high - low) * d for low, high, d in zip(self.low, self.high, draws, strict=False)]
        for k in order:
            if k == 3:
                image = kernels.adjust_hue_image(image, self.hue * (2 * draws[3] - 1))
            else:
                adjust = (
                    kernels.adjust_brightness_image,
                    kernels.adjust_contrast_image,
                    kernels.adjust_saturation_image,
                )
                image = adjust[k](image, factor[k])
        return image


def _gray(image: Tensor) -> Tensor:
    """Drop colour, keep 3 channels."""
    return _kernels().rgb_to_grayscale_image(image, num_output_channels=3)


def _blur(image: Tensor, sigmas: tuple[float, float]) -> Tensor:
    """Gaussian blur, its deviation in pixels drawn evenly from a range."""
    sigma = sigmas[0] + (sigmas[1] - sigmas[0]) * float(torch.rand(()))
    reach = min(
        math.ceil(3 * sigma), image.shape[-2] - 1, image.shape[-1] - 1
    )  # reflection needs a side longer than it
    if reach < 1:
        return image
    return _kernels().gaussian_blur_image(image, [2 * reach + 1, 2 * reach + 1], [sigma, sigma])


def _solarise(image: Tensor) -> Tensor:
    """Invert what is brighter than the middle of the range (uint8, or float in 0..1)."""
    if image.dtype == torch.uint8:
        return torch.where(image >= 128, 255 - image, image)
    return torch.where(image >= 0.5, 1 - image, image)


class Normalise(nn.Module):
    """Uint8 or float in 0..1 to float32 with the data's mean and deviation; runs where the batch is.

    Images are ``(B, C, H, W)`` or one ``(C, H, W)``; clips ``(B, C, T, H, W)``, several of a video ``(B, V, C, T, H, W)``.

    Args:
        mean, std: per channel, in 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std, default=0) <= 0:
            raise ConfigError(f"data.mean {mean} and data.std {std} need one value per channel, deviations above 0")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @classmethod
    def for_data(cls, config: DataConfig) -> Normalise:
        """With ``data.mean`` and ``data.std``; by default ImageNet's for 3 channels, else .5 and .25."""
        rgb = config.channels == 3
        mean = config.mean or (IMAGENET_MEAN if rgb else (0.5,) * config.channels)
        return cls(tuple(mean), tuple(config.std or (IMAGENET_STD if rgb else (0.25,) * config.channels)))

    def forward(self, images: Tensor) -> Tensor:
        """A batch of images or clips (see above), or one image, to float32: a new tensor."""
        mean, std = (self.mean, self.std) if images.ndim < 5 else (self.mean[..., None], self.std[..., None])
        if images.dtype == torch.uint8:
            return images.to(torch.float32).div_(255).sub_(mean).div_(std)
        return (images.to(torch.float32) - mean).div_(std)

    def extra_repr(self) -> str:
        """Mean and deviation."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
