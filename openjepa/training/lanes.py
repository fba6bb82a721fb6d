"""Lanes: the streams of samples every step is made of. One for most recipes; several with ``data.streams``.

Every global batch holds so many samples of each lane, as the weights say. What a lane shows (clips of some length, or
images) has one shape, so lanes never share a micro-batch; summed losses over the count of all lanes make one exact step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from openjepa.config import Recipe
from openjepa.config.data_parts import ClipConfig, DataConfig, StreamConfig
from openjepa.data import FrameTransform, Source, eval_transform, panel_transform, train_transform
from openjepa.data.cache import innermost
from openjepa.data.clips import Clips
from openjepa.data.loading import ImageTransform
from openjepa.data.seeds import mix
from openjepa.data.sources import with_clips
from openjepa.errors import ConfigError, DataError
from openjepa.masking import build_masker
from openjepa.masking.build import Masker
from openjepa.methods.masked_latent import paired_targets
from openjepa.types import MaskGroup

_TOLD = 0.1  # a share that rounding moved by more than this part of itself is said


@dataclass(frozen=True)
class Lane:
    """One stream, resolved.

    number: its place among the lanes; key: what messages call it. data: what its samples are, ``data.streams`` worked in
    (clip None: images). rows: its samples in every global batch. share: of the batch as asked. seed: of order, clips,
    augmentation and masks. inputs: shapes behind batch and channels, by name. grid: of the tokens masks are drawn for;
    tokens: of a sample, all inputs together. length_group: number of its clip length among those of the run. relief: so many
    of its samples cost what one of the dearest lane costs.
    """

    number: int
    key: str
    data: DataConfig
    rows: int
    share: float
    seed: int
    inputs: dict[str, tuple[int, ...]]
    grid: tuple[int, ...]
    tokens: int
    length_group: int = 0
    relief: int = 1

    @property
    def unit(self) -> str:
        """What a sample is, in the plural."""
        return "images" if self.data.clip is None else "clips"

    def describe(self) -> str:
        """``6 of every step as clips of 8 × 64 × 64``."""
        return f"{self.rows} of every step as {self.unit} of {' × '.join(str(side) for side in next(iter(self.inputs.values())))}"

    def masker(self, recipe: Recipe) -> Callable[[Tensor, int, int], MaskGroup]:
        """Masks of this lane: ``(places, epoch, step)`` to a group that names its input and its mask tokens.

        Raises:
            ConfigError: the masks cannot work on this grid.
        """
        masker: Masker = build_masker(recipe.mask, self.grid, self.seed)

        def draw(places: Tensor, epoch: int, step: int) -> MaskGroup:
            return self._dressed(masker(places, epoch=epoch, step=step), recipe)

        return draw

    def _dressed(self, group: MaskGroup, recipe: Recipe) -> MaskGroup:
        if not recipe.data.views:
            group = replace(group, group=next(iter(self.inputs)))
        predictor, pairs = recipe.predictor, len(group.pairs)
        if predictor.kind != "narrow" or predictor.mask_tokens == 1:
            return group
        if predictor.mask_token_index == "release":
            return replace(group, mask_tokens=(self.length_group % predictor.mask_tokens,) * pairs)
        first = self.number * pairs if predictor.mask_tokens > pairs else 0
        numbers = group.mask_tokens or tuple(range(pairs))
        return replace(group, mask_tokens=tuple((first + n) % predictor.mask_tokens for n in numbers))

    def training(self, source: Source) -> tuple[Source, ImageTransform]:
        """``source`` sampled as this lane trains on it, and the transform of its samples.

        Raises:
            DataError: the source holds images and the lane is one of clips. ConfigError: an augmentation that cannot work.
        """
        video = is_video(source)
        if self.data.clip is not None:
            if not video:
                raise DataError(
                    f"{self.key}: {source.name} holds images and clips are wanted: choose videos{self._hint()}"
                )
            return with_clips(source, Clips.training(self.data.clip)), train_transform(self.data)
        if video:  # single frames of videos
            return with_clips(source, Clips(1)), FrameTransform(self.data)
        return source, train_transform(self.data)

    def judging(self, source: Source) -> tuple[Source, ImageTransform]:
        """The same, as the health panel sees it: nothing random but the views of joint embedding."""
        if self.data.clip is not None:
            return with_clips(source, Clips.evaluation(self.data.clip)), panel_transform(self.data)
        if is_video(source):
            frame = eval_transform(self.data)
            return with_clips(source, Clips(1, where="centre")), lambda frames: frame(frames[0])
        return source, panel_transform(self.data)

    def _hint(self) -> str:
        return ", or kind images" if self.key != "data" else ""


def is_video(source: Source) -> bool:
    """Whether samples are clips of videos."""
    return getattr(innermost(source), "clips", None) is not None


def plan_lanes(recipe: Recipe, batch: int) -> tuple[Lane, ...]:
    """The lanes of a recipe for global batches of ``batch`` samples.

    Raises:
        ConfigError: fewer samples per step than streams, or pictures smaller than a patch.
    """
    streams = recipe.data.streams
    if not streams:
        tokens = _tokens(recipe, recipe.inputs)
        return (Lane(0, "data", recipe.data, batch, 1.0, recipe.seed, recipe.inputs, recipe.grid, tokens),)
    if batch < len(streams):
        raise ConfigError(
            f"{batch} samples per step are fewer than the {len(streams)} data.streams: raise train.batch_size"
        )
    weights = [stream.weight for stream in streams]
    groups: dict[int, int] = {}
    lanes = []
    for number, (stream, rows) in enumerate(zip(streams, deal(batch, weights), strict=True)):
        key, data = f"data.streams[{number}]", _lane_data(recipe.data, stream)
        seed = recipe.seed if number == 0 else mix(recipe.seed, number)
        inputs, grid = _shapes(recipe, data, key)
        length = groups.setdefault(0 if data.clip is None else data.clip.frames, len(groups))
        share = stream.weight / sum(weights)
        lanes.append(Lane(number, key, data, rows, share, seed, inputs, grid, _tokens(recipe, inputs), length))
    if recipe.train.micro_batch != "auto":
        return tuple(lanes)
    most = dearest(lanes).tokens
    return tuple(replace(lane, relief=most // lane.tokens) for lane in lanes)


def dearest(lanes: Sequence[Lane]) -> Lane:
    """The lane whose samples have most tokens."""
    return max(lanes, key=lambda lane: lane.tokens)


def rounded_shares(lanes: Sequence[Lane]) -> list[str]:
    """One sentence where whole samples cannot give the shares that were asked for."""
    batch = sum(lane.rows for lane in lanes)
    moved = [lane for lane in lanes if abs(lane.rows / batch - lane.share) > _TOLD * lane.share]
    if not moved:
        return []
    words = ", ".join(f"{lane.key} {lane.rows} of {batch} ({lane.share:.1%} asked)" for lane in moved)
    return [f"whole samples round the weights of streams: {words}"]


def deal(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers of at least one that add up to ``total``, near ``weights``: those with the largest rest get more."""
    assert total >= len(weights), (total, weights)
    shares = [total * weight / sum(weights) for weight in weights]
    dealt = [max(int(share), 1) for share in shares]
    while sum(dealt) < total:
        dealt[max(range(len(dealt)), key=lambda k: (shares[k] - dealt[k], -k))] += 1
    while sum(dealt) > total:
        dealt[max((k for k in range(len(dealt)) if dealt[k] > 1), key=lambda k: (dealt[k] - shares[k], k))] -= 1
    return dealt


