"""Encoders of video are judged by the same verbs: segments and views, frames alone, other encoders, the right errors."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

import openjepa
from openjepa import api
from openjepa.cli import main
from openjepa.evaluation.attentive import ProbeGrid, averaged, class_mean_recall, loss_of, token_probe
from openjepa.evaluation.request import Bench
from openjepa.evaluation.tokens import open_tokens
from openjepa.features import ClipOptions
from tests.tiny_video import coloured_videos, video_model

QUICK = {"attentive": {"epochs": 4, "lrs": (1e-2,), "weight_decays": (0.01,)}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    coloured_videos(root / "train", 8)
    coloured_videos(root / "val", 4, seed=1)
    for side, count in (("train", 6), ("val", 3)):
        for name, colour in (("blue", (60, 60, 190)), ("red", (190, 60, 60))):
            (root / "images" / side / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (40, 32), tuple(c + i for c in colour)).save(
                    root / "images" / side / name / f"{chr(97 + i)} photo.png"
                )
    video_model(root / "model")
    return root


@pytest.fixture(scope="module")
def model(place):
    return openjepa.load(place / "model")


def judge(what, model, place, **options):
    chosen = {"cache": None, "options": QUICK, "train": place / "train", "val": place / "val", **options}
    return {(score.subject, score.name): score for score in api.evaluate(what, model=model, **chosen)}


def test_videos_are_judged_beside_frames_alone_pixels_and_differences(model, place):
    found = judge(["knn", "linear"], model, place)
    subjects = {"trained", "random initialisation", "single frames", "raw pixels", "frame differences"}
    assert {subject for subject, _ in found} == subjects
    assert found["trained", "linear"].value == 1  # colour is plain to see, even for random weights
    assert found["single frames", "linear"].value == 1
    protocol = found["trained", "knn"].protocol
    assert (protocol["frames"], protocol["fps"], protocol["segments"]) == (4, 8, 1)
    assert (found["trained", "knn"].n_train, found["trained", "knn"].n_val) == (16, 8)


def test_segments_and_views_reach_the_probes(model, place):
    look = ClipOptions(segments=2, views=3)
    found = judge(["attentive", "mean-pool-grid", "knn"], model, place, clips=look, baselines=False)
    for name, across in (("attentive", "attend"), ("mean-pool-grid", "attend"), ("knn", None)):  # pooled are averaged
        protocol = found["trained", name].protocol
        assert (protocol["segments"], protocol["views"], protocol.get("across")) == (2, "1 in train, 3 in val", across)
    assert found["trained", "attentive"].value > 0.6
    apart = judge("attentive", model, place, clips=replace(look, across="average"), baselines=False)
    assert apart["trained", "attentive"].protocol["across"] == "average"


def test_a_probe_averages_probabilities_over_what_is_pooled_apart():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    found = averaged(logits, 3, "cross_entropy")
    torch.testing.assert_close(found.exp(), logits.softmax(1).view(2, 3, 4).mean(1))
    torch.testing.assert_close(averaged(logits, 3, "focal").exp(), logits.sigmoid().view(2, 3, 4).mean(1))
    assert averaged(logits, 1, "focal") is logits


def test_tokens_that_fit_halved_are_kept_in_half_and_give_the_same_probe(model, place):
    bench = Bench(
        model.encoder,
        model.normalise,
        model.transform,
        model.open(place / "train", segments=2),
        model.open(place / "val", "val", segments=2),
        val_transform=model.view_transform(3),
    )
    whole = open_tokens(bench)
    size = 4 * (16 * 16 + 8 * 3 * 16) * 24
    half, streamed = open_tokens(bench, size - 1), open_tokens(bench, size // 4)
    assert (half.halved, streamed.streamed, whole.halved) == (True, True, False)
    assert whole.train.shape == half.train.shape == streamed.train.shape == (16, 24)
    order = torch.tensor([3, 1])
    for side in ("train", "val"):
        wanted = next(getattr(whole, side).batches(order, 2))[0]
        assert wanted.shape == ((2, 16, 24) if side == "train" else (2, 3, 16, 24))
        torch.testing.assert_close(next(getattr(streamed, side).batches(order, 2))[0], wanted)
        torch.testing.assert_close(next(getattr(half, side).batches(order, 2))[0], wanted, rtol=2e-3, atol=2e-3)
    grid = ProbeGrid(epochs=2, lrs=(1e-3,), weight_decays=(0.0,), precision="fp32")
    scores = [token_probe(sides, grid) for sides in (whole, streamed)]
    assert scores[0].value == scores[1].value
    cut = whole.cut(4, 10)
    assert cut.train.shape == (6, 24)
    torch.testing.assert_close(next(cut.val.batches(order, 2))[0], next(whole.val.batches(order, 2))[0][..., 4:10, :])


def test_the_focal_loss_is_the_published_formula():
    from torchvision.ops import sigmoid_focal_loss

    logits, y = torch.randn(5, 7, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 6, 3, 3, 1])
    onehot = torch.nn.functional.one_hot(y, 7).float()
    wanted = sigmoid_focal_loss(logits, onehot, alpha=0.25, gamma=2, reduction="sum") / 5
    torch.testing.assert_close(loss_of("focal", logits, y), wanted)


def test_class_mean_recall_counts_every_class_alike():
    logits = torch.eye(4)[torch.tensor([0, 0, 0, 1])]
    y = torch.tensor([0, 0, 0, 2])
    assert class_mean_recall(logits, y, 1) == 0.5  # class 0 always, class 2 never
    assert class_mean_recall(logits, y, 9) == 1


def test_broken_videos_are_left_out_and_said(model, place, tmp_path):
    train = coloured_videos(tmp_path / "train", 5)
    (train / "red" / "broken.mp4").write_bytes(b"no film" * 100)
    found = judge("knn", model, place, train=train, baselines=False)
    assert found["trained", "knn"].n_train == 10
    assert found["trained", "knn"].protocol["unreadable_files"] == "1 train"


def test_the_command_passes_clips_on(place, capsys, tmp_path):
    words = ["--model", str(place / "model"), "--train", str(place / "train"), "--val", str(place / "val")]
    words += ["--cache", "none", "--no-baselines"]
    out = tmp_path / "scores.json"
    assert main(["evaluate", "knn", *words, "--clips", "2", "--views", "3", "--fps", "4", "--json", str(out)]) == 0
    protocol = json.loads(out.read_text(encoding="utf-8"))[0]["protocol"]
    assert (protocol["fps"], protocol["segments"], protocol["views"]) == (4, 2, "1 in train, 3 in val")
    assert "segments=2" in capsys.readouterr().out
    assert main(["evaluate", "attentive-4", *words, "--epochs", "1", "--lrs", "1e-3", "--across", "average"]) == 0
    assert "4 blocks" in capsys.readouterr().out
    assert main(["evaluate", "knn", *words, "--fps", "4", "--stride", "2"]) == 2
    assert "exclude each other" in capsys.readouterr().err
