"""Encoders of Hugging Face ``transformers``: ``hf:ORG/NAME`` or a directory that ``save_pretrained`` wrote.

Whatever ``AutoModel`` builds for a configuration is taken: its ``last_hidden_state`` without the class, register and
distillation tokens that stand in front of the patches, or its feature map. Of a two-tower model, the image tower.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from openjepa.errors import CheckpointError, ConfigError, require
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
from openjepa.hub.adapters_video import VIDEO_MODELS, wrap_video

_log = logging.getLogger(__name__)
_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # PIL's numbers
_VOLATILE = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures")
_MOST_PREFIX = 32  # class, distillation and register tokens in front of the patches


def open_hf(spec: Spec) -> Foreign:
    """A ``transformers`` vision model of images or video as an encoder, with the preprocessing of its own processor.

    Raises:
        MissingExtra: transformers is not installed. ConfigError: no encoder of images or video.
        CheckpointError: there is no such model, or it could not be downloaded.
    """
    transformers = require("transformers", "hf")
    config = _load(spec, lambda: transformers.AutoConfig.from_pretrained(spec.name))
    if getattr(config, "model_type", "") in VIDEO_MODELS:
        return wrap_video(transformers, config, spec, partial(_video_network, transformers, spec), _licence_of(spec))
    ready = _preparation(transformers, config, spec)

    if spec.random:
        with torch.random.fork_rng(devices=[]):
            network = _build(transformers, config, spec)
    else:
        network = _pretrained(transformers, spec)
    encoder = _wrap(network, config, spec, ready.transform.size)
    weights = dict(network.named_parameters())

    def fresh() -> ForeignEncoder:
        drawn = _build(transformers, config, spec)
        for name, value in drawn.named_parameters():
            if not value.requires_grad:  # a position table that never learns; a new ViTMAE has zeros there
                value.data.copy_(weights[name].data)
        return _wrap(drawn, config, spec, ready.transform.size)

    licence = _licence_of(spec)
    protocol = {
        "model": spec.text,
        "library": f"transformers {transformers.__version__}",
        "weights": "random" if spec.random else "pretrained",
        "licence": licence,
    }
    return Foreign(encoder, ready.transform, ready.normalise(), spec.text, encoder.channels, protocol, licence, fresh)


def _video_network(transformers: Any, spec: Spec, config: Any) -> Any:
    """A video network, with its weights or random ones."""
    if not spec.random:
        return _pretrained(transformers, spec, config=config)
    with torch.random.fork_rng(devices=[]):
        return _build(transformers, config, spec)


def _licence_of(spec: Spec) -> str | None:
    """Random weights have none."""
    return None if spec.random else _licence(spec.name)


def _pretrained(transformers: Any, spec: Spec, **options: Any) -> Any:
    """The network with its weights, all of them: what a file lacks would otherwise be drawn at random, silently."""
    make = transformers.AutoModel.from_pretrained
    with _quiet(transformers):
        network, info = _load(spec, lambda: make(spec.name, dtype=torch.float32, output_loading_info=True, **options))
    absent = sorted(key for key in info["missing_keys"] if "pooler" not in key)  # nobody reads the pooler
    if absent:
        raise CheckpointError(
            f"'{spec.text}' holds no weights for {len(absent)} tensors of its encoder, first {absent[0]}"
        )
    return network


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its progress bars and reports: weights of heads that are not used are no news."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _load(spec: Spec, load: Callable[[], Any]) -> Any:
    """What ``load`` returns; whatever goes wrong is one line that says which name and what to do."""
    try:
        return load()
    except Exception as error:  # a hub client, a server or a damaged file can raise nearly anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        local = Path(spec.name).is_dir()
        advice = (
            "is it a directory that save_pretrained wrote?"
            if local
            else "it is downloaded once, so check the name and the network, or give a directory that save_pretrained wrote"
        )
        raise CheckpointError(
            f"'{spec.text}' could not be loaded ({type(error).__name__}: {lines[0][:120]}): {advice}"
        ) from error


def _build(transformers: Any, config: Any, spec: Spec) -> Any:
    """The architecture with random weights, from torch's global generator."""
    try:
        return transformers.AutoModel.from_config(config)
    except (ValueError, KeyError) as error:
        kind = getattr(config, "model_type", "?")
        raise ConfigError(
            f"'{spec.text}' is a '{kind}' model, which transformers cannot build an encoder of"
        ) from error


