"""Encoders of timm (pytorch-image-models), by name: ``timm:vit_tiny_patch16_224`` or any other of its models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from openjepa.errors import CheckpointError, ConfigError, nearest, require
from openjepa.hub.adapters_base import (
    Foreign,
    ForeignEncoder,
    ForeignTransform,
    ForeignTransformer,
    Preparation,
    Spec,
    flatten_map,
    normed,
)

_ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:")  # names that timm resolves itself


def open_timm(spec: Spec) -> Foreign:
    """A timm model as an encoder, with the preprocessing its own configuration names.

    Raises:
        MissingExtra: timm is not installed. ConfigError: no such model, or one that gives no tokens.
        CheckpointError: its weights could not be had.
    """
    timm = require("timm", "timm")
    _check_name(timm, spec)
    network = _create(timm, spec, pretrained=not spec.random)
    ready = _preparation(timm, network, spec)

    def fresh() -> ForeignEncoder:
        return _wrap(_create(timm, spec, pretrained=False), spec, ready.transform.size)

    config: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    encoder = _wrap(network, spec, ready.transform.size)
    licence = None if spec.random else config.get("license")
    protocol = {
        "model": spec.text,
        "library": f"timm {timm.__version__}",
        "weights": "random" if spec.random else config.get("tag") or "pretrained",
        "licence": licence,
    }
    return Foreign(encoder, ready.transform, ready.normalise(), spec.text, encoder.channels, protocol, licence, fresh)


def _check_name(timm: Any, spec: Spec) -> None:
    """Raise ConfigError naming the nearest model when there is none called so."""
    if spec.name.startswith(_ELSEWHERE):
        return
    base, _, tag = spec.name.partition(".")
    if not timm.is_model(base):
        raise ConfigError(f"timm has no model '{base}'{nearest(base, timm.list_models())}")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise ConfigError(
            f"timm has no weights '{tag}' of {base}{nearest(tag, tags)}: {', '.join(tags) or 'none at all'}"
        )
    if not tags and not spec.random:
        raise ConfigError(f"timm has no weights of {base}: for its random initialisation write timm:{base}@random")


def _create(timm: Any, spec: Spec, pretrained: bool) -> Any:
    """The network without its classifier."""
    try:
        network = timm.create_model(spec.name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # whatever a downloader, a server or a damaged file can raise
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"the weights of 'timm:{spec.name}' could not be loaded ({type(error).__name__}: {line[:120]}): they are "
            f"downloaded once, so check the network, or write timm:{spec.name}@random for its random initialisation"
        ) from error
    if spec.pixels is not None and hasattr(network, "set_input_size"):
        try:
            network.set_input_size(img_size=(spec.pixels, spec.pixels))
        except (AssertionError, ValueError, TypeError) as error:
            raise ConfigError(f"'{spec.name}' cannot take images of {spec.pixels} px ({error})") from error
    return network.eval()


def _preparation(timm: Any, network: nn.Module, spec: Spec) -> Preparation:
    """The evaluation preprocessing of the model card: resize to size / crop_pct, cut the centre."""
    config = timm.data.resolve_model_data_config(network)
    _, height, width = config["input_size"]
    size = (height, width) if spec.pixels is None else (spec.pixels, spec.pixels)
    resized = math.floor(size[0] / config["crop_pct"]), math.floor(size[1] / config["crop_pct"])
    crop = config.get("crop_mode") or "center"
    if crop not in ("center", "squash"):
        raise ConfigError(f"'{spec.text}' wants images cropped with '{crop}', which only timm's own loader does")
    how = ForeignTransform(size, resized, "squash" if crop == "squash" else "cover", config["interpolation"])
    return Preparation(how, tuple(config["mean"]), tuple(config["std"]))


def _wrap(network: Any, spec: Spec, size: tuple[int, int]) -> ForeignEncoder:
    """Tokens of the network, and its blocks where all of them have the same shape."""
    prefix = int(getattr(network, "num_prefix_tokens", 0) or 0)
    last = getattr(network, "output_fmt", "NCHW") == "NHWC"

    def tokens(model: Any, x: Tensor) -> Tensor:
        late, found = _late_norm(model), model.forward_features(x)  # of the model given: it may be a copy that trains
        if not isinstance(found, Tensor):
            raise ConfigError(f"'{spec.text}' gives several feature maps per image, not one grid of tokens")
        if found.ndim == 4:
            return normed(late, flatten_map(found, last))
        return normed(late, found[:, prefix:]) if found.ndim == 3 else found

    def taps(model: Any, x: Tensor, wanted: Sequence[int], norm: bool) -> list[Tensor]:
        raw = model.forward_intermediates(x, indices=list(wanted), norm=norm, output_fmt="NLC", intermediates_only=True)
        return [normed(_late_norm(model), tap) for tap in raw] if norm else list(raw)

    config = getattr(network, "pretrained_cfg", None) or {}
    about: dict[str, Any] = {
        "name": spec.text,
        "size": size,
        "channels": int(config.get("input_size", (3,))[0]),
        "settings": f"timm {config.get('architecture', spec.name)} prefix={prefix}",
    }
    blocks = getattr(network, "blocks", None)
    if blocks is not None and _isotropic(network, blocks):
        return ForeignTransformer(network, tokens, taps, list(blocks), **about)
    return ForeignEncoder(network, tokens, **about)


def _late_norm(network: Any) -> nn.Module | None:
    """The final norm of models that apply it only behind their pooling; here every token goes through it."""
    if not isinstance(getattr(network, "norm", nn.Identity()), nn.Identity):
        return None
    candidates = (getattr(network, "fc_norm", None), getattr(getattr(network, "head", None), "norm", None))
    return next((norm for norm in candidates if isinstance(norm, nn.LayerNorm)), None)


def _isotropic(network: Any, blocks: Any) -> bool:
    """Whether the network is one stack of equal blocks over patch tokens, as a plain vision transformer is."""
    flat = isinstance(blocks, nn.Sequential | nn.ModuleList) and hasattr(network, "num_prefix_tokens")
    return flat and hasattr(network, "forward_intermediates") and network.embed_dim == network.num_features
