"""Recipe parts that say what learns from what: encoder, predictor, target, objective."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from openjepa.config.part import Part, Share


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
    tubelet_size: int = Field(2, ge=1, description="video: frames per token")
    positions: Literal["sincos2d", "sincos3d", "sinusoid", "rope3d", "learned", "coordinates"] = Field(
        "sincos2d",
        description="tables added to the patch tokens, or 'rope3d': rotary positions in every attention (V-JEPA 2); "
        "video needs sincos3d, rope3d or 'sinusoid', where one running number counts all tokens (published VideoMAE); point clouds "
        "have 'coordinates', a perceptron on each group's centre",
    )
    uniform_power: bool = Field(
        True, description="sincos3d: equally many channels for time, row and column (published); false: half for time"
    )
    rope_pairing: Literal["interleaved", "tiled"] = Field(
        "interleaved",
        description="rope3d: one angle per pair of channels, or V-JEPA 2's published table, where the two of a pair differ",
    )
    position_order: Literal["column_first", "row_first"] = Field(
        "column_first", description="which axis the first half of sincos channels encodes: I-JEPA column, V-JEPA row"
    )
    init: Literal["ijepa", "vjepa2", "mae"] = Field(
        "vjepa2",
        description="'vjepa2' rescales block outputs by depth; 'ijepa' (published runs) does not; 'mae' is Xavier-uniform",
    )
    norm_eps: float = Field(
        1e-6, gt=0, description="epsilon of all layer norms of encoder and predictor (Hugging Face's MAE: 1e-12)"
    )
    class_token: bool = Field(
        False, description="a learned token beside the patches (MAE, data2vec); features are still those of the patches"
    )
    rope_grid: int | None = Field(
        None,
        ge=2,
        description="rope3d: rows and columns of every size are scaled to this many (V-JEPA 2.1: 16, those of 256 px); "
        "none: whole patches",
    )
    taps: int = Field(
        1,
        ge=1,
        description="outputs of this many blocks, each with a final norm of its own, are joined for the predictor "
        "(V-JEPA 2.1: 4); features are still those of the last",
    )
    tap_blocks: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, description="which blocks, from 0; none: evenly spaced (of 48 and 4 taps as published: 11, 23, 37, 47)"
    )
    image_stem: bool = Field(
        False,
        description="video: images have a patch projection of their own, one frame deep (V-JEPA 2.1); "
        "false: they are repeated over a tubelet",
    )
    modality_embeddings: bool = Field(
        False,
        description="video: a learned vector for images and one for clips, added to every token, in the encoder and in "
        "the narrow predictor (V-JEPA 2.1)",
    )


class NarrowPredictorConfig(Part):
    """The narrow predictor: self-attention over context and mask tokens."""

    kind: Literal["narrow"] = "narrow"
    dim: int = Field(384, ge=2, description="width")
    depth: int = Field(6, ge=1, description="blocks")
    heads: int | None = Field(None, ge=1, description="attention heads; none: as many as the encoder")
    mlp_ratio: float = Field(4.0, gt=0, description="MLP hidden width over width")
    mask_tokens: int = Field(1, ge=1, description="learned mask tokens: one for all, or one for each mask pair")
    mask_token_index: Literal["pair", "release"] = Field(
        "pair",
        description="which token a mask pair uses: its own number (modulo mask_tokens), or as V-JEPA 2's training code "
        "does, the number of its clip length",
    )
    mask_token_init: Literal["normal", "zero"] = Field("normal", description="'zero' as published for video")
    levels: int = Field(
        1,
        ge=1,
        description="levels it reads and predicts, the last of model.taps: with several, joined by a perceptron",
    )
    context_head: bool = Field(
        False, description="a second projection predicts the context tokens too (V-JEPA 2.1's context loss)"
    )
    out_dim: int | None = Field(
        None,
        ge=1,
        description="width of a predicted level; none: the encoder's (distilled V-JEPA 2.1: its teacher's 1664)",
    )


class LinearPredictorConfig(Part):
    """One linear layer per token. The encoder sees every position, a learned mask token at the hidden ones (data2vec)."""

    kind: Literal["linear"] = "linear"


class NoPredictorConfig(Part):
    """No predictor: the encoder sees mask tokens at the hidden positions, and its own output there is the prediction."""

    kind: Literal["none"] = "none"


class PixelPredictorConfig(Part):
    """MAE's decoder: self-attention over context and mask tokens, then the pixels of every patch."""

    kind: Literal["pixel"] = "pixel"
    dim: int = Field(512, ge=2, description="width")
    depth: int = Field(8, ge=1, description="blocks")
    heads: int | None = Field(16, ge=1, description="attention heads; none: as many as the encoder")
    mlp_ratio: float = Field(4.0, gt=0, description="MLP hidden width over width")


class ProjectorConfig(Part):
    """Joint embedding: a perceptron on the mean-pooled feature of a view, where views are compared."""

    kind: Literal["projector"] = "projector"
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field((2048, 2048), description="widths of the hidden layers")
    dim: int = Field(128, ge=1, description="width of the projection")
    norm: Literal["batch", "none"] = Field(
        "batch", description="after every hidden layer; batch norm sees one micro-batch of all processes"
    )
    prediction_hidden: int | None = Field(
        None, ge=1, description="BYOL: a second perceptron with one hidden layer predicts the other view's projection"
    )


