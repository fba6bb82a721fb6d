"""Recipe parts that say what the network is shown: data, augmentation, views, masks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from openjepa.config.part import Part, PositiveRange, Share, ShareRange


class AugmentConfig(Part):
    """Random transforms of a training image; context and target see the same result."""

    random_resized_crop: bool = Field(
        True, description="crop a random box and resize it; off: resize short side and crop at the centre"
    )
    crop_scale: ShareRange = Field((0.3, 1.0), description="area of the random box as a share of the image")
    crop_ratio: PositiveRange = Field((0.75, 4 / 3), description="width over height of the random box")
    flip: Share = Field(0.5, description="probability of a horizontal flip")
    color_jitter: float = Field(0.0, ge=0, description="strength s of brightness/contrast/saturation .8s and hue .2s")
    color_jitter_prob: Share = Field(0.8, description="probability of the colour jitter")
    color_saturation: float = Field(
        0.8, ge=0, description="range of the jitter's saturation over its strength s (SimCLR .8; BYOL and VICReg .4)"
    )
    grayscale: Share = Field(0.0, description="probability of dropping colour")
    blur: Share = Field(0.0, description="probability of a Gaussian blur")
    blur_sigma: PositiveRange = Field((0.1, 2.0), description="deviation of the blur in pixels, drawn evenly")
    solarize: Share = Field(0.0, description="probability of inverting all values in the brighter half of the range")


class ViewConfig(Part):
    """Random views of one image for joint embedding: ``count`` of them, each cropped and augmented on its own."""

    count: int = Field(1, ge=1, description="views of this kind per image")
    image_size: int | None = Field(None, ge=1, description="pixels per side; none: data.image_size")
    augment: AugmentConfig = AugmentConfig()


class ClipConfig(Part):
    """A clip of a video: how many frames, how far apart, from where. With it a recipe is one for video."""

    frames: int = Field(16, ge=1, description="frames per clip")
    fps: float | None = Field(
        None, gt=0, description="frames per second of a clip, by presentation time; none: every stride-th frame"
    )
    stride: int | None = Field(None, ge=1, description="take every n-th frame of the file (instead of fps); none: 1")
    sampling: Literal["random", "centre", "start"] = Field(
        "random", description="where a training clip begins; evaluation spreads its clips evenly over the video"
    )
    short: Literal["repeat", "loop", "skip"] = Field(
        "repeat",
        description="videos shorter than a clip: repeat the last frame, begin again, or skip the file, which then "
        "counts as one that cannot be read; each is counted",
    )


class PointsConfig(Part):
    """A cloud of points as groups of neighbours. With it a recipe is one for point clouds."""

    groups: int = Field(64, ge=2, description="groups a cloud is cut into; each is a token")
    group_size: int = Field(32, ge=1, description="points of a group, which may overlap")


class StreamConfig(Part):
    """One of several data sets that are trained on together. What is none is taken from ``data``."""

    source: str | None = Field(None, description="folder, list file or built-in; none: the DATA argument")
    kind: Literal["clips", "images"] = Field(
        "clips", description="videos, or images: each then is a clip of one tubelet, not of data.clip.frames"
    )
    weight: float = Field(1.0, gt=0, description="share of every batch, beside the weights of the other streams")
    frames: int | None = Field(None, ge=1, description="frames per clip")
    fps: float | None = Field(None, gt=0, description="frames per second of a clip")
    stride: int | None = Field(None, ge=1, description="every n-th frame")
    image_size: int | None = Field(None, ge=1, description="pixels per side")


class DataConfig(Part):
    """Where samples come from and how they become tensors."""

    source: str | None = Field(None, description="folder, list file or built-in ('scenes'); the DATA argument fills it")
    image_size: int | tuple[int, int] = Field(224, description="pixels: one number, or height and width")
    channels: int = Field(3, ge=1, description="channels the encoder sees; files are converted to it")
    mean: tuple[float, ...] | None = Field(
        None, description="per-channel mean in 0..1; none: ImageNet for 3 channels, else .5"
    )
    std: tuple[float, ...] | None = Field(
        None, description="per-channel deviation in 0..1; none: ImageNet for 3 channels, else .25"
    )
    interpolation: Literal["bilinear", "bicubic"] = Field(
        "bilinear", description="resampling filter (always anti-aliased)"
    )
    augment: AugmentConfig = AugmentConfig()
    clip: ClipConfig | None = Field(None, description="video: what a clip is; none: images")
    points: PointsConfig | None = Field(None, description="point clouds: what a token is; none: images or clips")
    streams: tuple[StreamConfig, ...] = Field(
        (), description="several data sets, lengths of clips, or images beside clips, in every step; empty: one"
    )
    placement: Literal["mix", "ranks"] = Field(
        "mix",
        description="streams over processes: each takes its part of every stream, or each works on one stream only",
    )
    views: tuple[ViewConfig, ...] = Field(
        (),
        description="joint embedding: random views drawn of every image instead of one (data.augment is then unused)",
    )
    eval_crop: float = Field(
        0.875, gt=0, le=1, description="evaluation: image size over resized short side before the centre crop"
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="loader processes; 0 reads in the training process"
    )
    cache: Literal["auto", "memory", "none"] = Field(
        "auto", description="keep decoded images in memory ('auto': when they are small)"
    )
    max_bad_share: Share = Field(0.05, description="stop when more than this share of the files cannot be read")
    scenes_count: int = Field(4096, ge=2, description="number of images the built-in 'scenes' has")


class MultiblockMask(Part):
    """I-JEPA multi-block masks (2301.08243 §3): several target blocks, one large context block minus the targets."""

    kind: Literal["multiblock"] = "multiblock"
    targets: int = Field(4, ge=1, description="target blocks per image")
    target_scale: ShareRange = Field((0.15, 0.2), description="area of a target block as a share of the grid")
    target_aspect: PositiveRange = Field((0.75, 1.5), description="height over width of a target block")
    context_scale: ShareRange = Field((0.85, 1.0), description="area of the context block as a share of the grid")
    min_keep: int = Field(
        10, ge=1, description="a sample keeps more context tokens than this, else its blocks are drawn again"
    )
    overlap: bool = Field(False, description="leave target tokens in the context")
    context_mode: Literal["subset", "padded", "release"] = Field(
        "padded",
        description="unequal contexts: 'padded' keeps all with attention masks, 'subset' cuts at random to the batch "
        "minimum, 'release' keeps the first ids (the published code: loses the bottom rows)",
    )
    borders: Literal["full", "release"] = Field(
        "full", description="'release' never covers the last row and column, as published"
    )
    size_draw: Literal["independent", "release"] = Field(
        "independent", description="'release' draws scale and aspect from one uniform, as published"
    )


class RandomMask(Part):
    """Random patches: a share is hidden and predicted, the rest is context."""

    kind: Literal["random"] = "random"
    ratio: ShareRange = Field((0.4, 0.6), description="share of tokens hidden, drawn per batch")


class BlockMask(Part):
    """Block-wise masks until a share of the grid is hidden (BEiT / data2vec)."""

    kind: Literal["block"] = "block"
    ratio: Share = Field(0.6, description="share of tokens hidden")
    min_block: int = Field(4, ge=1, description="smallest block in tokens")
    aspect: PositiveRange = Field((0.3, 1 / 0.3), description="height over width of a block")


class TubeGroup(Part):
    """Blocks of one kind, cut through time; their union is hidden and predicted, as one mask pair."""

    blocks: int = Field(8, ge=1, description="blocks per clip")
    spatial_scale: ShareRange = Field((0.15, 0.15), description="area of a block as a share of the frame")
    temporal_scale: ShareRange = Field((1.0, 1.0), description="length of a block as a share of the clip (1: tubes)")
    aspect: PositiveRange = Field((0.75, 1.5), description="height over width of a block")
    keep_time: Share = Field(1.0, description="causal: only this first share of the clip may be context (1: all of it)")
    max_keep: int | None = Field(None, ge=1, description="at most this many context tokens; none: no limit")


class TubesMask(Part):
    """V-JEPA multi-block masks in space and time (2404.08471 §3.2); every group of blocks is a mask pair of its own."""

    kind: Literal["tubes"] = "tubes"
    groups: tuple[TubeGroup, ...] = Field(
        (TubeGroup(), TubeGroup(blocks=2, spatial_scale=(0.7, 0.7))),
        min_length=1,
        description="short-range (8 x .15) and long-range (2 x .7) as published",
    )
    union: bool = Field(False, description="one pair: the union of all groups' blocks is hidden, the rest is context")
    complement: Literal["none", "target", "context"] = Field(
        "none",
        description="after cutting: 'target' predicts everything that is not context (published full_complement), "
        "'context' shows everything that is not target (pred_full_complement)",
    )
    invert: bool = Field(False, description="swap context and target (published inv_block)")
    context_mode: Literal["subset", "padded", "release"] = Field(
        "padded",
        description="unequal sizes: 'padded' keeps all tokens with attention masks, 'subset' cuts at random to the batch "
        "minimum, 'release' keeps the first ids (the published code: loses the latest frames)",
    )


class RandomTubeMask(Part):
    """Random patches, the same in every frame (VideoMAE 2203.12602 §3.3)."""

    kind: Literal["random_tube"] = "random_tube"
    ratio: Share = Field(0.9, description="share of patches hidden")


class NoMask(Part):
    """Nothing is hidden: the context is the whole image, and so is the target."""

    kind: Literal["none"] = "none"


MaskConfig = Annotated[
    MultiblockMask | RandomMask | BlockMask | TubesMask | RandomTubeMask | NoMask, Field(discriminator="kind")
]
