"""Masked latent prediction: exact sums, a target without gradient, cheats that are what they say."""

from __future__ import annotations

import torch

from openjepa.config.schema import (
    DataConfig,
    ModelConfig,
    NarrowPredictorConfig,
    ObjectiveConfig,
    Recipe,
    RegulariserConfig,
    TargetConfig,
)
from openjepa.methods import MaskedLatent, build_method
from openjepa.types import Batch, Ids, MaskGroup, Progress


def recipe(**changes: object) -> Recipe:
    return Recipe(
        name="t",
        data=DataConfig(image_size=16),
        model=ModelConfig(arch=None, dim=16, depth=2, heads=2, patch_size=4),
        predictor=NarrowPredictorConfig(dim=8, depth=1, heads=2),
        **changes,
    )


def method(**changes: object) -> MaskedLatent:
    torch.manual_seed(0)
    return build_method(recipe(**changes))


def batch(size: int = 4) -> tuple[Batch, MaskGroup]:
    torch.manual_seed(1)
    order = torch.stack([torch.randperm(16) for _ in range(size)])
    valid = torch.ones(size, 7, dtype=torch.bool)
    valid[0, 5:] = False
    group = MaskGroup([Ids(order[:, :7], valid)], [Ids(order[:, 8:11]), Ids(order[:, 11:14])], [(0, 0), (0, 1)], (4, 4))
    return Batch({"image": torch.randn(size, 3, 16, 16)}, torch.arange(size), torch.arange(size)), group


def test_micro_batches_sum_to_the_whole() -> None:
    model, (data, group) = method(), batch()
    whole = model(data, [group], Progress(0, 1))
    parts = [model(data.rows(a, b), [group.rows(a, b)], Progress(0, 1)) for a, b in ((0, 1), (1, 4))]
    torch.testing.assert_close(whole.loss_sum, parts[0].loss_sum + parts[1].loss_sum)
    assert whole.count == parts[0].count + parts[1].count == 4 * 6 * 16


def test_gradient_reaches_what_learns_and_nothing_else() -> None:
    model, (data, group) = method(), batch()
    model(data, [group], Progress(0, 1)).loss_sum.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("target."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_hidden_patches_do_not_leak_into_predictions() -> None:
    model, (data, group) = method(), batch()
    prediction, query, _ = model.predict(data.inputs["image"], group)
    hidden = data.inputs["image"].clone()
    for row, ids in enumerate(group.targets[0].index):
        for token in ids.tolist():
            r, c = divmod(token, 4)
            hidden[row, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] = 9.0
    again, _, _ = model.predict(hidden, group)
    torch.testing.assert_close(prediction, again)
    assert query.index.shape == (8, 3)


def test_after_step_moves_the_target() -> None:
    model, _ = method(), None
    with torch.no_grad():
        model.online.norm.weight.fill_(3.0)
    model.after_step(0.75)
    torch.testing.assert_close(model.target.norm.weight, torch.full((16,), 1.5))


def test_regularisers_are_weighted_by_the_count_and_declared() -> None:
    plain, (data, group) = method(), batch()
    term = RegulariserConfig(kind="variance", weight=2.0)
    model = method(objective=ObjectiveConfig(regularisers=(term,)))
    a, b = plain(data, [group], Progress(0, 1)), model(data, [group], Progress(0, 1))
    torch.testing.assert_close(b.loss_sum / b.count, a.loss_sum / a.count + 2.0 * b.terms["variance"])
    assert model.batch_statistics
    assert model.synchronised  # the processes of a run share the statistic (tests/rank_harness.py: sharded_parts)
    assert not plain.batch_statistics


def test_centred_targets_leave_nothing_to_position() -> None:
    model, (data, _) = method(target=TargetConfig(transform="centred")), batch()
    assert model.batch_statistics
    assert not model.synchronised
    same = Batch({"image": data.inputs["image"][:1].expand(4, -1, -1, -1)}, data.ids, data.places)
    assert model.targets(same.inputs["image"])[1].abs().max() < 1e-5
    assert model.targets(data.inputs["image"])[1].mean(dim=0).abs().max() < 1e-5
    assert model.targets(data.inputs["image"])[1].abs().max() > 0.1


def test_pooled_prediction_learns_and_is_a_term_of_its_own() -> None:
    model, (data, group) = method(objective=ObjectiveConfig(weight=0.0, pooled=2.0)), batch()
    out = model(data, [group], Progress(0, 1))
    torch.testing.assert_close(out.loss_sum / out.count, 2.0 * out.terms["pooled"])
    out.loss_sum.backward()
    assert model.pooled_head[0].weight.grad.abs().max() > 0
    assert model.online.patch_embed.proj.weight.grad.abs().max() > 0
    assert model.target.patch_embed.proj.weight.grad is None


def test_cheats_are_what_they_say() -> None:
    model, (data, group) = method(), batch()
    panel = model.panel(data, [group])
    assert set(panel.cheats) == {"mean_target", "position_only", "copy_nearest"}
    # When all images are equal, position alone predicts the targets exactly, and the mean target still does not.
    same = Batch({"image": data.inputs["image"][:1].expand(4, -1, -1, -1)}, data.ids, data.places)
    equal = model.panel(same, [group])
    assert equal.cheats["position_only"] < 1e-6 < equal.cheats["mean_target"]
    # A context that contains the targets themselves makes copying perfect.
    everything = Ids(torch.arange(16).expand(4, -1))
    leaking = MaskGroup([everything], group.targets, group.pairs, (4, 4))
    assert model.panel(data, [leaking]).cheats["copy_nearest"] < 1e-6
    assert panel.features.shape == (4, 16)
