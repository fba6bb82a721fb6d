"""A loaded model as a user holds it: encoders, predictor, preprocessing, and ``embed``, for images and for videos."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from openjepa.config.schema import ClipConfig, DataConfig, ModelConfig, Recipe
from openjepa.data import EvalTransform, Normalise, Source, eval_transform
from openjepa.data.clips import Clips
from openjepa.data.sources import with_clips
from openjepa.data.splits import open_side
from openjepa.errors import ConfigError
from openjepa.features import ClipOptions, EachFrame, WindowFeatures, extract, frame_by_frame, sliding
from openjepa.features.classify import class_probabilities
from openjepa.features.items import listed, one_video, read_clip_item, read_image_item
from openjepa.hub.adapters import Foreign
from openjepa.hub.model_directory import LoadedModel
from openjepa.hub.provenance import Provenance, PublishedProbe
from openjepa.models import VisionTransformer, build_encoder, build_predictor
from openjepa.types import Batch, Encoder

if TYPE_CHECKING:
    from PIL.Image import Image


class AnyModel(ABC):
    """An encoder with its preprocessing: what can embed images or videos and be judged, whoever made it.

    Attributes:
        encoder: the network to use. name: how tables call it. channels: of the images it takes.
        transform: image ``(C, H, W)`` → the evaluation crop, or frames ``(T, C, H, W)`` → a clip, uint8 or 0..1.
        normalise: a batch of those → encoder input.
        config: the recipe it was made with; None for a foreign encoder. predictor, probe: where the source has them.
    """

    encoder: Encoder
    config: Recipe | None
    name: str
    channels: int
    transform: Any
    normalise: nn.Module
    predictor: nn.Module | None = None
    probe: PublishedProbe | None = None

    @property
    @abstractmethod
    def reading(self) -> Recipe:
        """The recipe that data for this encoder is read with: its channels and image size count."""

    @abstractmethod
    def fresh(self) -> Encoder:
        """The same architecture before any training, as a baseline; torch's random state is left alone."""

    @property
    def clip(self) -> ClipConfig | None:
        """What a clip is for this encoder; None: it takes images."""
        return self.reading.data.clip

    def seen(self, options: ClipOptions) -> AnyModel:
        """The model looking at videos as ``options`` say, or, an encoder of video, at images.

        Raises:
            ConfigError: an encoder of images without a number of frames, a clip shorter than a tubelet, or settings of
                clips together with images.
        """
        clip = self.clip
        if options.as_images:
            if clip is None:
                raise ConfigError(f"{self.name} takes images already: --as-images is for encoders of video")
            if not options.plain:
                raise ConfigError("--as-images shows one image at a time: it has no frames, segments or views")
            return ImageModel(self)
        if clip is None:
            if options.plain:
                return self
            if options.frames is None:
                raise ConfigError(f"{self.name} takes images: give --frames to show it videos frame by frame")
            return FrameModel(self, ClipConfig(frames=options.frames, fps=options.fps, stride=options.stride))
        rate = {} if options.fps is None and options.stride is None else {"fps": options.fps, "stride": options.stride}
        frames = options.frames or clip.frames
        least = int(getattr(self.encoder, "tubelet_size", 1))
        if frames < least:
            raise ConfigError(f"a clip of {frames} frames is shorter than a tubelet of {least}")
        return self._with_clips(clip.model_copy(update={"frames": frames, **rate}))

    def _with_clips(self, clip: ClipConfig) -> AnyModel:
        """The same encoder of video with other clips."""
        raise NotImplementedError

    def view_transform(self, views: int) -> Any:
        """The evaluation transform with so many spatial views of each clip. Raises ConfigError where there is but one."""
        if views == 1:
            return self.transform
        if self.clip is None or isinstance(self, FrameModel):
            raise ConfigError(
                f"{self.name} sees each frame through its own image transform, in one view: use --views 1"
            )
        return eval_transform(self.reading.data, views)

    def open(self, data: str | Path, side: Literal["train", "val"] = "train", segments: int = 1) -> Source:
        """A labelled folder, list file or ``scenes`` with as many channels as the encoder takes.

        Videos for an encoder of clips, ``segments`` clips of each spread evenly; images otherwise.
        """
        source, clip = open_side(self.reading, str(data), side), self.clip
        return source if clip is None else with_clips(source, Clips.evaluation(clip, segments))

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
        as_images: bool = False,
    ) -> Tensor:
        """Features of images or videos, with the preprocessing the model was trained with.

        Args:
            items: a path, a PIL image or an image tensor ``(C, H, W)`` (uint8, or float in 0..1), or several of them; a
                4-D tensor ``(B, C, H, W)`` is several. For an encoder of video a path of a video (the clip at its centre is
                taken), a tensor ``(C, T, H, W)``, or several; a 5-D tensor is several.
            tokens: ``pooled`` (mean over patches) or ``patch``. layers: ``last``, or ``last4`` joined.
            as_images: items are images although the encoder is one of video: each is a clip of one tubelet.

        Returns:
            ``(N, D)``, or ``(N, patches, D)``, float32 on the CPU, in the order of ``items``.

        Raises:
            DataError: a file that cannot be read, or something that is no image (or video), by name.
        """
        if as_images:
            return self.seen(ClipOptions(as_images=True)).embed(
                items, tokens=tokens, layers=layers, batch_size=batch_size
            )
        found = extract(
            self.encoder,
            self._batches(listed(items, 4 if self.clip is None else 5), batch_size),
            normalise=self.normalise,
            device=self._device(),
            tokens=tokens,
            layers=layers,
        )
        return found.values

    def classify(self, items: Any, *, batch_size: int = 64) -> tuple[list[str], Tensor]:
        """The likeliest class of each image or video, and the probabilities ``(N, K)`` of all of ``probe.classes``.

        items: as in :meth:`embed`. Raises ConfigError where no classifier came with the weights; DataError as there.
        """
        if self.probe is None:
            raise ConfigError(f"{self.name} has no classifier: fine-tune one, or give load a published probe")
        shares = class_probabilities(
            self.encoder,
            self.probe.classifier,
            self._batches(listed(items, 4 if self.clip is None else 5), batch_size),
            normalise=self.normalise,
            device=self._device(),
        )
        return [self.probe.name_of(number) for number in shares.argmax(1).tolist()], shares

    def embed_video(
        self,
        path: str | Path,
        *,
        window: float | None = None,
        hop: float | None = None,
        tokens: Literal["pooled", "patch"] = "pooled",
        layers: Literal["last", "last4"] = "last",
        batch_size: int = 1,
    ) -> WindowFeatures:
        """Features of a video of any length: a window slides over it, and each of its places is encoded as one clip.

        Frames are read as they are needed, so memory does not grow with the video (its features do).

        Args:
            path: a video, or a folder of frames. window: seconds of a clip; by default as long as those the model was
                trained on. hop: seconds between the beginnings of two windows; by default ``window`` (they then touch).
            Others as in :meth:`embed`.

        Returns:
            features, and where each window begins and ends; the last window ends with the video.

        Raises:
            ConfigError: an encoder of images (:meth:`seen` makes it one of frames). DataError: not a readable video.
        """
        clip = self.clip
        if clip is None:
            raise ConfigError(f"{self.name} takes images: use model.seen(ClipOptions(frames=…, fps=…)).embed_video")
        with one_video(path, self.channels, clip, self.name).video(0) as video:
            length = clip.frames / (clip.fps or video.fps / (clip.stride or 1)) if window is None else window
            windows = sliding(
                video,
                self.encoder,
                frames=clip.frames,
                window=length,
                hop=length if hop is None else hop,
                transform=self.transform,
                normalise=self.normalise,
                device=self._device(),
                tokens=tokens,
                layers=layers,
                batch_size=batch_size,
            )
            return WindowFeatures.of(windows)

    def _device(self) -> torch.device:
        assert isinstance(self.encoder, nn.Module)
        return next(self.encoder.parameters()).device

    def _batches(self, items: Sequence[object], size: int) -> Iterator[Batch]:
        modality = "image" if self.clip is None else "video"
        for start in range(0, len(items), size):
            images = [self.transform(self._read(item)) for item in items[start : start + size]]
            ids = torch.arange(start, start + len(images))
            kinds = {image.dtype for image in images}
            if len(kinds) > 1:  # 8-bit and deeper files in one batch
                images = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
            yield Batch({modality: torch.stack(images)}, ids, ids)

    def _read(self, item: object) -> Tensor:
        clip = self.clip
        if clip is None:
            return read_image_item(item, self.channels, self.name)
        return read_clip_item(item, self.channels, clip, self.name)


