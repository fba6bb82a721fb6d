"""Random clips are the same for any number of workers, ranks and starts; images beside them too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from openjepa.config.schema import AugmentConfig, ClipConfig, DataConfig
from openjepa.data import (
    ClipTransform,
    JointLoader,
    Loader,
    MemoryCache,
    Sampler,
    SceneSource,
    Subset,
    TrainTransform,
    with_cache,
)
from openjepa.data.clips import Clips
from openjepa.errors import ConfigError, DataError

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from fake_videos import FakeVideos

DATA = DataConfig(image_size=16, clip=ClipConfig(frames=4), augment=AugmentConfig(color_jitter=0.3))


def load(workers=0, world=1, start=0, total=9, source=None, seed=5, share=0.5):
    """Videos of each step, joined over ranks: pixels ``(B, C, T, H, W)`` and ids."""
    source = source or FakeVideos(24)
    per_rank = []
    for rank in range(world):
        sampler = Sampler(len(source), 8, 3, rank=rank, world=world)
        options = dict(workers=workers, seed=seed, start_step=start, total_steps=total, max_bad_share=share)
        with Loader(source, ClipTransform(DATA), sampler, **options) as loader:
            per_rank.append(list(loader))
    columns = [
        (torch.cat([r[k].inputs["video"] for r in per_rank]), torch.cat([r[k].ids for r in per_rank]))
        for k in range(total - start)
    ]
    return columns


@pytest.fixture(scope="module")
def reference():
    return load()


def check(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_batches_are_clips_of_bytes(reference):
    assert reference[0][0].shape == (8, 3, 4, 16, 16)
    assert reference[0][0].dtype == torch.uint8
    assert reference[0][0].is_contiguous()


@pytest.mark.parametrize("how", [{"workers": 2}, {"world": 3}, {"world": 2, "workers": 1}], ids=str)
def test_random_clips_do_not_depend_on_who_reads(how, reference):
    check(load(**how), reference)


@pytest.mark.parametrize("workers", [0, 2])
def test_random_clips_go_on_where_a_run_stopped(workers, reference):
    check(load(workers=workers, start=5), reference[5:])


def test_a_bad_video_does_not_move_the_clips_of_others():
    """Met for the first time (workers 2, start 6) or known already (workers 0): the same clip takes its place."""
    source = FakeVideos(24, bad=(3, 4, 17))
    whole = load(source=source)
    check(load(source=FakeVideos(24, bad=(3, 4, 17)), workers=2), whole)
    check(load(source=FakeVideos(24, bad=(3, 4, 17)), start=6), whole[6:])
    assert not {3, 4, 17} & set(torch.cat([ids for _, ids in whole]).tolist())


def test_clips_begin_elsewhere_in_every_epoch_and_anywhere():
    """The first frame of a clip tells where it began: all 21 possible places of 4 frames in 24 are met, evenly."""
    source = FakeVideos(8)
    begins = torch.zeros(24, dtype=torch.long)
    sampler = Sampler(8, 8, 0)
    frames = [source.frames(k) for k in range(8)]
    with Loader(source, lambda video: video, sampler, workers=0, seed=0, total_steps=60) as loader:
        for batch in loader:
            for clip, index in zip(batch.inputs["image"], batch.ids.tolist(), strict=True):
                found = [t for t in range(24) if torch.equal(frames[index][t], clip[0])]
                begins[found[0]] += 1
    assert begins[21:].sum() == 0
    assert begins[:21].min() > 5
    assert begins.max() < 50


def test_where_a_clip_begins_says_nothing_of_its_crop():
    """Reading and augmentation draw from streams of their own: the first number of one is not that of the other."""
    seen = []

    class Drawing(FakeVideos):
        def read(self, index):
            seen.append(float(torch.rand(())))
            return torch.zeros(1, 3, 4, 4, dtype=torch.uint8)

    def transform(video):
        seen.append(float(torch.rand(())))
        return video

    with Loader(Drawing(64), transform, Sampler(64, 64, 0), workers=0, seed=0, total_steps=1) as loader:
        list(loader)
    pairs = torch.tensor(seen).view(64, 2)
    assert abs(float(torch.corrcoef(pairs.T)[0, 1])) < 0.4
    assert len(set(seen)) == 128


@pytest.mark.parametrize("workers", [0, 2])
def test_padded_videos_are_counted_by_name_whoever_reads_them(workers):
    source = FakeVideos(24, lengths=(24, 24, 3))
    with Loader(source, ClipTransform(DATA), Sampler(24, 8, 0), workers=workers, seed=0, total_steps=6) as loader:
        list(loader)
    assert loader.padded == {f"videos/{k:03d}.mp4": 1 for k in range(24) if k % 3 == 2}
    assert loader.bad == {}


@pytest.mark.parametrize("workers", [0, 2])
def test_videos_too_short_are_skipped_and_listed_when_asked(workers):
    source = FakeVideos(24, Clips(4, short="skip"), lengths=(24, 24, 24, 24, 24, 3))
    sampler = Sampler(24, 8, 0)
    with Loader(
        source, ClipTransform(DATA), sampler, workers=workers, seed=0, total_steps=3, max_bad_share=0.5
    ) as loader:
        list(loader)
    assert set(loader.bad) == {f"videos/{k:03d}.mp4" for k in range(24) if k % 6 == 5}
    assert "too short" in next(iter(loader.bad.values()))


class TestMemory:
    def test_random_clips_are_never_kept(self):
        source = FakeVideos(24)
        assert with_cache(source, "auto", reads=10_000) is source
        subset = Subset(source, range(10))
        assert with_cache(subset, "auto", reads=10_000) is subset
        with pytest.raises(ConfigError, match=r"data\.cache=memory would keep one clip") as caught:
            with_cache(subset, "memory", reads=10_000)
        assert "\n" not in str(caught.value)

    def test_clips_that_are_always_the_same_may_be(self):
        source = FakeVideos(6, Clips(4, where="centre"))
        cached = with_cache(source, "memory", reads=10_000)
        assert isinstance(cached, MemoryCache)
        for _ in range(2):
            for k in range(6):
                assert torch.equal(cached.read(k), source.read(k))
        assert cached.held == 6 * 4 * 3 * 24 * 24


def joint(workers=0, start=0, total=6):
    """Clips beside images, two steps of an epoch apart."""
    videos, images = FakeVideos(24), SceneSource(40, 20, 0)
    common = dict(workers=workers, start_step=start, total_steps=total)
    loaders = [
        Loader(videos, ClipTransform(DATA), Sampler(24, 6, 0), seed=1, **common),
        Loader(images, TrainTransform(DATA), Sampler(40, 4, 9), seed=2, **common),
    ]
    both = JointLoader(loaders)
    found = [[b.inputs.get("video", b.inputs.get("image")) for b in step] for step in both]
    both.close()
    return found


@pytest.mark.parametrize("how", [{"workers": 2}, {"start": 4}, {"workers": 1, "start": 3}], ids=str)
def test_joint_batches_are_those_of_each_loader(how):
    whole = joint()
    assert [tuple(x.shape) for x in whole[0]] == [(6, 3, 4, 16, 16), (4, 3, 16, 16)]
    check(joint(**how), whole[how.get("start", 0) :])


def test_joint_loaders_gather_what_is_bad_and_stop_for_it():
    videos = FakeVideos(20, bad=(1,))
    loaders = [
        Loader(FakeVideos(20), ClipTransform(DATA), Sampler(20, 4, 0), workers=0, seed=0, total_steps=5),
        Loader(videos, ClipTransform(DATA), Sampler(20, 4, 1), workers=0, seed=1, total_steps=5),
    ]
    both = JointLoader(loaders)
    list(both)
    assert both.bad == {"videos/001.mp4": "is broken"}
    loaders[1] = Loader(
        FakeVideos(20, bad=tuple(range(9))), ClipTransform(DATA), Sampler(20, 4, 1), workers=0, seed=1, total_steps=5
    )
    with pytest.raises(DataError, match="of 20 files cannot be read"):
        list(JointLoader(loaders))


def test_clips_are_decoded_and_resized_outside_the_training_process():
    class Telling(FakeVideos):
        def read(self, index):
            return torch.full((1, 1, 1, 1), os.getpid(), dtype=torch.float32)

    def transform(video):
        return torch.cat([video.flatten(), torch.tensor([float(os.getpid())])])

    with Loader(Telling(8), transform, Sampler(8, 8, 0), workers=1, seed=0, total_steps=1) as loader:
        (batch,) = loader
    pids = batch.inputs["image"].long()
    assert (pids == pids[0, 0]).all()
    assert int(pids[0, 0]) != os.getpid()