def _wrap(network: Any, config: Any, spec: Spec, size: tuple[int, int]) -> ForeignEncoder:
    """Patch tokens of the network, and its blocks where reading them gives what the network itself gives."""
    network = getattr(network, "vision_model", network).eval()
    config = getattr(config, "vision_config", None) or config
    if getattr(network, "main_input_name", "pixel_values") != "pixel_values":
        raise ConfigError(f"'{spec.text}' is a '{config.model_type}' model, which reads no images")
    call = _Call(network, config, spec.text)
    channels = int(getattr(config, "num_channels", 3))
    about: dict[str, Any] = {
        "name": spec.text,
        "size": size,
        "channels": channels,
        "settings": json.dumps({k: v for k, v in config.to_dict().items() if k not in _VOLATILE}, default=str),
    }
    blocks = _blocks(network, config)
    if blocks is not None and _readable(network, call, blocks, torch.zeros(1, channels, *size)):
        return ForeignTransformer(network, call.tokens, _Taps(call, blocks), blocks, **about)
    return ForeignEncoder(network, call.tokens, **about)


class _Call:
    """How one network is called, and where its patch tokens are."""

    def __init__(self, network: Any, config: Any, name: str) -> None:
        self.config, self.name = config, name
        known = inspect.signature(network.forward).parameters
        self.options: dict[str, Any] = {}
        if "interpolate_pos_encoding" in known:
            self.options["interpolate_pos_encoding"] = True  # the same at the native size
        self.masks = "noise" in known and hasattr(network.config, "mask_ratio")
        if self.masks:
            network.config.mask_ratio = 0.0  # a masked autoencoder hides patches unless told not to
        self.late = _late_norm(network)

    def tokens(self, network: Any, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` → ``(B, N, D)`` patch tokens after the final norm."""
        return self.strip(self.output(network, x), x, self.late)

    def output(self, network: Any, x: Tensor) -> Tensor:
        """The network's ``last_hidden_state``."""
        options = dict(self.options)
        if self.masks:  # it also shuffles them: ascending noise keeps the order
            h, w = self._patches(x)
            options["noise"] = torch.arange(h * w, device=x.device, dtype=torch.float32).expand(len(x), -1)
        found = getattr(network(x, **options), "last_hidden_state", None)
        if found is None:
            raise ConfigError(f"'{self.name}' has no last_hidden_state: it is no image encoder")
        return found

    def strip(self, hidden: Tensor, x: Tensor, norm: nn.Module | None) -> Tensor:
        """Tokens or a feature map → patch tokens through ``norm``."""
        if hidden.ndim == 4:
            return normed(norm, flatten_map(hidden, channels_last=False))
        if hidden.ndim != 3 or not hasattr(self.config, "patch_size"):
            return normed(norm, hidden)
        h, w = self._patches(x)
        prefix = hidden.shape[1] - h * w
        if prefix > _MOST_PREFIX:
            raise ConfigError(
                f"'{self.name}' gives {hidden.shape[1]} tokens for {h}×{w} patches: it is no image encoder"
            )
        return normed(norm, hidden[:, max(prefix, 0) :])  # fewer tokens than patches: stages that merge them

    def _patches(self, x: Tensor) -> tuple[int, int]:
        side = self.config.patch_size
        height, width = (side, side) if isinstance(side, int) else (side[-2], side[-1])
        return x.shape[-2] // height, x.shape[-1] // width


class _Taps:
    """Reads the outputs of chosen blocks with hooks."""

    def __init__(self, call: _Call, blocks: Sequence[nn.Module]) -> None:
        self.call, self.blocks = call, list(blocks)

    def __call__(self, network: Any, x: Tensor, wanted: Sequence[int], norm: bool) -> list[Tensor]:
        """Patch tokens of blocks ``wanted``, through the final norm or not."""
        seen: dict[int, Tensor] = {}

        def keep(number: int) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                seen[number] = output if isinstance(output, Tensor) else output[0]

            return hook

        handles = [self.blocks[number].register_forward_hook(keep(number)) for number in wanted]
        try:
            self.call.output(network, x)
        finally:
            for handle in handles:
                handle.remove()
        final = (self.call.late or _final_norm(network)) if norm else None
        return [self.call.strip(seen[number], x, final) for number in wanted]


def _blocks(network: nn.Module, config: Any) -> list[nn.Module] | None:
    """The stack of equal blocks: the one list with as many modules as the configuration has hidden layers."""
    depth = getattr(config, "num_hidden_layers", None)
    lists = [part for part in network.modules() if isinstance(part, nn.ModuleList) and len(part) == depth]
    return list(lists[0]) if len(lists) == 1 else None


def _readable(network: Any, call: _Call, blocks: list[nn.Module], sample: Tensor) -> bool:
    """Whether all blocks have the output's shape and the last, through the final norm, is the output itself.

    Only then are they understood.
    """
    with torch.no_grad():
        try:
            taps = _Taps(call, blocks)(network, sample, range(len(blocks)), True)
        except (RuntimeError, KeyError, IndexError, TypeError):
            return False
        whole = call.tokens(network, sample)
        same = all(tap.shape == whole.shape for tap in taps)
        return same and torch.allclose(taps[-1], whole, atol=1e-5, rtol=1e-4)


def _final_norm(network: Any) -> nn.Module | None:
    """The norm between the last block and the output, by the names transformers uses."""
    names = ("layernorm", "post_layernorm", "norm", "layer_norm")
    return next((getattr(network, name) for name in names if isinstance(getattr(network, name, None), nn.Module)), None)


def _late_norm(network: Any) -> nn.Module | None:
    """The final norm of models that apply it only behind their pooling (CLIP, BEiT): every token goes through it."""
    kind = getattr(network.config, "model_type", "")
    if kind == "clip_vision_model":
        return network.post_layernorm
    if isinstance(getattr(network, "layernorm", None), nn.Identity):
        return getattr(getattr(network, "pooler", None), "layernorm", None)
    return None


def _preparation(transformers: Any, config: Any, spec: Spec) -> Preparation:
    """Size, crop, filter, mean and deviation as the model's image processor has them."""
    own = getattr(config, "vision_config", None) or config
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(spec.name)
        saved = True
    except Exception:  # most often: no preprocessor_config.json; the kind's own defaults remain
        processor, saved = _default_processor(transformers, config), False
        where = f"the usual ones of a '{config.model_type}' model" if processor else "mean and deviation .5"
        _log.warning("'%s' comes without an image processor: %s are taken, at its own image size", spec.text, where)
    native = getattr(own, "image_size", None)
    native = (native, native) if isinstance(native, int) else tuple(native) if native else None
    size, resized, squash = _sizes(processor, None if saved else native, native or (224, 224))
    if spec.pixels is not None:
        ratio = tuple(spec.pixels * r / s for r, s in zip(resized, size, strict=True))
        size, resized = (spec.pixels, spec.pixels), (round(ratio[0]), round(ratio[1]))
    channels = int(getattr(own, "num_channels", 3))
    mean, std = _statistics(processor, channels)
    mode = getattr(processor, "resample", None)
    mode = "bilinear" if mode is None else _RESAMPLE[int(mode)] if not hasattr(mode, "value") else mode.value
    mode = _RESAMPLE[mode] if isinstance(mode, int) else mode
    return Preparation(ForeignTransform(size, resized, "squash" if squash else "cover", mode), mean, std)


def _default_processor(transformers: Any, config: Any) -> Any:
    """The image processor of a kind of model with its default settings; None when the kind has none."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    try:
        found = IMAGE_PROCESSOR_MAPPING[type(config)]
    except KeyError:
        return None
    kinds = found.values() if isinstance(found, dict) else found if isinstance(found, tuple) else (found,)
    return next((kind() for kind in kinds if kind is not None), None)


def _sizes(
    processor: Any, exact: tuple[int, int] | None, native: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int], bool]:
    """Result, what is resized to before the centre is cut, and whether the aspect is given up. ``exact``: size alone."""
    if exact is not None or processor is None:
        return exact or native, exact or native, False
    asked = _plain(getattr(processor, "size", None))
    crop = _plain(getattr(processor, "crop_size", None)) if getattr(processor, "do_center_crop", False) else {}
    if not getattr(processor, "do_resize", True):
        asked = {"height": native[0], "width": native[1]}
    short = asked.get("shortest_edge")
    if short is None:
        resized = int(asked.get("height", native[0])), int(asked.get("width", native[1]))
        size = (int(crop["height"]), int(crop["width"])) if crop else resized
        return size, resized, True
    share = getattr(processor, "crop_pct", None)
    if share is not None:  # ConvNeXt: small images are cut, large ones squashed
        wide = round(short / share) if short < 384 else short
        return (short, short), (wide, wide), short >= 384
    size = (int(crop["height"]), int(crop["width"])) if crop else (short, short)
    return size, (short, short), False


def _plain(size: Any) -> dict[str, Any]:
    """A size of transformers, whatever it is written as, by name."""
    if isinstance(size, int):
        return {"height": size, "width": size}
    return {k: v for k, v in dict(size or {}).items() if v is not None}


def _statistics(processor: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation for pixels in 0..1, whatever scale the processor brings pixels to first."""
    scale = (
        255 * float(getattr(processor, "rescale_factor", 1 / 255)) if getattr(processor, "do_rescale", True) else 255.0
    )
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if processor is None:
        mean, std = (0.5,) * channels, (0.5,) * channels
    elif not getattr(processor, "do_normalize", True) or mean is None or std is None:
        mean, std = (0.0,) * channels, (1.0,) * channels
    assert mean is not None
    assert std is not None
    if len(mean) != channels:
        mean, std = (float(mean[0]),) * channels, (float(std[0]),) * channels
    return tuple(float(m) / scale for m in mean), tuple(float(s) / scale for s in std)


def _licence(name: str) -> str | None:
    """The licence in the front matter of the model's card, where the card is at hand."""
    from huggingface_hub import try_to_load_from_cache

    card = Path(name) / "README.md"
    if not Path(name).is_dir():
        cached = try_to_load_from_cache(name, "README.md")
        if not isinstance(cached, str):
            return None
        card = Path(cached)
    try:
        parts = card.read_text(encoding="utf-8").split("---")
        about = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return str(about["license"]) if isinstance(about, dict) and "license" in about else None