class FrameModel(AnyModel):
    """An encoder of images, shown the frames of clips one by one; features are averages over frames.

    Args:
        inner: the model. clip: what a clip is.
    """

    def __init__(self, inner: AnyModel, clip: ClipConfig) -> None:
        self.inner, self.config, self.name, self.channels = inner, inner.config, inner.name, inner.channels
        self.encoder, self.normalise = frame_by_frame(inner.encoder), inner.normalise
        self.transform = EachFrame(inner.transform, clip.frames)
        self._clip = clip

    @property
    def reading(self) -> Recipe:
        """The inner model's, for clips."""
        return _clipped(self.inner.reading, self._clip)

    def _with_clips(self, clip: ClipConfig) -> AnyModel:
        return FrameModel(self.inner, clip)

    def fresh(self) -> Encoder:
        """The inner encoder before training, frame by frame."""
        return frame_by_frame(self.inner.fresh())


class ImageModel(AnyModel):
    """An encoder of video, shown images: each is a clip of one tubelet."""

    def __init__(self, inner: AnyModel) -> None:
        self.inner, self.name, self.channels = inner, inner.name, inner.channels
        self.config = None if inner.config is None else _clipped(inner.config, None)
        self.encoder, self.normalise = inner.encoder, inner.normalise
        self.transform = EvalTransform(self.reading.data)

    @property
    def reading(self) -> Recipe:
        """The inner model's, for images."""
        return _clipped(self.inner.reading, None)

    def fresh(self) -> Encoder:
        """The encoder before training."""
        return self.inner.fresh()


