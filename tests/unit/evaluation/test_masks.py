"""Mask consistency: views are what they claim, an encoder that sees identity finds it, one that does not is at chance."""

import importlib

import pytest
import torch
from torch import nn

from openjepa.data import open_source
from openjepa.errors import ConfigError, DataError
from openjepa.evaluation import Bench, mask_consistency
from openjepa.types import Ids

masks = importlib.import_module("openjepa.evaluation.masks")


class Patches(nn.Module):
    """Mean colour of each patch, of all or of those kept; notes what it was asked for."""

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.embed_dim, self.patch_size, self.blind, self.asked = 3, (4, 4), blind, []

    def forward_features(self, x, keep=None):
        tokens = nn.functional.avg_pool2d(x, 4).flatten(2).transpose(1, 2)
        self.asked.append(keep)
        if self.blind:
            tokens = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(len(self.asked)))
        return tokens if keep is None else tokens.gather(1, keep.index[..., None].expand(-1, -1, 3))


@pytest.fixture
def bench(tmp_path, write, normalise, transform):
    source = open_source(write(tmp_path / "a", ("blue", "green", "red"), 12))
    return lambda encoder: Bench(encoder, normalise, transform, source, source, batch_size=5)


def test_equals_a_loop_over_images(bench):
    encoder = Patches()
    score = mask_consistency(bench(encoder), keep=0.25)
    asked = encoder.asked
    firsts, seconds = asked[0::2], asked[1::2]
    place = bench(encoder)
    images = torch.stack([place.transform(place.val_source.read(i)) for i in range(36)])
    tokens = nn.functional.avg_pool2d(place.normalise(images), 4).flatten(2).transpose(1, 2).double()
    first, second = (torch.cat([ids.index for ids in part]) for part in (firsts, seconds))
    a, b = (torch.stack([tokens[i, ids[i]].mean(0) for i in range(36)]) for ids in (first, second))
    mean = torch.cat([a, b]).mean(0)
    right, margin = 0, 0.0
    for i in range(36):
        cosine = torch.nn.functional.cosine_similarity(a[i] - mean, b - mean)
        other = torch.cat([cosine[:i], cosine[i + 1 :]]).max()
        right += bool(cosine[i] > other)
        margin += float(cosine[i] - other) / 36
    assert score.value == pytest.approx(right / 36)
    assert score.extra["margin"] == pytest.approx(margin, abs=1e-6)
    assert score.extra["chance"] == pytest.approx(1 / 36)
    assert score.interval[0] < score.value < score.interval[1]


def test_views_share_no_patch_are_seeded_and_do_not_depend_on_batches(bench):
    encoder = Patches()
    score = mask_consistency(bench(encoder), keep=0.5)
    for first, second in zip(encoder.asked[0::2], encoder.asked[1::2], strict=True):
        for a, b in zip(first.index.tolist(), second.index.tolist(), strict=True):
            assert len(a) == len(b) == 8
            assert not set(a) & set(b)
    from dataclasses import replace

    assert mask_consistency(replace(bench(Patches()), batch_size=36), keep=0.5) == score
    assert mask_consistency(bench(Patches()), keep=0.5, seed=1) != score
    assert "overlapping" in mask_consistency(bench(Patches()), keep=0.75).protocol["views"]


def test_identity_is_found_and_noise_is_at_chance(bench):
    assert mask_consistency(bench(Patches()), keep=0.9).value > 0.3  # most patches are in both views
    assert mask_consistency(bench(Patches(blind=True)), keep=0.9).value < 0.15


def test_own_views_and_padding(bench):
    def views(places):
        index = torch.tensor([[0, 1, 2, 0]]).expand(len(places), -1)
        valid = torch.tensor([[True, True, True, False]]).expand(len(places), -1)
        return Ids(index, valid), Ids(torch.tensor([[0, 1, 2]]).expand(len(places), -1))

    score = mask_consistency(bench(Patches()), views=views, views_name="the same patches")
    assert score.value == 1.0  # padding counts for nothing, so both views are equal
    assert score.protocol["views"] == "the same patches"


def test_images_are_drawn(bench):
    assert mask_consistency(bench(Patches()), images=10).n_val == 10


def test_mistakes(bench, encoder):
    class Whole(nn.Module):
        def forward_features(self, x):
            return x

    for wrong in (0.0, 1.0, -2.0):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            mask_consistency(bench(Patches()), keep=wrong)
    with pytest.raises(ConfigError, match="which Whole cannot"):
        mask_consistency(bench(Whole()))
    with pytest.raises(DataError, match="at least two readable images"):
        mask_consistency(bench(Patches()), images=1)
