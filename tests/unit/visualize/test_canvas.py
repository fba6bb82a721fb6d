"""Arrays in, the right pixels out."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from openjepa.errors import ConfigError
from openjepa.visualize import canvas


def test_uint8_images_are_shown_as_they_are() -> None:
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(canvas.to_rgb(image), image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_any_number_of_channels_becomes_rgb(channels: int) -> None:
    image = torch.arange(channels * 12, dtype=torch.uint8).view(channels, 3, 4)
    rgb = canvas.to_rgb(image)
    assert rgb.shape == (3, 4, 3)
    assert np.array_equal(rgb[..., 0], image[0].numpy())
    if channels == 1:
        assert np.array_equal(rgb[..., 0], rgb[..., 2])
    if channels == 2:
        assert not rgb[..., 2].any()


def test_narrow_float_images_are_stretched_and_wide_ones_are_not() -> None:
    dark = torch.linspace(0, 0.02, 1024).view(1, 32, 32)  # a 16-bit microscope that uses 2 % of its range
    assert canvas.to_rgb(dark).max() == 255
    assert canvas.to_rgb(dark).min() == 0
    wide = torch.linspace(0, 0.8, 1024).view(1, 32, 32)
    assert canvas.to_rgb(wide).max() == round(0.8 * 255)


def test_float_images_with_nan_are_drawn() -> None:
    image = torch.rand(3, 8, 8)
    image[0, 0, 0] = float("nan")
    assert canvas.to_rgb(image).shape == (8, 8, 3)


def test_an_image_without_channels_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"\(C, H, W\)"):
        canvas.to_rgb(torch.zeros(4, 4))


def test_cells_cover_their_patches_and_leftover_pixels_stay_empty() -> None:
    cells = np.array([[True, False], [False, True]])
    pixels = canvas.spread(cells, (2, 3), 5, 8)
    expected = np.zeros((5, 8), dtype=bool)
    expected[:2, :3] = expected[2:4, 3:6] = True
    assert np.array_equal(pixels, expected)


def test_outline_is_the_inner_border_of_any_shape() -> None:
    region = np.zeros((9, 9), dtype=bool)
    region[2:8, 2:8] = True
    drawn = canvas.outline(np.zeros((9, 9, 3), dtype=np.uint8), region, canvas.ORANGE, 1)
    painted = (drawn == canvas.ORANGE).all(-1)
    core = np.zeros_like(region)
    core[3:7, 3:7] = True
    assert np.array_equal(painted, region & ~core)


def test_outline_also_runs_along_the_edge_of_the_image() -> None:
    drawn = canvas.outline(np.zeros((6, 6, 3), dtype=np.uint8), np.ones((6, 6), dtype=bool), canvas.SKY, 2)
    painted = (drawn == canvas.SKY).all(-1)
    assert painted[0].all()
    assert painted[:, -1].all()
    assert not painted[2:4, 2:4].any()


def test_a_frame_keeps_the_image_and_its_corner_marks_it_without_colour() -> None:
    image = np.full((20, 20, 3), 7, dtype=np.uint8)
    plain, cut = canvas.frame(image, canvas.GREEN, 3), canvas.frame(image, canvas.GREEN, 3, corner=True)
    assert plain.shape == (26, 26, 3)
    assert np.array_equal(plain[3:-3, 3:-3], image)
    assert tuple(plain[4, -5]) == (7, 7, 7)
    assert tuple(cut[4, -5]) == canvas.GREEN


def test_data_addresses_hold_the_very_pixels() -> None:
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    image[4:8, 4:8] = canvas.VERMILION
    head, _, body = canvas.data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))), image)


def test_a_sheet_keeps_the_pixels_of_its_tiles_and_draws_any_name() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    sheet = np.asarray(
        canvas.sheet([[tile, tile]], captions=["日本 <b>"], columns=["a", "b"], title="t", notes=["word " * 99])
    )
    found = [
        (y, x)
        for y in range(sheet.shape[0] - 24)
        for x in range(sheet.shape[1] - 24)
        if tuple(sheet[y, x]) == tuple(tile[0, 0]) and np.array_equal(sheet[y : y + 24, x : x + 24], tile)
    ]
    assert len(found) == 2


def test_tiles_are_enlarged_by_whole_factors_and_never_exceed_the_size() -> None:
    small, large = np.zeros((10, 10, 3), dtype=np.uint8), np.zeros((400, 200, 3), dtype=np.uint8)
    assert canvas.tile(small, 96).shape[:2] == (96, 96) or canvas.tile(small, 96).shape[0] % 10 == 0
    assert canvas.tile(large, 96).shape[:2] == (96, 48)
