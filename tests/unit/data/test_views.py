"""Several views of one image: drawn apart, named, the same however they are read."""

from __future__ import annotations

import pytest
import torch

from openjepa.config.schema import AugmentConfig, DataConfig, ViewConfig
from openjepa.data import EvalTransform, Loader, Sampler, SceneSource, TrainTransform, read_batches
from openjepa.data.transforms import _solarise
from openjepa.data.views import Views, panel_transform, train_transform
from openjepa.errors import ConfigError

STRONG = AugmentConfig(color_jitter=0.5, color_saturation=0.4, grayscale=0.2, blur=0.5, solarize=0.3)
WEAK = AugmentConfig(crop_scale=(0.1, 0.3))
DATA = DataConfig(
    image_size=16, views=(ViewConfig(count=2, augment=STRONG), ViewConfig(image_size=8, count=3, augment=WEAK))
)
NAMES = [f"view{k}" for k in range(5)]


def load(workers: int = 0, world: int = 1, start: int = 0, cache: str = "none") -> list[dict[str, torch.Tensor]]:
    source, parts = SceneSource(40, 20, 0), []
    for rank in range(world):
        sampler = Sampler(len(source), 8, 3, rank=rank, world=world)
        options = dict(workers=workers, seed=5, cache=cache, start_step=start, total_steps=6)
        with Loader(source, train_transform(DATA), sampler, **options) as loader:
            parts.append(list(loader))
    return [
        {name: torch.cat([rank[k].inputs[name] for rank in parts]) for name in NAMES}
        | {"ids": torch.cat([rank[k].ids for rank in parts])}
        for k in range(len(parts[0]))
    ]


@pytest.fixture(scope="module")
def reference() -> list[dict[str, torch.Tensor]]:
    return load()


@pytest.mark.parametrize("how", [{"workers": 2}, {"world": 3}, {"cache": "memory"}, {"start": 4}], ids=str)
def test_views_are_the_same_however_they_are_made(how: dict, reference: list) -> None:
    wanted = reference[how.get("start", 0) :]
    found = load(**how)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_batch_holds_every_view_of_the_same_images(reference: list) -> None:
    batch = reference[0]
    assert list(batch) == [*NAMES, "ids"]
    assert [tuple(batch[name].shape) for name in NAMES] == [(8, 3, 16, 16)] * 2 + [(8, 3, 8, 8)] * 3
    assert all(batch[name].dtype == torch.uint8 for name in NAMES)


def test_every_view_is_drawn_on_its_own(reference: list) -> None:
    batch = reference[0]
    for row in range(8):
        assert not torch.equal(batch["view0"][row], batch["view1"][row])
        assert not torch.equal(batch["view2"][row], batch["view3"][row])


def test_the_first_view_is_what_its_augmentation_alone_would_draw() -> None:
    image = SceneSource(1, 20, 0).read(0)
    alone = TrainTransform(DataConfig(image_size=16, augment=STRONG))
    torch.manual_seed(7)
    expected = alone(image)
    torch.manual_seed(7)
    assert torch.equal(train_transform(DATA)(image)[0], expected)


def test_without_views_there_is_one_plain_transform() -> None:
    assert isinstance(train_transform(DataConfig(image_size=16)), TrainTransform)
    assert isinstance(panel_transform(DataConfig(image_size=16)), EvalTransform)


def test_the_panel_sees_the_evaluation_crop_and_fixed_views() -> None:
    source = SceneSource(10, 20, 0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    (first,) = read_batches(source, panel_transform(DATA), batch_size=10)
    torch.manual_seed(2)
    (second,) = read_batches(source, panel_transform(DATA), batch_size=10)
    assert list(first.inputs) == ["image", *NAMES]
    crop = EvalTransform(DATA)
    assert all(torch.equal(first.inputs["image"][k], crop(source.read(k))) for k in range(10))
    assert all(torch.equal(first.inputs[name], second.inputs[name]) for name in first.inputs)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_views_ask_for_the_pixels_of_the_most_demanding() -> None:
    views = train_transform(DATA)
    assert isinstance(views, Views)
    assert views.at_least == max(part.at_least for part in views.parts)
    assert views.size == (16, 16)


def test_a_mistake_names_the_view() -> None:
    grey = DataConfig(channels=1, views=(ViewConfig(), ViewConfig(augment=AugmentConfig(grayscale=0.1))))
    with pytest.raises(ConfigError, match=r"^data.views\[1\].augment.grayscale needs 3 channels"):
        train_transform(grey)


def test_solarise_inverts_the_brighter_half() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    expected = torch.tensor([v if v < 128 else 255 - v for v in range(256)], dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(_solarise(values), expected)
    floats = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert _solarise(floats).tolist() == [0.0, 0.25, 0.5, 0.0]


def test_saturation_has_a_range_of_its_own() -> None:
    """With a saturation range of 0 and no hue, jitter keeps the direction of colour; grey stays grey with any."""
    image = SceneSource(1, 20, 0).read(0)
    options = {"random_resized_crop": False, "flip": 0.0, "color_jitter": 0.5, "color_jitter_prob": 1.0}
    plain, calm = (
        TrainTransform(DataConfig(image_size=16, augment=AugmentConfig(**options, color_saturation=s)))
        for s in (0.8, 0.0)
    )
    torch.manual_seed(0)
    first = plain(image)
    torch.manual_seed(0)
    second = calm(image)
    assert not torch.equal(first, second)
