"""Video encoders of Hugging Face ``transformers`` (V-JEPA 2) behind the interface of our own: ``hf:facebook/vjepa2-…``.

Their network computes; layout, preprocessing and length of a clip are translated. They take ``(B, T, C, H, W)``, we
``(B, C, T, H, W)``. To get our own encoder with their weights instead: :func:`openjepa.hub.vjepa2_hf.open_vjepa2`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from openjepa.config.schema import ClipConfig, DataConfig
from openjepa.data import Normalise, eval_transform
from openjepa.errors import ConfigError
from openjepa.hub.adapters_base import Foreign, Spec
from openjepa.hub.vjepa2_hf_config import FPS, SHORT_SIDE
from openjepa.types import Encoder, Ids

_log = logging.getLogger(__name__)
VIDEO_MODELS = ("vjepa2",)
_VOLATILE = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures", "id2label", "label2id")


class ForeignVideoEncoder(nn.Module):
    """Somebody else's encoder of video with the interface of :class:`openjepa.types.Encoder`: all tokens, normalised.

    Rotary places follow the configuration's ``crop_size``, whatever the clip's size: other sizes than ``image_size`` are
    refused, other lengths are fine.

    Args:
        network: a ``VJEPA2Model``. name: for messages.
    """

    video = True

    def __init__(self, network: Any, name: str) -> None:
        super().__init__()
        self.network, self._name = network.eval(), name
        config = network.config
        self.image_size = (config.crop_size, config.crop_size)
        self.frames, self.tubelet_size, self.channels = config.frames_per_clip, config.tubelet_size, config.in_chans
        self.patch_size = (config.patch_size, config.patch_size)
        side = config.crop_size // config.patch_size
        self.grid = (self.frames // self.tubelet_size, side, side)
        self.embed_dim = self.num_features = config.hidden_size
        self.depth = config.num_hidden_layers
        self.settings = json.dumps({k: v for k, v in config.to_dict().items() if k not in _VOLATILE}, default=str)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, first to last."""
        return list(self.network.encoder.layer)

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """Token grid of a clip ``(B, C, T, H, W)`` or an image ``(B, C, H, W)``, which is one tubelet."""
        frames = self.tubelet_size if x.ndim == 4 else x.shape[2]
        return frames // self.tubelet_size, x.shape[-2] // self.patch_size[0], x.shape[-1] // self.patch_size[1]

    def forward_features(self, x: Tensor, keep: Ids | None = None) -> Tensor:
        """``(B, C, T, H, W)`` normalised → ``(B, N, D)`` tokens after the final norm, time-major; an image is one tubelet.

        Raises:
            ConfigError: ``keep`` is given, clips of another size than the network's, or shorter than a tubelet.
        """
        clip = self._clip(x, keep)
        return self.network(clip, skip_predictor=True).last_hidden_state

    forward = forward_features

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        keep: Ids | None = None,
        norm: Literal["final", "none"] = "final",
    ) -> list[Tensor]:
        """Tokens ``(B, N, D)`` of chosen blocks, in ascending order.

        Args:
            indices: block numbers (negative ones count from the end), or n for the last n; None for all.
            norm: each through the model's final norm, or as the block left it.
        """
        clip = self._clip(x, keep)
        if indices is None:
            indices = range(self.depth)
        elif isinstance(indices, int):
            indices = range(max(self.depth - indices, 0), self.depth)
        seen: dict[int, Tensor] = {}

        def keeper(number: int) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                seen[number] = output if isinstance(output, Tensor) else output[0]

            return hook

        wanted = sorted({i % self.depth for i in indices})
        handles = [self.blocks[number].register_forward_hook(keeper(number)) for number in wanted]
        try:
            self.network(clip, skip_predictor=True)
        finally:
            for handle in handles:
                handle.remove()
        return [self.network.encoder.layernorm(seen[n]) if norm == "final" else seen[n] for n in wanted]

    def _clip(self, x: Tensor, keep: Ids | None) -> Tensor:
        """What the network takes: ``(B, T, C, H, W)``."""
        if keep is not None:
            raise ConfigError(f"'{self._name}' sees whole clips only: masks need an encoder of openjepa's")
        if tuple(x.shape[-2:]) != self.image_size:
            size, own = f"{x.shape[-2]}×{x.shape[-1]}", f"{self.image_size[0]}×{self.image_size[1]}"
            raise ConfigError(f"'{self._name}' has rotary places for {own} px, not {size}: write {self._name}@NNpx")
        if x.ndim == 4:
            return x[:, None].expand(-1, self.tubelet_size, -1, -1, -1)
        if x.shape[2] < self.tubelet_size:
            raise ConfigError(f"a clip of {x.shape[2]} frames is shorter than one tubelet of {self.tubelet_size}")
        return x.transpose(1, 2)


def wrap_video(
    transformers: Any,
    config: Any,
    spec: Spec,
    load: Callable[[Any], Any],
    licence: str | None,
) -> Foreign:
    """A video model as an encoder, with the preprocessing of its video processor.

    Args:
        config: of the model; with ``@NNpx`` its ``crop_size`` becomes that. load: the network with its weights, for a
            configuration; random ones for ``@random``.
    """
    if spec.pixels is not None:
        config.crop_size = spec.pixels
    encoder = ForeignVideoEncoder(load(config), spec.text)
    data = _data(transformers, config, spec)

    def fresh() -> Encoder:
        return ForeignVideoEncoder(transformers.AutoModel.from_config(config), spec.text)

    protocol = {
        "model": spec.text,
        "library": f"transformers {transformers.__version__}",
        "weights": "random" if spec.random else "pretrained",
        "licence": licence,
    }
    normalise = Normalise.for_data(data)
    transform = eval_transform(data)
    return Foreign(encoder, transform, normalise, spec.text, encoder.channels, protocol, licence, fresh, data)


def _data(transformers: Any, config: Any, spec: Spec) -> DataConfig:
    """How clips are read: frames and crop of the configuration, the rest of the video processor's."""
    try:
        processor = transformers.AutoVideoProcessor.from_pretrained(spec.name)
        short = (dict(processor.size or {}).get("shortest_edge") or config.crop_size) / int(
            dict(processor.crop_size or {}).get("height") or config.crop_size
        )
    except Exception:  # most often: no video_preprocessor_config.json; the kind's own defaults remain
        processor, short = None, SHORT_SIDE
        _log.warning("'%s' comes without a video processor: the usual one is taken, at its own crop", spec.text)
    mean, std = (getattr(processor, f"image_{what}", None) for what in ("mean", "std"))
    if processor is not None and not processor.do_normalize:
        mean, std = (0.0,) * config.in_chans, (1.0,) * config.in_chans
    return DataConfig(
        image_size=config.crop_size,
        channels=config.in_chans,
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        eval_crop=min(1 / short, 1.0),
        interpolation="bicubic" if getattr(processor, "resample", 2) == 3 else "bilinear",
        clip=ClipConfig(frames=config.frames_per_clip, fps=FPS),
    )
