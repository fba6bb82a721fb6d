"""Several levels of the encoder predicted at once (V-JEPA 2.1's deep supervision), without a loss on visible tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openjepa.config import build_recipe
from openjepa.config.schema import Recipe
from openjepa.errors import ConfigError
from openjepa.methods import MaskedLatent
from openjepa.models.transformer import gather_tokens
from openjepa.types import Batch, Ids, MaskGroup, Progress

SMALL = {
    "name": "t",
    "system": "vjepa2_1",
    "data": {"image_size": 16, "clip": {"frames": 4}},
    "mask": {"kind": "tubes"},
    "model": {
        "arch": None, "dim": 24, "depth": 4, "heads": 2, "patch_size": 8, "positions": "rope3d", "rope_grid": 16,
        "taps": 2, "image_stem": True, "modality_embeddings": True,
    },
    "predictor": {"dim": 12, "depth": 1, "heads": 1, "levels": 2, "mask_tokens": 2},
    "objective": {"kind": "l1", "reduction": "pair"},
}  # fmt: skip


def small(*overrides: str) -> Recipe:
    return build_recipe(SMALL, overrides)


def batch() -> tuple[Batch, MaskGroup]:
    torch.manual_seed(1)
    order = torch.stack([torch.randperm(8) for _ in range(3)])
    group = MaskGroup([Ids(order[:, :3])], [Ids(order[:, 3:7])], [(0, 0)], (2, 2, 2), group="video")
    rows = torch.arange(3)
    return Batch({"video": torch.randn(3, 3, 4, 16, 16)}, rows, rows), group


def test_every_level_is_normalised_and_compared_by_itself() -> None:
    torch.manual_seed(0)
    method = MaskedLatent(small())
    data, group = batch()
    output = method(data, [group], Progress(0, 1))
    prediction, query, context = method.predict(data.inputs["video"], group)
    assert context.values.shape == (3, 3, 48)
    taps = method.target.forward_intermediates(data.inputs["video"], [1, 3])
    target = torch.cat([F.layer_norm(tap, (24,)) for tap in taps], dim=-1)
    wanted = (prediction - gather_tokens(target, query.index)).abs().mean()
    assert output.count == 3 * 4 * 48
    assert float(output.loss_sum.detach()) / output.count == pytest.approx(float(wanted.detach()), rel=1e-5)
    output.loss_sum.backward()
    assert all(float(norm.weight.grad.abs().sum()) > 0 for norm in method.online.norms_block)
    panel = method.panel(data, [group])
    assert panel.features.shape == panel.online_features.shape == (3, 24)


def test_images_go_through_their_stem() -> None:
    method = MaskedLatent(small())
    data, _ = batch()
    image = torch.randn(3, 3, 16, 16)
    flat = MaskGroup([Ids(torch.tensor([[0]] * 3))], [Ids(torch.tensor([[1, 2, 3]] * 3))], [(0, 0)], (1, 2, 2))
    method(Batch({"image": image}, data.ids, data.places), [flat], Progress(0, 1)).loss_sum.backward()
    assert method.online.patch_embed_img.proj.weight.grad is not None
    assert method.online.patch_embed.proj.weight.grad is None
    assert method.predictor.img_mod_embed.grad is not None
    assert method.predictor.video_mod_embed.grad is None


def test_a_head_that_nothing_trains_is_refused() -> None:
    method = MaskedLatent(small("predictor.context_head=true"))
    data, group = batch()
    assert method.predict(data.inputs["video"], group)[0].shape == (3, 4, 48)
    with pytest.raises(ConfigError, match="predictor.context_head=false"):
        method(data, [group], Progress(0, 1))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["predictor.levels=3"], "predictor.levels 3 is more than model.taps 2"),
        (["model.tap_blocks=[3]"], "model.tap_blocks names 1 blocks, model.taps says 2"),
        (["model.positions=sincos3d"], "model.rope_grid is read by model.positions rope3d only"),
        (["target.layers=2"], "target.layers 2 averages them"),
        (["objective.pooled=1"], "objective.pooled compares one level"),
        (
            ["data.clip=none", "mask={kind: random}", "model.positions=sincos2d"],
            "model.image_stem tells images from clips",
        ),
    ],
)
def test_misfits(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        small(*overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.taps=5", "model.taps 5 is more than the encoder's 4 blocks"),
        ("model.tap_blocks=[1, 2]", "rising block numbers that end with the last, 3"),
        ("predictor.out_dim=40", "out_dim 40 is another encoder's width"),
    ],
)
def test_what_only_the_built_encoder_knows(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MaskedLatent(small(override))