class Model(AnyModel):
    """What ``openjepa.load`` returns for a run, model or checkpoint directory, and for published weights it knows.

    Attributes:
        online, target, predictor: where the source has them. config: the recipe. provenance, probe: of imported
            weights, where they come from, and the classifier that came along. encoder, transform, normalise and others as in
            :class:`AnyModel`.
    """

    encoder: VisionTransformer
    config: Recipe

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.encoder = loaded.encoder
        self.online: VisionTransformer | None = loaded.online
        self.target: VisionTransformer | None = loaded.target
        self.predictor: nn.Module | None = loaded.predictor
        self.provenance: Provenance | None = loaded.provenance
        self.probe = loaded.probe
        self.config = loaded.config
        origin = loaded.provenance
        self.name = "trained" if origin is None else origin.name or Path(origin.source).name
        self.channels = loaded.config.data.channels
        self.transform = eval_transform(loaded.config.data)
        self.normalise = Normalise.for_data(loaded.config.data)

    def __repr__(self) -> str:
        (height, width), points = self.config.image_hw, self.config.data.points
        encoder = self.encoder
        seen = f"{'' if self.clip is None else f'{self.clip.frames} frames of '}{height}×{width} px"
        if points is not None:
            seen = f"{points.groups} groups of {points.group_size} points"
        size = f"{encoder.embed_dim} wide, {encoder.depth} blocks, {seen}"
        return f"Model({self.config.name}, {size}, from {self.loaded.source})"

    @property
    def reading(self) -> Recipe:
        """The model's own recipe."""
        return self.config

    def _with_clips(self, clip: ClipConfig) -> AnyModel:
        other = copy.copy(self)
        other.config = _clipped(self.config, clip)
        other.transform = eval_transform(other.config.data)
        return other

    def fresh_predictor(self) -> nn.Module | None:
        """The predictor before training, None where the source has none."""
        if self.predictor is None:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return build_predictor(self.config.predictor, self.encoder, self.config.model).eval()

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
        self.data, self.probe = foreign.data, foreign.probe

    def __repr__(self) -> str:
        height, width = self.foreign.transform.size
        about = f"{self.encoder.embed_dim} wide, {height}×{width} px, licence {self.foreign.licence or 'unknown'}"
        return f"ForeignModel({self.name}, {about})"

    @property
    def reading(self) -> Recipe:
        """A recipe that says no more than channels, image size, and what a clip is for an encoder of video."""
        if self.data is not None:
            return Recipe(name=self.name, model=ModelConfig(patch_size=1)).model_copy(update={"data": self.data})
        grey = (0.5,) * self.channels
        data = DataConfig(image_size=self.foreign.transform.size, channels=self.channels, mean=grey, std=grey)
        return Recipe(name=self.name, data=data, model=ModelConfig(patch_size=1))

    def _with_clips(self, clip: ClipConfig) -> AnyModel:
        assert self.data is not None
        other = copy.copy(self)
        other.data = self.data.model_copy(update={"clip": clip})
        other.transform = eval_transform(other.data)
        return other

    def fresh(self) -> Encoder:
        """The same architecture with random weights."""
        return self.foreign.fresh()


def _clipped(recipe: Recipe, clip: ClipConfig | None) -> Recipe:
    """The recipe reading other samples; what does not fit its other parts is of no interest here."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"clip": clip})})
