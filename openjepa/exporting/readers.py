"""Directories opened as their own libraries open them, to check what was written: our loader, ``transformers``, timm."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openjepa.errors import CheckpointError, require
from openjepa.exporting.graph import first_line, quiet
from openjepa.hub.model_directory import load_model

Run = Callable[[Tensor], Tensor]


@contextmanager
def _silent(transformers: Any) -> Any:
    """Without its bars and reports."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def read_ours(folder: Path) -> Run:
    """The deployed encoder of a model directory."""
    return load_model(folder).encoder.forward_features


def read_hf(folder: Path) -> Run:
    """Patch tokens ``(B, N, D)`` of the network that ``transformers.AutoModel`` builds, every tensor from the file.

    Raises:
        CheckpointError: it cannot be opened, or lacks or ignores a tensor. MissingExtra: no transformers.
    """
    transformers: Any = require("transformers", "hf")
    with _silent(transformers):
        network, info = _opened(
            "transformers",
            lambda: transformers.AutoModel.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
            ),
        )
    absent = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if absent or info["mismatched_keys"]:
        raise CheckpointError(f"transformers finds no fitting '{(absent or list(info['mismatched_keys']))[0]}' in it")
    return _TOKENS[network.config.model_type](network.eval())


def read_hf_classifier(folder: Path) -> Run:
    """Logits ``(B, classes)`` of the video classifier."""
    transformers: Any = require("transformers", "hf")
    with _silent(transformers):
        make = transformers.AutoModelForVideoClassification.from_pretrained
        network = _opened("transformers", lambda: make(folder, dtype=torch.float32)).eval()
    return lambda x: network(pixel_values_videos=x.transpose(1, 2)).logits


def read_timm(folder: Path) -> Run:
    """Patch tokens ``(B, N, D)`` of ``timm.create_model("local-dir:FOLDER", pretrained=True)``.

    Raises:
        CheckpointError: it cannot be opened, or a tensor does not fit. MissingExtra: no timm.
    """
    timm: Any = require("timm", "timm")
    with quiet():
        network = _opened("timm", lambda: timm.create_model(f"local-dir:{folder}", pretrained=True)).eval()
    return lambda x: network.forward_features(x)[:, network.num_prefix_tokens :]


def _opened(library: str, load: Callable[[], Any]) -> Any:
    """What ``load`` returns; whatever it raises is one line."""
    try:
        return load()
    except Exception as error:  # another library, on a file that we wrote
        raise CheckpointError(f"{library} cannot open what was written ({first_line(error)})") from error


def _images(network: Any) -> Run:
    return lambda x: network(pixel_values=x).last_hidden_state


def _masked_images(network: Any) -> Run:
    """An MAE that hides nothing and keeps the patches in order, without the class token."""
    network.config.mask_ratio = 0.0

    def run(x: Tensor) -> Tensor:
        count = (x.shape[-2] // network.config.patch_size) * (x.shape[-1] // network.config.patch_size)
        order = torch.arange(count, dtype=torch.float32).expand(len(x), -1)
        return network(pixel_values=x, noise=order).last_hidden_state[:, 1:]

    return run


def _clips(network: Any) -> Run:
    return lambda x: network(pixel_values=x.transpose(1, 2)).last_hidden_state


def _vjepa2(network: Any) -> Run:
    return lambda x: network(pixel_values_videos=x.transpose(1, 2), skip_predictor=True).last_hidden_state


_TOKENS: dict[str, Callable[[Any], Run]] = {  # by transformers' model_type
    "ijepa": _images,
    "vit_mae": _masked_images,
    "videomae": _clips,
    "vjepa2": _vjepa2,
}
