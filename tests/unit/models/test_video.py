"""Clips: tubelets, positions through time, any length and shape, mask pairs in one predictor call."""

from __future__ import annotations

import math

import pytest
import torch

from openjepa.config.schema import ModelConfig
from openjepa.errors import ConfigError
from openjepa.models import NarrowPredictor, VisionTransformer, build_encoder
from openjepa.models.positions import Positions, sincos3d
from openjepa.models.rotary import rotary3d, rotate
from openjepa.types import Ids, Tokens

KINDS = [
    Positions("sincos3d"),
    Positions("sincos3d", uniform_power=False),
    Positions("rope3d"),
    Positions("rope3d", pairing="tiled"),
]

# official.md §1.1: 3-D stems, patch 16, tubelet 2
PUBLISHED_MILLIONS = {"vit_tiny": 5.63, "vit_small": 21.88, "vit_base": 86.24, "vit_large": 303.89, "vit_huge": 631.65}


def tiny(**changes: object) -> VisionTransformer:
    torch.manual_seed(0)
    options = {
        "image_size": (16, 24), "frames": 4, "tubelet_size": 2, "patch_size": 8, "dim": 32, "depth": 2, "heads": 2,
        "positions": Positions("sincos3d"), **changes,
    }  # fmt: skip
    return VisionTransformer(**options).eval()


def predictor(positions: Positions, **changes: object) -> NarrowPredictor:
    torch.manual_seed(1)
    options = {"embed_dim": 32, "grid": (2, 2, 3), "dim": 24, "depth": 2, "heads": 2, "mask_tokens": 2, **changes}
    return NarrowPredictor(positions=positions, **options).eval()


@pytest.mark.parametrize("name", PUBLISHED_MILLIONS)
def test_published_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        model = build_encoder(ModelConfig(arch=name, positions="rope3d"), (224, 224), frames=16)
    assert model.grid == (8, 14, 14)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED_MILLIONS[name], rel=1.5e-3)
    assert model.state_dict().keys() >= {"patch_embed.proj.weight"}
    assert not any("pos" in key or "rope" in key for key in model.state_dict())


def test_the_stem_is_a_convolution_over_tubelets() -> None:
    model, x = tiny(), torch.randn(2, 3, 5, 19, 24)  # a frame and three rows are left over
    expected = model.patch_embed.proj(x).flatten(2).transpose(1, 2)
    assert torch.allclose(model.patch_embed(x), expected, atol=1e-5)


def test_printed_positions() -> None:
    """Vectors printed in official.md §1.5, computed with numpy there."""
    uniform = "841471 .046399 .002154 .540302 .998923 .999998 .909297 .092699 .004309 -.416147 .995694 .999991 .141120 .138798 .006463 -.989992"
    plain = ".841471 .099833 .01 .001 .540302 .995004 .99995 1 .909297 .019999 -.416147 .9998 .141120 .029996 -.989992 .99955"
    place = (1 * 3 + 2) * 4 + 3
    for text, kind in (("." + uniform, True), (plain, False)):
        expected = torch.tensor([float(number) for number in text.split()])
        assert torch.allclose(sincos3d(16, (2, 3, 4), kind)[place], expected, atol=1e-6)


def test_printed_rotation() -> None:
    """Vectors printed in official.md §1.6: head of 12 channels, x = 1..12 at (1, 2, 3)."""
    x = torch.arange(1.0, 13.0)
    place = (1 * 3 + 2) * 4 + 3
    printed = {
        "tiled": "-1.142640 2.009900 -1.744977 4.029800 -7.536519 6.098793 -10.187407 8.138391 -10.321133 10.265460 -12.583358 12.324551",
        "interleaved": "-1.142640 1.922076 2.959851 4.029800 -7.536519 2.049606 6.838611 8.138391 -10.321133 -8.629845 10.635104 12.324551",
    }
    for pairing, text in printed.items():
        expected = torch.tensor([float(number) for number in text.split()])
        assert torch.allclose(rotate(x, rotary3d(12, (2, 3, 4), pairing)[:, place]), expected, atol=1e-5)


