"""V-JEPA 2.1's parts: tapped levels, a stem and an embedding for images, rotary grids, predictions of visible tokens."""

from __future__ import annotations

import math

import pytest
import torch

from openjepa.config.schema import ModelConfig
from openjepa.errors import ConfigError
from openjepa.models import NarrowPredictor, VisionTransformer, build_encoder
from openjepa.models.levels import choose_taps
from openjepa.models.positions import Positions
from openjepa.models.rotary import rotary3d
from openjepa.types import Ids, Tokens

ROPE = Positions("rope3d", plane=16)
GRID = (2, 2, 3)


def tiny(**changes: object) -> VisionTransformer:
    torch.manual_seed(0)
    options = {
        "image_size": (16, 24), "frames": 4, "patch_size": 8, "dim": 32, "depth": 4, "heads": 2, "positions": ROPE,
        "taps": 2, "image_stem": True, "modality_embeddings": True, **changes,
    }  # fmt: skip
    model = VisionTransformer(**options).eval()
    with torch.no_grad():  # as drawn, modality embeddings are nearly nothing
        for parameter in (model.img_mod_embed, model.video_mod_embed):
            if parameter is not None:
                parameter.normal_()
        for norm in getattr(model, "norms_block", []):
            norm.weight.uniform_(0.5, 2)
    return model


def narrow(**changes: object) -> NarrowPredictor:
    torch.manual_seed(1)
    options = {
        "embed_dim": 32, "grid": GRID, "dim": 24, "depth": 2, "heads": 2, "mask_tokens": 2, "positions": ROPE,
        "levels": 2, "context_head": True, "modality_embeddings": True, **changes,
    }  # fmt: skip
    return NarrowPredictor(**options).eval()


def test_published_taps() -> None:
    assert [choose_taps(depth, 4) for depth in (12, 24, 40, 48)] == [
        (2, 5, 8, 11),
        (5, 11, 17, 23),
        (9, 19, 29, 39),
        (11, 23, 37, 47),
    ]
    assert choose_taps(48, 4, (11, 23, 35, 47)) == (11, 23, 35, 47)  # the paper's
    assert choose_taps(7, 1) == (6,)


@pytest.mark.parametrize(
    ("depth", "taps", "blocks"), [(3, 4, None), (4, 2, (1, 2)), (4, 2, (3, 3)), (4, 2, (0, 1, 3)), (4, 2, (3, 1))]
)
def test_impossible_taps_are_refused(depth: int, taps: int, blocks: tuple[int, ...] | None) -> None:
    with pytest.raises(ConfigError, match="model.tap"):
        choose_taps(depth, taps, blocks)


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    """Names of the state, and the same random draws as before these options were there."""
    plain = tiny(taps=1, image_stem=False, modality_embeddings=False, positions=Positions("rope3d"))
    names = set(plain.state_dict())
    assert {"norm.weight", "norm.bias", "patch_embed.proj.weight"} <= names
    assert not any("norms_block" in name or "mod_embed" in name or "img" in name for name in names)
    more = tiny(image_stem=False, positions=Positions("rope3d"))
    for name, value in plain.state_dict().items():
        if not name.startswith("norm."):
            assert torch.equal(value, more.state_dict()[name])
    old = NarrowPredictor(embed_dim=32, grid=GRID, dim=24, depth=1, heads=2, mask_tokens=2, positions=ROPE)
    assert set(old.state_dict()) == {name for name in old.state_dict() if "context" not in name and "mod" not in name}
    assert isinstance(old.predictor_embed, torch.nn.Linear)


def test_levels_end_with_the_features() -> None:
    model, x = tiny(), torch.randn(2, 3, 4, 16, 24)
    keep = Ids(torch.tensor([[0, 5, 7], [1, 2, 11]]))
    with torch.no_grad():
        for chosen in (None, keep):
            joined, features = model.forward_levels(x, chosen), model.forward_features(x, chosen)
            assert joined.shape[-1] == 64
            assert torch.equal(joined[..., 32:], features)
            assert torch.equal(model.forward_levels(x, chosen, levels=1), features)
        raw = model.forward_intermediates(x, model.tap_blocks, norm="none")
        parts = [norm(tap) for norm, tap in zip(model.norms_block, raw, strict=True)]
        assert torch.equal(model.forward_levels(x), torch.cat(parts, dim=-1))
        between, last = model.forward_intermediates(x, [2, 3])  # block 2 is not tapped: the final norm
        assert torch.equal(between, model.norms_block[-1](model.forward_intermediates(x, [2], norm="none")[0]))
        assert torch.equal(last, model.forward_features(x))


def test_one_level_without_taps_is_the_features() -> None:
    model, x = tiny(taps=1), torch.randn(1, 3, 4, 16, 24)
    assert torch.equal(model.forward_levels(x), model.forward_features(x))


def test_images_have_a_stem_and_an_embedding_of_their_own() -> None:
    model, image = tiny(), torch.randn(2, 3, 24, 16)
    with torch.no_grad():
        alone, frame = model.forward_features(image), model.forward_features(image[:, :, None])
        assert torch.equal(alone, frame)
        assert model.grid_of(image) == model.grid_of(image[:, :, None]) == (1, 3, 2)
        clip = image[:, :, None].expand(-1, -1, 2, -1, -1)
        assert not torch.allclose(alone, model.forward_features(clip))
        before = model.forward_features(clip)
        model.img_mod_embed += 1  # changes images only
        assert torch.equal(model.forward_features(clip), before)
        assert not torch.allclose(model.forward_features(image), alone)
    with pytest.raises(ConfigError, match="shorter than one tubelet"):
        tiny(image_stem=False).forward_features(image[:, :, None])


