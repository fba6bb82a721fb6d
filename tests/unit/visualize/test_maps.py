"""PCA colours and similarity: joint, fixed, repeatable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from visualize_fakes import PatchMeans, Scale

from openjepa.errors import ConfigError, DataError
from openjepa.visualize import (
    canvas,
    maps,
    patch_features,
    pca_maps,
    pca_sheet,
    position_share,
    similarity,
    similarity_sheet,
)


def _features(seed: int = 0, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 5, 6, 8, generator=torch.Generator().manual_seed(seed))


def test_patch_features_stand_at_their_place_in_the_grid() -> None:
    images = torch.zeros(2, 3, 9, 12, dtype=torch.uint8)  # one row of pixels is left over
    images[1, 0, 4:8, 8:12] = 255
    features = patch_features(PatchMeans(4), images, Scale())
    assert features.shape == (2, 2, 3, 6)
    assert torch.equal(features[1, :, :, 0], torch.tensor([[0.0, 0, 0], [0, 0, 1]]))


def test_extra_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="without class or register tokens"):
        patch_features(PatchMeans(4, extra=1), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), Scale())


def test_maps_have_the_grid_and_are_repeatable() -> None:
    first, second = pca_maps(_features()), pca_maps(_features())
    assert first.colours.shape == (3, 5, 6, 3)
    assert first.colours.dtype == np.uint8
    assert np.array_equal(first.colours, second.colours)
    assert first.low == second.low
    assert sorted(first.explained, reverse=True) == list(first.explained)


def test_one_normalisation_for_all_images() -> None:
    features = _features(count=2)
    features[1] *= 0.1  # a dull image stays dull
    spread = pca_maps(features).colours.std(axis=(1, 2)).mean(-1)
    assert spread[1] < 0.2 * spread[0]
    assert pca_maps(features).colours.min() == 0
    assert pca_maps(features).colours.max() == 255


def test_percentiles_are_what_is_drawn_as_black_and_full() -> None:
    features = _features(count=4)
    found = pca_maps(features, percentiles=(10, 90))
    share = [(found.colours[..., c] == 0).mean() for c in range(3)]
    assert share == pytest.approx([0.1] * 3, abs=0.02)
    assert "at its percentiles 10 and 90 over all" in found.note


def test_foreground_is_found_and_the_rest_is_grey() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 8, 8, 6, generator=generator) * 0.1
    features[:, 2:6, 2:6] += 5  # an object in the middle
    found = pca_maps(features, foreground=True)
    expected = np.zeros((2, 8, 8), dtype=bool)
    expected[:, 2:6, 2:6] = True
    assert found.foreground is not None
    assert np.array_equal(found.foreground, expected)
    assert (found.colours[~expected] == 128).all()
    assert (found.colours[expected] != 128).any()


def test_removing_position_removes_what_images_share() -> None:
    shared = torch.randn(1, 5, 6, 8, generator=torch.Generator().manual_seed(1)) * 10
    own = _features(count=4)
    plain, less = pca_maps(own + shared), pca_maps(own + shared, centre="position")
    assert np.abs(plain.colours[0].astype(int) - plain.colours[1]).mean() < 30  # nearly the same picture
    assert np.array_equal(less.colours, pca_maps(own, centre="position").colours) or (
        np.abs(less.colours.astype(int) - pca_maps(own, centre="position").colours).mean() < 1
    )
    with pytest.raises(DataError, match="at least 2 images"):
        pca_maps(own[:1], centre="position")


def test_position_share_is_one_for_equal_images_and_nothing_for_noise() -> None:
    one = torch.randn(1, 6, 6, 16, generator=torch.Generator().manual_seed(0))
    assert position_share(one.expand(4, -1, -1, -1)) == pytest.approx(1)
    noise = torch.randn(8, 6, 6, 16, generator=torch.Generator().manual_seed(1))
    assert position_share(noise) == pytest.approx(0, abs=0.02)
    half = position_share(one + noise)
    assert half == pytest.approx(0.5, abs=0.05)
    assert position_share(one) is None


def test_similarity_is_the_cosine_of_centred_features() -> None:
    features = _features()
    found = similarity(features, (2, 3), image=1)
    flat = (features.double() - features.double().mean((0, 1, 2))).reshape(-1, 8).numpy()
    query = flat.reshape(3, 5, 6, 8)[1, 2, 3]
    brute = flat @ query / np.linalg.norm(flat, axis=1) / np.linalg.norm(query)
    assert found == pytest.approx(brute.reshape(3, 5, 6), abs=1e-6)
    assert found[1, 2, 3] == pytest.approx(1)
    assert np.array_equal(similarity(features, (-3, -3), image=-2), found)


@pytest.mark.parametrize(
    ("patch", "image", "words"),
    [((5, 0), 0, "0,0 to 4,5"), ((0, 6), 0, "5 rows and 6 columns"), ((0, 0), 3, "use 0 to 2")],
)
def test_a_patch_that_does_not_exist_names_those_that_do(patch: tuple[int, int], image: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        similarity(_features(), patch, image=image)


def test_heat_has_a_fixed_range() -> None:
    ends = maps.heat(np.array([-1.0, 0.0, 1.0, 7.0]))
    assert tuple(ends[0]) == (33, 102, 172)
    assert tuple(ends[1]) == (247, 247, 247)
    assert tuple(ends[2]) == tuple(ends[3]) == (178, 24, 43)
    assert np.array_equal(maps.heat(np.array([0.3])), maps.heat(np.array([0.3, 0.9]))[:1])


def test_sheets_hold_every_map() -> None:
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    features = patch_features(PatchMeans(4), images, Scale())
    found = pca_maps(features)
    sheet = np.asarray(pca_sheet(images, {"features": found}, (4, 4)))
    for colour in {tuple(c) for c in found.colours.reshape(-1, 3)}:
        assert (sheet == colour).all(-1).any()
    heat = np.asarray(similarity_sheet(images, similarity(features, (1, 2)), (1, 2), (4, 4)))
    assert (heat == canvas.YELLOW).all(-1).any()  # the chosen patch is marked
