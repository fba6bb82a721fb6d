"""The recipe schema: one frozen pydantic model per part of DESIGN §1. A recipe names its parts; nothing is implicit.

Field descriptions are the help texts of the command line and of the reference page.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from openjepa.config.duration import Duration

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("must go from low to high")
    return pair


ShareRange = Annotated[tuple[Share, Share], AfterValidator(_ascending)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]


class Part(BaseModel):
    """Base of every recipe part: frozen, unknown keys forbidden."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )


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
    grayscale: Share = Field(0.0, description="probability of dropping colour")
    blur: Share = Field(0.0, description="probability of a Gaussian blur")


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


MaskConfig = Annotated[MultiblockMask | RandomMask | BlockMask, Field(discriminator="kind")]


class ModelConfig(Part):
    """The encoder: a vision transformer named by size, or free."""

    arch: str | None = Field(
        "vit_base", description="vit_{tiny,small,base,large,huge,giant,gigantic}; none: give dim, depth, heads"
    )
    patch_size: int = Field(16, ge=1, description="pixels per patch side")
    dim: int | None = Field(None, ge=2, description="width; overrides the named size")
    depth: int | None = Field(None, ge=1, description="blocks; overrides the named size")
    heads: int | None = Field(None, ge=1, description="attention heads; overrides the named size")
    mlp_ratio: float | None = Field(None, gt=0, description="MLP hidden width over width; overrides the named size")
    drop_path: Share = Field(0.0, description="stochastic depth at the last block, linear over depth")
    positions: Literal["sincos2d", "learned"] = Field(
        "sincos2d", description="position table added to the patch tokens"
    )
    position_order: Literal["column_first", "row_first"] = Field(
        "column_first", description="which axis the first half of sincos channels encodes: I-JEPA column, V-JEPA row"
    )
    init: Literal["ijepa", "vjepa2"] = Field(
        "vjepa2", description="'vjepa2' rescales block outputs by depth; 'ijepa' (published runs) does not"
    )


class PredictorConfig(Part):
    """The narrow predictor: self-attention over context and mask tokens."""

    kind: Literal["narrow"] = "narrow"
    dim: int = Field(384, ge=2, description="width")
    depth: int = Field(6, ge=1, description="blocks")
    heads: int | None = Field(None, ge=1, description="attention heads; none: as many as the encoder")
    mlp_ratio: float = Field(4.0, gt=0, description="MLP hidden width over width")


class TargetConfig(Part):
    """The target network and what is done to its output."""

    kind: Literal["ema"] = "ema"
    momentum: tuple[Share, Share] = Field((0.996, 1.0), description="EMA momentum at the first and last step")
    momentum_schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="how momentum moves from first to last"
    )
    transform: Literal["layer_norm", "centred", "none"] = Field(
        "layer_norm",
        description="target features: affine-free layer norm; 'centred' also subtracts the batch mean at each position "
        "and rescales channels, so that position alone predicts nothing; or as they are",
    )


class RegulariserConfig(Part):
    """A term with batch statistics added to the prediction loss (accumulation is then not exact; the run says so)."""

    kind: Literal["vicreg", "variance", "sigreg"] = Field(
        description="of the mean-pooled context features: variance hinge and covariance, the hinge alone, or SIGReg"
    )
    weight: float = Field(1.0, ge=0, description="weight of the term beside the prediction loss")
    covariance: float = Field(0.04, ge=0, description="vicreg only: covariance over variance (VICReg publishes 1/25)")


class ObjectiveConfig(Part):
    """How predictions are compared with targets."""

    kind: Literal["smooth_l1", "l1", "l2"] = Field(
        "smooth_l1", description="distance per element; 'l2' is the squared error"
    )
    beta: float = Field(1.0, gt=0, description="smooth-L1 threshold between squared and absolute")
    weight: float = Field(
        1.0, ge=0, description="weight of the latent-prediction term (0 leaves only the regularisers)"
    )
    pooled: float = Field(
        0.0,
        ge=0,
        description="weight of predicting the mean-pooled target (standardised over the batch) from the mean-pooled context",
    )
    regularisers: tuple[RegulariserConfig, ...] = Field((), description="extra terms with batch statistics")


class OptimConfig(Part):
    """AdamW and its schedules (no decay on biases, norms, 1-D parameters, mask tokens and positions)."""

    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    start_lr: float = Field(1e-4, ge=0, description="learning rate at the first warm-up step")
    final_lr: float = Field(1e-6, ge=0, description="learning rate at the end")
    schedule: Literal["cosine", "constant", "wsd"] = Field(
        "cosine", description="after warm-up: cosine to final_lr, constant, or stable then linear decay"
    )
    warmup: Duration = Field(Duration(10, "percent"), description="length of the linear warm-up")
    decay: Duration = Field(Duration(10, "percent"), description="wsd only: length of the final decay")
    stretch: float = Field(
        1.0, ge=1, description="schedules are laid out for stretch × the run and cut (published V-JEPA: 1.25)"
    )
    weight_decay: float = Field(0.04, ge=0, description="decay at the start")
    final_weight_decay: float | None = Field(None, ge=0, description="decay at the end (cosine); none: constant")
    betas: tuple[Share, Share] = Field((0.9, 0.999), description="AdamW betas")
    eps: float = Field(1e-8, gt=0, description="AdamW epsilon")
    clip: float | None = Field(None, gt=0, description="largest gradient norm; none: no clipping")
    decay_mask_tokens: bool = Field(False, description="published code also decays mask tokens")


