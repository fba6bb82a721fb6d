"""Parts of a recipe that cannot work together, each said in one sentence that names the key to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openjepa.config.data_parts import ClipConfig, StreamConfig
    from openjepa.config.schema import Recipe

_FITTING = {  # method: kinds of predictor and of target that make sense with it
    "masked_latent": (("narrow", "linear", "none"), ("ema", "frozen", "self", "none")),
    "masked_pixel": (("pixel",), ("pixels",)),
    "joint_embedding": (("projector",), ("ema", "self", "none")),
    "world_model": (("action_causal",), ("frozen",)),
}
_OF_CLIPS = ("sincos3d", "rope3d", "sinusoid")  # positions with an axis of time


def misfits(recipe: Recipe) -> list[str]:
    """Parts of a recipe that cannot work together, one sentence each."""
    return [
        *_methods(recipe),
        *(_without_clips(recipe) if recipe.data.clip is None else _with_clips(recipe)),
        *_points(recipe),
        *_levels(recipe),
        *_stages(recipe),
    ]


def _methods(recipe: Recipe) -> list[str]:
    """Predictors, targets, views and masks that a method has no use for."""
    predictors, targets = _FITTING[recipe.method]
    wrong = []
    if recipe.predictor.kind not in predictors:
        wrong.append(
            f"predictor.kind {recipe.predictor.kind} does not go with method {recipe.method}: {', '.join(predictors)}"
        )
    if recipe.target.kind not in targets:
        wrong.append(f"target.kind {recipe.target.kind} does not go with method {recipe.method}: {', '.join(targets)}")
    if recipe.target.weights is not None and recipe.target.kind != "frozen":
        wrong.append(f"target.weights is read by target.kind frozen only, not {recipe.target.kind}")
    views = sum(view.count for view in recipe.data.views)
    if recipe.method == "joint_embedding":
        if views < 2:
            wrong.append(
                f"method joint_embedding compares views of an image: data.views gives {views}, at least 2 are needed"
            )
        if recipe.mask.kind != "none":
            wrong.append(f"method joint_embedding hides no patches: set mask.kind=none, not {recipe.mask.kind}")
        wrong += _unread(recipe)
    elif views:
        wrong.append(f"data.views is read by method joint_embedding only, not {recipe.method}")
    elif recipe.method == "world_model":
        wrong += _foresight(recipe)
    elif recipe.mask.kind == "none" and recipe.predictor.kind != "narrow":
        wrong.append("mask.kind none hides nothing to predict: choose multiblock, random or block")
    if recipe.objective.kind == "info_nce" and recipe.method == "masked_pixel":
        wrong.append("objective.kind info_nce does not go with method masked_pixel")
    return wrong


def _foresight(recipe: Recipe) -> list[str]:
    """What a model of frames and actions cannot do without."""
    wrong = []
    if recipe.data.clip is None:
        wrong.append("method world_model foretells frames: set data.clip.frames")
    if recipe.mask.kind != "none":
        wrong.append(f"method world_model hides nothing: set mask.kind=none, not {recipe.mask.kind}")
    return wrong


def _points(recipe: Recipe) -> list[str]:
    """What point clouds, which have no grid, leave no room for."""
    data, model, predictor = recipe.data, recipe.model, recipe.predictor
    if (data.points is None) != (model.positions != "coordinates"):
        return ["model.positions coordinates and data.points go together: set both or neither"]
    if data.points is None:
        return []
    wrong = []
    if data.clip is not None or data.streams or data.views:
        wrong.append("data.points excludes data.clip, data.streams and data.views: clouds have no pixels")
    if data.channels != 3:
        wrong.append(f"points have three coordinates: data.channels must be 3, not {data.channels}")
    if recipe.mask.kind != "none":
        wrong.append(f"mask.kind {recipe.mask.kind} is for grids: set mask.kind=none for point clouds")
    if model.class_token or model.taps > 1:
        wrong.append(
            "an encoder of points has no class token and one final norm: unset model.class_token and model.taps"
        )
    if predictor.kind != "narrow" or predictor.mask_tokens > 1:
        wrong.append("point clouds need predictor.kind=narrow with one mask token")
    return wrong


def _without_clips(recipe: Recipe) -> list[str]:
    """What goes with clips only."""
    model, wrong = recipe.model, []
    if recipe.mask.kind in ("tubes", "random_tube"):
        wrong.append(f"mask.kind {recipe.mask.kind} is for clips: set data.clip.frames, or choose multiblock or random")
    if model.positions in _OF_CLIPS:
        wrong.append(f"model.positions {model.positions} is for clips: set data.clip.frames, or choose sincos2d")
    if recipe.data.streams:
        wrong.append("data.streams is read by video recipes only: set data.clip.frames")
    return wrong


def _with_clips(recipe: Recipe) -> list[str]:
    """What never goes with clips, and clips that cannot be."""
    clip, model, wrong = recipe.data.clip, recipe.model, []
    assert clip is not None
    parts: list[tuple[str, ClipConfig | StreamConfig]] = [("data.clip", clip)]
    parts += [(f"data.streams[{number}]", stream) for number, stream in enumerate(recipe.data.streams)]
    for key, part in parts:
        if part.fps is not None and part.stride is not None:
            wrong.append(f"{key}.fps and {key}.stride exclude each other: set one of them to none")
        if part.frames is not None and part.frames < model.tubelet_size:
            wrong.append(f"{key}.frames {part.frames} is fewer than model.tubelet_size {model.tubelet_size}")
    if model.positions not in _OF_CLIPS:
        wrong.append(f"clips need model.positions sincos3d, rope3d or sinusoid, not {model.positions}")
    if recipe.mask.kind in ("multiblock", "block"):
        wrong.append(f"mask.kind {recipe.mask.kind} is for images: choose tubes, random_tube or random for clips")
    if recipe.method == "joint_embedding":
        wrong.append("method joint_embedding compares views of images: it has no clips (unset data.clip)")
    return wrong


def _levels(recipe: Recipe) -> list[str]:
    """Taps, stems and modalities (V-JEPA 2.1) where nothing reads them."""
    model, predictor, wrong = recipe.model, recipe.predictor, []
    if recipe.data.clip is None:
        for key in ("image_stem", "modality_embeddings"):
            if getattr(model, key):
                wrong.append(f"model.{key} tells images from clips: set data.clip.frames, or model.{key}=false")
    if model.rope_grid is not None and model.positions != "rope3d":
        wrong.append(f"model.rope_grid is read by model.positions rope3d only, not {model.positions}")
    if model.tap_blocks is not None and len(model.tap_blocks) != model.taps:
        wrong.append(f"model.tap_blocks names {len(model.tap_blocks)} blocks, model.taps says {model.taps}")
    if predictor.kind != "narrow" or predictor.levels == 1:
        return wrong
    if predictor.levels > model.taps:
        wrong.append(f"predictor.levels {predictor.levels} is more than model.taps {model.taps}")
    if recipe.target.layers > 1:
        wrong.append(
            f"predictor.levels joins outputs, target.layers {recipe.target.layers} averages them: set one to 1"
        )
    if recipe.objective.pooled > 0:
        wrong.append("objective.pooled compares one level: set it to 0, or predictor.levels to 1")
    return wrong


def _stages(recipe: Recipe) -> list[str]:
    """Stages of one name."""
    names = [stage.name for stage in recipe.stages]
    return [f"recipe stages need names of their own, not {', '.join(names)}"] if len(set(names)) < len(names) else []


def _unread(recipe: Recipe) -> list[str]:
    """What joint embedding would silently leave out."""
    target, objective = recipe.target, recipe.objective
    wrong = []
    if target.transform != "none":
        wrong.append(
            f"joint_embedding compares projections as they are: set target.transform=none, not {target.transform}"
        )
    if target.layers > 1:
        wrong.append(f"joint_embedding projects the last layer: target.layers must be 1, not {target.layers}")
    if objective.granularity != "token":
        wrong.append("joint_embedding has no blocks to compare: set objective.granularity=token")
    if objective.pooled > 0:
        wrong.append("joint_embedding compares nothing but pooled features: set objective.pooled=0")
    if objective.kind == "info_nce" and objective.views == "centroid":
        wrong.append("objective.kind info_nce tells views apart, and a centroid is none: set objective.views=pairs")
    if objective.kind == "info_nce" and len(set(recipe.inputs.values())) > 1:
        wrong.append("objective.kind info_nce compares views of one size: give all data.views the same image_size")
    return wrong
