"""MAE: patches and back, targets of the published formula, a loss over hidden patches only, and everything the base asks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openjepa.config import build_recipe, load_recipe
from openjepa.config.schema import Recipe
from openjepa.errors import ConfigError
from openjepa.hub.model_directory import load_model, save_model
from openjepa.masking import build_masker
from openjepa.methods import MaskedPixel, build_method
from openjepa.models import NarrowPredictor, PixelDecoder
from openjepa.models.positions import sincos2d
from openjepa.objectives.pixels import patchify, pixel_target, unpatchify
from openjepa.optim.groups import build_optimizer
from openjepa.types import Batch, Ids, MaskGroup, Progress, Tokens

SMALL = [
    "model.dim=32",
    "model.depth=2",
    "model.heads=2",
    "predictor.dim=16",
    "predictor.depth=2",
    "predictor.heads=2",
]
Sample = tuple[Batch, MaskGroup]


def recipe(*overrides: str) -> Recipe:
    return build_recipe(load_recipe("mae-tiny").model_dump(mode="json"), [*SMALL, *overrides])


def method(*overrides: str) -> MaskedPixel:
    torch.manual_seed(0)
    built = build_method(recipe(*overrides))
    assert isinstance(built, MaskedPixel)
    return built


def sample(made: MaskedPixel, count: int = 4, seed: int = 1) -> Sample:
    ids = torch.arange(count)
    group = build_masker(made.recipe.mask, made.recipe.grid, 0)(ids, epoch=0, step=0)
    images = torch.randn(count, 3, *made.recipe.image_hw, generator=torch.Generator().manual_seed(seed))
    return Batch({"image": images}, ids, ids), group


def loss(made: MaskedPixel, found: Sample) -> Tensor:
    output = made(found[0], [found[1]], Progress(0, 1))
    return output.loss_sum / output.count


def test_patches_are_row_major_with_channels_last_and_go_back() -> None:
    images = torch.randn(2, 3, 8, 12)
    patches = patchify(images, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[1, 4].reshape(4, 4, 3), images[1, :, 4:8, 4:8].permute(1, 2, 0))
    assert torch.equal(unpatchify(patches, (2, 3), 4), images)
    assert torch.equal(patchify(torch.nn.functional.pad(images, (0, 3, 0, 2)), 4), patches)  # leftovers are dropped


def test_targets_are_those_of_the_paper() -> None:
    patches = torch.randn(2, 5, 12, dtype=torch.float64) * 3 + 7
    mean, spread = patches.mean(-1, keepdim=True), ((patches - patches.mean(-1, keepdim=True)) ** 2).sum(-1) / 11
    wanted = (patches - mean) / torch.sqrt(spread[..., None] + 1e-6)
    torch.testing.assert_close(pixel_target(patches, normalised=True).double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(pixel_target(patches, normalised=False), patches.float())
    flat = pixel_target(torch.full((1, 1, 12), 0.3), normalised=True)
    assert float(flat.abs().max()) < 1e-3


def test_the_loss_is_the_mean_squared_error_of_hidden_patches_only() -> None:
    made = method()
    batch, group = sample(made)
    prediction, query = made.predict(batch.inputs["image"], group)
    target = made.targets(batch.inputs["image"])
    total = 0.0
    for row in range(4):
        for k, place in enumerate(query.index[row].tolist()):
            total += float((prediction[row, k] - target[row, place]).square().mean())
    assert float(loss(made, (batch, group)).detach()) == pytest.approx(total / query.index.numel(), rel=1e-5)
    assert made.count([group], 4) == 4 * 12 * 192
    assert torch.equal(query.index, group.targets[0].index)


def test_the_decoder_gives_what_it_gives_with_every_token_in_its_place() -> None:
    """The published order: the class token, then every patch in its place, mask tokens where nothing is shown."""
    made = method()
    batch, group = sample(made)
    images, keep, hidden = batch.inputs["image"], group.contexts[0], group.targets[0]
    decoder = made.predictor
    with torch.no_grad():
        seen = decoder.predictor_embed(made.online.forward_features(images, keep=keep, prefix=True))
        tokens = decoder.mask_token.expand(4, 16, -1).clone()
        tokens.scatter_(1, keep.index[..., None].expand(-1, -1, 16), seen[:, 1:])
        x = torch.cat([seen[:, :1], tokens + sincos2d(16, (4, 4))], dim=1)
        for block in decoder.predictor_blocks:
            x = block(x)
        pixels = decoder.predictor_proj(decoder.predictor_norm(x))[:, 1:]
        found, _ = made.predict(images, group)
    torch.testing.assert_close(
        found, pixels.gather(1, hidden.index[..., None].expand(-1, -1, 192)), rtol=1e-4, atol=1e-5
    )


def test_padded_contexts_and_several_targets_do_not_change_a_prediction() -> None:
    made = method()
    images = torch.randn(2, 3, 32, 32)
    exact = Ids(torch.tensor([[0, 5, 9], [3, 4, 12]]))
    padded = Ids(
        torch.tensor([[0, 5, 9, 0], [3, 4, 12, 0]]),
        torch.tensor([[True, True, True, False], [True, True, True, False]]),
    )
    first, second = Ids(torch.tensor([[1, 2], [1, 2]])), Ids(torch.tensor([[7, 8, 10], [0, 5, 6]]))
    with torch.no_grad():
        one, _ = made.predict(images, MaskGroup([exact], [first], [(0, 0)], (4, 4)))
        both, query = made.predict(images, MaskGroup([padded], [first, second], [(0, 0), (0, 1)], (4, 4)))
    assert both.shape == (4, 3, 192)
    torch.testing.assert_close(both[:2, :2], one, rtol=1e-4, atol=1e-5)
    assert query.valid is not None


def test_a_class_token_of_the_context_reaches_the_decoder() -> None:
    torch.manual_seed(0)
    decoder = PixelDecoder(embed_dim=8, grid=(2, 2), patch_values=5, dim=8, depth=2, heads=2)
    values, ids = torch.randn(1, 3, 8), Ids(torch.tensor([[1, 2]]))
    query = Ids(torch.tensor([[0, 3]]))
    with torch.no_grad():
        first = decoder.predict(Tokens(values, (2, 2), ids), query)
        values[:, 0] += 1
        second = decoder.predict(Tokens(values, (2, 2), ids), query)
        without = decoder.predict(Tokens(values[:, 1:], (2, 2), ids), query)
    assert first.shape == (1, 2, 5)
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, without)
    assert isinstance(decoder, NarrowPredictor)


def test_micro_batches_add_up() -> None:
    made = method()
    batch, group = sample(made)
    whole = made(batch, [group], Progress(0, 1))
    parts = [made(batch.rows(i, i + 2), [group.rows(i, i + 2)], Progress(0, 1)) for i in (0, 2)]
    torch.testing.assert_close(sum(part.loss_sum for part in parts), whole.loss_sum)
    assert sum(part.count for part in parts) == whole.count
    assert not made.batch_statistics


def test_it_learns_to_fill_in_and_then_beats_the_cheats() -> None:
    """Stripes: what is hidden follows from what is shown, not from its place."""
    made = method("optim.lr=0.003")
    phase = torch.rand(32, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * 6.28
    images = torch.sin(torch.arange(32.0).reshape(1, 1, 1, 32) * 0.7 + phase).expand(-1, 3, 32, -1)
    ids = torch.arange(32)
    batch = Batch({"image": images}, ids, ids)
    masker = build_masker(made.recipe.mask, made.recipe.grid, 0)
    optimizer = build_optimizer(made, made.recipe.optim)
    for step in range(80):
        output = made(batch, [masker(ids, epoch=0, step=step)], Progress(step, 80))
        optimizer.zero_grad()
        (output.loss_sum / output.count).backward()
        optimizer.step()
    panel = made.panel(batch, [masker(ids, epoch=1, step=0)])
    assert panel.loss is not None
    assert set(panel.cheats) == {"mean_target", "position_only", "copy_nearest"}
    assert all(float(panel.loss) < 0.8 * float(cheat) for cheat in panel.cheats.values())
    assert panel.features.shape == (32, 32)
    assert torch.equal(panel.features, panel.online_features)


def test_the_online_encoder_is_what_is_deployed_saved_and_loaded(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = method()
    assert made.encoder is made.online
    assert made.target is None
    made.after_step(0.9)
    loaded = load_model(save_model(tmp_path / "m", made, made.recipe))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.encoder.forward_features(images), made.online.forward_features(images))
    assert isinstance(loaded.predictor, PixelDecoder)
    assert torch.equal(loaded.predictor.mask_token, made.predictor.mask_token)
    assert len(made.blocks()) == 4


@pytest.mark.parametrize("kind", ["multiblock", "block"])
def test_other_masks_serve_too(kind: str) -> None:
    words = ["mask={kind: multiblock, min_keep: 2}"] if kind == "multiblock" else ["mask={kind: block, ratio: 0.6}"]
    made = method(*words)
    assert torch.isfinite(loss(made, sample(made)))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("target.transform=centred", "target.transform=centred"),
        ("objective.granularity=block", "objective.granularity=block"),
        ("target.layers=2", "target.layers above 1"),
        ("objective.pooled=1", "objective.pooled"),
        ("objective.regularisers=[{kind: variance}]", "objective.regularisers"),
    ],
)
def test_what_pixels_do_not_have_is_refused_in_one_line(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        method(override)
    assert "\n" not in str(caught.value)


def test_published_sizes() -> None:
    table = {
        "mae-vitb16-in1k-paper": (768, 12, 14),
        "mae-vitl16-in1k-paper": (1024, 24, 14),
        "mae-vith14-in1k-paper": (1280, 32, 16),
    }
    for name, (dim, depth, side) in table.items():
        r = load_recipe(name)
        with torch.device("meta"):
            made = build_method(r)
        assert (made.online.embed_dim, made.online.depth, made.online.grid) == (dim, depth, (side, side))
        assert (r.predictor.dim, r.predictor.depth, r.predictor.heads) == (512, 8, 16)  # type: ignore[union-attr]
        assert (r.optim.lr, r.optim.betas, r.optim.weight_decay) == (
            pytest.approx(1.5e-4 * 4096 / 256),
            (0.9, 0.95),
            0.05,
        )
        assert (r.train.batch_size, str(r.optim.warmup), str(r.train.length)) == (4096, "40 epochs", "1600 epochs")
        assert (r.data.augment.crop_scale, r.data.augment.flip, r.mask.ratio) == ((0.2, 1.0), 0.5, (0.75, 0.75))  # type: ignore[union-attr]


def test_the_tiny_recipe_differs_from_ijepa_tiny_in_the_method_only() -> None:
    mae, ijepa = load_recipe("mae-tiny"), load_recipe("ijepa-tiny")
    assert mae.data == ijepa.data
    assert mae.train == ijepa.train
    assert (mae.optim.lr, mae.optim.warmup, mae.optim.final_lr) == (
        ijepa.optim.lr,
        ijepa.optim.warmup,
        ijepa.optim.final_lr,
    )
    same = ("arch", "dim", "depth", "heads", "patch_size")
    assert [getattr(mae.model, name) for name in same] == [getattr(ijepa.model, name) for name in same]
    assert (mae.predictor.dim, mae.predictor.depth) == (ijepa.predictor.dim, ijepa.predictor.depth)  # type: ignore[union-attr]
