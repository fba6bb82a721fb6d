"""Which parameters decay, and AdamW against the definition."""

from __future__ import annotations

import torch

from openjepa.config.schema import DataConfig, ModelConfig, NarrowPredictorConfig, OptimConfig, Recipe
from openjepa.methods import build_method
from openjepa.optim import build_optimizer, decays, set_schedule


def test_groups_of_a_real_method() -> None:
    recipe = Recipe(
        name="t",
        data=DataConfig(image_size=16),
        model=ModelConfig(arch=None, dim=16, depth=1, heads=2, patch_size=4, positions="learned"),
        predictor=NarrowPredictorConfig(dim=8, depth=1, heads=2),
    )
    method = build_method(recipe)
    named = dict(method.named_parameters())
    assert not decays("predictor.mask_token", named["predictor.mask_token"])
    assert decays("predictor.mask_token", named["predictor.mask_token"], decay_mask_tokens=True)
    assert not decays("online.pos_embed", named["online.pos_embed"])
    assert not decays("online.norm.weight", named["online.norm.weight"])
    assert decays("online.blocks.0.attn.qkv.weight", named["online.blocks.0.attn.qkv.weight"])
    optimizer = build_optimizer(method, OptimConfig())
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for name, p in named.items() if not name.startswith("target.")}
    set_schedule(optimizer, 0.5, 0.25)
    assert {(g["decay"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups} == {
        (True, 0.5, 0.25),
        (False, 0.5, 0.0),
    }


def test_first_adamw_step_is_the_formula() -> None:
    layer = torch.nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    optimizer = build_optimizer(layer, OptimConfig())
    set_schedule(optimizer, 0.1, 0.5)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    # First step: m̂/√v̂ = sign of the gradient (all ones here); decoupled decay multiplies by 1 − lr·wd.
    torch.testing.assert_close(layer.weight.detach(), before * (1 - 0.05) - 0.1, atol=1e-5, rtol=1e-5)
