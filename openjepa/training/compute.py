"""What a training sample costs in floating-point operations, counted once before the first step."""

from __future__ import annotations

from functools import cache

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from openjepa.config import Recipe
from openjepa.config.schema import DataConfig
from openjepa.masking import build_masker
from openjepa.methods import build_method
from openjepa.objectives.across import alone
from openjepa.types import Batch, Progress

_SAMPLES = 64  # masks differ between samples: one batch of them stands for all


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
    activations, the optimizer or the moving average. Runs on tensors that have a shape and no values, so it takes about
    a second for any size, needs no memory and draws no random number. Seeds cost the same.
    """
    return _count(
        Recipe(
            name="flops",
            method=recipe.method,
            data=DataConfig(image_size=recipe.data.image_size, channels=recipe.data.channels, views=recipe.data.views),
            mask=recipe.mask,
            model=recipe.model,
            predictor=recipe.predictor,
            target=recipe.target,
            objective=recipe.objective,
            train=recipe.train.model_copy(update={"batch_size": min(_SAMPLES, recipe.train.batch_size)}),
        ).model_dump_json()
    )


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
    masker = build_masker(recipe.mask, recipe.grid, recipe.seed)
    order = torch.arange(samples)
    masks = [masker(order, epoch=0, step=0)]
    count = method.count(masks, samples)  # reads ids, which have values
    with alone(), shapes_only, FlopCounterMode(display=False) as counter:  # shapes are nothing to exchange
        shape = (samples, recipe.data.channels)
        inputs = {name: torch.empty(*shape, *side) for name, side in recipe.inputs.items()}
        method(Batch(inputs, order, order), masks, Progress(0, 1), count).loss_sum.backward()
    return counter.get_total_flops() / samples