def test_interleaved_rotation_sees_relative_positions_only() -> None:
    query, key = torch.randn(2, 16)
    for pairing, same in (("interleaved", True), ("tiled", False)):
        table = rotary3d(16, (4, 4, 4), pairing)
        scores = []
        for shift in (0, 1, 16, 21):  # the same offset between query and key, elsewhere in the clip
            scores.append(rotate(query, table[:, 22 + shift]) @ rotate(key, table[:, shift]))
        spread = torch.stack(scores).std()
        assert (spread < 1e-5) == same


@pytest.mark.parametrize("positions", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(4, 16, 24), (8, 16, 24), (2, 32, 8), (7, 20, 20)])
def test_any_length_and_size(positions: Positions, shape: tuple[int, int, int]) -> None:
    model = tiny(positions=positions)
    x = torch.randn(2, 3, *shape)
    grid = (shape[0] // 2, shape[1] // 8, shape[2] // 8)
    assert model.grid_of(x) == grid
    out = model.forward_features(x)
    assert out.shape == (2, math.prod(grid), 32)
    narrow = predictor(positions)
    ids = torch.arange(math.prod(grid)).expand(2, -1)
    seen, asked = Ids(ids[:, ::2]), Ids(ids[:, 1::2])
    assert narrow.predict(Tokens(out[:, ::2], grid, seen), asked, (1,)).shape == (2, asked.index.shape[1], 32)


def test_time_goes_on_and_space_is_stretched() -> None:
    native, spec = (2, 2, 2), Positions("sincos3d")
    table = spec.native_table(48, native)
    longer = spec.table_for(table, native, (4, 2, 2))
    assert torch.equal(longer[:8], table)
    assert torch.equal(longer, sincos3d(48, (4, 2, 2)))
    finer = spec.table_for(table, native, (2, 4, 4))
    rows = finer.view(2, 4, 4, 48)[0, :, 0, 16]  # sin of the row: patch centres over the native two rows
    assert torch.allclose(rows, torch.tensor([-0.25, 0.25, 0.75, 1.25]).sin())


@pytest.mark.parametrize("positions", KINDS, ids=str)
def test_an_image_is_a_clip_of_one_tubelet(positions: Positions) -> None:
    model, image = tiny(positions=positions), torch.randn(2, 3, 16, 24)
    clip = image[:, :, None].expand(-1, -1, 2, -1, -1)
    assert torch.equal(model.forward_features(image), model.forward_features(clip))


@pytest.mark.parametrize("positions", KINDS, ids=str)
def test_hidden_tokens_are_never_seen(positions: Positions) -> None:
    model, x = tiny(positions=positions), torch.randn(1, 3, 4, 16, 24)
    keep = Ids(torch.tensor([[0, 4, 7]]))
    changed = x.clone()
    changed[:, :, 2:, 8:, 16:] += 3  # token (1, 1, 2) = 11
    assert torch.equal(model.forward_features(x, keep), model.forward_features(changed, keep))
    padded = Ids(torch.tensor([[0, 4, 7, 0]]), torch.tensor([[True, True, True, False]]))
    assert torch.allclose(model.forward_features(x, padded)[:, :3], model.forward_features(x, keep), atol=1e-5)


@pytest.mark.parametrize("positions", KINDS, ids=str)
def test_order_of_ids_means_nothing(positions: Positions) -> None:
    """Positions come from ids: sorted or not, the published argsort changes nothing (official.md §2.3)."""
    narrow, values = predictor(positions), torch.randn(1, 4, 32)
    seen, asked = torch.tensor([[0, 3, 7, 9]]), torch.tensor([[1, 2, 11]])
    shuffle = torch.tensor([2, 0, 3, 1])
    one = narrow.predict(Tokens(values, (2, 2, 3), Ids(seen)), Ids(asked), (1,))
    other = narrow.predict(Tokens(values[:, shuffle], (2, 2, 3), Ids(seen[:, shuffle])), Ids(asked.flip(1)), (1,))
    assert torch.allclose(one, other.flip(1), atol=1e-5)


@pytest.mark.parametrize("positions", KINDS, ids=str)
def test_pairs_that_fill_the_grid_need_no_padding(positions: Positions) -> None:
    """The way over the whole grid gives what padding and masking give, values and gradients, two pairs in one call."""
    narrow = predictor(positions)
    hidden = torch.rand(4, 12, generator=torch.Generator().manual_seed(0)) < 0.6
    hidden[:, 0], hidden[:, 5] = False, True
    seen, asked = _ids(~hidden), _ids(hidden)
    values = torch.randn(*seen.index.shape, 32)
    found = []
    for complement in (True, False):
        leaf = values.clone().requires_grad_()
        out = narrow.predict(Tokens(leaf, (2, 2, 3), seen), asked, (0, 1), complement)
        weight = asked.valid[..., None].float() * torch.linspace(0, 1, 32)
        narrow.zero_grad()
        (out * weight).sum().backward()
        grads = [leaf.grad * seen.valid[..., None], *(p.grad.clone() for p in narrow.parameters())]
        found.append([out * asked.valid[..., None], *grads])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=2e-5)


