"""Inflated patch projections give exactly the tokens of the input they were made from."""

import pytest
import torch

from openjepa.hub.inflate import flatten_time, inflate_channels, inflate_time
from openjepa.models.vit import PatchEmbed


def embed(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    patch, clip = weight.shape[-1], weight.ndim == 5
    layer = PatchEmbed(patch, weight.shape[1], weight.shape[0], weight.shape[2] if clip else None)
    with torch.no_grad():
        layer.proj.weight.copy_(weight)
        layer.proj.bias.zero_()
        return layer(x)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 7, 13])
def test_channels_that_repeat_give_the_same_tokens(channels: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 3, 4, 4)
    grown = inflate_channels(weight, channels)
    if channels >= 3:
        x = torch.randn(2, 3, 8, 8)
        shown, known = x[:, torch.arange(channels) % 3], x
    else:
        shown = torch.randn(2, channels, 8, 8)
        known = shown[:, torch.arange(3) % channels]
    assert grown.shape == (5, channels, 4, 4)
    assert torch.allclose(embed(grown, shown), embed(weight, known), atol=1e-5)
    assert torch.allclose(grown.sum(1), weight.sum(1), atol=1e-5)


def test_a_still_clip_gives_the_tokens_of_its_frame() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(5, 3, 4, 4), torch.randn(2, 3, 8, 8)
    still = x[:, :, None].expand(-1, -1, 4, -1, -1)
    inflated = inflate_time(weight, 4)
    assert inflated.shape == (5, 3, 4, 4, 4)
    assert torch.allclose(embed(inflated, still), embed(weight, x), atol=1e-5)
    assert torch.allclose(flatten_time(inflated), weight, atol=1e-6)
    moving = torch.randn(5, 3, 2, 4, 4)
    assert torch.allclose(embed(flatten_time(moving), x), embed(moving, still[:, :, :2]), atol=1e-5)


def test_the_dtype_stays() -> None:
    weight = torch.randn(5, 3, 4, 4).bfloat16()
    assert inflate_channels(weight, 4).dtype == inflate_time(weight, 2).dtype == torch.bfloat16
    assert inflate_channels(weight, 3) is weight
