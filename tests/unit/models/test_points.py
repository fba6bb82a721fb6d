"""Encoder and predictor of point groups: what matters, what does not, padding, recipes, and what is no cloud."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openjepa.config.schema import DataConfig, ModelConfig, NarrowPredictorConfig, NoMask, PointsConfig, Recipe
from openjepa.errors import ConfigError
from openjepa.methods import build_method
from openjepa.models import (
    PointPredictor,
    PointTransformer,
    build_encoder,
    build_predictor,
    make_target,
    pack_groups,
    update_ema,
)
from openjepa.types import Ids, Tokens


def encoder(**more: object) -> PointTransformer:
    torch.manual_seed(0)
    return PointTransformer(**{"dim": 24, "depth": 2, "heads": 2, **more}).eval()  # type: ignore[arg-type]


def predictor() -> PointPredictor:
    torch.manual_seed(1)
    return PointPredictor(embed_dim=24, dim=12, depth=2, heads=3).eval()


def cloud(batch: int = 2, groups: int = 6, size: int = 4) -> Tensor:
    torch.manual_seed(2)
    return pack_groups(0.3 * torch.randn(batch, groups, size, 3), torch.randn(batch, groups, 3))


def test_the_order_of_points_in_a_group_and_their_number_do_not_matter() -> None:
    model, x = encoder(), cloud()
    features = model.forward_features(x)
    assert features.shape == (2, 6, 24)
    shuffled = torch.cat([x[:, :, :1], x[:, :, 1:][:, :, torch.randperm(4)]], dim=2)
    torch.testing.assert_close(model.forward_features(shuffled), features)
    doubled = torch.cat([x, x[:, :, 1:]], dim=2)  # the same points again: a maximum sees no difference
    torch.testing.assert_close(model.forward_features(doubled), features)


def test_groups_in_another_order_give_the_same_features_in_that_order() -> None:
    model, x, order = encoder(), cloud(), torch.randperm(6)
    torch.testing.assert_close(model.forward_features(x[:, order]), model.forward_features(x)[:, order])


def test_every_block_is_told_where_a_group_is() -> None:
    """With blocks that add nothing the output is the token and its position, once for each block."""
    model, x = encoder(depth=3), cloud()
    for block in model.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    (raw,) = model.forward_intermediates(x, 1, norm="none")
    torch.testing.assert_close(raw, model.tokenizer(x[:, :, 1:]) + 3 * model.place(x[:, :, 0]))


def test_kept_groups_are_encoded_as_if_there_were_no_others() -> None:
    model, x = encoder(), cloud()
    ids = torch.tensor([[4, 1, 2], [0, 3, 5]])
    kept = model.forward_features(x, Ids(ids))
    alone = torch.stack([model.forward_features(row[None, index])[0] for row, index in zip(x, ids, strict=True)])
    torch.testing.assert_close(kept, alone)
    padded = Ids(torch.cat([ids, ids[:, :1]], 1), torch.tensor([[True, True, True, False]] * 2))
    torch.testing.assert_close(model.forward_features(x, padded)[:, :3], kept)


def test_intermediate_outputs_are_those_of_the_vision_transformer() -> None:
    model, x = encoder(), cloud()
    taps = model.forward_intermediates(x)
    assert len(taps) == 2
    assert torch.equal(taps[-1], model.forward_features(x))
    stream, ffn = (
        model.forward_intermediates(x, 1, norm="none"),
        model.forward_intermediates(x, 1, norm="none", output="ffn"),
    )
    assert not torch.equal(stream[0], ffn[0])
    hidden = torch.zeros(2, 6, dtype=torch.bool)
    hidden[:, 2] = True
    replaced = model.forward_features(x, replace=(hidden, torch.zeros(1, 1, 24)))
    assert not torch.allclose(replaced, model.forward_features(x))


def test_the_slow_average_copies_batch_statistics() -> None:
    model = encoder().train()
    target = make_target(model)
    model.forward_features(cloud())
    update_ema(target, model, 0.9)
    assert torch.equal(target.tokenizer.first_conv[1].running_mean, model.tokenizer.first_conv[1].running_mean)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 3, 8, 32, 32), (2, 64, 3), (2, 6, 1, 3)])
def test_what_is_no_cloud_is_refused_in_one_line(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"takes groups of points \(B, G, 1 \+ K, 3\)"):
        encoder().forward_features(torch.zeros(shape))
    with pytest.raises(ConfigError, match="groups .B, G, K, 3. and centres"):
        pack_groups(torch.zeros(2, 6, 4, 3), torch.zeros(2, 5, 3))


def parts(rows: int = 2) -> tuple[PointPredictor, Tokens, Tensor]:
    torch.manual_seed(3)
    ids = Ids(torch.tensor([[0, 2, 5], [1, 2, 3]])[:rows])
    return predictor(), Tokens(torch.randn(rows, 3, 24), (6,), ids), torch.randn(rows, 6, 3)


def test_blocks_are_predicted_each_by_itself_in_one_call() -> None:
    model, context, centres = parts()
    blocks = [torch.tensor([[1, 3], [0, 4]]), torch.tensor([[3, 4], [4, 5]])]
    together = model.predict(context, Ids(torch.cat(blocks)), centres)
    apart = torch.cat([model.predict(context, Ids(block), centres) for block in blocks])
    torch.testing.assert_close(together, apart)
    assert together.shape == (4, 2, 24)


def test_padding_of_context_and_query_changes_nothing() -> None:
    model, context, centres = parts(1)
    plain = model.predict(context, Ids(torch.tensor([[1, 3]])), centres)
    wide = Tokens(
        torch.cat([context.values, torch.randn(1, 1, 24)], 1),
        (6,),
        Ids(torch.tensor([[0, 2, 5, 5]]), torch.tensor([[True, True, True, False]])),
    )
    query = Ids(torch.tensor([[1, 3, 4]]), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(model.predict(wide, query, centres)[:, :2], plain)


def test_predictions_depend_on_both_places() -> None:
    model, context, centres = parts()
    query = Ids(torch.tensor([[1, 3], [0, 4]]))
    before = model.predict(context, query, centres)
    for group in (1, 2):  # one that is asked for, one that is seen
        moved = centres.clone()
        moved[0, group] += 1
        assert not torch.allclose(model.predict(context, query, moved)[0], before[0])
    moved = centres.clone()
    moved[0, 4] += 1  # neither
    assert torch.equal(model.predict(context, query, moved)[0], before[0])


def test_checkpointing_changes_no_gradient_and_the_spare_norm_learns_nothing() -> None:
    model, context, centres = parts()
    query, gradients = Ids(torch.tensor([[1, 3], [0, 4]])), []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model.predict(context, query, centres).square().mean().backward()
        gradients.append(model.mask_token.grad)
    assert torch.equal(*gradients)
    assert [name for name, p in model.named_parameters() if p.grad is None] == ["spare_norm.weight", "spare_norm.bias"]


def recipe(**more: object) -> Recipe:
    given = {
        "name": "cloud",
        "data": DataConfig(points=PointsConfig(groups=6, group_size=4)),
        "mask": NoMask(),
        "model": ModelConfig(arch=None, dim=24, depth=2, heads=2, positions="coordinates", norm_eps=1e-5),
        "predictor": NarrowPredictorConfig(dim=12, depth=1, heads=3),
    }
    return Recipe(**{**given, **more})  # type: ignore[arg-type]


def test_a_recipe_builds_both_and_pretraining_refuses_it() -> None:
    config = recipe()
    made = build_encoder(config.model, config.image_hw, 3, config.frames)
    assert isinstance(made, PointTransformer)
    assert made.norm.eps == made.blocks[0].norm1.eps == 1e-5
    head = build_predictor(config.predictor, made, config.model)
    assert isinstance(head, PointPredictor)
    assert head.predictor_norm.eps == 1e-5
    assert (config.grid, config.inputs) == ((6,), {"points": (6, 5)})
    named = recipe(model=ModelConfig(arch="vit_small", depth=1, positions="coordinates"))
    assert build_encoder(named.model, named.image_hw).embed_dim == 384
    with pytest.raises(ConfigError, match="point clouds describe published weights"):
        build_method(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": DataConfig()}, "coordinates and data.points go together"),
        ({"model": ModelConfig()}, "coordinates and data.points go together"),
        ({"mask": {"kind": "random"}}, "mask.kind random is for grids: set mask.kind=none"),
        ({"predictor": NarrowPredictorConfig(mask_tokens=2)}, "predictor.kind=narrow with one mask token"),
        ({"data": DataConfig(points=PointsConfig(), channels=1, mean=(0.5,), std=(0.5,))}, "channels must be 3, not 1"),
        ({"model": ModelConfig(positions="coordinates", class_token=True)}, "no class token"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recipe(**change)
