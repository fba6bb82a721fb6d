"""Attention weights are the block's own: they reproduce its output, and sit where the patches are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from openjepa.config import build_recipe
from openjepa.errors import ConfigError
from openjepa.models import VisionTransformer
from openjepa.models.predictor import NarrowPredictor
from openjepa.models.transformer import Attention
from openjepa.types import Ids, MaskGroup
from openjepa.visualize import attention_maps, inside, latent
from openjepa.visualize.attention import Rollout, attention_weights, attentions, watch
from openjepa.visualize.attention_maps import encoder_attention, predictor_attention

GRID = (3, 4)


def _vit(**changes: object) -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"image_size": (12, 16), "patch_size": 4, "dim": 16, "depth": 3, "heads": 2}
    model = VisionTransformer(**{**sizes, **changes})
    for parameter in model.parameters():  # far from the small initialisation, where all attention is even
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.5)
    return model.eval()


def _images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 12, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("last", [None, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_weights_times_values_are_the_attention_itself(last: int | None, masked: bool) -> None:
    torch.manual_seed(0)
    layer = Attention(12, 3).double()
    nn.init.normal_(layer.qkv.weight, std=0.7)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    mask = None
    if masked:
        mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
        mask[0, ..., 3:] = False
    with torch.no_grad():
        weights = attention_weights(layer, x, mask, last)  # made in float32
        value = layer.qkv(x)[..., 24:].reshape(2, 5, 3, 4).transpose(1, 2)
        again = layer.proj((weights.double() @ value).transpose(1, 2).flatten(2))
        truth = layer(x, mask, last)
    assert weights.shape == (2, 3, last or 5, 5)
    torch.testing.assert_close(again, truth, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    if masked:
        assert bool((weights[0, ..., 3:] == 0).all())
        assert bool((weights[1] > 0).all())


def test_watching_changes_nothing_and_leaves_no_hook() -> None:
    model, images = _vit(), _images()
    before = model.forward_features(images)
    layers: list[int] = []
    watch(model, lambda: model.forward_features(images), lambda layer, _: layers.append(layer))
    assert layers == [0, 1, 2]
    assert torch.equal(model.forward_features(images), before)
    assert all(not m._forward_hooks for m in model.modules())


def test_an_attention_that_does_more_is_refused() -> None:
    class Odd(Attention):
        def forward(self, x: torch.Tensor, *others: object) -> torch.Tensor:
            return super().forward(x.flip(-1))

    model = _vit()
    odd = Odd(16, 2)
    odd.load_state_dict(model.blocks[1].attn.state_dict())
    model.blocks[1].attn = odd
    with pytest.raises(ConfigError, match="more than softmax"):
        encoder_attention(model, _images(), layer=1)
    assert all(not m._forward_hooks for m in model.modules())
    with pytest.raises(ConfigError, match="qkv"):
        attentions(nn.Linear(2, 2))


def test_from_a_patch_and_mean_over_patches() -> None:
    model, images = _vit(), _images(5)  # more than one chunk
    found: list[torch.Tensor] = []
    watch(model, lambda: model.forward_features(images), lambda _, w: found.append(w), [2])
    one = encoder_attention(model, images, patch=(1, -1), head="all")
    assert one.queries == ((1, 3),) * 5
    np.testing.assert_allclose(one.values.reshape(5, 2, -1), found[0][:, :, 7], rtol=1e-5)
    np.testing.assert_allclose(one.values.sum((2, 3)), 1, rtol=1e-5)
    mean = encoder_attention(model, images)
    np.testing.assert_allclose(mean.values.reshape(5, -1), found[0].mean((1, 2)), rtol=1e-5)
    second = encoder_attention(model, images, head="1", layer=-1)
    np.testing.assert_allclose(second.values[:, 0].reshape(5, -1), found[0][:, 1].mean(1), rtol=1e-5)
    assert mean.even == pytest.approx(1 / 12)


def test_a_class_token_is_told_apart() -> None:
    model, images = _vit(class_token=True), _images(2)
    found: list[torch.Tensor] = []
    watch(model, lambda: model.forward_features(images), lambda _, w: found.append(w), [0])
    maps = encoder_attention(model, images, layer=0, patch=(0, 0))
    np.testing.assert_allclose(maps.values[:, 0].reshape(2, -1), found[0][:, :, 1, 1:].mean(1), rtol=1e-5)
    np.testing.assert_allclose(maps.elsewhere[:, 0], found[0][:, :, 1, 0].mean(1), rtol=1e-5)
    assert "no patches" in inside._elsewhere(maps)[0]


def test_rollout_by_hand() -> None:
    first = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]], [[0.1, 0.9], [0.4, 0.6]]]])
    second = torch.tensor([[[[1.0, 0.0], [0.25, 0.75]], [[1.0, 0.0], [0.25, 0.75]]]])
    follow = Rollout()
    follow.add(0, first)
    follow.add(1, second)
    a = 0.5 * (np.array([[0.3, 0.7], [0.2, 0.8]]) + np.eye(2))
    b = 0.5 * (np.array([[1.0, 0.0], [0.25, 0.75]]) + np.eye(2))
    np.testing.assert_allclose(follow.value[0], b @ a, rtol=1e-6)
    model, images = _vit(), _images(2)
    maps = encoder_attention(model, images, rollout=True, patch=(2, 2))
    np.testing.assert_allclose(maps.values.sum((2, 3)), 1, rtol=1e-5)
    assert maps.names == ("rollout",)
    shallow = encoder_attention(model, images, rollout=True, layer=0, patch=(2, 2)).values
    one = encoder_attention(model, images, layer=0, patch=(2, 2)).values
    own = np.zeros(GRID)
    own[2, 2] = 0.5
    np.testing.assert_allclose(shallow, 0.5 * one + own, rtol=1e-5, atol=1e-6)


def _group(valid: bool) -> MaskGroup:
    context = Ids(torch.tensor([[0, 5, 11], [2, 7, 2]]), torch.tensor([[True, True, True], [True, True, False]]))
    if not valid:
        context = Ids(torch.tensor([[0, 5, 11], [2, 7, 9]]))
    targets = [Ids(torch.tensor([[1, 2], [0, 1]])), Ids(torch.tensor([[6, 10, 9], [5, 6, 10]]))]
    return MaskGroup([context], targets, [(0, 0), (0, 1)], GRID)


@pytest.mark.parametrize("valid", [False, True])
def test_a_hidden_patch_asks_the_visible_ones(valid: bool) -> None:
    model, images, group = _vit(), _images(2), _group(valid)
    predictor = NarrowPredictor(embed_dim=16, grid=GRID, dim=8, depth=2, heads=2).eval()
    for parameter in predictor.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.7)
    found: list[torch.Tensor] = []
    maps = predictor_attention(
        model, predictor, images, group, patch=(2, 2), head="all"
    )  # token 10, in the second block
    context = latent.Ids(group.contexts[0].index, group.contexts[0].valid)
    seen = model.forward_features(images, keep=context)
    tokens = attention_maps.Tokens(seen, GRID, context)
    watch(predictor, lambda: predictor.predict(tokens, group.targets[1]), lambda _, w: found.append(w), [1])
    weights = found[0][torch.arange(2), :, torch.tensor([1, 2])]  # column of token 10 in each row: (2, heads, 6)
    flat = maps.values.reshape(2, 2, 12)
    for row in range(2):
        for k, token in enumerate(context.index[row].tolist()):
            if context.valid is None or context.valid[row, k]:
                np.testing.assert_allclose(flat[row, :, token], weights[row, :, k], rtol=1e-4)
    names = [{0, 5, 11}, {2, 7} if valid else {2, 7, 9}]
    assert [set(np.flatnonzero(maps.seen[row])) for row in range(2)] == names
    assert bool((np.isnan(maps.values) == ~maps.seen[:, None]).all())
    np.testing.assert_allclose(np.nansum(maps.values, (2, 3)) + maps.elsewhere, 1, rtol=1e-5)
    assert maps.queries == ((2, 2), (2, 2))
    middle = predictor_attention(model, predictor, images, group)
    assert all(not maps.seen[row][cell] for row, cell in enumerate(middle.queries or ()))


def test_a_predictor_of_several_levels_reads_them_all() -> None:
    model, images, group = _vit(taps=2), _images(2), _group(False)
    predictor = NarrowPredictor(embed_dim=16, grid=GRID, dim=8, depth=2, heads=2, levels=2).eval()
    maps = predictor_attention(model, predictor, images, group)
    np.testing.assert_allclose(np.nansum(maps.values, (2, 3)) + maps.elsewhere, 1, rtol=1e-5)


def test_mistakes_are_named() -> None:
    model, images = _vit(), _images(2)
    predictor = NarrowPredictor(embed_dim=16, grid=GRID, dim=8, depth=1, heads=2).eval()
    for options, said in (
        ({"layer": 3}, "0 to 2"),
        ({"head": "2"}, "mean, all or 0 to 1"),
        ({"head": "maen"}, "mean, all"),
        ({"patch": (3, 0)}, "0,0 to 2,3"),
        ({"rollout": True, "head": "0"}, "leave it out"),
    ):
        with pytest.raises(ConfigError, match=said):
            encoder_attention(model, images, **options)
    with pytest.raises(ConfigError, match="not hidden"):
        predictor_attention(model, predictor, images, _group(False), patch=(0, 0))


def test_sheets_show_query_scale_and_hidden_area() -> None:
    model, images = _vit(), _images(2)
    pixels = (torch.rand(2, 3, 12, 16) * 255).to(torch.uint8)
    maps = encoder_attention(model, images, patch=(0, 1))
    sheet = inside.attention_sheet(pixels, maps, (4, 4), "title")
    colours = {tuple(c) for c in np.asarray(sheet).reshape(-1, 3)}
    assert (213, 94, 0) in colours, "the asking patch is framed"
    assert (253, 231, 37) in colours, "the scale's top"
    predictor = NarrowPredictor(embed_dim=16, grid=GRID, dim=8, depth=1, heads=2).eval()
    maps = predictor_attention(model, predictor, images, _group(False))
    (image, visible, drawn), _ = inside.attention_tiles(pixels, maps, (4, 4), inside.attention_top(maps))
    factor = len(image) // 12
    hidden = np.kron(~maps.seen[0], np.ones((4 * factor, 4 * factor))) > 0
    plain = (drawn == inside.UNSEEN).all(-1)
    frame = (drawn == (213, 94, 0)).all(-1) | (drawn == 255).all(-1)
    assert bool((plain | frame)[hidden].all())
    assert not plain[~hidden].any()
    assert image.shape == visible.shape == drawn.shape


def test_masks_that_hide_a_patch() -> None:
    for mask in ({"kind": "random", "ratio": [0.3, 0.3]}, {"kind": "multiblock", "min_keep": 2}):
        recipe = build_recipe(
            {"name": "x", "data": {"image_size": 32}, "mask": mask, "model": {"arch": "vit_tiny", "patch_size": 8}}
        )
        group = latent.masks_hiding(recipe, 5, (3, 1))
        held = torch.stack([latent.cells(t, 16)[:, 13] for t in group.targets]).any(0)
        assert len(held) == 5
        assert bool(held.all())
        assert len(group.contexts) == 1
    with pytest.raises(ConfigError, match="choose another"):
        latent.masks_hiding(recipe, 3, (3, 1), tries=2)
