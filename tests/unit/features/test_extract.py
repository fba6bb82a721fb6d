"""Extraction: values, order, state left alone, choices checked."""

import pytest
import torch

from openjepa.data import open_source, read_batches
from openjepa.errors import ConfigError, DataError
from openjepa.features import extract, pool, raw_pixels
from openjepa.types import Batch


def _batches(images, size, labels=None):
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        ids = torch.arange(len(images))[part]
        yield Batch({"image": images[part]}, ids, ids, None if labels is None else labels[part])


@pytest.fixture
def images():
    return torch.randint(0, 256, (11, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_pooled_features_are_the_mean_of_patch_features(encoder, normalise, images):
    patch = extract(encoder, _batches(images, 4), normalise=normalise, tokens="patch")
    pooled = extract(encoder, _batches(images, 4), normalise=normalise)
    assert patch.values.shape == (11, 16, 8)
    torch.testing.assert_close(pooled.values, patch.values.mean(1))
    assert pooled.values.dtype == torch.float32
    with torch.no_grad():
        encoder.eval()
        expected = encoder.forward_features((images.float() / 255 - normalise.mean) / normalise.std)
    torch.testing.assert_close(patch.values, expected)


@pytest.mark.parametrize("size", [1, 3, 11, 64])
def test_batch_size_does_not_matter(encoder, normalise, images, size):
    a = extract(encoder, _batches(images, size), normalise=normalise)
    b = extract(encoder, _batches(images, 5), normalise=normalise)
    torch.testing.assert_close(a.values, b.values)
    assert a.ids.tolist() == list(range(11))


def test_last4_joins_pooled_layers(encoder, normalise, images):
    one = extract(encoder, _batches(images, 4), normalise=normalise)
    four = extract(encoder, _batches(images, 4), normalise=normalise, layers="last4")
    torch.testing.assert_close(four.values, torch.cat([one.values * s for s in (1, 2, 3, 4)], 1))


def test_training_mode_and_gradients_come_back(encoder, normalise, images):
    encoder.train()
    found = extract(encoder, _batches(images, 4), normalise=normalise)
    assert encoder.training
    assert torch.is_grad_enabled()
    head = torch.nn.Linear(8, 2)
    head(found.values).sum().backward()  # a result of inference mode could not be trained on

    class Broken(type(encoder)):
        def forward_features(self, x, keep=None):
            raise RuntimeError("boom")

    broken = Broken().train()
    with pytest.raises(RuntimeError, match="boom"):
        extract(broken, _batches(images, 4), normalise=normalise)
    assert broken.training


def test_low_precision_is_close_and_returns_float32(encoder, normalise, images):
    a = extract(encoder, _batches(images, 4), normalise=normalise)
    b = extract(encoder, _batches(images, 4), normalise=normalise, precision="bf16")
    assert b.values.dtype == torch.float32
    assert not torch.equal(a.values, b.values)
    torch.testing.assert_close(a.values, b.values, atol=0.02, rtol=0.05)


def test_folder_gives_names_labels_and_skips_bad_files(encoder, normalise, transform, folder):
    (folder / "green" / "002.png").write_bytes(b"not an image")
    source = open_source(folder)
    seen = []
    found = extract(
        encoder,
        read_batches(source, transform, batch_size=4, bad={}),
        normalise=normalise,
        source=source,
        on_progress=seen.append,
    )
    assert len(found) == 20
    assert found.classes == ("blue", "green", "red")
    assert "green/002.png" not in found.item_ids
    assert [name.split("/")[0] for name in found.item_ids] == [found.classes[i] for i in found.labels.tolist()]
    assert seen[-1] == 20
    half = found.rows(torch.tensor([3, 1]))
    assert half.item_ids == (found.item_ids[3], found.item_ids[1])
    assert torch.equal(half.values, found.values[[3, 1]])


def test_raw_pixels(images):
    plain = raw_pixels(_batches(images, 4), centre_image=False)
    torch.testing.assert_close(plain.values, images.float().flatten(1) / 255)
    centred = raw_pixels(_batches(images, 4))
    torch.testing.assert_close(centred.values, plain.values - plain.values.mean(1, keepdim=True))
    small = raw_pixels(_batches(images, 4), max_side=8, centre_image=False)
    expected = (images.float() / 255).unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)).flatten(1)
    torch.testing.assert_close(small.values, expected)


def test_unlabelled_batches_have_no_labels(encoder, normalise, images):
    assert extract(encoder, _batches(images, 4), normalise=normalise).labels is None
    labels = torch.full((11,), -1)
    assert extract(encoder, _batches(images, 4, labels), normalise=normalise).labels is None


def test_mistakes(encoder, normalise, images):
    with pytest.raises(ConfigError, match="did you mean 'pooled'"):
        extract(encoder, _batches(images, 4), normalise=normalise, tokens="pool")
    with pytest.raises(DataError, match="no readable sample"):
        extract(encoder, iter(()), normalise=normalise)
    with pytest.raises(ConfigError, match="last4"):
        extract(object(), _batches(images, 4), normalise=normalise, layers="last4")
    with pytest.raises(ConfigError, match="mean or max"):
        pool(torch.ones(1, 2, 3), "median")

    def sizes():
        for side in (16, 8):
            part = torch.zeros(2, 3, side, side, dtype=torch.uint8)
            yield Batch({"image": part}, torch.arange(2), torch.arange(2))

    with pytest.raises(DataError, match="changed their shape"):
        extract(encoder, sizes(), normalise=normalise, tokens="patch")
