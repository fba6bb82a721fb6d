"""FLOPs: counted without values, equal to what a real pass counts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from openjepa.config import Recipe
from openjepa.masking import build_masker
from openjepa.methods import build_method
from openjepa.training.compute import flops_per_sample
from openjepa.types import Batch, Progress
from tests.tiny_runs import tiny_recipe


def really(recipe: Recipe) -> float:
    """The count of one real forward and backward pass."""
    rows = recipe.train.batch_size
    method, order = build_method(recipe).train(), torch.arange(rows)
    masks = [build_masker(recipe.mask, recipe.grid, 0)(order, epoch=0, step=0)]
    batch = Batch({"image": torch.rand(rows, 3, *recipe.image_hw)}, order, order)
    with FlopCounterMode(display=False) as counter:
        method(batch, masks, Progress(0, 1), method.count(masks, rows)).loss_sum.backward()
    return counter.get_total_flops() / rows


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("mask={kind: random, ratio: [0.5, 0.5]}",),
        ("target.kind=none",),
        ("predictor.kind=linear",),
        ("objective.regularisers=[{kind: sigreg}]",),
    ],
)
def test_the_count_is_that_of_a_real_pass(overrides: tuple[str, ...]) -> None:
    recipe = tiny_recipe(*overrides)
    state = torch.get_rng_state()
    assert flops_per_sample(recipe) == pytest.approx(really(recipe), rel=0.02)
    torch.set_rng_state(state)


def test_no_random_number_is_drawn_and_seeds_cost_the_same() -> None:
    state = torch.get_rng_state()
    first = flops_per_sample(tiny_recipe("model.dim=24"))
    assert torch.equal(state, torch.get_rng_state())
    assert flops_per_sample(tiny_recipe("model.dim=24", "seed=5")) == first


def test_a_transformer_costs_what_the_formula_says() -> None:
    """2 multiply-adds × 12 D² per token and block; ×3 with the backward pass; the target passes forward only."""
    recipe = tiny_recipe("model.dim=64", "model.depth=6", "mask={kind: random, ratio: [0.5, 0.5]}", "target.kind=none")
    tokens, blocks = 16, 6
    full = 2 * 12 * 64**2 * tokens * blocks
    encoder = 3 * full + 3 * full / 2  # the whole image with gradient, and the half that is context
    assert flops_per_sample(recipe) == pytest.approx(encoder, rel=0.1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_counting_leaves_processes_forked_later_able_to_train() -> None:
    code = (
        "import os, sys, torch\n"
        "from openjepa.config import load_recipe\n"
        "from openjepa.training.compute import flops_per_sample\n"
        "flops_per_sample(load_recipe('ijepa-tiny'))\n"
        "torch.ones(2, requires_grad=True).sum().backward()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        torch.ones(2, requires_grad=True).sum().backward()\n"
        "        os._exit(0)\n"
        "    except RuntimeError:\n"
        "        os._exit(1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
