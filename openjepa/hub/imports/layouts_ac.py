"""The published V-JEPA 2-AC file as a recipe of ours (official.md §2.4–§2.5)."""

from __future__ import annotations

from openjepa.config.schema import (
    ActionPredictorConfig,
    ClipConfig,
    ModelConfig,
    NoMask,
    ObjectiveConfig,
    Recipe,
    TargetConfig,
)
from openjepa.hub.imports.contents import Contents
from openjepa.hub.imports.infer import ROTARY_HEADS, encoder_facts, ratio_of
from openjepa.hub.imports.layout import Layout, register_layout
from openjepa.hub.imports.official import FPS, ROTARY_SIZE, data_of, encoder_section
from openjepa.hub.official_ac import VJEPA2_AC_OFFICIAL

FRAMES = 8  # of a training clip
HEAD = 64  # channels of a predictor's head, where no hint says how many heads there are


def is_vjepa2_ac(contents: Contents) -> bool:
    """A predictor that is given actions."""
    return encoder_section(contents) is not None and contents.has("predictor.action_encoder.weight")


def vjepa2_ac_recipe(contents: Contents) -> Recipe:
    """Architecture of a V-JEPA 2-AC file. Whether the camera's pose is used is no matter of tensors: its layer is always there."""
    section = encoder_section(contents)
    assert section is not None
    facts = encoder_facts(contents, section, ROTARY_HEADS)
    clip = ClipConfig(frames=int(contents.hint("frames", FRAMES)), fps=float(contents.hint("fps", FPS)))
    return Recipe(
        name="vjepa2-ac-import",
        system="vjepa2_ac",
        method="world_model",
        data=data_of(contents, section, contents.hint("image_size", ROTARY_SIZE), clip),
        mask=NoMask(),
        model=ModelConfig(**facts, positions="rope3d", rope_pairing="tiled"),
        predictor=predictor_part(contents),
        target=TargetConfig(kind="frozen"),
        objective=ObjectiveConfig(kind="l1"),
    )


def predictor_part(contents: Contents) -> ActionPredictorConfig:
    """The predictor's part of the recipe."""
    dim = contents.shape("predictor.predictor_embed.weight", 2)[0]
    return ActionPredictorConfig(
        dim=dim,
        depth=contents.count("predictor.predictor_blocks."),
        heads=int(contents.hint("predictor_heads", max(dim // HEAD, 1))),
        mlp_ratio=ratio_of(contents.shape("predictor.predictor_blocks.0.mlp.fc1.weight", 2)[0], dim),
        action_dim=contents.shape("predictor.action_encoder.weight", 2)[1],
        state_dim=contents.shape("predictor.state_encoder.weight", 2)[1],
        extrinsics=bool(contents.hint("extrinsics", False)),
        frame_causal=bool(contents.hint("frame_causal", True)),
    )


VJEPA2_AC = register_layout(
    Layout(
        "vjepa2-ac-official",
        "V-JEPA 2-AC as published: a frozen encoder of single frames and an action-conditioned predictor",
        "V-JEPA 2-AC",
        is_vjepa2_ac,
        vjepa2_ac_recipe,
        VJEPA2_AC_OFFICIAL,
        notes=(
            "the encoder sees each frame by itself, repeated to fill a tubelet, with ImageNet mean and deviation; features and "
            "predictions are layer-normed (openjepa.methods.world_model)",
            "rotary weights hold no image size: 256 px unless a hint or the model's name says otherwise",
        ),
    )
)
