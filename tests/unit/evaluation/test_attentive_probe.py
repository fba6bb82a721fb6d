"""Token probes: pooling that must find one token, the same protocol for both poolings, tokens kept or streamed."""

import logging

import pytest
import torch
from torch import nn

from openjepa.data import Subset, open_source
from openjepa.errors import ConfigError, DataError
from openjepa.evaluation import evaluate
from openjepa.evaluation.attentive import MeanClassifier, ProbeGrid, classify, token_probe, train_probes
from openjepa.evaluation.request import Bench, Settings
from openjepa.evaluation.tokens import from_features, open_tokens
from openjepa.features import Features

QUICK = {"lrs": (1e-2, 3e-2), "weight_decays": (0.01,), "epochs": 12, "batch_size": 64, "precision": "fp32"}
NAMES = ("blue", "green", "red")


def needle(n, seed=0, tokens=9, dim=16, classes=3):
    """One token, at a random place, says the class; the others shout so that their average drowns it."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    x = torch.randn(n, tokens, dim, generator=generator)
    place = torch.randint(0, tokens, (n,), generator=generator)
    sign = torch.nn.functional.one_hot(y, dim).float() * 4
    sign[:, -1] = 6  # how it is found
    x[torch.arange(n), place] = sign + 0.3 * torch.randn(n, dim, generator=generator)
    return Features(x, torch.arange(n), y, (), NAMES)


@pytest.fixture(scope="module")
def sides():
    return from_features(needle(300, 1), needle(150, 2))


def test_attentive_pooling_finds_what_averaging_drowns(sides):
    grid = {**QUICK, "lrs": (3e-3, 1e-2)}
    attentive = token_probe(sides, ProbeGrid(**grid))
    mean = token_probe(sides, ProbeGrid(pooling="mean", **grid))
    assert attentive.value > 0.9 > mean.value + 0.05
    assert (attentive.name, mean.name) == ("attentive", "mean-pool-grid")
    same = ("optimizer", "grid", "epochs", "batch", "chosen_on", "refit")
    assert [attentive.protocol[key] for key in same] == [mean.protocol[key] for key in same]
    assert attentive.grid_max >= attentive.value
    assert attentive.classes == NAMES
    assert attentive.protocol["heads"] == 1


def test_four_blocks_learn_too_and_are_named(sides):
    score = token_probe(sides, ProbeGrid(blocks=4, heads=2, **{**QUICK, "lrs": (3e-3,), "epochs": 10}))
    assert score.name == "attentive-4"
    assert score.protocol["heads"] == 2
    assert score.value > 0.45  # chance is a third; it learns more slowly than one block


def test_a_probe_of_a_grid_equals_one_trained_alone(sides):
    index = torch.arange(100)
    together = train_probes(sides.train, index, 3, ProbeGrid(**QUICK), seed=3)
    for i, lr in enumerate(QUICK["lrs"]):
        (alone,) = train_probes(sides.train, index, 3, ProbeGrid(**{**QUICK, "lrs": (lr,)}), seed=3)
        for a, b in zip(alone.parameters(), together[i].parameters(), strict=True):
            assert torch.allclose(a, b, atol=2e-4)
    assert not torch.equal(together[0].linear.weight, together[1].linear.weight)


def test_choice_does_not_see_val_and_runs_repeat(sides):
    state = torch.get_rng_state()
    first = token_probe(sides, ProbeGrid(**QUICK))
    assert torch.equal(torch.get_rng_state(), state)
    val = needle(150, 2)
    moved = from_features(needle(300, 1), Features(val.values, val.ids, (val.labels + 1) % 3, (), NAMES))
    other = token_probe(moved, ProbeGrid(**QUICK))
    assert other.protocol["lr"] == first.protocol["lr"]
    assert other.protocol["held_out_accuracy"] == first.protocol["held_out_accuracy"]
    assert other.value < first.value
    assert token_probe(sides, ProbeGrid(**QUICK)) == first
    refit = token_probe(sides, ProbeGrid(refit=True, **QUICK))
    assert refit.protocol["refit"] == "all of train"
    assert refit.protocol["held_out_accuracy"] == first.protocol["held_out_accuracy"]


def test_clip_keeps_each_probe_on_its_own(sides, monkeypatch):
    seen = []
    real = nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda p, most: seen.append(most) or real(p, most))
    train_probes(sides.train, torch.arange(60), 3, ProbeGrid(clip=0.5, **{**QUICK, "epochs": 1}))
    assert seen == [0.5, 0.5]


def test_mean_head_averages_and_normalises():
    head = MeanClassifier(8, 3).train()
    tokens = torch.randn(32, 5, 8) * 3 + 7
    mean = tokens.mean(1)
    normed = (mean - mean.mean(0)) / (mean.var(0, correction=0) + 1e-6).sqrt()
    assert torch.allclose(classify([head], tokens)[0], head.linear(normed), atol=1e-4)


@pytest.fixture
def sources(tmp_path, write):
    train = open_source(write(tmp_path / "train", NAMES, 20, seed=0))
    return train, open_source(write(tmp_path / "val", NAMES, 8, seed=1))


def test_streamed_tokens_equal_kept_ones(sources, encoder, normalise, transform):
    bench = Bench(encoder, normalise, transform, *sources, batch_size=16)
    kept, streamed = open_tokens(bench), open_tokens(bench, memory=0)
    assert streamed.streamed
    assert not kept.streamed
    assert kept.train.shape == streamed.train.shape == (16, 12)
    order = torch.tensor([7, 3, 50, 21, 0])
    for a, b in zip(kept.train.batches(order, 2), streamed.train.batches(order, 2), strict=True):
        assert torch.allclose(a[0], b[0], atol=1e-6)
        assert torch.equal(a[1], b[1])
    grid = ProbeGrid(**{**QUICK, "epochs": 3})
    assert token_probe(kept, grid).value == token_probe(streamed, grid).value


def test_evaluators_by_name(sources, encoder, normalise, transform):
    settings = Settings(options={"attentive": {**QUICK, "epochs": 6}, "attentive-4": {"epochs": 1, "heads": 3}})
    names = ("attentive", "attentive-4", "mean-pool-grid", "linear-grid")
    scores = evaluate(
        encoder, normalise, *sources, names, transform=transform, settings=settings, raw_pixels=True, subject="e"
    )
    assert [(s.subject, s.name) for s in scores] == [*(("e", n) for n in names), ("raw pixels", "linear-grid")]
    assert [s.protocol.get("epochs") for s in scores[:3]] == [6, 1, 6]
    assert scores[0].value > 0.8
    assert scores[1].protocol["heads"] == 3
    assert scores[2].protocol["pooling"] == "mean, batch norm"


def test_last_four_layers(sources, normalise, transform):
    from openjepa.models import VisionTransformer

    torch.manual_seed(0)
    vit = VisionTransformer(image_size=(16, 16), patch_size=8, dim=8, depth=4, heads=2)
    bench = Bench(vit, normalise, transform, *sources, layers="last4")
    assert open_tokens(bench).train.shape == open_tokens(bench, memory=0).train.shape == (4, 32)


def test_mistakes_in_one_line(sources, encoder, normalise, transform, tmp_path, write):
    def fails(error, message, train=sources[0], val=sources[1], model=encoder, **options):
        settings = Settings(options={"attentive": options})
        with pytest.raises(error, match=message) as caught:
            evaluate(model, normalise, train, val, "attentive", transform=transform, settings=settings)
        assert "\n" not in str(caught.value)

    odd = open_source(write(tmp_path / "odd", ("blue", "gren"), 3))
    flat = open_source(write(tmp_path / "flat", (".",), 3))
    one = Subset(sources[0], [i for i in range(60) if sources[0].label(i) == 0])
    fails(DataError, r"'gren' \(did you mean 'green'\?\)", val=odd)
    fails(DataError, "val samples have no labels", val=flat)
    fails(DataError, "all have class 'blue'", train=one, val=one)
    fails(ConfigError, r"no option 'block'.*did you mean 'blocks'", block=4)
    fails(ConfigError, "width 12 cannot have 5 heads", heads=5)
    fails(ConfigError, "blocks >= 1", blocks=0)
    fails(ConfigError, "form='vjepa3'", form="vjepa3")
    broken = type(encoder)()
    with torch.no_grad():
        broken.weight.fill_(float("nan"))
    fails(DataError, "not finite", model=broken)
    pooled = Features(torch.zeros(4, 3), torch.arange(4), torch.arange(4) % 2)
    with pytest.raises(DataError, match="needs patch tokens"):
        from_features(pooled, pooled)


def test_an_edge_of_the_grid_is_said(sides, caplog):
    with caplog.at_level(logging.WARNING):
        token_probe(sides, ProbeGrid(pooling="mean", **{**QUICK, "lrs": (1e-6, 1e-5), "epochs": 1}))
    assert "widen it" in caplog.text