class TrainConfig(Part):
    """Length, batch and machine."""

    length: Duration = Field(Duration(100, "epochs"), description="steps, epochs or samples (--steps, --epochs)")
    batch_size: int = Field(256, ge=1, description="global batch: samples per optimizer step over all devices")
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="samples per forward on one device; accumulation is exact"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N, mps")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the hardware is fast at it"
    )
    strategy: Literal["auto", "single", "ddp", "fsdp2"] = Field(
        "auto", description="auto: ddp under torchrun, else single"
    )
    compile: bool | Literal["auto"] = Field("auto", description="torch.compile; auto: on CUDA for runs over 500 steps")
    activation_checkpointing: bool = Field(False, description="recompute block activations in the backward pass")
    deterministic: bool = Field(False, description="deterministic CUDA kernels (slower; CPU always is)")
    threads: int | None = Field(None, ge=1, description="CPU threads; none: what torch chooses")


class CheckpointConfig(Part):
    """When run state is saved and what is kept."""

    every: Duration = Field(Duration(5, "percent"), description="between checkpoints; the last step is always saved")
    keep: int = Field(2, ge=1, description="newest checkpoints kept")
    keep_every: Duration | None = Field(None, description="checkpoints at these multiples are kept for good")


class LogConfig(Part):
    """What is written and how often."""

    every: Duration = Field(Duration(50, "steps"), description="between rows of metrics.jsonl with the health panel")
    tensorboard: bool | Literal["auto"] = Field(
        "auto", description="TensorBoard events; auto: when tensorboard is installed"
    )
    health_samples: int = Field(256, ge=8, description="images the health panel is measured on")


class HealthConfig(Part):
    """What happens when a run falls ill."""

    on_collapse: Literal["warn", "stop"] = Field("warn", description="verdict is collapse for several panels in a row")
    on_nonfinite: Literal["skip", "stop"] = Field(
        "skip", description="a not-finite gradient: skip the update, or stop at once"
    )
    max_skipped: int = Field(10, ge=0, description="stop after this many skipped updates in a row")
    on_diverge: Literal["warn", "stop", "rollback"] = Field(
        "stop", description="loss far above its best: go on, stop, or go back to the last checkpoint"
    )


class ProbeConfig(Part):
    """Scores during training when labels exist."""

    every: Duration | None = Field(
        Duration(25, "percent"), description="between kNN and linear probes; none: only at the end"
    )
    val: str | None = Field(
        None, description="labelled folder to score on; none: a held-out tenth of the training data"
    )
    max_train: int = Field(10000, ge=10, description="images the probes are fitted on, at most")
    max_val: int = Field(2000, ge=10, description="images the probes are scored on, at most")
    knn_k: int = Field(20, ge=1, description="neighbours")


class Recipe(Part):
    """A whole experiment. ``config.yaml`` of a run is one of these, resolved and re-runnable."""

    name: str = Field(description="how the recipe is called")
    system: Literal["ijepa"] = Field("ijepa", description="which composition of parts")
    form: Literal["tiny", "single-gpu", "paper", "release", "document", "custom"] = Field(
        "custom", description="what the recipe stands for"
    )
    seed: int = Field(0, ge=0, description="seeds everything: order, masks, augmentation, initialisation")
    data: DataConfig = DataConfig()
    mask: MaskConfig = MultiblockMask()
    model: ModelConfig = ModelConfig()
    predictor: PredictorConfig = PredictorConfig()
    target: TargetConfig = TargetConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    health: HealthConfig = HealthConfig()
    probe: ProbeConfig = ProbeConfig()

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        """What no single key can know; all of it is said at once."""
        wrong = []
        for name in ("mean", "std"):
            values = getattr(self.data, name)
            if values is not None and len(values) != self.data.channels:
                wrong.append(f"data.{name} has {len(values)} values for data.channels={self.data.channels}")
        sides = (self.data.image_size,) * 2 if isinstance(self.data.image_size, int) else self.data.image_size
        if min(sides) < self.model.patch_size:
            wrong.append(f"data.image_size {min(sides)} is smaller than model.patch_size {self.model.patch_size}")
        missing = [f"model.{name}" for name in ("dim", "depth", "heads") if getattr(self.model, name) is None]
        if self.model.arch is None and missing:
            wrong.append(f"model.arch is none, so {' and '.join(missing)} must be given")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def image_hw(self) -> tuple[int, int]:
        """Image height and width in pixels."""
        size = self.data.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def grid(self) -> tuple[int, int]:
        """Patch grid (h, w); leftover pixels are dropped by the stem, as in the published code."""
        height, width = self.image_hw
        return height // self.model.patch_size, width // self.model.patch_size
