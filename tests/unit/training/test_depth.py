"""The deeper health panel: per block, LiDAR over views, how often, and that it disturbs nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny_runs import Generated, numbers, tiny_recipe

from openjepa import api
from openjepa.data import EvalTransform, Normalise, read_batches
from openjepa.features import lidar, mean_cosine, rankme
from openjepa.training import train
from openjepa.training.depth import LIDAR_VIEWS, deep_every, layer_numbers, rank_numbers, view_lidar
from openjepa.types import Ids


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deep") / "run"
    train(tiny_recipe(), Generated(), out=out, console=False)
    return out


def test_the_last_row_says_of_every_block_what_its_features_say(run: Path) -> None:
    model, last = api.load(run), numbers(run)[-1]["health"]
    source = Generated()
    picked = [len(source) * i // 24 for i in range(24)]
    batch = next(iter(read_batches(source, EvalTransform(model.config.data), batch_size=40)))
    images = Normalise.for_data(model.config.data)(batch.inputs["image"][picked])
    with torch.no_grad():
        blocks = model.encoder.forward_intermediates(images, norm="none")
        found = view_lidar(model.encoder, images)
    assert len(last["layers"]["rankme"]) == len(blocks) == 2
    for i, tokens in enumerate(blocks):
        pooled = tokens.mean(1)
        assert last["layers"]["rankme"][i] == pytest.approx(rankme(pooled), rel=1e-4)
        assert last["layers"]["cosine"][i] == pytest.approx(mean_cosine(pooled), rel=1e-4)
        assert last["layers"]["std"][i] == pytest.approx(float(pooled.double().std(0, correction=0).mean()), rel=1e-4)
    assert last["lidar"] == pytest.approx(found, rel=1e-4)
    assert 1 <= last["lidar"] <= 16
    assert last["alpha"] > 0


def test_deep_rows_are_the_first_the_last_and_few_between(run: Path) -> None:
    rows = numbers(run)
    assert [row["step"] for row in rows if "lidar" in row["health"]] == [0, 12]
    assert all("alpha" in row["health"] for row in rows)
    assert deep_every(log_every=3, batch=8, samples=24) == 96  # 768 images trained on per 24 looked at
    assert deep_every(log_every=312, batch=64, samples=256) == 312
    assert deep_every(log_every=200, batch=1, samples=8) == 400


def test_measuring_draws_no_random_number(run: Path) -> None:
    model = api.load(run)
    images = torch.randn(6, 3, 16, 16)
    state = torch.get_rng_state()
    with torch.no_grad():
        first = view_lidar(model.encoder, images)
        assert view_lidar(model.encoder, images) == first
    assert torch.equal(torch.get_rng_state(), state)


class Positionless:
    """Features of a patch are its pixels: the views of an image differ by which patches they hold."""

    patch_size = (4, 4)

    def __init__(self) -> None:
        self.kept: list[Ids] = []

    def forward_features(self, x: torch.Tensor, keep: Ids) -> torch.Tensor:
        self.kept.append(keep)
        patches = torch.nn.functional.unfold(x, 4, stride=4).transpose(1, 2)
        return patches.gather(1, keep.index[..., None].expand(-1, -1, patches.shape[-1]))


def test_views_are_different_halves_and_lidar_is_grouped_by_image() -> None:
    encoder, images = Positionless(), torch.randn(10, 3, 16, 16)
    found = view_lidar(encoder, images)  # type: ignore[arg-type]
    assert len(encoder.kept) == LIDAR_VIEWS
    assert all(keep.index.shape == (10, 8) for keep in encoder.kept)
    assert not torch.equal(encoder.kept[0].index, encoder.kept[1].index)
    pooled = torch.cat([Positionless().forward_features(images, keep).mean(1) for keep in encoder.kept])
    assert found == pytest.approx(lidar(pooled, torch.arange(10).repeat(LIDAR_VIEWS)))


def test_what_cannot_be_measured_is_nan_and_no_error() -> None:
    assert math.isnan(view_lidar(Positionless(), torch.randn(1, 3, 16, 16)))  # type: ignore[arg-type]
    assert math.isnan(view_lidar(Positionless(), torch.full((4, 3, 16, 16), math.nan)))  # type: ignore[arg-type]
    assert all(math.isnan(value) for value in rank_numbers(torch.full((4, 3), math.inf)).values())
    assert math.isnan(layer_numbers([torch.full((4, 2, 3), math.nan)])["rankme"][0])
