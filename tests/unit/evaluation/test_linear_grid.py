"""Heads trained together: each equals torch's own optimizer on its own; the choice never sees val."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from openjepa.errors import ConfigError, DataError, TrainingError
from openjepa.evaluation import EVALUATORS, linear
from openjepa.evaluation.choice import Outcome, best
from openjepa.evaluation.heads import HeadGrid, cosine, moments, spans, train_heads
from openjepa.evaluation.linear_grid import linear_grid
from openjepa.evaluation.request import Request, Settings
from openjepa.features import Features

FAST = HeadGrid(epochs=10, batch_size=64, products="fp32")


def plain(x, y, classes, grid, lr, decay, seed):
    """One head with nn.BatchNorm1d, nn.Linear, autograd and torch.optim; logits of the training samples."""
    head = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    norm = nn.BatchNorm1d(x.shape[1], affine=False, eps=1e-6)
    kind = torch.optim.AdamW if grid.optimizer == "adamw" else torch.optim.SGD
    extra = {} if grid.optimizer == "adamw" else {"momentum": 0.9}
    groups = [{"params": [head.weight], "weight_decay": decay}, {"params": [head.bias], "weight_decay": 0.0}]
    optimizer = kind(groups, lr=lr, **extra)
    cuts, step = spans(len(x), grid.batch_size), 0
    generator = torch.Generator().manual_seed(seed)
    for _ in range(grid.epochs):
        order = torch.randperm(len(x), generator=generator)
        for start, stop in cuts:
            for group in optimizer.param_groups:
                group["lr"] = lr * cosine(step, grid.epochs * len(cuts))
            rows = x[order[start:stop]]
            loss = F.cross_entropy(head(norm(rows) if grid.batch_norm else rows), y[order[start:stop]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    if grid.batch_norm:
        x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-6).sqrt()
    return head(x).detach()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_every_head_equals_torch_on_its_own(optimizer, batch_norm):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 6, generator=generator) * torch.logspace(-1, 0.5, 6) + 3 * batch_norm
    y = torch.randint(0, 3, (90,), generator=generator)
    grid = HeadGrid((0.01, 0.1), (0.0, 0.05), 4, 32, optimizer, batch_norm, "fp32")
    heads = train_heads(x, y, 3, grid, seed=5)
    for i, (lr, decay) in enumerate(grid.pairs):
        expected = plain(x, y, 3, grid, lr, decay, 5)
        assert torch.allclose(heads.logits(x, i), expected, atol=2e-4), (lr, decay)
    assert not torch.allclose(heads.logits(x, 0), heads.logits(x, 2), atol=1e-2)


def test_bf16_products_change_little(make):
    train, val = make(600, seed=1), make(400, seed=2)
    scores = [linear_grid(train, val, grid=dataclasses.replace(FAST, products=p)) for p in ("fp32", "bf16")]
    assert abs(scores[0].value - scores[1].value) <= 0.01
    assert [s.protocol["products"] for s in scores] == ["fp32", "bf16"]


def test_agrees_with_logistic_regression(make):
    train, val = make(900, seed=1), make(900, seed=2)
    score = linear_grid(train, val, grid=dataclasses.replace(FAST, epochs=40))
    assert abs(score.value - linear(train, val).value) <= 0.015
    assert score.interval[0] < score.value < score.interval[1]


def test_choice_is_by_held_out_train_and_grid_max_is_on_val(make):
    train, val = make(300, seed=1), make(200, seed=2)
    first = linear_grid(train, val, grid=FAST)
    wrong = Features(val.values, val.ids, (val.labels + 1) % 3, (), val.classes)
    other = linear_grid(train, wrong, grid=FAST)
    for key in ("lr", "weight_decay", "held_out_accuracy"):
        assert first.protocol[key] == other.protocol[key]
    assert first.grid_max >= first.value
    assert other.grid_max >= other.value
    assert other.value < 0.4 < first.value
    assert first == linear_grid(train, val, grid=FAST)
    assert first.extra["heads"] == 20


def test_refit_uses_all_of_train(make):
    train, val = make(120, seed=1), make(300, seed=2)
    with_refit, without = (linear_grid(train, val, grid=FAST, refit=refit) for refit in (True, False))
    assert with_refit.protocol["held_out_accuracy"] == without.protocol["held_out_accuracy"]
    assert (with_refit.protocol["refit"], without.protocol["refit"]) == ("all of train", "no")
    assert with_refit.per_class != without.per_class


def test_diverged_heads_are_counted_and_not_chosen(make):
    train, val = make(200, seed=1), make(100, seed=2)
    grid = HeadGrid((0.1, 1e30), (0.5,), 5, 64, batch_norm=False, products="fp32")
    small = [Features(f.values / 30, f.ids, f.labels, (), f.classes) for f in (train, val)]
    score = linear_grid(*small, grid=grid)
    assert score.protocol["lr"] == 0.1
    assert score.extra["diverged"] == 1
    with pytest.raises(TrainingError, match="all 1 heads of the grid diverged"):
        linear_grid(*small, grid=HeadGrid((1e30,), (0.5,), 5, 64, batch_norm=False, products="fp32"))


def test_best_breaks_ties_by_loss_then_by_caution():
    pairs = [(0.1, 0.0), (0.1, 0.1), (0.2, 0.1), (0.3, 0.0)]
    same = Outcome(0.5, 1.0)
    assert best([same, same, same, Outcome(0.5, 0.9)], pairs) == 3
    assert best([same, same, same, same], pairs) == 1
    assert best([same, Outcome(0.9, float("nan")), same, same], pairs) == 0


def test_an_edge_of_the_grid_is_said(make, caplog):
    linear_grid(make(200, seed=1), make(100, seed=2), grid=HeadGrid((1e-6, 1e-5), (0.0,), 2, 64))
    assert "chose the highest learning rate of its grid (1e-05): widen it" in caplog.text


def test_last_four_and_order_of_classes(make):
    train, val = make(300, seed=1), make(200, seed=2)
    moved = Features(val.values, val.ids, torch.tensor([2, 0, 1])[val.labels], (), ("bee", "cat", "ant"))
    assert linear_grid(train, moved, grid=FAST).value == linear_grid(train, val, grid=FAST).value


def test_mistakes_in_one_line(make):
    train, val = make(60, seed=1), make(60, seed=2)

    def fails(error, message, *sides, **options):
        request = Request("x", Settings(options={"linear-grid": options}), train=sides[0], val=sides[1])
        with pytest.raises(error, match=message) as caught:
            EVALUATORS["linear-grid"].run(request)
        assert "\n" not in str(caught.value)

    fails(ConfigError, r"no option 'epoch'.*did you mean 'epochs'", train, val, epoch=3)
    fails(ConfigError, "optimizer='adam' is not one of sgd, adamw", train, val, optimizer="adam")
    fails(ConfigError, "learning rates", train, val, lrs=[0.1, -1.0])
    fails(ConfigError, "at least one learning rate", train, val, lrs=[])
    fails(ConfigError, "epochs >= 1", train, val, epochs=0)
    fails(DataError, "the train samples all have class 'ant'", train.rows(train.labels == 0), val)
    fails(DataError, "val has classes that train has not: 'cat'", train.rows(train.labels != 2), val)
    broken = Features(val.values * float("nan"), val.ids, val.labels, (), val.classes)
    fails(DataError, "val features are not finite", train, broken)
    fails(DataError, "train samples have no labels", Features(train.values, train.ids), val)
    few = train.rows(torch.tensor([int((train.labels == c).nonzero()[0]) for c in range(3)]))
    fails(DataError, "one training sample per class", few, val)


def test_moments_and_spans():
    x = torch.randn(5000, 3) * 0.1 + 100
    mean, var = moments(x)
    assert torch.allclose(mean, x.double().mean(0), atol=1e-6)
    assert torch.allclose(var, x.double().var(0, correction=0), rtol=1e-4)
    assert spans(10, 4) == [(0, 3), (3, 7), (7, 10)]
    assert spans(3, 100) == [(0, 3)]
