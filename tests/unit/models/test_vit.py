"""The encoder: names and shapes of the published checkpoints, masked encoding, any size."""

from __future__ import annotations

import pytest
import torch

from openjepa.config.schema import ModelConfig
from openjepa.errors import ConfigError
from openjepa.models import SIZES, VisionTransformer, build_encoder
from openjepa.models.positions import Positions
from openjepa.types import Ids

# Parameters in millions without positions, official.md §1.1 (patch 16, 224 px); H/14 from the same table.
PUBLISHED_MILLIONS = {
    ("vit_tiny", 16): 5.49,
    ("vit_small", 16): 21.59,
    ("vit_base", 16): 85.65,
    ("vit_large", 16): 303.10,
    ("vit_huge", 16): 630.66,
    ("vit_huge", 14): 630.43,
    ("vit_giant", 16): 1011.09,
    ("vit_gigantic", 14): 1843,
}


def tiny(**changes: object) -> VisionTransformer:
    torch.manual_seed(0)
    options = {"image_size": (32, 32), "patch_size": 8, "dim": 32, "depth": 3, "heads": 2, **changes}
    return VisionTransformer(**options).eval()


@pytest.mark.parametrize(("name", "patch"), PUBLISHED_MILLIONS)
def test_published_parameter_counts(name: str, patch: int) -> None:
    with torch.device("meta"):
        model = build_encoder(ModelConfig(arch=name, patch_size=patch), (224, 224))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED_MILLIONS[name, patch], rel=1.5e-3)


def test_published_parameter_names() -> None:
    names = set(tiny(depth=1).state_dict())
    inner = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    stems = ["patch_embed.proj", "norm", *(f"blocks.0.{name}" for name in inner)]
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("weight", "bias")}


def test_keep_encodes_only_those_patches() -> None:
    model, x = tiny(), torch.randn(2, 3, 32, 32)
    keep = Ids(torch.tensor([[1, 5, 7], [0, 2, 15]]))
    before = model.forward_features(x, keep)
    changed = x.clone()
    changed[:, :, 24:, 0:8] += 5.0  # patch 12, which nobody keeps
    assert torch.equal(model.forward_features(changed, keep), before)
    changed[0, :, 8:16, 8:16] += 5.0  # patch 5 of the first sample
    assert not torch.allclose(model.forward_features(changed, keep)[0], before[0])


def test_padding_changes_nothing() -> None:
    model, x = tiny(), torch.randn(2, 3, 32, 32)
    short = model.forward_features(x[:1], Ids(torch.tensor([[3, 9]])))
    index = torch.tensor([[3, 9, 9, 9], [0, 1, 2, 3]])
    valid = torch.tensor([[True, True, False, False], [True] * 4])
    padded = model.forward_features(x, Ids(index, valid))
    torch.testing.assert_close(padded[0, :2], short[0])


@pytest.mark.parametrize("positions", ["sincos2d", "learned"])
@pytest.mark.parametrize("size", [(32, 32), (48, 40), (35, 33), (8, 64)])
def test_any_size(positions: str, size: tuple[int, int]) -> None:
    model = tiny(positions=Positions(positions))
    tokens = model.forward_features(torch.randn(1, 3, *size))
    assert tokens.shape == (1, (size[0] // 8) * (size[1] // 8), 32)
    assert tokens.isfinite().all()


def test_an_image_below_one_patch_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="smaller than one 8 px patch"):
        tiny().forward_features(torch.randn(1, 3, 7, 32))


def test_intermediates() -> None:
    model, x = tiny(), torch.randn(1, 3, 32, 32)
    taps = model.forward_intermediates(x, 2)
    assert len(taps) == 2
    torch.testing.assert_close(taps[-1], model.forward_features(x))
    raw = model.forward_intermediates(x, [0, -1], norm="none")
    torch.testing.assert_close(model.norm(raw[1]), taps[-1])
    assert not torch.allclose(raw[0], raw[1])


def test_checkpointed_gradients_are_equal() -> None:
    model, x = tiny(), torch.randn(2, 3, 32, 32)
    model.forward_features(x).square().sum().backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing()
    model.forward_features(x).square().sum().backward()
    for ours, theirs in zip(model.parameters(), plain, strict=True):
        torch.testing.assert_close(ours.grad, theirs)


def test_depth_rescale_is_the_only_difference_between_initialisations() -> None:
    plain, rescaled = tiny(init="ijepa"), tiny(init="vjepa2")
    for layer in range(3):
        factor = (2 * (layer + 1)) ** 0.5
        a, b = plain.blocks[layer], rescaled.blocks[layer]
        torch.testing.assert_close(a.attn.proj.weight / factor, b.attn.proj.weight)
        torch.testing.assert_close(a.mlp.fc2.weight / factor, b.mlp.fc2.weight)
        assert torch.equal(a.attn.qkv.weight, b.attn.qkv.weight)
    assert plain.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_drop_path_drops_whole_branches_in_training_only() -> None:
    model, x = tiny(drop_path=0.9), torch.randn(64, 3, 32, 32)
    assert torch.equal(model.forward_features(x), model.forward_features(x))
    model.train()
    assert not torch.equal(model.forward_features(x), model.forward_features(x))


def test_unknown_size_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'vit_small'"):
        build_encoder(ModelConfig(arch="vit_smal"), (32, 32))
    with pytest.raises(ConfigError, match=r"model\.depth must be given"):
        build_encoder(ModelConfig(arch=None, dim=32, heads=2), (32, 32))


def test_free_numbers_override_a_named_size() -> None:
    with torch.device("meta"):
        model = build_encoder(ModelConfig(arch="vit_tiny", depth=2), (224, 224), channels=5)
    assert (model.depth, model.embed_dim, model.patch_embed.proj.weight.shape[1]) == (2, SIZES["vit_tiny"].dim, 5)
