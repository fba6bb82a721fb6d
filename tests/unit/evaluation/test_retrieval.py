"""Retrieval against the definition, query by query, and scikit-learn's average precision."""

import numpy as np
import pytest
import torch

from openjepa.errors import DataError
from openjepa.evaluation import retrieval
from openjepa.evaluation.retrieval import rank
from openjepa.features import Features


def _brute(queries, labels, bank, bank_labels, own):
    """Mean average precision and recall@k by the definition."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    cosine = unit(queries.double().numpy()) @ unit(bank.double().numpy()).T
    precisions, first = [], []
    for i in range(len(queries)):
        order = [j for j in np.argsort(-cosine[i], kind="stable") if not (own and j == i)]
        hits = [rank for rank, j in enumerate(order, 1) if bank_labels[j] == labels[i]]
        if hits:
            precisions.append(np.mean([(found + 1) / rank for found, rank in enumerate(hits)]))
            first.append(hits[0])
    return np.mean(precisions), {k: np.mean([f <= k for f in first]) for k in (1, 5, 10)}, len(precisions)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("cells", [50, 10**6])
def test_equals_brute_force(make, own, cells, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("openjepa.evaluation.retrieval"), "_CELLS_AT_ONCE", cells)
    a, b = make(70, seed=1, spread=3.0), make(90, seed=2, spread=3.0)
    if own:
        b = a
    found = rank(a.values, a.labels, b.values, b.labels, own=own)
    expected, recall, count = _brute(a.values, a.labels, b.values, b.labels, own)
    assert found.mean == pytest.approx(expected, abs=1e-12)
    assert found.recall == pytest.approx(recall)
    assert len(found.average_precision) == count


def test_average_precision_equals_scikit_learn(make):
    from sklearn.metrics import average_precision_score

    a, b = make(20, seed=1, spread=3.0), make(60, seed=2, spread=3.0)
    found = rank(a.values, a.labels, b.values, b.labels)
    cosine = torch.nn.functional.normalize(a.values.double()) @ torch.nn.functional.normalize(b.values.double()).T
    peer = [average_precision_score(b.labels == a.labels[i], cosine[i]) for i in range(20)]
    np.testing.assert_allclose(found.average_precision.numpy(), peer, atol=1e-12)


def test_scores_are_centred_by_train_and_leave_each_query_out(make):
    train, val = make(120, seed=1), make(80, seed=2)
    inside, outside = retrieval(train, val)
    mean = train.values.double().mean(0)
    x, v = train.values.double() - mean, val.values.double() - mean
    assert inside.value == pytest.approx(_brute(v, val.labels, v, val.labels, True)[0], abs=1e-9)
    expected, recall, _ = _brute(v, val.labels, x, train.labels, False)
    assert outside.value == pytest.approx(expected, abs=1e-9)
    assert outside.extra == pytest.approx({f"recall@{k}": share for k, share in recall.items()})
    for score in (inside, outside):
        assert score.metric == "mAP"
        assert score.interval[0] < score.value < score.interval[1]


def test_equal_images_do_not_depend_on_blocks(make):
    """Copies are ranked by index whatever a blocked product does to the last digits."""
    x = make(30, seed=1).values.repeat(4, 1)
    labels = torch.arange(120) % 7
    first = rank(x, labels, x, labels, own=True)
    for size in (1, 3, 50):
        part = rank(x[:size], labels[:size], x, labels)
        whole = rank(x, labels, x, labels)
        assert torch.equal(part.average_precision, whole.average_precision[:size])
    assert len(first.average_precision) == 120


def test_a_class_with_one_image_is_left_out_and_said(make):
    labels = torch.tensor([0] * 10 + [1] * 10 + [2])
    val = make(21, seed=2, labels=labels)
    inside, outside = retrieval(make(60, seed=1), val)
    assert (inside.n_val, inside.protocol["queries_without_match"]) == (20, 1)
    assert outside.n_val == 21
    lonely = val.rows(torch.tensor([0, 10, 20]))
    with pytest.raises(DataError, match="two images of a class"):
        retrieval(make(60, seed=1), lonely)


def test_zero_rows_have_no_direction():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.1]])
    found = rank(x, torch.tensor([0, 1, 1]), x, torch.tensor([0, 1, 1]), own=True)
    assert found.left_out == 1
    assert found.mean == 1.0


def test_wrong_features(make):
    val = make(40, seed=2)
    broken = Features(val.values * torch.nan, val.ids, val.labels, (), val.classes)
    with pytest.raises(DataError, match="40 of 40 val features are not finite"):
        retrieval(make(40), broken)
