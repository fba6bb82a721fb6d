"""The cache: found again by content, never by accident, and never trusted when damaged."""

import json
import logging
import os

import pytest
import torch

from openjepa.data import EvalTransform, Subset, open_source
from openjepa.features import cached_extract, cached_raw_pixels, store, weights_hash


@pytest.fixture
def source(folder):
    return open_source(folder)


@pytest.fixture
def compute(encoder, source, transform, normalise, tmp_path, monkeypatch):
    """``compute(**changes) -> (features, how often the encoder ran)``."""
    runs = []
    real = store.extract
    monkeypatch.setattr(store, "extract", lambda *a, **k: runs.append(1) or real(*a, **k))

    def call(**changes):
        runs.clear()
        options = {"encoder": encoder, "source": source, "transform": transform, "normalise": normalise}
        options = {**options, "cache_dir": tmp_path / "cache", **changes}
        return cached_extract(options.pop("encoder"), options.pop("source"), options.pop("transform"), **options), len(
            runs
        )

    return call


def _same(a, b):
    return (
        torch.equal(a.values, b.values)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.ids, b.ids)
        and (a.item_ids, a.classes, dict(a.protocol), dict(a.bad))
        == (b.item_ids, b.classes, dict(b.protocol), dict(b.bad))
    )


def test_second_call_reads_the_cache(compute, tmp_path):
    first, ran = compute()
    assert ran == 1
    second, ran = compute(batch_size=3)
    assert ran == 0
    assert _same(first, second)
    assert len(list((tmp_path / "cache").iterdir())) == 2  # no scratch files stay


def test_whatever_changes_the_features_changes_the_key(compute, encoder, source, data_config, folder):
    compute()
    other = type(encoder)(seed=1)
    same_weights = type(encoder)(gain=2.0)  # a plain setting, not a weight
    shifted = type(encoder)()
    shifted.shift += 1  # a buffer that is not saved
    bigger = EvalTransform(data_config.model_copy(update={"image_size": 20}))
    for change in (
        {"encoder": other},
        {"encoder": same_weights},
        {"encoder": shifted},
        {"transform": bigger},
        {"tokens": "patch"},
        {"layers": "last4"},
        {"precision": "bf16"},
        {"source": Subset(source, [0, 2, 4])},
    ):
        assert compute(**change)[1] == 1, change
    assert compute()[1] == 0
    picture = folder / "red" / "000.png"
    os.utime(picture, ns=(1, 1))  # a touched file is another file
    assert compute(source=open_source(folder))[1] == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "json"])
def test_damaged_entries_are_computed_again_with_a_warning(compute, tmp_path, caplog, damage):
    first, _ = compute()
    (tensors,) = (tmp_path / "cache").glob("*.safetensors")
    (about,) = (tmp_path / "cache").glob("*.json")
    raw = bytearray(tensors.read_bytes())
    if damage == "flip":
        raw[-1] ^= 1
        tensors.write_bytes(raw)
    elif damage == "truncate":
        tensors.write_bytes(raw[: len(raw) // 2])
    elif damage == "missing":
        tensors.unlink()
    else:
        about.write_text(about.read_text()[:20])
    with caplog.at_level(logging.WARNING):
        second, ran = compute()
    assert ran == 1
    assert "damaged" in caplog.text
    assert _same(first, second)
    assert compute()[1] == 0  # and the entry is whole again


def test_an_unwritable_cache_loses_nothing(compute, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        found, ran = compute(cache_dir=blocked / "cache")
    assert ran == 1
    assert len(found) == 21
    assert "could not be cached" in caplog.text


def test_a_full_disk_leaves_no_half_entry(compute, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    assert len(compute()[0]) == 21
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_transform_that_does_not_say_what_it_does_is_not_cached(compute, transform, tmp_path, caplog):
    def nameless(image):
        return transform(image)

    assert compute(transform=nameless)[1] == 1
    assert compute(transform=nameless)[1] == 1
    assert "not cached" in caplog.text


def test_bad_files_are_listed_and_kept_with_the_entry(compute, folder, caplog):
    (folder / "red" / "001.png").write_bytes(b"")
    source = open_source(folder)
    first, _ = compute(source=source)
    second, ran = compute(source=source)
    assert ran == 0
    assert list(second.bad) == ["red/001.png"] == list(first.bad)
    assert "1 of 21 files" in caplog.text


def test_raw_pixels_share_the_cache(source, transform, tmp_path):
    a = cached_raw_pixels(source, transform, cache_dir=tmp_path / "cache")
    b = cached_raw_pixels(source, transform, cache_dir=tmp_path / "cache")
    c = cached_raw_pixels(source, transform, cache_dir=tmp_path / "cache", max_side=8)
    assert _same(a, b)
    assert c.values.shape[1] == 3 * 8 * 8
    (entry, *_) = sorted((tmp_path / "cache").glob("*.json"))
    assert json.loads(entry.read_text())["protocol"]["tokens"] == "raw pixels"


def test_weights_hash_is_stable_and_ignores_training_mode(encoder):
    first = weights_hash(encoder)
    assert weights_hash(type(encoder)()) == first
    assert weights_hash(encoder.eval()) == first
    assert weights_hash(encoder.bfloat16()) != first