def test_rows_and_columns_of_every_size_end_at_the_same_place() -> None:
    """Twice as many columns over the same 16: every other one stands where one of the fewer stood."""
    few, many = rotary3d(12, (2, 2, 4), plane=16), rotary3d(12, (2, 2, 7), plane=16)
    every = [(t * 2 + r) * 7 + c for t in range(2) for r in range(2) for c in range(0, 7, 2)]
    assert torch.allclose(few, many[:, every], atol=1e-6)
    assert torch.equal(rotary3d(12, (3, 16, 16), plane=16), rotary3d(12, (3, 16, 16)))
    time_only = rotary3d(12, (2, 1, 1), plane=16)
    assert torch.equal(time_only, rotary3d(12, (2, 1, 1)))  # one row and one column stay at 0
    assert not torch.allclose(few, rotary3d(12, (2, 2, 4)))


def split(batch: int = 2, kept: int = 5) -> tuple[Ids, Ids]:
    torch.manual_seed(2)
    tokens = math.prod(GRID)
    orders = [torch.randperm(tokens) for _ in range(batch)]
    seen = torch.stack([order[:kept].sort().values for order in orders])
    return Ids(seen), Ids(torch.stack([order[kept:] for order in orders]))


def test_both_predictions_do_not_depend_on_how_tokens_stand() -> None:
    model, (seen, asked) = narrow(), split()
    context = Tokens(torch.randn(2, 5, 64), GRID, seen)
    with torch.no_grad():
        hidden, visible = model.predict_all(context, asked, (1,))
        assert (hidden.shape, visible.shape) == ((2, 7, 64), (2, 5, 64))
        assert torch.allclose(hidden, model.predict(context, asked, (1,)), atol=1e-6)
        for mine, other in zip(
            (hidden, visible), model.predict_all(context, asked, (1,), complement=True), strict=True
        ):
            assert torch.allclose(mine, other, atol=1e-5)
        padded = Ids(torch.cat([seen.index, seen.index[:, :2]], 1), torch.arange(7)[None].expand(2, -1) < 5)
        more = Tokens(torch.cat([context.values, torch.randn(2, 2, 64)], dim=1), GRID, padded)
        again, wide = model.predict_all(more, asked, (1,))
        assert torch.allclose(hidden, again, atol=1e-5)
        assert torch.allclose(visible, wide[:, :5], atol=1e-5)
        two = Ids(torch.cat([asked.index, asked.index.flip(1)]))  # two queries of one context
        first, both = model.predict_all(context, two, (1, 1))
        assert torch.allclose(first[:2], hidden, atol=1e-6)
        assert torch.allclose(first[2:], hidden.flip(1), atol=1e-5)
        assert both.shape == (4, 5, 64)


def test_the_modality_is_told_or_follows_the_grid() -> None:
    model, ids = narrow(), Ids(torch.tensor([[0, 1]]))
    image = Tokens(torch.randn(1, 2, 64), (1, 2, 3), ids)
    with torch.no_grad():
        model.img_mod_embed.normal_()
        model.video_mod_embed.normal_()
        query = Ids(torch.tensor([[4]]))
        assert torch.equal(model.predict(image, query), model.predict(image, query, image=True))
        assert not torch.allclose(model.predict(image, query), model.predict(image, query, image=False))


def test_a_predictor_without_the_second_head_says_so() -> None:
    model, (seen, asked) = narrow(context_head=False), split()
    with pytest.raises(ConfigError, match="predictor.context_head"):
        model.predict_all(Tokens(torch.randn(2, 5, 64), GRID, seen), asked)


def test_widths() -> None:
    student = narrow(levels=1, out_dim=40)
    assert isinstance(student.predictor_embed, torch.nn.Linear)
    assert student.predictor_proj.out_features == student.predictor_proj_context.out_features == 40
    assert narrow(out_dim=40).predictor_proj.out_features == 80


def test_a_recipe_builds_them() -> None:
    config = ModelConfig(
        arch="vit_tiny", depth=4, positions="rope3d", rope_grid=16, taps=2, tap_blocks=(0, 3), image_stem=True,
        modality_embeddings=True, norm_eps=1e-5,
    )  # fmt: skip
    model = build_encoder(config, (64, 64), frames=4)
    assert model.tap_blocks == (0, 3)
    assert model.positions.plane == 16
    assert {norm.eps for norm in model.norms_block} == {1e-5}
    assert model.state_dict()["patch_embed_img.proj.weight"].shape == (192, 3, 1, 16, 16)
    assert float(model.img_mod_embed.detach().abs().max()) < 1e-4


def test_half_precision_stays_half() -> None:
    model, predictor, (seen, asked) = tiny(), narrow(), split()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        values = model.forward_levels(torch.randn(2, 3, 4, 16, 24), seen)
        found = predictor.predict_all(Tokens(values, GRID, seen), asked)
        blocks = predictor._answers(Tokens(values, GRID, seen), asked, (), False, None, everything=True)
    assert {x.dtype for x in (*found, *blocks)} == {torch.bfloat16}
