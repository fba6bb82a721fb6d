"""The published Point-JEPA file as a recipe of ours (2404.16432; family.md §2)."""

from __future__ import annotations

from openjepa.config.schema import (
    DataConfig,
    ModelConfig,
    NarrowPredictorConfig,
    NoMask,
    ObjectiveConfig,
    PointsConfig,
    Recipe,
)
from openjepa.hub.imports.contents import Contents
from openjepa.hub.imports.infer import HEADS, ratio_of
from openjepa.hub.imports.layout import Layout, register_layout
from openjepa.hub.official_points import POINT_JEPA_OFFICIAL

_STUDENT, _PREDICTOR = "state_dict.student.", "state_dict.predictor."
_PLACE = "state_dict.positional_encoding.2.weight"
NORM_EPS = 1e-5
BETA = 2.0  # of the smooth L1 distance


def is_point_jepa(contents: Contents) -> bool:
    """A tokenizer of points and a student."""
    return contents.has("state_dict.tokenizer.pointnet.encoder.first_conv.0.weight", f"{_STUDENT}norm.weight")


def point_jepa_recipe(contents: Contents) -> Recipe:
    """Architecture of a Point-JEPA file. How many groups of how many points were cut is no matter of tensors."""
    dim = contents.shape(_PLACE, 2)[0]
    heads = contents.hint("heads", HEADS.get(dim))
    if heads is None:
        raise contents.ask("heads", f"how many attention heads an encoder {dim} wide has")
    cut = {name: int(value) for name in ("groups", "group_size") if (value := contents.hint(name)) is not None}
    return Recipe(
        name="point-jepa-import",
        system="point_jepa",
        data=DataConfig(points=PointsConfig(**cut)),
        mask=NoMask(),
        model=ModelConfig(
            arch=None,
            dim=dim,
            depth=contents.count(f"{_STUDENT}blocks."),
            heads=int(heads),
            mlp_ratio=ratio_of(contents.shape(f"{_STUDENT}blocks.0.mlp.fc1.weight", 2)[0], dim),
            positions="coordinates",
            norm_eps=NORM_EPS,
        ),
        predictor=_predictor(contents, int(heads)),
        objective=ObjectiveConfig(kind="smooth_l1", beta=BETA),
    )


def _predictor(contents: Contents, heads: int) -> NarrowPredictorConfig:
    """The predictor's part; one of the published size where the file has none. heads: the encoder's, which are published."""
    if not contents.has(f"{_PREDICTOR}predictor_embed.weight"):
        return NarrowPredictorConfig(dim=192)
    dim = contents.shape(f"{_PREDICTOR}predictor_embed.weight", 2)[0]
    return NarrowPredictorConfig(
        dim=dim,
        depth=contents.count(f"{_PREDICTOR}predictor.blocks."),
        heads=int(contents.hint("predictor_heads", heads)),
        mlp_ratio=ratio_of(contents.shape(f"{_PREDICTOR}predictor.blocks.0.mlp.fc1.weight", 2)[0], dim),
    )


POINT_JEPA = register_layout(
    Layout(
        "point-jepa-official",
        "Point-JEPA as published: encoders of groups of points that share a tokenizer, and a predictor",
        "Point-JEPA",
        is_point_jepa,
        point_jepa_recipe,
        POINT_JEPA_OFFICIAL,
        notes=(
            "clouds are centred and scaled into the unit sphere, cut into 64 groups of 32 points unless hints say "
            "otherwise; groups walked from the smallest x + y + z to the nearest next (openjepa.masking.sequencer)",
        ),
    )
)
