"""What a training sample costs in floating-point operations, counted once before the first step."""

from __future__ import annotations

from functools import cache

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from openjepa.config import Recipe
from openjepa.config.schema import DataConfig, TrainConfig
from openjepa.methods import build_method
from openjepa.objectives.across import alone
from openjepa.training.lanes import plan_lanes
from openjepa.types import Batch, Progress

_SAMPLES = 64  # masks differ between samples: one batch of them stands for all
_SHAPING = ("image_size", "channels", "views", "clip", "streams")  # what of the data decides shapes


class _ShapesOnly(FakeTensorMode):
    """Tensors without values.

    Where there is no CUDA, torch's mode pretends a device. Autograd then starts a thread for it with the next backward
    pass, and no process forked from this one can ever run another: nothing here is on a device, so nothing is pretended.
    """

    avoid_device_init = False


def flops_per_sample(recipe: Recipe) -> float:
    """Floating-point operations of one sample's forward and backward pass, a multiply-add counted as two.

    Counts what the method really does (context, target and predictor passes, all blocks, padding included) with
    :class:`torch.utils.flop_counter.FlopCounterMode`: matrix products, convolutions and attention; not normalisations,
    activations, the optimizer or the moving average. With several streams, the mean over a batch's samples. Runs on
    tensors that have a shape and no values, so it takes about a second for any size, needs no memory and draws no random
    number. Seeds cost the same.
    """
    return _count(
        Recipe(
            name="flops",
            method=recipe.method,
            data=DataConfig(**{name: getattr(recipe.data, name) for name in _SHAPING}),
            mask=recipe.mask,
            model=recipe.model,
            predictor=recipe.predictor,
            target=recipe.target,
            objective=recipe.objective,
            train=TrainConfig(batch_size=_some(recipe), activation_checkpointing=recipe.train.activation_checkpointing),
        ).model_dump_json()
    )


def _some(recipe: Recipe) -> int:
    """Samples to count: a batch, or where it is large so many that every stream keeps its share."""
    return max(min(_SAMPLES, recipe.train.batch_size), len(recipe.data.streams))


@cache
def _count(plain: str) -> float:
    """The count for a recipe as JSON."""
    recipe = Recipe.model_validate_json(plain)
    samples = recipe.train.batch_size
    shapes_only = _ShapesOnly(allow_non_fake_inputs=True)
    with torch.device("meta"):
        method = build_method(recipe)
    with shapes_only:  # on the device "cpu", which autocast and generators know, and "meta" is not
        method.to_empty(device="cpu").train()
    lanes = plan_lanes(recipe, samples)
    total = 0
    for lane in lanes:
        order = torch.arange(lane.rows)
        masks = [lane.masker(recipe)(order, 0, 0)]
        count = method.count(masks, lane.rows)  # reads ids, which have values
        with alone(), shapes_only, FlopCounterMode(display=False) as counter:  # shapes are nothing to exchange
            shape = (lane.rows, recipe.data.channels)
            inputs = {name: torch.empty(*shape, *side) for name, side in lane.inputs.items()}
            method(Batch(inputs, order, order), masks, Progress(0, 1), count).loss_sum.backward()
        total += counter.get_total_flops()
    return total / samples
