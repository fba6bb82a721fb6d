"""Scenes in motion: exact, repeatable; the action shows in how frames follow each other and in nothing else."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from openjepa.data.clips import Clips
from openjepa.data.scene_clips import SceneClips, draw_clip, scene_clip
from openjepa.data.scene_motion import ACTIONS, HEADINGS, clip_action, clip_actions, plan_clip, tracks
from openjepa.data.scene_spec import SHAPES
from openjepa.errors import ConfigError, DataError
from openjepa.evaluation import knn
from openjepa.features import Features

DIGEST = "e328c742f7454f7c8aa56982edd194670855e64ee8095832694d872c74cdbe1f"
CENTRE = Clips(8, fps=12.0, where="uniform")


def of_action(name, count=6, size=48, frames=24):
    """The first clips of an action."""
    indices = [i for i in range(40 * count) if ACTIONS[clip_action(5, i)] == name][:count]
    return [scene_clip(5, i, size, frames) for i in indices]


def unwrapped(path):
    """Steps along the torus."""
    step = np.diff(path)
    return step - np.round(step / 1.42) * 1.42


def test_the_same_bytes_everywhere():
    """A change of this digest breaks every run and cache on scene clips: raise ``scene_clips.VERSION`` with it."""
    source = SceneClips(16, 48, 7, clips=CENTRE)
    found = hashlib.sha256(b"".join(source.read(i).numpy().tobytes() for i in range(16))).hexdigest()
    assert found == DIGEST


@pytest.mark.parametrize("name", sorted(HEADINGS))
def test_things_travel_where_the_action_says(name):
    for clip in of_action(name):
        assert clip.action_name == name
        heading = np.array([math.cos(clip.direction), math.sin(clip.direction)])
        assert heading @ [math.cos(HEADINGS[name]), math.sin(HEADINGS[name])] > math.cos(math.radians(37))
        for thing in clip.objects:
            steps = np.stack([unwrapped(thing.x), unwrapped(thing.y)], 1)
            along = steps @ heading
            np.testing.assert_allclose(np.linalg.norm(steps, axis=1), along, atol=1e-6)
            assert 0.01 < along.mean() < 0.03
            assert np.ptp(thing.radius) == np.ptp(thing.angle) == 0


def test_turning_approaching_bouncing_and_standing_still():
    for sign, name in ((1, "turn-clockwise"), (-1, "turn-counterclockwise")):  # y points down
        for clip in of_action(name, 3):
            assert all((sign * np.diff(thing.angle) > 0.04).all() for thing in clip.objects)
    for sign, name in ((1, "approach"), (-1, "recede")):
        for clip in of_action(name, 3, frames=48):
            growing = [sign * np.diff(thing.radius) > 0 for thing in clip.objects]
            assert all(0.75 < grown.mean() <= 1 for grown in growing)
    for clip in of_action("bounce", 3, frames=80):
        first, second = clip.objects[:2]
        across = [np.abs(unwrapped(np.stack([a, b]).T)).ravel() for a, b in ((first.x, second.x), (first.y, second.y))]
        gap = np.hypot(*across) / (first.radius + second.radius)
        assert 1.0 - 1e-6 <= gap.min() < 1.15  # they touch, and fly apart again
        assert (np.diff(np.sign(np.diff(gap))) != 0).sum() >= 4
    for clip in of_action("still", 3):
        assert all(np.abs(unwrapped(thing.x)).max() < 0.01 for thing in clip.objects)


@pytest.mark.parametrize("time", [0.0, 31.0])
def test_every_frame_is_a_draw_from_one_distribution_whatever_the_action(time):
    """Kolmogorov-Smirnov of places and radii against those of all clips together, for every action."""
    count = 1500
    states: dict[int, list[list[float]]] = {a: [] for a in range(len(ACTIONS))}
    for i in range(count):
        spec = plan_clip(9, i)
        first, second = tracks(spec, np.array([time]))[:2]
        apart = [abs(unwrapped(np.array([a[0], b[0]]))[0]) for a, b in ((first.x, second.x), (first.y, second.y))]
        states[spec.action].append([first.x[0], second.y[0], first.radius[0], math.hypot(*apart), apart[0]])
    everything = np.concatenate([np.array(rows) for rows in states.values()])
    for rows in states.values():
        here = np.sort(np.array(rows), axis=0)
        for k in range(here.shape[1]):
            pooled = np.sort(everything[:, k])
            distance = np.abs(
                np.searchsorted(pooled, here[:, k], "right") / count - (np.arange(len(here)) + 1) / len(here)
            ).max()
            assert distance < 1.9 / math.sqrt(len(here))  # 0.1 % level, a hundred comparisons


def test_one_frame_tells_nothing_and_differences_tell_the_action():
    sides = [SceneClips(n, 24, 0, split=split, clips=CENTRE) for n, split in ((900, "train"), (300, "val"))]
    videos = [torch.stack([side.read(i) for i in range(len(side))]).float().mean(2) for side in sides]  # (N, T, h, w)

    def scored(pick):
        rows = []
        for side, video in zip(sides, videos, strict=True):
            labels = torch.tensor([side.label(i) for i in range(len(side))])
            rows.append(Features(pick(video).flatten(1), torch.arange(len(side)), labels, (), tuple(side.classes)))
        return knn(*rows).value

    assert scored(lambda v: v[:, 0]) < 0.15
    assert scored(lambda v: v[:, -1]) < 0.15
    assert scored(lambda v: v.mean(1)) < 0.17
    assert scored(lambda v: torch.nn.functional.adaptive_avg_pool2d(v.diff(dim=1), 8)) > 0.2


def test_truth_agrees_with_the_pixels():
    for index in range(12):
        clip = scene_clip(1, index, 64, 10, stride=3)
        assert clip.video.shape == (10, 3, 64, 64)
        assert clip.video.dtype == torch.uint8
        assert clip.masks.shape == (10, 64, 64)
        assert clip.tracks.shape == (10, len(clip.objects), 4)
        assert clip.class_name == SHAPES[clip.label] == clip.spec.still.objects[0].shape
        for k, thing in enumerate(clip.objects):
            for t in range(10):
                here = clip.masks[t] == k + 1
                assert bool(clip.visible[t, k]) == bool(here.any())
                if not here.any():
                    assert clip.tracks[t, k].tolist() == [0, 0, 0, 0]
                    continue
                rows, columns = here.nonzero(as_tuple=True)
                box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert clip.tracks[t, k].tolist() == [float(v) for v in box]
                reach = 64 * thing.radius[t] * 1.2 + 1
                assert abs((columns + 0.5) - 64 * thing.x[t]).max() < reach
                assert abs((rows + 0.5) - 64 * thing.y[t]).max() < reach


def test_things_leave_pass_behind_what_stands_in_front_and_come_back():
    hidden = left = 0
    for index in range(30):
        clip = scene_clip(2, index, 48, 48, stride=2)
        for front in clip.spec.still.front:
            x, y = int(front.x * 48), int(front.y * 48)
            if front.shape == "sliver":  # covers its centre
                assert (clip.masks[:, y, x] == 0).all()
        seen = clip.visible.int().diff(dim=0)
        left += int(((seen == -1).any(0) & (seen == 1).any(0)).sum())
        whole = clip.masks.flatten(1).unsqueeze(-1).eq(torch.arange(1, 5)).sum(1)  # visible pixels (T, n)
        for k, thing in enumerate(clip.objects):
            inside = torch.from_numpy((np.abs(thing.x - 0.5) < 0.25) & (np.abs(thing.y - 0.5) < 0.25))
            if np.ptp(thing.radius) == 0 and inside.any() and whole[inside, k].max() > 0:
                hidden += bool(whole[inside, k].min() < 0.6 * whole[inside, k].max())
    assert left > 5
    assert hidden > 3


def test_a_clip_is_drawn_as_a_still_scene_is():
    """The painter of many frames against the one of single images."""
    from openjepa.data.scene_paint import paint_object, paint_track
    from openjepa.data.scene_spec import plan_scene

    spec = plan_scene(3, 4)
    for shape in SHAPES:
        thing = replace(spec.objects[0], shape=shape, x=0.1, y=0.8)
        one = np.full((3, 48, 48), 0.4, np.float32)
        window, covered = paint_object(one, thing, 0.0)
        many = np.full((2, 3, 48, 48), 102, np.uint8)  # .4
        here = np.ones(2)
        found = paint_track(many, thing, (thing.x * here, thing.y * here), thing.angle * here, thing.radius * here)
        assert np.abs(many[1].astype(int) - np.floor(one * 255 + 0.5)).max() <= 1
        masks = np.zeros((2, 48, 48), bool)
        for t, place, inside in found:
            masks[t][place] = inside
        whole = np.zeros((48, 48), bool)
        whole[window] = covered
        assert (masks == whole).all()


def test_actions_and_shapes_are_balanced_and_independent():
    source = SceneClips(6000, 16, clips=CENTRE, label="shape")
    actions = np.array(clip_actions(6000, source.generator_seed))
    assert actions[:50].tolist() == [source.action(i) for i in range(50)]
    shapes = np.array([source.label(i) for i in range(6000)])
    table = np.zeros((10, 10))
    np.add.at(table, (actions, shapes), 1)
    assert table.min() > 30
    assert table.max() < 95
    assert source.classes == list(SHAPES)
    assert SceneClips(3, 16, clips=CENTRE).classes == list(ACTIONS)


def test_reading_clips():
    source = SceneClips(20, 24, clips=Clips(6, stride=2, where="random", count=2))
    assert source.read(0).shape == (12, 3, 24, 24)
    torch.manual_seed(3)
    first = source.read(4)
    torch.manual_seed(3)
    assert torch.equal(source.read(4), first)
    assert not torch.equal(source.read(4), first)  # drawn anew
    fixed = source.sampled(CENTRE)
    before = torch.get_rng_state()
    assert torch.equal(fixed.read(4), fixed.read(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert fixed.fingerprint() != source.fingerprint()
    with fixed.video(4) as video:
        assert (video.frames, video.fps, video.duration) == (48, 24.0, 2.0)
        start = (48 / 24 - 1 / 24 - 7 / 12) / 2  # of the centre clip in seconds
        shown = video.at(start + np.arange(8) / 12)
    assert torch.equal(shown, fixed.read(4))
    assert torch.equal(fixed.clip(4).video[::12], fixed.clip(4, np.arange(0, 48, 12.0)).video)


def test_a_clip_longer_than_the_video_makes_a_longer_video():
    source = SceneClips(4, 16, clips=Clips(64, fps=8.0, where="start"))
    assert source.read(0).shape[0] == 64
    assert source.short == 0
    assert len(source.read(1).unique(dim=0)) > 30  # no padding: things go on moving


def test_sides_share_no_clip_and_gray_and_refusals():
    train, val = (SceneClips(30, 16, clips=CENTRE, split=split) for split in ("train", "val"))
    seen = {train.read(i).numpy().tobytes() for i in range(30)}
    assert len(seen) == 30
    assert not any(val.read(i).numpy().tobytes() in seen for i in range(30))
    assert (train.item_id(12), val.item_id(12)) == ("scenes/00012", "scenes-val/00012")
    source = SceneClips(2, 16, channels=1, clips=CENTRE)
    gray = source.read(0)
    with source.video(0) as video:  # what anticipation and pictures read
        assert video.at(np.array([0.0, 0.5])).shape == (2, 1, 16, 16)
    assert gray.shape == (8, 1, 16, 16)
    assert (gray.float() - SceneClips(2, 16, clips=CENTRE).read(0).float().mean(1, keepdim=True)).abs().max() < 60
    assert draw_clip(plan_clip(0, 0), 1, np.zeros(1)).video.shape == (1, 3, 1, 1)
    with pytest.raises(DataError, match="3 channels"):
        SceneClips(2, channels=5, clips=CENTRE)
    with pytest.raises(DataError, match="at least 1"):
        SceneClips(0, clips=CENTRE)
    with pytest.raises(ConfigError, match="action or shape"):
        SceneClips(2, clips=CENTRE, label="colour")
    with pytest.raises(ConfigError, match="at least 1"):
        scene_clip(0, 0, 16, 0)
