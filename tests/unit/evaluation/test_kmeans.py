"""k-means: measures equal scikit-learn's, clusters equal scikit-learn's, and labels of val choose nothing."""

import numpy as np
import pytest
import torch

from openjepa.errors import DataError
from openjepa.evaluation import kmeans
from openjepa.evaluation.kmeans import accuracy_of, ari_of, contingency, match_clusters, nmi_of
from openjepa.features import Features


@pytest.mark.parametrize("seed", range(6))
def test_measures_equal_scikit_learn(seed):
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    generator = np.random.default_rng(seed)
    labels, noise = generator.integers(0, 5, 200), generator.integers(0, 5, 200)
    clusters = np.where(generator.random(200) < 0.2 * seed, (labels + 2) % 5, noise)
    table = contingency(clusters, labels, 5)[None]
    assert nmi_of(table)[0] == pytest.approx(normalized_mutual_info_score(labels, clusters), abs=1e-12)
    assert ari_of(table)[0] == pytest.approx(adjusted_rand_score(labels, clusters), abs=1e-12)
    best = accuracy_of(contingency(match_clusters(table[0])[clusters], labels, 5)[None])[0]
    from itertools import permutations

    assert best == max(float((np.array(p)[clusters] == labels).mean()) for p in permutations(range(5)))


def test_degenerate_tables():
    one = np.zeros((1, 3, 3))
    one[0, 0, 0] = 9
    assert nmi_of(one)[0] == 1.0
    assert ari_of(one)[0] == 1.0
    mixed = np.zeros((1, 2, 2))
    mixed[0, 0] = [5, 5]  # one cluster over two classes
    assert nmi_of(mixed)[0] == 0
    assert ari_of(mixed)[0] == 0


def test_scores_equal_scikit_learn_from_end_to_end(make):
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    train, val = make(300, seed=1), make(200, seed=2)
    accuracy, nmi, ari = kmeans(train, val, inits=4)
    mean = train.values.double().mean(0)

    def unit(x):
        return torch.nn.functional.normalize((x.double() - mean).float(), dim=1).numpy()

    runs = [KMeans(3, n_init=1, random_state=s).fit(unit(train.values)) for s in range(4)]
    best = min(runs, key=lambda run: run.inertia_)
    clusters = best.predict(unit(val.values))
    assert nmi.value == pytest.approx(normalized_mutual_info_score(val.labels, clusters), abs=1e-9)
    assert ari.value == pytest.approx(adjusted_rand_score(val.labels, clusters), abs=1e-9)
    match = match_clusters(contingency(best.labels_, train.labels.numpy(), 3))
    assert accuracy.value == pytest.approx(float((match[clusters] == val.labels.numpy()).mean()))
    assert [s.metric for s in (accuracy, nmi, ari)] == ["accuracy", "nmi", "ari"]
    for score in (accuracy, nmi, ari):
        assert len(score.draws) == 4
        assert score.interval[0] < score.value < score.interval[1]
        assert score.spread == pytest.approx(np.std(score.draws, ddof=1))


def test_val_labels_choose_nothing(make):
    train, val = make(200, seed=1), make(100, seed=2)
    moved = Features(val.values, val.ids, (val.labels + 1) % 3, (), val.classes)
    right, wrong = kmeans(train, val)[0], kmeans(train, moved)[0]
    assert right.value > 0.5 > wrong.value  # matching on val would make them equal
    assert kmeans(train, val) == kmeans(train, val)


def test_too_few_samples(make):
    with pytest.raises(DataError, match="more training samples than its 3 clusters"):
        kmeans(make(3, labels=torch.tensor([0, 1, 2])), make(30, seed=2))


def test_collapsed_features_are_scored_without_noise(make, recwarn):
    flat = make(60, seed=1)
    flat = Features(torch.ones_like(flat.values), flat.ids, flat.labels, (), flat.classes)
    accuracy, nmi, _ = kmeans(flat, flat)
    assert accuracy.value < 0.6
    assert nmi.value == pytest.approx(0, abs=1e-9)
    assert not recwarn.list