def test_each_pair_has_its_mask_token() -> None:
    narrow = predictor(Positions("rope3d"), zero_tokens=True)
    assert all(not token.any() for token in narrow.mask_tokens)
    with torch.no_grad():
        narrow.mask_tokens[1] += 1
    context = Tokens(torch.randn(1, 3, 32).repeat(2, 1, 1), (2, 2, 3), Ids(torch.tensor([[0, 1, 2]] * 2)))
    out = narrow.predict(context, Ids(torch.tensor([[4, 5]] * 2)), (0, 1))
    assert not torch.allclose(out[0], out[1])
    again = narrow.predict(context, Ids(torch.tensor([[4, 5]] * 2)), (2, 0))  # modulo their number
    assert torch.equal(again[0], out[0])
    assert torch.equal(again[1], out[0])


def test_checkpointing_changes_no_gradient() -> None:
    grads = []
    for enable in (False, True):
        model, narrow = tiny(positions=Positions("rope3d")), predictor(Positions("rope3d"))
        model.set_grad_checkpointing(enable)
        narrow.set_grad_checkpointing(enable)
        ids = Ids(torch.arange(6)[None])
        context = Tokens(model.forward_features(torch.linspace(-1, 1, 4608).view(1, 3, 4, 16, 24), ids), (2, 2, 3), ids)
        narrow.predict(context, Ids(torch.arange(6, 12)[None])).sum().backward()
        grads.append([p.grad for m in (model, narrow) for p in m.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))


def test_what_cannot_be_is_said_in_one_line() -> None:
    with pytest.raises(ConfigError, match="2 frames|one tubelet"):
        tiny().forward_features(torch.zeros(1, 3, 1, 16, 24))
    with pytest.raises(ConfigError, match="takes images"):
        VisionTransformer(image_size=(16, 16), patch_size=8, dim=32, depth=1, heads=2)(torch.zeros(1, 3, 2, 16, 16))
    with pytest.raises(ConfigError, match="rope3d needs"):
        tiny(dim=8, positions=Positions("rope3d"))


def _ids(cells: torch.Tensor) -> Ids:
    """Ids of true cells, padded with the row's first."""
    count = cells.sum(dim=1)
    order = (~cells).long().argsort(dim=1, stable=True)[:, : int(count.max())]
    valid = torch.arange(order.shape[1]) < count[:, None]
    return Ids(torch.where(valid, order, order[:, :1]), valid)
