"""Batches do not depend on who makes them; bad files cost themselves and nothing more."""

import time

import pytest
import torch

from openjepa.config.schema import AugmentConfig, DataConfig
from openjepa.data import (
    EvalTransform,
    Loader,
    MemoryCache,
    Sampler,
    SceneSource,
    TrainTransform,
    auto_workers,
    open_source,
    read_batches,
    with_cache,
)
from openjepa.errors import DataError, MissingExtra

CONFIG = DataConfig(image_size=16, eval_crop=1.0, augment=AugmentConfig(color_jitter=0.3, blur=0.3))
FIELDS = ("ids", "places", "labels")


class Numbers:
    """A source of constant images; some indices are bad."""

    name = "numbers"
    classes = None

    def __init__(self, count, bad=()):
        self.count, self.bad, self.reads = count, set(bad), []

    def __len__(self):
        return self.count

    def label(self, index):
        return -1

    def item_id(self, index):
        return f"n{index}"

    def fingerprint(self):
        return "numbers"

    def read(self, index):
        self.reads.append(index)
        if index in self.bad:
            raise DataError(f"n{index}: broken")
        return torch.full((3, 8, 8), index % 256, dtype=torch.uint8)


def same(image):
    return image


def load(workers=0, world=1, start=0, total=12, cache="none", source=None, seed=5):
    source = source or SceneSource(60, 20, 0)
    per_rank = []
    for rank in range(world):
        sampler = Sampler(len(source), 16, 3, rank=rank, world=world)
        options = dict(workers=workers, seed=seed, cache=cache, start_step=start, total_steps=total)
        with Loader(source, TrainTransform(CONFIG), sampler, **options) as loader:
            per_rank.append(list(loader))
    return [
        [torch.cat([rank[k].inputs["image"] for rank in per_rank])]
        + [torch.cat([getattr(rank[k], f) for rank in per_rank]) for f in FIELDS]
        for k in range(len(per_rank[0]))
    ]


@pytest.fixture(scope="module")
def reference():
    return load()


def check(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "how",
    [
        {"workers": 2},
        {"world": 3},
        {"cache": "memory"},
        {"cache": "memory", "workers": 2},
        {"workers": 2, "world": 2},
    ],
    ids=str,
)
def test_batches_are_the_same_however_they_are_made(how, reference):
    check(load(**how), reference)


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_in_the_middle_continues_exactly(workers, reference):
    check(load(workers=workers, start=7), reference[7:])


