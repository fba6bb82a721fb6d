"""Every part of a masked method is exchangeable: targets, predictors, objectives, granularity, class token, no mask."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.config import build_recipe
from openjepa.config.schema import ObjectiveConfig, Recipe
from openjepa.errors import ConfigError
from openjepa.hub import load_model, save_model
from openjepa.masking import build_masker
from openjepa.methods import MaskedLatent, build_method
from openjepa.models.transformer import gather_tokens
from openjepa.objectives import average_layers, distance, info_nce
from openjepa.types import Batch, Ids, MaskGroup, Progress

SMALL = {
    "name": "t",
    "data": {"image_size": 16},
    "model": {"arch": None, "dim": 16, "depth": 3, "heads": 2, "patch_size": 4},
    "predictor": {"dim": 8, "depth": 1, "heads": 2},
    "target": {"transform": "none"},
}
START = Progress(0, 1)


def small(*overrides: str) -> Recipe:
    return build_recipe(SMALL, overrides)


def build(*overrides: str) -> MaskedLatent:
    torch.manual_seed(0)
    method = build_method(small(*overrides))
    assert isinstance(method, MaskedLatent)
    return method


def batch(size: int = 4) -> tuple[Batch, MaskGroup]:
    generator = torch.Generator().manual_seed(1)
    order = torch.stack([torch.randperm(16, generator=generator) for _ in range(size)])
    valid = torch.ones(size, 7, dtype=torch.bool)
    valid[0, 5:] = False
    group = MaskGroup([Ids(order[:, :7], valid)], [Ids(order[:, 8:11]), Ids(order[:, 11:14])], [(0, 0), (0, 1)], (4, 4))
    images = torch.randn(size, 3, 16, 16, generator=generator)
    return Batch({"image": images}, torch.arange(size), torch.arange(size)), group


def gradient(method: MaskedLatent) -> Tensor:
    data, group = batch()
    method(data, [group], START).loss_sum.backward()
    gradients = [p.grad.flatten() for p in method.online.parameters() if p.grad is not None]
    return torch.cat(gradients)


def test_without_an_average_the_online_encoder_is_target_and_deployed() -> None:
    average, own = build(), build("target.kind=self")
    assert own.target is None
    assert own.encoder is own.online
    assert average.encoder is average.target
    assert not [name for name in own.state_dict() if name.startswith("target.")]
    # At the start the average equals the online encoder: the same loss and the same gradient, through the context alone.
    torch.testing.assert_close(gradient(own), gradient(average))
    before = [p.clone() for p in own.parameters()]
    own.after_step(0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, own.parameters(), strict=True))


def test_kind_none_lets_the_gradient_through_both_sides() -> None:
    stopped, through = build("target.kind=self"), build("target.kind=none")
    data, group = batch()
    losses = [float(m(data, [group], START).loss_sum.detach()) for m in (stopped, through)]
    assert losses[0] == losses[1]
    assert not torch.allclose(gradient(stopped), gradient(through))


def test_a_frozen_target_never_moves_and_is_not_deployed() -> None:
    method = build("target.kind=frozen")
    assert method.target is not None
    before = [p.clone() for p in method.target.parameters()]
    with torch.no_grad():
        for parameter in method.online.parameters():
            parameter.add_(1.0)
    method.after_step(0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, method.target.parameters(), strict=True))
    assert method.encoder is method.online


@pytest.mark.parametrize("kind", ["linear", "none"])
def test_hidden_pixels_do_not_reach_a_prediction_made_with_mask_tokens(kind: str) -> None:
    method, (data, group) = build(f"predictor.kind={kind}"), batch()
    images = data.inputs["image"]
    seen = group.contexts[0]
    assert seen.valid is not None
    shown = torch.zeros(len(images), 16)
    for row, (ids, valid) in enumerate(zip(seen.index, seen.valid, strict=True)):
        shown[row, ids[valid]] = 1
    visible = F.interpolate(shown.reshape(-1, 1, 4, 4), scale_factor=4)
    prediction, query, context = method.predict(images, group)
    other = images * visible + torch.randn_like(images) * (1 - visible)
    torch.testing.assert_close(method.predict(other, group)[0], prediction)
    assert not torch.allclose(method.predict(images + visible, group)[0], prediction)
    assert prediction.shape == (2 * len(images), 3, 16)
    assert query.index.shape == (2 * len(images), 3)
    assert context.values.shape == (len(images), 7, 16)
    method(data, [group], START).loss_sum.backward()
    assert method.predictor.mask_token.grad.abs().max() > 0


def test_a_class_token_takes_part_and_is_not_a_feature() -> None:
    method, (data, group) = build("model.class_token=true"), batch()
    images = data.inputs["image"]
    features = method.online.forward_features(images)
    assert features.shape == (4, 16, 16)
    assert method.online.forward_features(images, prefix=True).shape == (4, 17, 16)
    kept = method.online.forward_features(images, keep=group.contexts[0])
    alone = method.online.forward_features(images[:1], keep=Ids(group.contexts[0].index[:1, :5]))
    torch.testing.assert_close(kept[:1, :5], alone)
    assert [tap.shape for tap in method.online.forward_intermediates(images)] == [(4, 16, 16)] * 3
    with torch.no_grad():
        method.online.cls_token.add_(torch.randn(16))
    assert not torch.allclose(method.online.forward_features(images), features)


def test_top_k_targets_are_the_mean_of_normalised_ffn_outputs() -> None:
    method, (data, _) = build("target.layers=2", "target.layer_output=ffn", "predictor.kind=linear"), batch()
    images, network = data.inputs["image"], method.target
    assert network is not None
    outputs: list[Tensor] = []
    hooks = [block.mlp.register_forward_hook(lambda _m, _i, out: outputs.append(out)) for block in network.blocks]
    raw, full = method.targets(images)
    for hook in hooks:
        hook.remove()
    wanted = torch.stack([F.layer_norm(out, (16,)) for out in outputs[1:]]).mean(0)
    torch.testing.assert_close(raw, wanted)
    torch.testing.assert_close(full, wanted)


def test_layers_are_normalised_over_channels_or_over_tokens() -> None:
    taps = [torch.randn(3, 5, 8) * 4 + 2, torch.randn(3, 5, 8)]
    by_token = average_layers(taps, "instance_norm")
    torch.testing.assert_close(by_token.mean(dim=1), torch.zeros(3, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(average_layers(taps, "none"), (taps[0] + taps[1]) / 2)
    torch.testing.assert_close(average_layers(taps, "layer_norm").mean(dim=2), torch.zeros(3, 5), atol=1e-5, rtol=0)


def test_block_granularity_compares_block_means() -> None:
    method, (data, group) = build("objective.granularity=block", "objective.kind=l2"), batch()
    output = method(data, [group], START)
    prediction, query, _ = method.predict(data.inputs["image"], group)
    _, full = method.targets(data.inputs["image"])
    target = gather_tokens(full.repeat(2, 1, 1), query.index)
    wanted = (prediction.mean(1) - target.mean(1)).square().sum()
    torch.testing.assert_close(output.loss_sum, wanted)
    assert output.count == 2 * 4 * 16  # blocks × images × channels


def test_info_nce_is_cross_entropy_over_the_rows() -> None:
    prediction, target = torch.randn(6, 3, 5, dtype=torch.float64), torch.randn(6, 3, 5, dtype=torch.float64)
    found = info_nce(prediction, target, 0.2)
    for k in range(3):
        logits = F.normalize(prediction[:, k], dim=1) @ F.normalize(target[:, k], dim=1).T / 0.2
        torch.testing.assert_close(found[:, k], F.cross_entropy(logits, torch.arange(6), reduction="none"))


def test_padded_targets_are_no_negatives() -> None:
    prediction, target = torch.randn(4, 2, 5), torch.randn(4, 2, 5)
    valid = torch.ones(4, 2, dtype=torch.bool)
    valid[3, 1] = False
    other = target.clone()
    other[3, 1] = torch.randn(5)
    a, b = info_nce(prediction, target, 0.1, valid), info_nce(prediction, other, 0.1, valid)
    torch.testing.assert_close(a[valid], b[valid])
    assert torch.isfinite(a).all()


@pytest.mark.parametrize(("kind", "same", "opposite"), [("cosine", 0.0, 2.0), ("normalised_cosine", 0.0, 4.0)])
def test_cosines_ignore_length(kind: str, same: float, opposite: float) -> None:
    tokens = torch.randn(3, 4, 8)
    config = ObjectiveConfig(kind=kind)
    torch.testing.assert_close(distance(config, 5 * tokens, tokens), torch.full((3, 4, 1), same), atol=1e-6, rtol=0)
    torch.testing.assert_close(distance(config, -tokens, tokens), torch.full((3, 4, 1), opposite))
    unit = F.normalize(tokens, dim=-1), F.normalize(tokens.flip(0), dim=-1)
    squared = (unit[0] - unit[1]).square().sum(-1, keepdim=True) * (0.5 if kind == "cosine" else 1.0)
    torch.testing.assert_close(distance(config, tokens, tokens.flip(0)), squared)


@pytest.mark.parametrize("kind", ["cosine", "normalised_cosine", "info_nce", "l1"])
def test_elements_are_counted_as_the_distance_gives_them(kind: str) -> None:
    method, (data, group) = build(f"objective.kind={kind}"), batch()
    output = method(data, [group], START)
    assert output.count == method.count([group], 4) == 24 * (16 if kind == "l1" else 1)
    assert output.terms["prediction"] == output.loss_sum.detach() / output.count
    assert method.batch_statistics == (kind == "info_nce")


def test_padding_of_a_second_context_is_not_part_of_the_pooled_mean() -> None:
    method = build("objective.pooled=1.0", "objective.weight=0.0")
    data, group = batch()
    short, long = Ids(group.contexts[0].index[:, :4]), Ids(group.contexts[0].index[:, :6])
    both = MaskGroup([short, long], group.targets[:1], [(0, 0), (1, 0)], (4, 4))
    _, _, context = method.predict(data.inputs["image"], both)
    from openjepa.methods.masked_latent import _mean_tokens

    wanted = method.online.forward_features(data.inputs["image"], keep=short).mean(1)
    torch.testing.assert_close(_mean_tokens(context)[:4], wanted)


def test_no_mask_shows_and_asks_everything() -> None:
    group = build_masker(small("mask.kind=none").mask, (4, 4), 0)(torch.arange(3), epoch=0, step=0)
    assert group.contexts[0].index.tolist() == group.targets[0].index.tolist() == [list(range(16))] * 3


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (("target.kind=pixels",), "target.kind pixels does not go with method masked_latent: ema, frozen, self, none"),
        (("predictor.kind=pixel",), "predictor.kind pixel does not go with method masked_latent"),
        (("target.weights=runs/x",), "target.weights is read by target.kind frozen only, not ema"),
        (("mask.kind=none", "predictor.kind=linear"), "mask.kind none hides nothing to predict"),
        (("method=joint_embedding",), "at least 2 are needed"),
        (("data.views=[{count: 2}]",), "data.views is read by method joint_embedding only"),
    ],
)
def test_parts_that_do_not_fit_are_named(override: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        small(*override)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_target_of_more_layers_than_there_are_is_refused() -> None:
    build("target.layers=3")
    with pytest.raises(ConfigError, match="target.layers 4 is more than the encoder's 3 blocks"):
        build("target.layers=4")


@pytest.mark.parametrize("kind", ["ema", "frozen", "self", "none"])
@pytest.mark.parametrize("predictor", ["narrow", "linear", "none"])
def test_a_model_directory_holds_what_the_method_has(kind: str, predictor: str, tmp_path: Path) -> None:
    method = build(f"target.kind={kind}", f"predictor.kind={predictor}")
    with torch.no_grad():
        for parameter in method.online.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    loaded = load_model(save_model(tmp_path / "model", method, method.recipe))
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded.encoder(images), method.encoder(images))
    assert (loaded.target is None) == (method.target is None)
    assert loaded.online is not None
    torch.testing.assert_close(loaded.online(images), method.online(images))
    assert loaded.predictor is not None
    if method.target is None:
        with pytest.raises(ConfigError, match="has no target encoder"):
            load_model(tmp_path / "model", "target")