def match_sources(recipe: Recipe, source: Source | Sequence[Source]) -> tuple[Source, ...]:
    """One source per lane: those given, or one for all streams that name none.

    Raises:
        ConfigError: a stream names data of its own and only one source is given, or their numbers differ.
    """
    streams = recipe.data.streams
    if isinstance(source, Sequence):
        if len(source) != max(len(streams), 1):
            raise ConfigError(f"{len(source)} sources were given for {max(len(streams), 1)} streams of data")
        return tuple(source)
    own = [number for number, stream in enumerate(streams) if stream.source not in (None, recipe.data.source)]
    if own:
        raise ConfigError(f"data.streams[{own[0]}] has data of its own: give train() one source for each stream")
    return (source,) * max(len(streams), 1)


def weigh(groups: Sequence[MaskGroup], count: Callable[[Sequence[MaskGroup], int], float]) -> list[MaskGroup]:
    """Mask groups of a global batch, their pairs weighted so that each counts alike (official.md §4).

    With M pairs of n_m elements each, all of them together N, the weight of a pair's summed loss is ``N / (M · n_m)``: divided
    by N that is the mean over pairs of each pair's mean.
    """
    sizes = [[count([_only(group, k)], 0) for k in range(len(group.pairs))] for group in groups]
    pairs, total = sum(len(part) for part in sizes), sum(sum(part) for part in sizes)
    return [
        replace(group, weights=tuple(total / (pairs * size) for size in part))
        for group, part in zip(groups, sizes, strict=True)
    ]


def _only(group: MaskGroup, number: int) -> MaskGroup:
    """The target of one pair, in the order of predictions, alone."""
    return replace(group, targets=[paired_targets(group)[number]], pairs=[(0, 0)], contexts=group.contexts[:1])


def _lane_data(data: DataConfig, stream: StreamConfig) -> DataConfig:
    """``data`` as one stream changes it."""
    assert data.clip is not None
    clip: ClipConfig | None = None
    if stream.kind == "clips":
        own = {name: value for name in ("frames", "fps", "stride") if (value := getattr(stream, name)) is not None}
        if own.keys() & {"fps", "stride"}:  # they exclude each other
            own = {"fps": None, "stride": None, **own}
        clip = data.clip.model_copy(update=own)
    changes: dict[str, object] = {"clip": clip, "streams": ()}
    if stream.image_size is not None:
        changes["image_size"] = stream.image_size
    return data.model_copy(update=changes)


def _shapes(recipe: Recipe, data: DataConfig, key: str) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Shape of a stream's input by name, and its token grid."""
    side = data.image_size
    height, width = (side, side) if isinstance(side, int) else side
    patch, tubelet = recipe.model.patch_size, recipe.model.tubelet_size
    if min(height, width) < patch:
        raise ConfigError(f"{key}.image_size {min(height, width)} is smaller than model.patch_size {patch}")
    plane = height // patch, width // patch
    if data.clip is None:
        return {"image": (height, width)}, (1, *plane)
    return {"video": (data.clip.frames, height, width)}, (data.clip.frames // tubelet, *plane)


def _tokens(recipe: Recipe, inputs: Mapping[str, tuple[int, ...]]) -> int:
    """Tokens of a sample: of an image, of a clip, or of all views together."""
    patch, tubelet = recipe.model.patch_size, recipe.model.tubelet_size
    return sum(
        math.prod(frames // tubelet for frames in shape[:-2]) * (shape[-2] // patch) * (shape[-1] // patch)
        for shape in inputs.values()
    )
