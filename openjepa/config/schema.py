"""The recipe schema: one frozen pydantic model per part of DESIGN §1. A recipe names its parts; nothing is implicit.

Field descriptions are the help texts of the command line and of the reference page.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from openjepa.config.data_parts import (
    AugmentConfig,
    BlockMask,
    ClipConfig,
    DataConfig,
    MaskConfig,
    MultiblockMask,
    NoMask,
    PointsConfig,
    RandomMask,
    RandomTubeMask,
    StreamConfig,
    TubeGroup,
    TubesMask,
    ViewConfig,
)
from openjepa.config.duration import Duration
from openjepa.config.misfits import misfits
from openjepa.config.model_parts import (
    ActionPredictorConfig,
    LinearPredictorConfig,
    ModelConfig,
    NarrowPredictorConfig,
    NoPredictorConfig,
    ObjectiveConfig,
    PixelPredictorConfig,
    PredictorConfig,
    ProjectorConfig,
    RegulariserConfig,
    TargetConfig,
)
from openjepa.config.part import Part, PositiveRange, Share, ShareRange

__all__ = [
    "ActionPredictorConfig",
    "AugmentConfig",
    "BlockMask",
    "CheckpointConfig",
    "ClipConfig",
    "DataConfig",
    "HealthConfig",
    "LinearPredictorConfig",
    "LogConfig",
    "MaskConfig",
    "ModelConfig",
    "MultiblockMask",
    "NarrowPredictorConfig",
    "NoMask",
    "NoPredictorConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "Part",
    "PixelPredictorConfig",
    "PointsConfig",
    "PositiveRange",
    "PredictorConfig",
    "ProbeConfig",
    "ProjectorConfig",
    "RandomMask",
    "RandomTubeMask",
    "Recipe",
    "RegulariserConfig",
    "Share",
    "ShareRange",
    "StageConfig",
    "StreamConfig",
    "TargetConfig",
    "TrainConfig",
    "TubeGroup",
    "TubesMask",
    "ViewConfig",
]


class OptimConfig(Part):
    """AdamW and its schedules (no decay on biases, norms, 1-D parameters, mask tokens and positions)."""

    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    start_lr: float = Field(1e-4, ge=0, description="learning rate at the first warm-up step")
    final_lr: float = Field(1e-6, ge=0, description="learning rate at the end")
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "cosine", description="after warm-up: cosine or straight to final_lr, constant, or stable then linear decay"
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


class StageConfig(Part):
    """One stage of a run that changes its recipe on the way (V-JEPA 2: constant phase, then cooldown)."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="how the stage and its folder are called")
    changes: dict[str, Any] = Field(
        default_factory=dict, description="recipe keys of this stage that differ, dotted: data.clip.frames: 64"
    )
    keep_optimizer: bool = Field(True, description="go on with the optimizer state of the stage before")


class Recipe(Part):
    """A whole experiment. ``config.yaml`` of a run is one of these, resolved and re-runnable."""

    name: str = Field(description="how the recipe is called")
    system: Literal[
        "ijepa",
        "mae",
        "data2vec",
        "vicreg",
        "byol",
        "info_nce",
        "lejepa",
        "vjepa",
        "vjepa2",
        "vjepa2_1",
        "vjepa2_ac",
        "point_jepa",
        "videomae",
    ] = Field("ijepa", description="which published system the parts make up (a name; the parts below decide)")
    method: Literal["masked_latent", "masked_pixel", "joint_embedding", "world_model"] = Field(
        "masked_latent",
        description="which composition: predict features of hidden patches, predict their pixels, embed views of an "
        "image near each other, or say the next frame's features from actions (published weights only: not trained here)",
    )
    form: Literal["tiny", "single-gpu", "paper", "release", "document", "custom"] = Field(
        "custom", description="what the recipe stands for"
    )
    seed: int = Field(0, ge=0, description="seeds everything: order, masks, augmentation, initialisation")
    data: DataConfig = DataConfig()
    mask: MaskConfig = MultiblockMask()
    model: ModelConfig = ModelConfig()
    predictor: PredictorConfig = NarrowPredictorConfig()
    target: TargetConfig = TargetConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    health: HealthConfig = HealthConfig()
    probe: ProbeConfig = ProbeConfig()
    stages: tuple[StageConfig, ...] = Field(
        (), description="train in stages, each with some keys changed, from the weights of the one before; empty: one"
    )

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
        wrong += misfits(self)
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def image_hw(self) -> tuple[int, int]:
        """Image height and width in pixels."""
        size = self.data.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def deployed(self) -> Literal["target", "online"]:
        """The encoder that is judged and used: the slow average where there is one, else the online encoder."""
        return "target" if self.target.averaged else "online"

    @property
    def video(self) -> bool:
        """Whether the encoder takes clips."""
        return self.data.clip is not None

    @property
    def frames(self) -> int | None:
        """Frames of a clip, None for images."""
        return None if self.data.clip is None else self.data.clip.frames

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Names of the inputs of a sample, with their shape behind batch and channels.

        ``image`` (H, W); ``video`` (T, H, W); ``points`` (G, 1 + K), centres first; or one (H, W) per view.
        """
        if self.data.points is not None:
            return {"points": (self.data.points.groups, 1 + self.data.points.group_size)}
        if self.data.clip is not None:
            return {"video": (self.data.clip.frames, *self.image_hw)}
        if not self.data.views:
            return {"image": self.image_hw}
        sides = [
            self.image_hw if view.image_size is None else (view.image_size, view.image_size)
            for view in self.data.views
            for _ in range(view.count)
        ]
        return {f"view{number}": side for number, side in enumerate(sides)}

    @property
    def grid(self) -> tuple[int, ...]:
        """Token grid, (h, w) or (t, h, w); leftover pixels and frames are dropped by the stem, as in the published code.

        Of point clouds (groups,): tokens in the order they come in.
        """
        if self.data.points is not None:
            return (self.data.points.groups,)
        height, width = self.image_hw
        plane = height // self.model.patch_size, width // self.model.patch_size
        return plane if self.frames is None else (self.frames // self.model.tubelet_size, *plane)
