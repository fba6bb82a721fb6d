"""What the encoder sees of a video: every frame through the same crop, flip and colours."""

import pytest
import torch
from torchvision.transforms import v2

from openjepa.config.schema import AugmentConfig, ClipConfig, DataConfig, ViewConfig
from openjepa.data import (
    ClipEvalTransform,
    ClipTransform,
    EvalTransform,
    FrameTransform,
    Normalise,
    TrainTransform,
    eval_transform,
    panel_transform,
    train_transform,
)
from openjepa.errors import ConfigError


def frames(count, height, width, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


def config(size=16, length=4, channels=3, eval_crop=0.875, **augment):
    clip = ClipConfig(frames=length)
    return DataConfig(
        image_size=size, channels=channels, clip=clip, eval_crop=eval_crop, augment=AugmentConfig(**augment)
    )


def test_every_frame_is_augmented_as_one_image_would_be():
    """Crop, flip, jitter, grayscale, blur and solarise: each frame equals the image transform with the same draws."""
    data = config(color_jitter=0.5, color_jitter_prob=1.0, grayscale=0.3, blur=0.7, solarize=0.3)
    clip, image = ClipTransform(data), TrainTransform(data)
    video = frames(4, 30, 44)
    different = 0
    for seed in range(8):
        torch.manual_seed(seed)
        found = clip(video)
        assert found.shape == (3, 4, 16, 16)
        assert found.dtype == torch.uint8
        for t in range(4):
            torch.manual_seed(seed)
            assert torch.equal(found[:, t], image(video[t]))
        torch.manual_seed(seed + 100)
        different += not torch.equal(clip(video), found)
    assert different > 6


def test_a_still_video_stays_still():
    """One draw for all frames: nothing moves that did not move before."""
    clip = ClipTransform(config(color_jitter=0.8, grayscale=0.5, blur=0.5))
    still = frames(1, 40, 30).expand(6, -1, -1, -1)
    for seed in range(10):
        torch.manual_seed(seed)
        found = clip(still)
        assert all(torch.equal(found[:, 0], found[:, t]) for t in range(1, 6))


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (33, 33), (9, 14)])
def test_one_view_is_resize_and_centre_crop(shape):
    """Short side int(28 / .875) = 32, centre 28, as torchvision does it frame by frame."""
    video = frames(4, *shape)
    found = ClipEvalTransform(config(28))(video)
    theirs = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(28)])
    assert torch.equal(found, torch.stack([theirs(frame) for frame in video], dim=1))


@pytest.mark.parametrize(("size", "short"), [(224, 256), (256, 292), (384, 438)])
def test_the_short_side_is_rounded_down_as_published(size, short):
    assert ClipEvalTransform(config(size)).covered == (short, short)


@pytest.mark.parametrize("shape", [(32, 52), (52, 32), (64, 104), (32, 32), (40, 47)])
def test_three_views_lie_along_the_long_side(shape):
    """Short side = crop, three crops (long - crop) // 2 apart (official.md §6.7)."""
    video = frames(4, *shape)
    found = ClipEvalTransform(config(32), views=3)(video)
    assert found.shape == (3, 3, 4, 32, 32)
    resized = v2.Resize(32, antialias=True)(video)  # (T, C, h, w)
    long = max(resized.shape[-2:])
    step = (long - 32) // 2
    for k in range(3):
        start = k * step
        tall = resized.shape[-2] > resized.shape[-1]
        crop = resized[..., start : start + 32, :] if tall else resized[..., start : start + 32]
        assert torch.equal(found[k], crop.transpose(0, 1))


def test_segments_come_before_views():
    """View v of the result is segment v // views, spatial view v % views."""
    video = frames(3 * 4, 32, 52)
    three = ClipEvalTransform(config(32), views=3)
    found = three(video)
    assert found.shape == (9, 3, 4, 32, 32)
    for segment in range(3):
        assert torch.equal(found[3 * segment : 3 * segment + 3], three(video[4 * segment : 4 * segment + 4]))
    one = ClipEvalTransform(config(32))(video)
    assert one.shape == (3, 3, 4, 32, 32)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("size", [16, (16, 24), (24, 16)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (33, 17)])
def test_every_shape_becomes_the_size(views, size, shape):
    found = ClipEvalTransform(config(size), views)(frames(4, *shape))
    assert found.shape[-2:] == ((size, size) if isinstance(size, int) else size)
    torch.manual_seed(0)
    assert ClipTransform(config(size))(frames(4, *shape)).shape[-2:] == found.shape[-2:]


def test_one_frame_of_a_video_is_an_image():
    data = config()
    torch.manual_seed(0)
    found = FrameTransform(data)(frames(1, 30, 30))
    torch.manual_seed(0)
    assert torch.equal(found, TrainTransform(data)(frames(1, 30, 30)[0]))


def test_what_the_data_asks_for():
    assert isinstance(train_transform(config()), ClipTransform)
    assert isinstance(panel_transform(config()), ClipEvalTransform)
    assert eval_transform(config(), views=3).views == 3
    assert isinstance(eval_transform(DataConfig()), EvalTransform)
    assert panel_transform(DataConfig(views=(ViewConfig(count=2),))).names == ("image", "view0", "view1")
    with pytest.raises(ConfigError, match="3 spatial views are for clips"):
        eval_transform(DataConfig(), views=3)
    with pytest.raises(ConfigError, match="0 spatial views"):
        ClipEvalTransform(config(), views=0)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (2, 9, 3, 4, 5, 6), (2, 3, 5, 6), (3, 5, 6)])
def test_normalise_finds_the_channels(shape):
    """Channels are the fourth axis from the end of clips, the third of images."""
    axis = -3 if len(shape) < 5 else -4
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    normalise = Normalise.for_data(DataConfig(mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3)))
    found = normalise(pixels)
    assert found.shape == pixels.shape
    for c, (mean, std) in enumerate(zip((0.1, 0.2, 0.3), (0.5, 0.4, 0.3), strict=True)):
        wanted = (pixels.select(axis, c).float() / 255 - mean) / std
        assert torch.allclose(found.select(axis, c), wanted, atol=1e-6)
    assert torch.allclose(normalise(pixels.float() / 255), found, atol=1e-6)
