"""kNN against scikit-learn and brute force; classes by name; what cannot be scored."""

import logging

import numpy as np
import pytest
import torch

from openjepa.errors import ConfigError, DataError
from openjepa.evaluation import knn
from openjepa.features import Features


def _centred(train, val):
    mean = train.values.double().mean(0)
    return (train.values.double() - mean).float().numpy(), (val.values.double() - mean).float().numpy()


@pytest.mark.parametrize("k", [1, 4, 20])
def test_majority_equals_scikit_learn(make, k):
    from sklearn.neighbors import KNeighborsClassifier

    train, val = make(301, seed=1), make(157, seed=2)
    a, b = _centred(train, val)
    peer = KNeighborsClassifier(n_neighbors=k, metric="cosine", algorithm="brute").fit(a, train.labels.numpy())
    assert knn(train, val, k=k, temperature=None).value == peer.score(b, val.labels.numpy())


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_weighted_vote_equals_scikit_learn(make, temperature):
    from sklearn.neighbors import KNeighborsClassifier

    train, val = make(301, seed=1), make(157, seed=2)
    a, b = _centred(train, val)
    peer = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature))
    peer.fit(a, train.labels.numpy())
    score = knn(train, val, k=20, temperature=temperature)
    assert score.value == peer.score(b, val.labels.numpy())
    for i, name in enumerate(("ant", "bee", "cat")):
        here = val.labels.numpy() == i
        assert score.per_class[name] == pytest.approx(peer.score(b[here], val.labels.numpy()[here]))


def test_leave_one_out_equals_fitting_without_each_sample(make):
    train = make(61, seed=1)
    score = knn(train, None, k=5, centre=False)
    right = 0
    for i in range(61):
        rest = train.rows(torch.arange(61) != i)
        right += knn(rest, train.rows(torch.tensor([i])), k=5, centre=False).value
    assert score.value == pytest.approx(right / 61)
    assert score.protocol["split"] == "leave-one-out"


def test_centring_matters_and_is_stated(make):
    train, val = make(300, seed=1), make(200, seed=2)
    with_mean, without = knn(train, val), knn(train, val, centre=False)
    mean = train.values.double().mean(0)
    moved = [_changed(f, values=(f.values.double() - mean).float()) for f in (train, val)]
    assert knn(*moved, centre=False).value == with_mean.value
    assert with_mean.per_class != without.per_class
    assert with_mean.protocol["centred"] == "train mean"
    assert without.protocol["centred"] == "no"
    assert with_mean.protocol["vote"] == "exp(cosine/0.07)"


def test_classes_are_matched_by_name(make):
    train, val = make(200, seed=1), make(100, seed=2)
    moved = Features(val.values, val.ids, torch.tensor([2, 0, 1])[val.labels], (), ("bee", "cat", "ant"))
    assert knn(train, moved) == knn(train, val)


def test_order_and_unlabelled_samples_do_not_matter(make):
    train, val = make(200, seed=1), make(100, seed=2)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert knn(train.rows(order), val).value == knn(train, val).value
    extra = Features(
        torch.cat([val.values, val.values[:5] * 9]),
        torch.arange(105),
        torch.cat([val.labels, torch.full((5,), -1)]),
        (),
        val.classes,
    )
    assert knn(train, extra).value == knn(train, val).value


def test_a_class_missing_from_val_is_fine(make):
    train = make(90, seed=1)
    val = make(40, seed=2)
    score = knn(train, val.rows(val.labels != 1))
    assert set(score.per_class) == {"ant", "cat"}


def test_k_is_lowered_with_a_warning(make, caplog):
    with caplog.at_level(logging.WARNING):
        score = knn(make(12, seed=1), make(30, seed=2), k=20)
    assert score.protocol["k"] == 12
    assert "k=20 is more than the 12 training samples" in caplog.text


def _changed(features, **changes):
    fields = {"values": features.values, "labels": features.labels, "classes": features.classes, **changes}
    return Features(fields["values"], features.ids, fields["labels"], (), fields["classes"])


