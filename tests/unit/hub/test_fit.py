"""Weights made to fit another encoder: what is equal stays bit for bit, what can be changed is, the rest is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from openjepa.errors import CheckpointError
from openjepa.hub.fit import EncoderWeights, fit_encoder, fit_predictor, on_meta
from openjepa.models import NarrowPredictor, PixelDecoder, VisionTransformer
from openjepa.models.positions import Positions, resample_positions


def vit(seed: int = 0, **changes: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    options: dict[str, Any] = {"image_size": (16, 16), "patch_size": 4, "dim": 24, "depth": 2, "heads": 2}
    return VisionTransformer(**{**options, **changes}).eval()


def fitted(theirs: VisionTransformer, mine: VisionTransformer) -> VisionTransformer:
    fit_encoder(mine, EncoderWeights.of(theirs)).load_into(mine)
    return mine


def test_the_same_architecture_is_copied_bit_for_bit() -> None:
    theirs, mine = vit(0), vit(1)
    found = fit_encoder(mine, EncoderWeights.of(theirs))
    assert found.notes == ()
    assert found.summary == f"{len(mine.state_dict())} of {len(mine.state_dict())} tensors"
    found.load_into(mine)
    assert all(torch.equal(value, mine.state_dict()[key]) for key, value in theirs.state_dict().items())


def test_another_size_recomputes_positions() -> None:
    theirs, mine = vit(0), vit(1, image_size=(24, 16))
    found = fit_encoder(mine, EncoderWeights.of(theirs))
    assert found.notes == ("positions: recomputed for the grid 6×4, trained on 4×4",)
    found.load_into(mine)
    assert torch.equal(mine.pos_embed, vit(2, image_size=(24, 16)).pos_embed)
    assert torch.equal(mine.blocks[1].mlp.fc2.weight, theirs.blocks[1].mlp.fc2.weight)


def test_learned_positions_are_interpolated_bicubically() -> None:
    learned = Positions("learned")
    theirs, mine = vit(0, positions=learned), vit(1, positions=learned, image_size=(24, 20))
    found = fit_encoder(mine, EncoderWeights.of(theirs))
    assert "positions: 4×4 interpolated to 6×5" in found.notes
    found.load_into(mine)
    assert torch.equal(mine.pos_embed[0], resample_positions(theirs.pos_embed[0], (4, 4), (6, 5)))
    x = torch.randn(2, 3, 24, 20)  # what the smaller encoder itself does with a larger image
    assert torch.allclose(mine(x), theirs(x), atol=1e-5)
    started = fitted(vit(0), vit(1, positions=learned))
    assert torch.allclose(started(x[..., :16, :16]), vit(0)(x[..., :16, :16]), atol=1e-6)


def test_a_video_encoder_from_image_weights() -> None:
    theirs = vit(0, positions=Positions("sincos3d"))
    mine = vit(1, positions=Positions("sincos3d"), frames=4, tubelet_size=2)
    found = fit_encoder(mine, EncoderWeights.of(theirs))
    assert any("image weights over 2 frames, divided by 2" in note for note in found.notes)
    found.load_into(mine)
    x = torch.randn(2, 3, 16, 16)
    assert torch.allclose(mine(x), theirs(x), atol=1e-5)  # an image is a clip of one tubelet, in which nothing moves
    back = fitted(mine, vit(2, positions=Positions("sincos3d")))
    assert torch.allclose(back(x), theirs(x), atol=1e-5)


def test_channels_and_frames_at_once() -> None:
    theirs, mine = vit(0), vit(1, channels=4, frames=4, positions=Positions("rope3d"), dim=24, heads=2)
    found = fit_encoder(mine, EncoderWeights.of(theirs))
    assert any("3 channels to 4" in note for note in found.notes)
    assert any("trained with sincos2d, the recipe has rope3d" in note for note in found.notes)
    table = found.report.table()
    assert "(24, 4, 2, 4, 4)" in table
    assert "(24, 3, 4, 4)" in table


def test_class_tokens() -> None:
    with_token, without = vit(0, class_token=True), vit(1)
    found = fit_encoder(without, EncoderWeights.of(with_token))
    assert found.report.keys("dropped") == ["cls_token"]
    found = fit_encoder(with_token, EncoderWeights.of(without))
    assert found.report.keys("missing") == ["cls_token"]
    before = with_token.cls_token.detach().clone()
    found.load_into(with_token)
    assert torch.equal(with_token.cls_token, before)


def test_an_empty_network_is_enough_to_see_what_fits() -> None:
    state = torch.get_rng_state()
    mine = on_meta(lambda: vit(1))
    assert isinstance(mine, VisionTransformer)
    assert all(value.is_meta for value in mine.parameters())
    assert len(fit_encoder(mine, EncoderWeights.of(vit(0))).tensors) == len(mine.state_dict())
    torch.set_rng_state(state)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"depth": 3},
            "its encoder is 24 wide, 2 blocks, 2 heads, MLP 4×, the recipe's 24 wide, 3 blocks.*model.depth=2",
        ),
        ({"dim": 48}, "the recipe's 48 wide.*set model.dim=24"),
        ({"heads": 3}, "the recipe's 24 wide, 2 blocks, 3 heads.*model.heads=2"),
        ({"mlp_ratio": 2.0}, "MLP 2×.*model.mlp_ratio=4"),
        ({"patch_size": 8}, "its patches are 4 px, the recipe's 8 px: set model.patch_size=4"),
    ],
)
def test_other_shapes_are_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    mine = vit(1, **changes)
    before = {key: value.clone() for key, value in mine.state_dict().items()}
    with pytest.raises(CheckpointError, match=words) as caught:
        fitted(vit(0), mine)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, mine.state_dict()[key]) for key, value in before.items())


def test_half_matching_keys_are_refused() -> None:
    weights = EncoderWeights.of(vit(0))
    cut = {key: value for key, value in weights.tensors.items() if key != "norm.bias"}
    with pytest.raises(CheckpointError, match="'norm.bias' is missing"):
        fit_encoder(vit(1), EncoderWeights(cut, 2, (4, 4), Positions()))
    more = {**weights.tensors, "blocks.0.ls1.gamma": torch.ones(24), "reg_token": torch.zeros(1, 4, 24)}
    with pytest.raises(CheckpointError, match=r"it has 2 tensors \(blocks.0.ls1.gamma, reg_token\)"):
        fit_encoder(vit(1), EncoderWeights(more, 2, (4, 4), Positions()))
    with pytest.raises(CheckpointError, match="no weights of a vision transformer"):
        fit_encoder(vit(1), EncoderWeights({"conv1.weight": torch.zeros(3)}, 2, (4, 4), Positions()))


def predictor(seed: int = 0, kind: Any = NarrowPredictor, **changes: Any) -> Any:
    torch.manual_seed(seed)
    options: dict[str, Any] = {"embed_dim": 24, "grid": (4, 4), "dim": 12, "depth": 2, "heads": 2}
    return kind(**{**options, **changes})


def test_predictors() -> None:
    theirs, mine = predictor(0), predictor(1, grid=(6, 6), mask_tokens=3)
    found = fit_predictor(mine, theirs)
    assert found.notes == ("mask tokens: 1 for 3",)
    found.load_into(mine)
    assert all(torch.equal(token, theirs.mask_token) for token in mine.mask_tokens)
    assert torch.equal(mine.predictor_proj.weight, theirs.predictor_proj.weight)
    one = predictor(2)
    fit_predictor(one, mine).load_into(one)
    assert torch.equal(one.mask_token, theirs.mask_token)
    with pytest.raises(
        CheckpointError, match=r"predictor.depth=2, or start the predictor fresh with --no-init-predictor"
    ):
        fit_predictor(predictor(1, depth=3), theirs)
    with pytest.raises(CheckpointError, match="2 heads.*3 heads"):
        fit_predictor(predictor(1, heads=3), theirs)


def test_a_pixel_decoder_of_other_channels_starts_its_last_layer_fresh() -> None:
    theirs, mine = predictor(0, PixelDecoder, patch_values=48), predictor(1, PixelDecoder, patch_values=64)
    found = fit_predictor(mine, theirs)
    assert found.report.keys("missing") == ["predictor_proj.weight", "predictor_proj.bias"]
    found.load_into(mine)
    assert torch.equal(mine.predictor_embed.weight, theirs.predictor_embed.weight)
    with pytest.raises(CheckpointError, match="its predictor is a PixelDecoder, the recipe's a NarrowPredictor"):
        fit_predictor(predictor(1), theirs)


def test_a_learned_table_that_is_the_computed_one_is_no_difference() -> None:
    theirs = vit(0, positions=Positions("learned"))
    with torch.no_grad():
        theirs.pos_embed.copy_(vit(1).pos_embed)
    assert fit_encoder(vit(1), EncoderWeights.of(theirs)).notes == ()
    found = fit_encoder(vit(1, image_size=(24, 24)), EncoderWeights.of(theirs))
    assert found.notes == ("positions: the weights' table is sincos2d, recomputed",)
    with torch.no_grad():
        theirs.pos_embed.add_(0.1)
    assert "positions differ" in fit_encoder(vit(1), EncoderWeights.of(theirs)).notes[0]


def test_levels_of_final_norms() -> None:
    theirs, mine = vit(0, depth=4), vit(1, depth=4, taps=2)
    with torch.no_grad():
        theirs.norm.bias.normal_()
    found = fit_encoder(mine, EncoderWeights.of(theirs))
    assert found.notes == ("final norms: 1 for 2",)
    found.load_into(mine)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(mine(x), theirs(x))
    with torch.no_grad():
        mine.norms_block[0].bias.add_(1)
    back = fitted(mine, vit(2, depth=4))
    assert torch.equal(back(x), theirs(x))
