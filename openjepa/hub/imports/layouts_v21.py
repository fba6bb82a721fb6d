"""The published V-JEPA 2.1 files as recipes of ours (family.md §1.3–§1.6): g and G, and B and L distilled from G."""

from __future__ import annotations

from typing import Any

from openjepa.config.schema import ClipConfig, ModelConfig, NarrowPredictorConfig, ObjectiveConfig, Recipe, TubesMask
from openjepa.errors import CheckpointError
from openjepa.hub.imports.contents import Contents
from openjepa.hub.imports.infer import ROTARY_HEADS, encoder_facts, ratio_of
from openjepa.hub.imports.layout import Layout, register_layout
from openjepa.hub.imports.official import FPS, data_of, encoder_section
from openjepa.hub.official_v21 import VJEPA21_DISTILLED, VJEPA21_OFFICIAL

LEVELS = 4  # norms of tapped outputs in every published encoder, students too
SIZE, FRAMES = 384, 64  # of all four published files, after the cool-down; rotary weights do not tell
TRAINED_PIXELS = 256  # rows and columns of every image are scaled to the grid of this size


def is_vjepa21(contents: Contents) -> bool:
    """Four final norms, a stem for images; trained against a slow average of itself."""
    return _section(contents) is not None and not _from_teacher(contents)


def is_distilled(contents: Contents) -> bool:
    """The same with a slow average called ``ema_encoder``, or a predictor that reads one level."""
    return _section(contents) is not None and _from_teacher(contents)


def vjepa21_recipe(contents: Contents) -> Recipe:
    """Architecture of a V-JEPA 2.1 file: everything but heads, image size and frames is in the shapes.

    Raises:
        CheckpointError: not four norms of tapped outputs: which blocks they belong to would be a guess.
        ConfigError: a width whose heads are not known.
    """
    section = _section(contents)
    assert section is not None
    taps = contents.count(f"{section}.norms_block.")
    if taps != LEVELS:
        raise CheckpointError(
            f"'{contents.path}' has {taps} norms of tapped outputs, not {LEVELS}: it is damaged or cut"
        )
    facts: dict[str, Any] = encoder_facts(contents, section, ROTARY_HEADS)
    clip = ClipConfig(frames=int(contents.hint("frames", FRAMES)), fps=float(contents.hint("fps", FPS)))
    return Recipe(
        name="vjepa2_1-import",
        system="vjepa2_1",
        data=data_of(contents, section, contents.hint("image_size", SIZE), clip),
        mask=TubesMask(),
        model=ModelConfig(
            **facts,
            positions="rope3d",
            rope_grid=TRAINED_PIXELS // facts["patch_size"],
            taps=taps,
            image_stem=contents.has(f"{section}.patch_embed_img.proj.weight"),
            modality_embeddings=contents.has(f"{section}.img_mod_embed"),
        ),
        predictor=predictor_of(contents, facts["dim"]),
        objective=ObjectiveConfig(kind="l1", reduction="pair"),
    )


def predictor_of(contents: Contents, dim: int) -> NarrowPredictorConfig:
    """The predictor's part: levels it reads, width of a level it predicts, a head for context tokens.

    Raises:
        CheckpointError: its projections fit no whole number of levels.
    """
    fused = contents.has("predictor.predictor_embed.0.weight")
    if not fused and not contents.has("predictor.predictor_embed.weight"):
        return NarrowPredictorConfig(mask_token_init="zero")
    reads = contents.shape(f"predictor.predictor_embed.{'0.' if fused else ''}weight", 2)[1]
    says, width = contents.shape("predictor.predictor_proj.weight", 2)
    levels = reads // dim
    if reads % dim or says % levels:
        raise CheckpointError(
            f"'{contents.path}': a predictor that reads {reads} and says {says} channels has no whole number of levels "
            f"of an encoder {dim} wide"
        )
    return NarrowPredictorConfig(
        dim=width,
        depth=contents.count("predictor.predictor_blocks."),
        heads=int(contents.hint("predictor_heads", max(width // 32, 1))),
        mlp_ratio=ratio_of(contents.shape("predictor.predictor_blocks.0.mlp.fc1.weight", 2)[0], width),
        mask_tokens=max(contents.count("predictor.mask_tokens."), 1),
        mask_token_init="zero",
        levels=levels,
        out_dim=None if says // levels == dim else says // levels,
        context_head=contents.has("predictor.predictor_proj_context.weight"),
    )


def _section(contents: Contents) -> str | None:
    """The encoder's section of a file with this system's names."""
    section = encoder_section(contents)
    return section if section is not None and contents.count(f"{section}.norms_block.") else None


def _from_teacher(contents: Contents) -> bool:
    return "ema_encoder" in contents.sections() or contents.has("predictor.predictor_embed.weight")


_AS_TRAINED = "prepared as its authors evaluate: ImageNet mean and deviation, short side to crop·256/224, centre crop"
_SIZE = f"rotary weights hold no image size: {SIZE} px and {FRAMES} frames unless hints say otherwise"
_IMAGES = "images have a stem of their own: as_images=True (--as-images) takes it"
_GRID = "the predictor scales its grid to 256 px as training does; torch.hub builds it without"
_TEACHER = "distilled: the predictor speaks of the teacher's features (ViT-G, 1664 channels), not of this encoder's"

VJEPA21 = register_layout(
    Layout(
        "vjepa2_1-official",
        "V-JEPA 2.1 as published (g, G)",
        "V-JEPA 2.1",
        is_vjepa21,
        vjepa21_recipe,
        VJEPA21_OFFICIAL,
        notes=(_AS_TRAINED, _SIZE, _IMAGES, _GRID),
    )
)
VJEPA21_STUDENT = register_layout(
    Layout(
        "vjepa2_1-distilled",
        "V-JEPA 2.1 distilled from G, as published (B, L)",
        "V-JEPA 2.1",
        is_distilled,
        vjepa21_recipe,
        VJEPA21_DISTILLED,
        notes=(_AS_TRAINED, _SIZE, _IMAGES, _GRID, _TEACHER),
    )
)
