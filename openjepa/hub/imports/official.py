"""The published I-JEPA, V-JEPA and V-JEPA 2 files as recipes of ours (official.md §6.1–§6.3)."""

from __future__ import annotations

from typing import Any

from openjepa.config.schema import (
    ClipConfig,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    Recipe,
    TubesMask,
)
from openjepa.hub.imports.contents import Contents
from openjepa.hub.imports.infer import HEADS, ROTARY_HEADS, channels_of, encoder_facts, find_grid, predictor_facts
from openjepa.hub.imports.layout import Layout, register_layout
from openjepa.hub.official import IJEPA_OFFICIAL, VJEPA2_OFFICIAL, VJEPA_OFFICIAL
from openjepa.models.positions import Positions

ENCODERS = ("target_encoder", "encoder", "ema_encoder")
ROTARY_SIZE = 256  # of the published phases but the last of vitg-384.pt; rotary weights do not tell
EVAL_CROP = 224 / 256  # of the short side, which is what evaluation resizes to (official.md §6.7)
FPS = 4.0  # of V-JEPA 2's training; V-JEPA took every fourth frame
_NEWER = ("action_encoder.", "norms_block.", "patch_embed_img.", "mod_embed")


def encoder_section(contents: Contents) -> str | None:
    """The section whose encoder tells the architecture; None where there is none."""
    return next((name for name in ENCODERS if contents.has(f"{name}.patch_embed.proj.weight")), None)


def data_of(contents: Contents, section: str, size: int | list[int], clip: ClipConfig | None) -> DataConfig:
    """Preprocessing of the published evaluations: ImageNet statistics, short side int(crop·256/224), centre crop."""
    pixels = size if isinstance(size, int) else (int(size[0]), int(size[1]))
    return DataConfig(
        image_size=pixels,
        channels=channels_of(contents, section),
        eval_crop=EVAL_CROP,
        interpolation="bilinear",
        clip=clip,
    )


def _plain(contents: Contents) -> str | None:
    """The encoder's section of a file that none of the later systems wrote."""
    section = encoder_section(contents)
    if section is None or any(mark in key for key in contents.shapes for mark in _NEWER):
        return None
    return section


def _stem_axes(contents: Contents, section: str) -> int:
    return len(contents.shapes[f"{section}.patch_embed.proj.weight"])


def is_ijepa(contents: Contents) -> bool:
    """Patches of images, fixed positions."""
    section = _plain(contents)
    return section is not None and _stem_axes(contents, section) == 4


def is_vjepa(contents: Contents) -> bool:
    """Tubelets and fixed positions. Published V-JEPA 2 files still hold such a table: they have more than two mask tokens."""
    section = _plain(contents)
    if section is None or _stem_axes(contents, section) != 5 or not contents.has(f"{section}.pos_embed"):
        return False
    return contents.count("predictor.mask_tokens.") <= 2


def is_vjepa2(contents: Contents) -> bool:
    """Tubelets, and no table that is read."""
    section = _plain(contents)
    if section is None or _stem_axes(contents, section) != 5:
        return False
    return not contents.has(f"{section}.pos_embed") or contents.count("predictor.mask_tokens.") != 2


def ijepa_recipe(contents: Contents) -> Recipe:
    """Architecture of an I-JEPA file: the grid comes from the table of positions, heads from the published widths."""
    section = encoder_section(contents)
    assert section is not None
    facts = encoder_facts(contents, section, HEADS)
    patch, size = facts["patch_size"], contents.hint("image_size")
    if size is None:
        if not contents.has(f"{section}.pos_embed"):
            raise contents.ask("image_size", "the size of its images")
        size = find_grid(contents, f"{section}.pos_embed", Positions(), facts["dim"], None)[0] * patch
    return Recipe(
        name="ijepa-import",
        system="ijepa",
        data=data_of(contents, section, size, None),
        model=ModelConfig(**facts, init="ijepa"),
        predictor=predictor_facts(contents, facts["heads"]),
    )


def vjepa_recipe(contents: Contents) -> Recipe:
    """Architecture of a V-JEPA file: frames and image size come from the table of positions."""
    section = encoder_section(contents)
    assert section is not None
    facts = encoder_facts(contents, section, HEADS)
    tubelet, patch, uniform = facts["tubelet_size"], facts["patch_size"], bool(contents.hint("uniform_power", True))
    frames, size = contents.hint("frames"), contents.hint("image_size")
    if frames is None or size is None:
        spec = Positions("sincos3d", uniform_power=uniform)
        grid = find_grid(contents, f"{section}.pos_embed", spec, facts["dim"], int(frames or 16) // tubelet)
        frames, size = frames or grid[0] * tubelet, size or grid[1] * patch
    clip = ClipConfig(frames=int(frames), stride=4) if not contents.hint("fps") else _clip(contents, frames)
    return Recipe(
        name="vjepa-import",
        system="vjepa",
        data=data_of(contents, section, size, clip),
        mask=TubesMask(),
        model=ModelConfig(**facts, positions="sincos3d", uniform_power=uniform),
        predictor=predictor_facts(contents, facts["heads"], mask_token_init="zero"),
        objective=ObjectiveConfig(kind="l1", reduction="pair"),
    )


def vjepa2_recipe(contents: Contents) -> Recipe:
    """Architecture of a V-JEPA 2 file: rotary, so that neither image size nor frames are in it."""
    section = encoder_section(contents)
    assert section is not None
    facts: dict[str, Any] = encoder_facts(contents, section, ROTARY_HEADS)
    return Recipe(
        name="vjepa2-import",
        system="vjepa2",
        data=data_of(
            contents, section, contents.hint("image_size", ROTARY_SIZE), _clip(contents, contents.hint("frames", 64))
        ),
        mask=TubesMask(),
        model=ModelConfig(**facts, positions="rope3d", rope_pairing="tiled"),
        predictor=predictor_facts(contents, None, mask_token_init="zero"),
        objective=ObjectiveConfig(kind="l1", reduction="pair"),
    )


def _clip(contents: Contents, frames: Any) -> ClipConfig:
    return ClipConfig(frames=int(frames), fps=float(contents.hint("fps", FPS)))


_AS_TRAINED = "prepared as its authors evaluate: ImageNet mean and deviation, short side to crop·256/224, centre crop"
_SIZE = "rotary weights hold no image size: 256 px and 64 frames unless hints or the model's name say otherwise"

IJEPA = register_layout(
    Layout(
        "ijepa-official", "I-JEPA as published", "I-JEPA", is_ijepa, ijepa_recipe, IJEPA_OFFICIAL, notes=(_AS_TRAINED,)
    )
)
VJEPA = register_layout(
    Layout(
        "vjepa-official", "V-JEPA as published", "V-JEPA", is_vjepa, vjepa_recipe, VJEPA_OFFICIAL, notes=(_AS_TRAINED,)
    )
)
VJEPA2 = register_layout(
    Layout(
        "vjepa2-official",
        "V-JEPA 2 as published",
        "V-JEPA 2",
        is_vjepa2,
        vjepa2_recipe,
        VJEPA2_OFFICIAL,
        notes=(_AS_TRAINED, _SIZE),
    )
)
