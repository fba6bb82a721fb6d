"""What the encoder sees of an image."""

import pytest
import torch
from torchvision.transforms import v2

from openjepa.config.schema import AugmentConfig, DataConfig
from openjepa.data import EvalTransform, Normalise, TrainTransform
from openjepa.data.transforms import random_box
from openjepa.errors import ConfigError

OFF = {"random_resized_crop": False, "flip": 0.0}


def image(height, width, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), generator=generator, dtype=torch.uint8)


def config(size=16, channels=3, **augment):
    return DataConfig(image_size=size, channels=channels, augment=AugmentConfig(**augment))


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (18, 18), (9, 14), (1, 1)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_evaluation_is_torchvisions_resize_and_centre_crop(shape, mode):
    ours = EvalTransform(DataConfig(image_size=28, interpolation=mode))
    theirs = v2.Compose([v2.Resize(32, v2.InterpolationMode(mode), antialias=True), v2.CenterCrop(28)])
    difference = (ours(image(*shape)).int() - theirs(image(*shape)).int()).abs()
    assert difference.max() == 0


def test_evaluation_at_the_right_size_changes_nothing():
    ours = EvalTransform(DataConfig(image_size=(16, 24), eval_crop=1.0))
    assert torch.equal(ours(image(16, 24)), image(16, 24))


@pytest.mark.parametrize("size", [16, (16, 24), (24, 16)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (33, 17), (16, 24)])
@pytest.mark.parametrize("crop", [True, False])
def test_every_shape_becomes_the_size(size, shape, crop):
    wanted = (3, *((size, size) if isinstance(size, int) else size))
    assert TrainTransform(config(size, random_resized_crop=crop, blur=1.0))(image(*shape)).shape == wanted
    assert EvalTransform(config(size))(image(*shape)).shape == wanted


def test_a_strip_is_not_blown_up():
    """1 × 100,000 pixels at 224 would be 22 million pixels wide."""
    assert EvalTransform(config(224))(image(1, 100_000)).shape == (3, 224, 224)


def test_training_draws_from_torchs_generator_alone():
    transform = TrainTransform(config(color_jitter=0.5, grayscale=0.2, blur=0.5))
    sample = image(40, 40)
    torch.manual_seed(3)
    first = transform(sample)
    torch.manual_seed(3)
    assert torch.equal(transform(sample), first)
    assert any(not torch.equal(transform(sample), first) for _ in range(3))


def test_without_augmentation_training_is_the_centre():
    transform = TrainTransform(config(16, **OFF))
    assert torch.equal(transform(image(16, 16)), image(16, 16))
    assert torch.equal(transform(image(16, 40)), image(16, 40)[:, :, 12:28])


def test_flip_happens_as_often_as_asked():
    transform = TrainTransform(config(8, random_resized_crop=False, flip=0.25))
    sample = image(8, 8)
    torch.manual_seed(0)
    flipped = sum(torch.equal(transform(sample), sample.flip(2)) for _ in range(2000))
    assert 430 < flipped < 570


def test_boxes_lie_inside_and_keep_scale_and_ratio():
    torch.manual_seed(0)
    shares, ratios = [], []
    for _ in range(1000):
        top, left, h, w = random_box(200, 150, (0.3, 1.0), (0.75, 4 / 3))
        assert 0 <= top <= 200 - h
        assert 0 <= left <= 150 - w
        shares.append(h * w / 30000)
        ratios.append(w / h)
    assert 0.29 < min(shares) < 0.34
    assert max(shares) > 0.9
    assert min(ratios) > 0.74
    assert max(ratios) < 1.35


def test_impossible_boxes_fall_back_to_the_middle():
    assert random_box(10, 1000, (0.9, 1.0), (0.75, 4 / 3)) == (0, 493, 10, 13)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channel_counts(channels):
    transform = TrainTransform(config(16, channels, blur=1.0))
    assert transform(image(30, 20, channels)).shape == (channels, 16, 16)
    assert EvalTransform(config(16, channels))(image(30, 20, channels)).shape == (channels, 16, 16)


def test_float_images_stay_in_range():
    transform = TrainTransform(config(16, color_jitter=1.0, blur=1.0))
    for seed in range(5):
        torch.manual_seed(seed)
        found = transform(image(30, 20).float() / 255)
        assert found.dtype == torch.float32
        assert found.min() >= 0
        assert found.max() <= 1


@pytest.mark.parametrize(
    ("settings", "channels", "message"),
    [
        ({"color_jitter": 0.5}, 1, "color_jitter needs 3 channels"),
        ({"grayscale": 0.2}, 4, "grayscale needs 3 channels"),
        ({"color_jitter": 3.0}, 3, "above 2.5"),
        ({"crop_scale": (0.0, 1.0)}, 3, "crop_scale"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, channels, message):
    with pytest.raises(ConfigError, match=message):
        TrainTransform(config(16, channels, **settings))


def test_hint_never_lets_a_crop_be_enlarged():
    transform = TrainTransform(config(64, crop_scale=(0.3, 1.0)))
    torch.manual_seed(0)
    side = transform.at_least
    smallest = min(min(random_box(side, side, (0.3, 1.0), (0.75, 4 / 3))[2:]) for _ in range(500))
    assert smallest >= 64
    assert EvalTransform(config(224)).at_least == 256


class TestNormalise:
    def test_bytes_and_unit_floats_agree_with_torchvision(self):
        batch = torch.stack([image(5, 4), image(5, 4, seed=1)])
        norm = Normalise.for_data(DataConfig())
        theirs = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
        )
        assert torch.allclose(norm(batch), theirs(batch), atol=1e-6)
        assert torch.allclose(norm(batch.float() / 255), norm(batch), atol=1e-6)

    def test_it_does_not_write_to_its_input(self):
        batch = torch.rand(1, 3, 2, 2)
        before = batch.clone()
        Normalise.for_data(DataConfig())(batch)
        assert torch.equal(batch, before)

    def test_other_channels_and_own_values(self):
        assert Normalise.for_data(DataConfig(channels=5)).mean.flatten().tolist() == [0.5] * 5
        own = Normalise.for_data(DataConfig(channels=1, mean=(0.1,), std=(0.2,)))
        assert own(torch.full((1, 1, 1, 1), 0.5)).item() == pytest.approx(2.0)
        assert not own.state_dict()  # what is saved is the recipe

    def test_no_zero_deviation(self):
        with pytest.raises(ConfigError, match="deviations above 0"):
            Normalise((0.5,), (0.0,))
