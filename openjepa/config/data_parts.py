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


class NoMask(Part):
    """Nothing is hidden: the context is the whole image, and so is the target."""

    kind: Literal["none"] = "none"


MaskConfig = Annotated[MultiblockMask | RandomMask | BlockMask | NoMask, Field(discriminator="kind")]
