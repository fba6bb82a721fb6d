"""What in a recipe makes runs sick, and what to change: the doctor's second half."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from openjepa.config import Recipe
from openjepa.config.schema import MultiblockMask
from openjepa.models.sizes import SIZES

HIGH_LR = 2e-3  # AdamW on ViTs: published recipes peak between 1e-4 and 2e-3
LARGE_BATCH = 1024  # ... and go above with batches of thousands (MAE: 2.4e-3 for 4096)
SHORT_WARMUP = 0.02  # share of the run
HEAVY_DECAY = 1.0
FAST_TARGET = 0.9  # EMA momentum below which the target is nearly the encoder itself


@dataclass(frozen=True)
class Cause:
    """A choice of the recipe that explains a symptom. key: the recipe key. sentence: what is so; advice: what to set."""

    key: str
    sentence: str
    advice: str


def causes_of(recipe: Recipe, symptoms: Set[str], *, sick: bool) -> list[Cause]:
    """Choices of ``recipe`` that explain a sick run, or endanger a healthy one; in a sick run at least one piece of advice."""
    if "identical images" in symptoms:
        advice = "openjepa data inspect DATA and openjepa visualize masks DATA show what is read"
        return [Cause("data.source", "the images cannot be told apart", advice)]
    found = [cause for look in _LOOKS if (cause := look(recipe)) is not None]
    if "has not moved" in symptoms:
        found.insert(0, Cause("optim.lr", f"optim.lr={recipe.optim.lr:g} changed nothing", "raise it, or train longer"))
    if sick and not found:
        found.append(_usual(symptoms))
    return found


def _usual(symptoms: Set[str]) -> Cause:
    """What to try when the recipe looks right."""
    if symptoms & {"not finite", "gradient spikes"}:
        return Cause("optim.lr", "the recipe looks right", "optim.clip=1.0, a lower optim.lr, or train.precision=fp32")
    if symptoms & {"low rank", "fallen rank", "fallen LiDAR", "all alike"}:
        return Cause(
            "objective.regularisers", "the recipe looks right, but nothing holds the rank in a run this short",
            "objective.regularisers=[{kind: vicreg, weight: 1, covariance: 1}], a lower optim.lr, or a longer run",
        )  # fmt: skip
    return Cause("train.length", "the recipe looks right", "train longer, or hide more (mask.kind, mask.ratio)")


def _identity(recipe: Recipe) -> Cause | None:
    """Target equal to the encoder, with nothing that prevents collapse."""
    if recipe.method == "masked_pixel" or _held(recipe):
        return None
    if recipe.target.kind in ("self", "none"):
        return Cause(
            "target.kind", f"target.kind={recipe.target.kind} without a regulariser: agreeing on a constant is a solution",
            "target.kind=ema, or objective.regularisers=[{kind: vicreg, weight: 1, covariance: 1}]",
        )  # fmt: skip
    if recipe.target.averaged and min(recipe.target.momentum) < FAST_TARGET:
        low = min(recipe.target.momentum)
        return Cause(
            "target.momentum", f"target.momentum starts at {low:g}: the target is nearly the encoder itself",
            "target.momentum=[0.99,0.99] in short runs, [0.996,1.0] in long ones",
        )  # fmt: skip
    return None


def _held(recipe: Recipe) -> bool:
    """Whether a term holds variance."""
    return any(term.weight > 0 for term in recipe.objective.regularisers) or recipe.objective.kind == "info_nce"


def _open_mask(recipe: Recipe) -> Cause | None:
    if recipe.method == "joint_embedding":
        return None
    if recipe.mask.kind == "none":
        return Cause(
            "mask.kind", "mask.kind=none hides nothing, so there is nothing to predict", "mask.kind=multiblock"
        )
    if isinstance(recipe.mask, MultiblockMask) and recipe.mask.overlap:
        return Cause("mask.overlap", "mask.overlap=true leaves targets visible in the context", "mask.overlap=false")
    return None


def _lr(recipe: Recipe) -> Cause | None:
    if recipe.optim.lr > HIGH_LR * max(1.0, recipe.train.batch_size / LARGE_BATCH):
        return Cause("optim.lr", f"optim.lr={recipe.optim.lr:g} is high for AdamW on a ViT", "optim.lr=1e-3 or lower")
    return None


def _warmup(recipe: Recipe) -> Cause | None:
    warm, optim = recipe.optim.warmup, recipe.optim
    short = warm.value < 100 * SHORT_WARMUP if warm.unit == "percent" else warm.unit == "steps" and warm.value <= 10
    if short and (warm.value <= 1 or optim.start_lr >= 0.5 * optim.lr):
        return Cause("optim.warmup", f"optim.warmup={warm} starts at full speed", "optim.warmup='10 %'")
    return None


def _decay(recipe: Recipe) -> Cause | None:
    if recipe.optim.weight_decay > HEAVY_DECAY:
        sentence = f"optim.weight_decay={recipe.optim.weight_decay:g} shrinks weights faster than they learn"
        return Cause("optim.weight_decay", sentence, "optim.weight_decay=0.04")
    return None


def _nothing_to_predict(recipe: Recipe) -> Cause | None:
    objective = recipe.objective
    if objective.weight == 0 and objective.pooled == 0 and recipe.method == "masked_latent":
        return Cause("objective.weight", "nothing is predicted: only the regularisers are left", "objective.weight=1")
    return None


def _wide(recipe: Recipe) -> Cause | None:
    model = recipe.model
    width = model.dim or (SIZES[model.arch].dim if model.arch in SIZES else None)
    if recipe.predictor.kind == "narrow" and width is not None and recipe.predictor.dim >= width:
        return Cause(
            "predictor.dim", "the predictor is as wide as the encoder: it can do the work itself",
            f"predictor.dim={width // 2}",
        )  # fmt: skip
    return None


_LOOKS: tuple[Callable[[Recipe], Cause | None], ...] = (
    _identity, _open_mask, _nothing_to_predict, _lr, _warmup, _decay, _wide,
)  # fmt: skip