def test_another_seed_or_epoch_augments_differently(reference):
    assert not torch.equal(load(total=1, seed=6)[0][0], reference[0][0])
    one = SceneSource(16, 20, 0)
    first, second = load(source=one, total=2)  # two epochs of one batch
    order = [torch.argsort(batch[1]) for batch in (first, second)]
    assert torch.equal(first[1][order[0]], second[1][order[1]])
    assert not torch.equal(first[0][order[0]], second[0][order[1]])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_random_state_is_left_alone(workers):
    torch.manual_seed(9)
    before = torch.get_rng_state()
    load(workers=workers, total=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_are_what_they_say():
    source = SceneSource(40, 20, 0)
    with Loader(source, same, Sampler(40, 8, 0), workers=0, seed=0, total_steps=3) as loader:
        assert len(loader) == 3
        for batch in loader:
            assert batch.inputs["image"].dtype == torch.uint8
            assert all(
                torch.equal(i, source.read(int(k))) for i, k in zip(batch.inputs["image"], batch.ids, strict=True)
            )
            assert batch.labels.tolist() == [source.label(int(k)) for k in batch.ids]


class TestBadFiles:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_replaced_by_the_next_readable_and_listed(self, workers):
        bad = {3, 4, 99}
        sampler = Sampler(100, 10, 0)
        with Loader(Numbers(100, bad), same, sampler, workers=workers, seed=0, total_steps=10) as loader:
            batches = list(loader)
        assert loader.bad == {f"n{k}": f"n{k}: broken" for k in bad}
        for step, batch in enumerate(batches):
            wanted = [{3: 5, 4: 5, 99: 0}.get(k, k) for k in sampler.batch(step).indices.tolist()]
            assert batch.ids.tolist() == wanted
            assert batch.inputs["image"][:, 0, 0, 0].tolist() == wanted

    def test_a_bad_file_is_tried_once(self):
        source = Numbers(50, {7})
        with Loader(source, same, Sampler(50, 10, 0), workers=0, seed=0, total_steps=50) as loader:
            list(loader)
        assert source.reads.count(7) == 1

    @pytest.mark.parametrize("workers", [0, 2])
    def test_too_many_stop_the_run_in_one_line(self, workers):
        source = Numbers(100, range(0, 100, 10))
        with (
            pytest.raises(DataError, match=r"of 100 files cannot be read, more than data.max_bad_share 0.05") as caught,
            Loader(source, same, Sampler(100, 10, 0), workers=workers, seed=0, total_steps=1000) as loader,
        ):
            list(loader)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_nothing_readable_ends_at_once(self, workers):
        source = Numbers(20, range(20))
        loader = Loader(source, same, Sampler(20, 10, 0), workers=workers, seed=0, max_bad_share=1.0, total_steps=10**9)
        with pytest.raises(DataError, match="none of the 20 files of numbers can be read; the first: n"):
            next(iter(loader))
        loader.close()

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_missing_extra_is_no_bad_file(self, workers):
        class Needs(Numbers):
            def read(self, index):
                raise MissingExtra("this needs 'x': pip install 'openjepa[x]'")

        loader = Loader(Needs(20), same, Sampler(20, 10, 0), workers=workers, seed=0, total_steps=2)
        with pytest.raises(MissingExtra, match="pip install"):
            list(loader)

    def test_a_bug_in_a_transform_is_not_swallowed(self):
        def broken(image):
            raise KeyError("bug")

        loader = Loader(Numbers(20), broken, Sampler(20, 10, 0), workers=0, seed=0, total_steps=2)
        with pytest.raises(KeyError, match="bug"):
            list(loader)


class TestEvaluationOrder:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_all_in_order_and_bad_ones_left_out(self, workers):
        bad = {}
        batches = list(
            read_batches(Numbers(25, {4, 20, 21, 22, 23, 24}), same, batch_size=10, workers=workers, bad=bad)
        )
        ids = torch.cat([b.ids for b in batches]).tolist()
        assert ids == [k for k in range(20) if k != 4]
        assert torch.cat([b.places for b in batches]).tolist() == ids
        assert sorted(bad) == ["n20", "n21", "n22", "n23", "n24", "n4"]

    def test_nothing_readable_is_an_error(self):
        with pytest.raises(DataError, match="none of the 3 files"):
            list(read_batches(Numbers(3, {0, 1, 2}), same, batch_size=2))

    def test_8_bit_and_deep_images_share_a_batch(self, make_folder, png16):
        import numpy as np

        root = make_folder("1.png")
        (root / "2.png").write_bytes(png16(np.full((12, 10, 3), 65535, np.uint16)))
        (batch,) = read_batches(open_source(root), EvalTransform(CONFIG), batch_size=2)
        assert batch.inputs["image"].dtype == torch.float32
        assert batch.inputs["image"].max() <= 1


class TestCache:
    def test_reads_each_image_once(self):
        source = Numbers(30)
        cached = with_cache(source, "memory", reads=1)
        assert isinstance(cached, MemoryCache)
        source.reads.clear()
        for _ in range(3):
            for k in range(30):
                assert torch.equal(cached.read(k), Numbers(30).read(k))
        assert source.reads == list(range(30))
        assert cached.held == 30 * 3 * 64

    def test_auto_keeps_small_data_that_is_read_twice(self, monkeypatch):
        source = Numbers(30)
        assert isinstance(with_cache(source, "auto", reads=60), MemoryCache)
        assert with_cache(source, "auto", reads=59) is source
        assert with_cache(source, "none", reads=600) is source
        monkeypatch.setattr("openjepa.data.cache.AUTO_BYTES", 30 * 3 * 64 - 1)
        assert with_cache(source, "auto", reads=60) is source

    def test_a_full_cache_still_reads_and_mixed_shapes_fit(self):
        class Mixed(Numbers):
            def read(self, index):
                return torch.full((1, index + 1, 2), index / 100) if index % 2 else super().read(index)

        cached = MemoryCache(Mixed(40), 4096)
        for _ in range(2):
            for k in range(40):
                assert torch.equal(cached.read(k), Mixed(40).read(k))
        assert 0 < cached.held <= 4096

    def test_unreadable_files_stay_unreadable(self):
        cached = MemoryCache(Numbers(3, {1}), 4096)
        for _ in range(2):
            with pytest.raises(DataError, match="broken"):
                cached.read(1)

    def test_workers_fill_it_together(self):
        source = Numbers(64)
        with Loader(source, same, Sampler(64, 8, 0), workers=2, seed=0, cache="memory", total_steps=16) as loader:
            list(loader)
            assert loader.source.held >= 64 * 3 * 64  # filled by forked processes, seen here


def test_auto_workers():
    assert auto_workers(32, cached=True, cores=2) == 0
    assert auto_workers(224, cached=False, cores=2) == 1
    assert auto_workers(32, cached=True, cores=16) == 8
    assert auto_workers(224, cached=False, cores=64) == 8
    assert auto_workers(224, cached=False, cores=16, ranks=8) == 1
    assert auto_workers(224, cached=False, cores=1) == 0


def test_close_ends_the_processes_promptly():
    import multiprocessing

    with Loader(Numbers(64), same, Sampler(64, 8, 0), workers=2, seed=0, total_steps=10**6) as loader:
        stream = iter(loader)
        next(stream)
        assert len(multiprocessing.active_children()) == 2
        started = time.monotonic()
    assert not multiprocessing.active_children()
    assert time.monotonic() - started < 5