class ActionPredictorConfig(Part):
    """World model: self-attention over frames, actions and states so far says the next frame's features (V-JEPA 2-AC)."""

    kind: Literal["action_causal"] = "action_causal"
    dim: int = Field(1024, ge=2, description="width")
    depth: int = Field(24, ge=1, description="blocks")
    heads: int | None = Field(16, ge=1, description="attention heads; none: as many as the encoder")
    mlp_ratio: float = Field(4.0, gt=0, description="MLP hidden width over width")
    action_dim: int = Field(7, ge=1, description="numbers of an action: what changes from a frame to the next")
    state_dim: int = Field(7, ge=1, description="numbers of a state: where the body is")
    extrinsics: bool = Field(False, description="condition on the camera's pose (6 numbers) too")
    frame_causal: bool = Field(True, description="a frame sees itself and those before it; false: all frames")


PredictorConfig = Annotated[
    NarrowPredictorConfig
    | LinearPredictorConfig
    | NoPredictorConfig
    | PixelPredictorConfig
    | ProjectorConfig
    | ActionPredictorConfig,
    Field(discriminator="kind"),
]


class TargetConfig(Part):
    """What predictions are compared with, and what is done to it first."""

    kind: Literal["ema", "frozen", "self", "none", "pixels"] = Field(
        "ema",
        description="slow average of the encoder; a network that never moves; the encoder itself without gradient; the "
        "encoder itself with gradient (only a regulariser then prevents collapse); the pixels of each patch",
    )
    weights: str | None = Field(
        None, description="frozen only: the teacher, anything load opens; none: the encoder as it was initialised"
    )
    momentum: tuple[Share, Share] = Field((0.996, 1.0), description="EMA momentum at the first and last step")
    momentum_schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="how momentum moves from first to last"
    )
    layers: int = Field(
        1, ge=1, description="average the outputs of the last K blocks, each normalised first (data2vec)"
    )
    layer_output: Literal["block", "ffn"] = Field(
        "block", description="with several layers: block outputs, or FFN outputs before the residual sum (data2vec)"
    )
    layer_norm: Literal["layer_norm", "instance_norm", "none"] = Field(
        "layer_norm", description="with several layers: what each is normalised by, without affine"
    )
    transform: Literal["layer_norm", "centred", "none"] = Field(
        "layer_norm",
        description="target features: affine-free layer norm; 'centred' also subtracts the batch mean at each position "
        "and rescales channels, so that position alone predicts nothing; or as they are. Pixels: each patch to mean 0 "
        "and deviation 1, or as they are",
    )

    @property
    def averaged(self) -> bool:
        """Whether a slow average exists, which is then what is judged and deployed."""
        return self.kind == "ema"


class RegulariserConfig(Part):
    """A term with batch statistics added to the prediction loss (accumulation is then not exact; the run says so)."""

    kind: Literal["vicreg", "variance", "sigreg"] = Field(
        description="of the mean-pooled context features, or of each view's projection: variance hinge and covariance, "
        "the hinge alone, or SIGReg's Epps-Pulley statistic. Of views the first two are summed over the two of a pair, "
        "SIGReg is averaged, as published"
    )
    weight: float = Field(1.0, ge=0, description="weight of the term beside the prediction loss")
    covariance: float = Field(0.04, ge=0, description="vicreg only: covariance over variance (VICReg publishes 1/25)")
    directions: int = Field(256, ge=1, description="sigreg only: random directions per step (LeJEPA publishes 1024)")


class ObjectiveConfig(Part):
    """How predictions are compared with targets."""

    kind: Literal["smooth_l1", "l1", "l2", "cosine", "normalised_cosine", "info_nce"] = Field(
        "smooth_l1",
        description="distance per element; 'l2' is the squared error; 'cosine' is 1 - cosine per token; "
        "'normalised_cosine' the squared error of unit vectors (2 - 2 cosine); 'info_nce' tells the target from the "
        "other targets of the batch",
    )
    beta: float = Field(1.0, gt=0, description="smooth-L1 threshold between squared and absolute")
    temperature: float = Field(0.1, gt=0, description="info_nce only: temperature of the softmax over cosines")
    granularity: Literal["token", "block"] = Field(
        "token", description="compare every hidden token, or the mean of each target block"
    )
    views: Literal["pairs", "centroid"] = Field(
        "pairs",
        description="joint embedding: every view is compared with every other global view (of the largest image size), "
        "or with the mean projection of the global views (LeJEPA)",
    )
    weight: float = Field(1.0, ge=0, description="weight of the prediction term (0 leaves only the regularisers)")
    pooled: float = Field(
        0.0,
        ge=0,
        description="weight of predicting the mean-pooled target (standardised over the batch) from the mean-pooled context",
    )
    reduction: Literal["element", "pair"] = Field(
        "element",
        description="mean over all predicted elements, or over each mask pair first (V-JEPA: pairs weigh alike)",
    )
    variance: float = Field(
        0.0,
        ge=0,
        description="weight of max(0, 1 - deviation of the predictions over a sample's tokens) (V-JEPA's optional term)",
    )
    regularisers: tuple[RegulariserConfig, ...] = Field((), description="extra terms with batch statistics")
