"""VideoMAE's counted positions, and the epsilon a recipe gives all layer norms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from openjepa.config.schema import ClipConfig, DataConfig, ModelConfig, PixelPredictorConfig, Recipe, TargetConfig
from openjepa.methods import build_method
from openjepa.models.positions import Positions, resample_positions, sinusoid

SINUSOID = Positions("sinusoid")


def recipe(**model: object) -> Recipe:
    return Recipe(
        name="small",
        method="masked_pixel",
        data=DataConfig(image_size=16, clip=ClipConfig(frames=4)),
        mask={"kind": "random_tube", "ratio": 0.5},
        model=ModelConfig(arch=None, dim=12, depth=1, heads=2, patch_size=4, positions="sinusoid", **model),
        predictor=PixelPredictorConfig(dim=8, depth=1, heads=2),
        target=TargetConfig(kind="pixels"),
        objective={"kind": "l2"},
    )


def test_a_token_has_the_sines_and_cosines_of_its_number() -> None:
    table = sinusoid(6, (2, 3, 5))
    assert table.shape == (30, 6)
    for token in (0, 7, 29):
        angles = [token / 10000 ** (2 * (channel // 2) / 6) for channel in range(6)]
        wanted = [math.cos(a) if channel % 2 else math.sin(a) for channel, a in enumerate(angles)]
        torch.testing.assert_close(table[token], torch.tensor(wanted), atol=1e-6, rtol=1e-5)


def test_longer_clips_go_on_counting_and_larger_frames_are_interpolated_frame_by_frame() -> None:
    native = SINUSOID.native_table(8, (2, 3, 4))
    longer = SINUSOID.table_for(native, (2, 3, 4), (5, 3, 4))
    torch.testing.assert_close(longer, sinusoid(8, (5, 3, 4)))
    torch.testing.assert_close(longer[:24], native)
    larger = SINUSOID.table_for(native, (2, 3, 4), (3, 6, 4))
    for frame in range(3):
        wanted = resample_positions(sinusoid(8, (3, 3, 4))[frame * 12 : frame * 12 + 12], (3, 4), (6, 4))
        torch.testing.assert_close(larger[frame * 24 : frame * 24 + 24], wanted)
    assert SINUSOID.table_for(native, (2, 3, 4), (3, 4)).shape == (12, 8)  # an image is a clip of one tubelet


def test_a_recipe_builds_networks_with_them_and_with_its_epsilon() -> None:
    method = build_method(recipe(norm_eps=1e-12))
    norms = [module for module in method.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 6
    assert {norm.eps for norm in norms} == {1e-12}
    assert method.online.pos_embed is not None
    torch.testing.assert_close(method.online.pos_embed[0], sinusoid(12, (2, 4, 4)))
    assert method.online.forward_features(torch.randn(2, 3, 6, 24, 16)).shape == (2, 3 * 6 * 4, 12)
    assert {m.eps for m in build_method(recipe()).modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


def test_they_are_for_clips_only() -> None:
    with pytest.raises(ValueError, match=r"model\.positions sinusoid is for clips"):
        Recipe(name="image", model=ModelConfig(positions="sinusoid"))