@pytest.mark.parametrize(
    ("side", "changes", "message"),
    [
        ("val", {"classes": ("ant", "bee", "cats")}, r"'cats' \(did you mean 'cat'\?\); train has ant, bee, cat"),
        ("train", {"labels": None}, "the train samples have no labels"),
        ("val", {"labels": torch.full((40,), -1)}, "the val samples have no labels"),
        ("train", {"labels": torch.zeros(40, dtype=torch.int64)}, "all have class 'ant'"),
        ("val", {"values": torch.full((40, 10), float("nan"))}, "40 of 40 val features are not finite"),
        ("val", {"values": torch.ones(40, 7)}, "10 wide and val features 7"),
        ("train", {"values": torch.ones(40, 4, 10)}, "pooled"),
    ],
)
def test_one_clear_line_when_there_is_no_score(make, side, changes, message):
    sides = {"train": make(40, seed=1), "val": make(40, seed=2)}
    sides[side] = _changed(sides[side], **changes)
    with pytest.raises(DataError, match=message) as caught:
        knn(sides["train"], sides["val"])
    assert "\n" not in str(caught.value)


def test_wrong_settings(make):
    for wrong in ({"k": 0}, {"temperature": 0.0}, {"temperature": -1.0}):
        with pytest.raises(ConfigError, match="kNN needs"):
            knn(make(30), make(30), **wrong)


KS, TEMPERATURES = (1, 3, 7, 15), (0.03, 0.2, None)


def _brute_predictions(bank, bank_y, queries, k, temperature, own=False):
    """The definition, one query at a time in float64: cosine, stable order, summed votes, the first best class."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    a, b = unit(bank.astype(np.float64)), unit(queries.astype(np.float64))
    found = []
    for i, query in enumerate(b):
        cosine = (a * query).sum(1)
        if own:
            cosine[i] = -np.inf
        order = np.argsort(-cosine, kind="stable")[:k]
        votes = np.zeros(3)
        weights = np.ones(k) if temperature is None else np.exp(cosine[order] / temperature)
        np.add.at(votes, bank_y[order], weights)
        found.append(int(votes.argmax()))
    return np.array(found)


def test_the_grid_equals_brute_force_and_chooses_on_train_alone(make):
    train, val = make(90, seed=1, spread=3.0), make(70, seed=2, spread=3.0)
    a, b = _centred(train, val)
    y, val_y = train.labels.numpy(), val.labels.numpy()
    cells = [(k, t) for k in KS for t in TEMPERATURES]
    left_out = {c: float((_brute_predictions(a, y, a, *c, own=True) == y).mean()) for c in cells}
    on_val = {c: float((_brute_predictions(a, y, b, *c) == val_y).mean()) for c in cells}
    chosen = max(cells, key=lambda c: left_out[c])  # max keeps the first of equals
    score = knn(train, val, k=KS, temperature=TEMPERATURES)
    assert score.value == pytest.approx(on_val[chosen], abs=1e-12)
    assert score.grid_max == pytest.approx(max(on_val.values()), abs=1e-12)
    assert len(set(on_val.values())) > 3  # so the choice mattered
    assert score.protocol["k"] == chosen[0]
    assert score.protocol["chosen_on"] == "leave-one-out of 90 train samples"
    assert score.protocol["chosen_accuracy"] == pytest.approx(left_out[chosen])
    assert score.grid_max >= score.value
    wrong = Features(val.values, val.ids, (val.labels + 1) % 3, (), val.classes)
    assert knn(train, wrong, k=KS, temperature=TEMPERATURES).protocol == score.protocol


def test_each_place_of_the_grid_equals_the_same_place_alone(make):
    train, val = make(120, seed=1, spread=3.0), make(80, seed=2, spread=3.0)
    alone = max(knn(train, val, k=k, temperature=t).value for k in KS for t in TEMPERATURES)
    assert knn(train, val, k=KS, temperature=TEMPERATURES).grid_max == alone
    assert knn(train, val, k=(7,), temperature=(0.2,)) == knn(train, val, k=7, temperature=0.2)
    assert knn(train, val, k=7).grid_max is None


def test_a_large_train_side_is_drawn_from_by_class(make, monkeypatch):
    import importlib

    module = importlib.import_module("openjepa.evaluation.knn")
    monkeypatch.setattr(module, "CHOICE_SAMPLES", 30)
    train, val = make(120, seed=1), make(80, seed=2)
    assert knn(train, val, k=KS).protocol["chosen_on"] == "leave-one-out of 30 train samples"
    assert knn(train, val, k=KS, seed=0) == knn(train, val, k=KS, seed=0)


def test_a_grid_cannot_be_chosen_on_its_own_scores(make):
    with pytest.raises(ConfigError, match="a kNN grid needs val"):
        knn(make(30), None, k=(1, 3))


def test_no_class_in_common_means_another_layout(make):
    val = _changed(make(40, seed=2), classes=("train", "test", "extra"))
    with pytest.raises(DataError, match=r"share no class .*lay out both folders the same way"):
        knn(make(40, seed=1), val)
