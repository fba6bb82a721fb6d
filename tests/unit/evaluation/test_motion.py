"""Motion probes: an encoder that measures flow is seen to know motion; one that sees single frames is not."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from openjepa.config.schema import DataConfig
from openjepa.data import ClipEvalTransform, EvalTransform, Normalise, SceneSource
from openjepa.data.clips import Clips
from openjepa.data.scene_clips import SceneClips
from openjepa.data.scene_motion import ACTIONS
from openjepa.errors import ConfigError
from openjepa.evaluation import Bench
from openjepa.evaluation.motion import ShuffledClips, _headings, motion_probes, order_probes

CUT = Clips(8, stride=2, where="uniform")
DATA = DataConfig(image_size=32, eval_crop=1.0, clip={"frames": 8, "stride": 2})


class Flow(nn.Module):
    """Products of brightness change and slope on a 4 × 4 grid, and how fast change itself changes."""

    embed_dim, patch_size, tubelet_size, channels = 5, (8, 8), 2, 3

    def forward_features(self, x, keep=None):
        if x.ndim == 4:
            x = x[:, :, None].expand(-1, -1, 2, -1, -1)
        v = x.mean(1)  # (B, T, H, W)
        step = v.diff(dim=1)
        across, down = (torch.gradient(v, dim=d)[0][:, 1:] for d in (3, 2))
        size = step.abs().mean(1, keepdim=True)
        rough = step.diff(dim=1).abs().mean(1, keepdim=True) if step.shape[1] > 1 else torch.zeros_like(size)
        maps = [(step * across).mean(1, keepdim=True), (step * down).mean(1, keepdim=True), size, rough, v[:, :1]]
        grid = nn.functional.adaptive_avg_pool2d(torch.cat(maps, 1), 4)  # (B, 5, 4, 4)
        return grid.flatten(2).transpose(1, 2)


def bench(encoder, **changes):
    source = SceneClips(4, 32, clips=CUT)
    return Bench(encoder, Normalise.for_data(DATA), ClipEvalTransform(DATA), source, source, **changes)


@pytest.fixture(scope="module")
def moved():
    return {(s.subject, s.name): s for s in motion_probes(bench(Flow()), clips=500)}


def test_flow_is_found_and_single_frames_know_nothing(moved):
    action, alone = moved["encoder", "motion"], moved["encoder, frame by frame", "motion"]
    assert action.value > 0.22  # a handful of numbers on 10 classes
    assert alone.value < 0.15
    assert action.classes == tuple(sorted(action.classes, key=ACTIONS.index))
    assert (action.n_train, action.n_val) == (500, 250)
    assert action.protocol["frames"] == 8
    assert action.protocol["stride"] == 2


def test_headings_are_read_from_flow(moved):
    heading, alone = moved["encoder", "motion heading"], moved["encoder, frame by frame", "motion heading"]
    assert heading.metric == "r2"
    assert heading.value > 0.3
    assert alone.value < 0.1
    assert heading.extra["median angle off in degrees"] < 50 < alone.extra["median angle off in degrees"]
    assert heading.interval[0] < heading.value < heading.interval[1]
    assert 0.3 * 500 < heading.n_train < 0.5 * 500  # four actions of ten travel


def test_headings_are_those_of_the_scenes():
    source = SceneClips(40, 32, clips=CUT)
    for i, heading in enumerate(_headings(source).tolist()):
        direction = source.clip(i, np.zeros(1)).direction
        assert math.isnan(heading) if direction is None else heading == direction


def test_order_of_frames():
    scores = {(s.subject, s.name): s for s in order_probes(bench(Flow()), clips=400)}
    assert scores["encoder", "order of frames"].value > 0.66
    assert scores["encoder", "order of frames"].protocol["shuffled"] == "frames"
    for unit in ("frames", "tubelets"):
        assert abs(scores["encoder, frame by frame", f"order of {unit}"].value - 0.5) < 0.13
    assert ("encoder", "order of tubelets") in scores


def test_shuffled_clips():
    source = SceneClips(60, 16, 3, clips=CUT)
    for length in (1, 2):
        shuffled = ShuffledClips(source, length)
        assert len(shuffled) % 2 == 0
        labels = [shuffled.label(i) for i in range(len(shuffled))]
        assert sum(labels) * 2 == len(labels)
        for i in range(len(shuffled)):
            order = shuffled.order(i, 8).tolist()
            assert sorted(order) == list(range(8))
            assert (order == list(range(8))) == (labels[i] == 0)
            assert order != list(range(8))[::-1]
            if length == 2:
                assert all(b == a + 1 and a % 2 == 0 for a, b in zip(order[::2], order[1::2], strict=True))
        index = labels.index(1)
        assert torch.equal(shuffled.read(index), source.read(shuffled.indices[index])[shuffled.order(index, 8)])
        assert source.action(shuffled.indices[index]) != ACTIONS.index("still")
    assert ShuffledClips(source, 1).fingerprint() != ShuffledClips(source, 2).fingerprint()


def test_pixels_and_differences(tmp_path):
    for differences in (False, True):
        place = bench(None, differences=differences, cache_dir=tmp_path)
        scores = motion_probes(place, clips=200, subject="raw")
        assert [(s.subject, s.name) for s in scores] == [("raw", "motion"), ("raw", "motion heading")]
        if differences:
            assert motion_probes(place, clips=200, subject="raw") == scores
        else:
            assert [s.name for s in order_probes(place, clips=200)] == ["order of frames", "order of tubelets"]


def test_mistakes():
    with pytest.raises(ConfigError, match="at least 200 clips"):
        motion_probes(bench(Flow()), clips=50)
    image = DataConfig(image_size=32)
    still = SceneSource(4, 32)
    with pytest.raises(ConfigError, match="encoder of clips"):
        motion_probes(Bench(Flow(), Normalise.for_data(image), EvalTransform(image), still, still))
    short = SceneClips(4, 32, clips=Clips(4, where="uniform"))
    data = DATA.model_copy(update={"clip": DATA.clip.model_copy(update={"frames": 4})})
    with pytest.raises(ConfigError, match="3 tubelets"):
        order_probes(Bench(Flow(), Normalise.for_data(data), ClipEvalTransform(data), short, short), clips=200)
