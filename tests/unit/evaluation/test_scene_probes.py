"""Ridge against scikit-learn; probes that are given the answers find them; answers are those of the scenes."""

import numpy as np
import pytest
import torch

from openjepa.data import SceneSource
from openjepa.errors import ConfigError, DataError
from openjepa.evaluation import Bench, ridge, scene_probes
from openjepa.evaluation.scene_probes import CROWD, PAIR, _answers, _key


def _random(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("d", [6, 90])
def test_ridge_equals_scikit_learn(d):
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    x, v = _random(60, d, 0) * 7 + 3, _random(40, d, 1) * 7 + 3
    y = x[:, 0] - 2 * x[:, 1] + 10 * _random(60, 1, 2)[:, 0]
    w = v[:, 0] - 2 * v[:, 1] + 10 * _random(40, 1, 3)[:, 0]
    found = ridge(x, y, v, w)
    mean, std = x.double().mean(0), x.double().std(0, correction=0)
    peer = Ridge(alpha=found.penalty * 60).fit(((x - mean) / std).numpy(), y.double().numpy())
    predicted = peer.predict(((v - mean) / std).numpy())
    np.testing.assert_allclose(found.predicted.numpy(), predicted, rtol=1e-6, atol=1e-6)
    assert found.r2 == pytest.approx(r2_score(w, predicted), abs=1e-6)
    assert found.rmse == pytest.approx(float(np.sqrt(np.mean((predicted - w.numpy()) ** 2))), rel=1e-5)
    assert found.rmse_of_mean == pytest.approx(float((w - y.mean()).square().mean().sqrt()), rel=1e-5)
    assert found.interval[0] < found.r2 < found.interval[1]


def test_the_penalty_is_chosen_on_train():
    x, v = _random(60, 40, 0), _random(40, 40, 1)
    y = x[:, 0] + _random(60, 1, 2)[:, 0]
    first, second = ridge(x, y, v, v[:, 0]), ridge(x, y, v, _random(40, 1, 9)[:, 0])
    assert first.penalty == second.penalty
    assert first.penalty > 0.01  # noise needs one
    assert ridge(x, x[:, 0] * 5 + 1, v, v[:, 0] * 5 + 1).r2 > 0.999


def test_ridge_mistakes():
    x = _random(20, 3, 0)
    with pytest.raises(DataError, match="targets that vary"):
        ridge(x, torch.ones(20), x, x[:, 0])
    with pytest.raises(DataError, match="10 train and 2 val"):
        ridge(x[:5], x[:5, 0], x, x[:, 0])


def test_answers_are_those_of_the_scenes():
    crowd, pair = SceneSource(12, 32, 5, style=CROWD), SceneSource(12, 32, 5, style=PAIR)
    counts = _answers("count", _key(crowd))
    for i, count in enumerate(counts):
        assert count == len(set(crowd.scene(i).mask.unique().tolist()) - {0})
    assert len(set(counts)) > 2
    for i, (distance, size) in enumerate(
        zip(_answers("distance", _key(pair)), _answers("size", _key(pair)), strict=True)
    ):
        first, second = pair.scene(i).objects
        assert distance == pytest.approx(np.hypot(first.x - second.x, first.y - second.y))
        assert size == max(first.spec.radius, second.spec.radius)


def test_features_that_hold_the_answers_are_read(monkeypatch, normalise, transform):
    import importlib

    module = importlib.import_module("openjepa.evaluation.scene_probes")
    from openjepa.features import Features

    def told(bench, source):
        questions = ("count",) if source.style == CROWD else ("distance", "size")
        truth = torch.tensor([_answers(q, _key(source)) for q in questions]).T
        noise = torch.randn(len(source), 4, generator=torch.Generator().manual_seed(len(source)))
        return Features(torch.cat([truth, noise], 1).float(), torch.arange(len(source)))

    monkeypatch.setattr(module, "_features", told)
    source = SceneSource(4, 32, 0)
    scores = scene_probes(Bench(None, normalise, transform, source, source), images=80)
    assert [(s.name, s.metric) for s in scores] == [
        ("scenes count", "r2"),
        ("scenes count", "accuracy"),
        ("scenes distance", "r2"),
        ("scenes size", "r2"),
    ]
    assert all(s.value > 0.9 for s in scores)
    assert all(s.extra["rmse"] < 0.2 * s.extra["rmse of the train mean"] for s in scores if s.metric == "r2")


def test_an_encoder_and_raw_pixels(encoder, normalise, transform, tmp_path):
    source = SceneSource(4, 32, 0)
    for model in (encoder, None):
        bench = Bench(model, normalise, transform, source, source, cache_dir=tmp_path)
        scores = scene_probes(bench, images=40)
        assert [s.n_train for s in scores] == [40] * 4
        assert [s.n_val for s in scores] == [20] * 4
        assert all(np.isfinite(s.value) for s in scores)
        assert scene_probes(bench, images=40) == scores
    with pytest.raises(ConfigError, match="at least 40"):
        scene_probes(bench, images=8)
