"""Preprocessing of Hugging Face's processors as ours, and ours as theirs; what differs is said.

Published I-JEPA repositories hold ViT's default processor (mean = deviation = .5, images squashed to a square), which is
not how the weights were trained (official.md §6.5): there the published preprocessing is taken instead.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from openjepa.config.schema import Recipe
from openjepa.data import Normalise
from openjepa.hub.hf_directory import OURS, HfDirectory

_log = logging.getLogger(__name__)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PROCESSOR = "preprocessor_config.json"
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_KEPT = ("mean", "std", "eval_crop", "interpolation")  # of DataConfig, in our entry of config.json
_PIL = {2: "bilinear", 3: "bicubic"}


def pixels_of(
    directory: HfDirectory, channels: int, usual: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keys of ``DataConfig`` (mean, std, eval_crop, interpolation) and notes on what differs from the processor.

    usual: those keys as the system's authors evaluate. Directories we wrote hold ours; else statistics are the processor's
    (but for the .5 that nobody trained with), and a crop where it makes one.
    """
    own = directory.config.get(OURS)
    if isinstance(own, Mapping) and isinstance(own.get("data"), Mapping):
        return {key: own["data"][key] for key in _KEPT if key in own["data"]}, ()
    processor = directory.processor
    if not processor:
        return dict(usual), ("preprocessing as the authors evaluate: the directory has no processor's settings",)
    found, notes = {**usual, **_crop(processor, directory.image_size[0])}, []
    mean, std = (_numbers(processor.get(key), channels) for key in ("image_mean", "image_std"))
    if (mean, std) == HALF:
        notes.append(
            "preprocessing: Hugging Face's processor has mean = deviation = .5, the weights were trained with ImageNet's: "
            "so here, and features differ from its"
        )
    elif mean and std:
        found |= {"mean": mean, "std": std}
        if (mean, std) != IMAGENET:
            notes.append(f"preprocessing: mean {mean} and deviation {std} are the processor's, not ImageNet's")
    if _squashes(processor):
        high, wide = directory.image_size
        notes.append(
            f"preprocessing: Hugging Face's processor squashes the whole image to {high}×{wide}; here its short side is "
            f"resized to {int(min(high, wide) / found['eval_crop'] + 1e-6)} and the centre cut, as authors evaluate"
        )
    return found, tuple(notes)


def image_processor_of(recipe: Recipe) -> dict[str, Any]:
    """``preprocessor_config.json``: short side, centre crop, our statistics, as ``BitImageProcessor`` reads them."""
    high, wide = recipe.image_hw
    if high != wide:
        _log.warning(
            "no image processor of transformers resizes to cover %d×%d: it gets the short side, resize images yourself",
            high,
            wide,
        )
    return {"image_processor_type": "BitImageProcessor", "do_convert_rgb": True, **_steps(recipe)}


def video_processor_of(recipe: Recipe) -> dict[str, Any]:
    """``preprocessor_config.json`` of clips, as ``VideoMAEImageProcessor`` reads it (published VideoMAE has that one)."""
    return {"image_processor_type": "VideoMAEImageProcessor", **_steps(recipe)}


def kept_of(recipe: Recipe) -> dict[str, Any]:
    """Our entry in ``config.json``: preprocessing and, of clips, how their frames are picked."""
    statistics = Normalise.for_data(recipe.data)
    data: dict[str, Any] = {
        "mean": _rounded(statistics.mean),
        "std": _rounded(statistics.std),
        "eval_crop": recipe.data.eval_crop,
        "interpolation": recipe.data.interpolation,
    }
    if recipe.data.clip is not None:
        data["clip"] = {"fps": recipe.data.clip.fps, "stride": recipe.data.clip.stride}
    return {OURS: {"data": data}}


def clip_of(config: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """How frames of a clip are picked (``fps`` or ``stride``): as our entry in ``config`` says, else as the authors trained."""
    own = config.get(OURS)
    data = own.get("data") if isinstance(own, Mapping) else None
    clip = data.get("clip") if isinstance(data, Mapping) else None
    return dict(clip) if isinstance(clip, Mapping) else dict(usual)


def _steps(recipe: Recipe) -> dict[str, Any]:
    """What every processor class understands."""
    high, wide = recipe.image_hw
    statistics = Normalise.for_data(recipe.data)
    return {
        "do_resize": True,
        "size": {"shortest_edge": int(min(high, wide) / recipe.data.eval_crop + 1e-6)},
        "do_center_crop": True,
        "crop_size": {"height": high, "width": wide},
        "resample": 2 if recipe.data.interpolation == "bilinear" else 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _rounded(statistics.mean),
        "image_std": _rounded(statistics.std),
    }


def _crop(processor: Mapping[str, Any], side: int) -> dict[str, Any]:
    """Crop over resized short side and filter, where the processor keeps the aspect."""
    size = processor.get("size")
    short = size.get("shortest_edge") if isinstance(size, Mapping) else None
    found: dict[str, Any] = {}
    if short and processor.get("do_center_crop", True):
        found["eval_crop"] = min(side / short, 1.0)
        if processor.get("resample") in _PIL:
            found["interpolation"] = _PIL[processor["resample"]]
    return found


def _squashes(processor: Mapping[str, Any]) -> bool:
    """Whether it resizes to a fixed height and width (a bare number is the side of a square, as in older files)."""
    size = processor.get("size")
    fixed = isinstance(size, int) or (isinstance(size, Mapping) and "height" in size)
    return bool(processor.get("do_resize", True)) and fixed and not processor.get("do_center_crop", False)


def _numbers(values: Any, channels: int) -> tuple[float, ...] | None:
    """Mean or deviation of a processor; None where it has none for so many channels."""
    if not isinstance(values, list | tuple) or len(values) != channels:
        return None
    return tuple(float(value) for value in values)


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 6) for value in values.flatten()]
