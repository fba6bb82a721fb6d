"""Anticipation: what may be seen, where the predictor is asked, and that it is what makes the difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import openjepa
from openjepa import api
from openjepa.cli import main
from openjepa.data import open_source
from openjepa.data.clips import Clips
from openjepa.errors import ConfigError, DataError
from openjepa.evaluation.anticipation import Foreseeing, Foresight, Observed, anticipate
from openjepa.evaluation.attentive import ProbeGrid
from openjepa.evaluation.request import Bench
from openjepa.models import NarrowPredictor, VisionTransformer
from openjepa.models.positions import Positions
from openjepa.types import Ids, Tokens
from tests.tiny_video import coloured_videos, video_model
from tests.video_files import read_numbers, write_video

GRID = ProbeGrid(epochs=3, lrs=(1e-2,), weight_decays=(0.01,), precision="fp32")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    coloured_videos(root / "train", 6)
    coloured_videos(root / "val", 3, seed=1)
    video_model(root / "model")
    return root


def observed(path, **look) -> Observed:
    return Observed(open_source(path, clip=Clips(4, fps=5)), Clips(4, fps=5), Foresight(**look))


def test_what_is_seen_ends_tau_before_the_anchor(tmp_path):
    film = write_video(tmp_path / "film.mp4", 100, fps=10)  # 10 s
    assert read_numbers(observed(film, tau=1.0).read(0)) == [82, 84, 86, 88]  # the last frame ends at 9 s
    assert read_numbers(observed(film, tau=2.0, anchor=0.5).read(0)) == [22, 24, 26, 28]
    assert read_numbers(observed(film, tau=0.0).read(0)) == [92, 94, 96, 98]
    assert read_numbers(observed(film, tau=9.6).read(0)) == [0, 0, 0, 2]  # before the beginning: the first frame
    with pytest.raises(DataError, match=r"nothing to see 9.9 s \(tau\) before its anchor"):
        observed(film, tau=9.9).read(0)


@pytest.mark.parametrize("positions", ["rope3d", "sincos3d"])
def test_the_predictor_is_asked_for_places_beyond_the_clip(tmp_path, positions):
    model = openjepa.load(video_model(tmp_path / "m", f"model.positions={positions}"))
    x = torch.randn(2, 3, 4, 32, 32)
    look = Foresight(mask_token=1, ahead=1)
    near, far = (Foreseeing(model.encoder, model.predictor, offset, look) for offset in (0, 3))
    with torch.no_grad():
        tokens = near.forward_features(x)
        assert tokens.shape == (2, 8 + 4, 24)
        torch.testing.assert_close(tokens[:, :8], model.encoder.forward_features(x))
        later = far.forward_features(x)[:, 8:]
        assert not torch.allclose(later, tokens[:, 8:], atol=1e-4)
        # By hand: the tubelet that begins 3 tubelets after the clip, out of a whole longer grid.
        ids = torch.arange(8).expand(2, -1)
        everything = torch.arange(8, 8 + 16).expand(2, -1)
        context = Tokens(tokens[:, :8], (6, 2, 2), Ids(ids))
        one = model.predictor.predict(context, Ids(everything[:, 12:]), mask_tokens=(1,))
        torch.testing.assert_close(later, one)
        other = model.predictor.predict(context, Ids(everything[:, 12:]), mask_tokens=(0,))
        assert not torch.allclose(later, other, atol=1e-5)


def test_the_mask_token_must_be_there(place):
    model = openjepa.load(place / "model")
    with pytest.raises(ConfigError, match="2 mask tokens, 0 to 1, so there is no 5"):
        Foreseeing(model.encoder, model.predictor, 0, Foresight(mask_token=5))
    one = NarrowPredictor(embed_dim=24, grid=(2, 2, 2), dim=24, depth=1, heads=2)
    assert Foreseeing(model.encoder, one, 0, Foresight(mask_token=1)).token == 0


def test_a_distilled_predictor_is_refused_by_name(place):
    model = openjepa.load(place / "model")
    sources = [model.open(place / "train"), model.open(place / "val", "val")]
    teacher = NarrowPredictor(embed_dim=24, grid=(2, 2, 2), dim=24, depth=1, heads=2, out_dim=40)
    bench = Bench(model.encoder, model.normalise, model.transform, *sources, predictor=teacher)
    with pytest.raises(ConfigError, match="another encoder's features .distilled., not of 24 channels"):
        anticipate(bench, Foresight(tau=0.5), GRID)


def test_of_several_levels_the_last_is_the_feature():
    torch.manual_seed(0)
    options = {"image_size": (16, 16), "frames": 4, "patch_size": 8, "dim": 24, "depth": 2, "heads": 2, "taps": 2}
    encoder = VisionTransformer(**options, positions=Positions("rope3d")).eval()
    predictor = NarrowPredictor(
        embed_dim=24, grid=(2, 2, 2), dim=24, depth=1, heads=2, levels=2, positions=Positions("rope3d")
    )
    x = torch.randn(2, 3, 4, 16, 16)
    with torch.no_grad():
        tokens = Foreseeing(encoder, predictor, 1, Foresight()).forward_features(x)
        ids, query = (torch.arange(*ends).expand(2, -1) for ends in ((0, 8), (12, 16)))
        context = Tokens(encoder.forward_levels(x), (4, 2, 2), Ids(ids))
        wanted = predictor.predict(context, Ids(query))[..., 24:]
    assert torch.equal(tokens[:, :8], encoder.forward_features(x))
    torch.testing.assert_close(tokens[:, 8:], wanted)


class Clock(nn.Module):
    """Tokens that say nothing; a predictor that knows the class: the probe must find it there and only there."""

    embed_dim, patch_size, tubelet_size = 8, (16, 16), 2

    def forward_features(self, x, keep=None):
        red = (x[:, 0] - x[:, 2]).flatten(1).mean(1)
        tokens = torch.zeros(len(x), 8, 8)
        tokens[:, :, 0] = red[:, None] * 1e-6  # carried along, far too small to be read
        return tokens

    def grid_of(self, x):
        return 2, 2, 2


class Knowing(NarrowPredictor):
    def __init__(self):
        super().__init__(embed_dim=8, grid=(2, 2, 2), dim=12, depth=1, heads=1)

    def predict(self, context, query, mask_tokens=(), complement=False):
        red = context.values[:, :1, :1] * 1e6
        return red.expand(-1, query.index.shape[1], 8) * torch.linspace(-1, 1, 8)


def test_the_three_probes_read_what_they_say(place):
    model = openjepa.load(place / "model")
    sources = [model.open(place / "train"), model.open(place / "val", "val")]
    bench = Bench(Clock(), model.normalise, model.transform, *sources, predictor=Knowing())
    found = {score.name: score for score in anticipate(bench, Foresight(tau=0.5), GRID)}
    assert found["anticipation encoder"].value == 0.5
    assert found["anticipation predictor"].value == 1
    assert found["anticipation encoder + predictor"].value == 1
    assert found["anticipation predictor"].extra["class-mean recall@5"] == 1
    protocol = found["anticipation predictor"].protocol
    assert (protocol["tau"], protocol["after"], protocol["mask_token"]) == (0.5, "2 tubelets", 0)


def test_tokens_that_are_streamed_give_the_same_scores(place):
    model = openjepa.load(place / "model")
    sources = [model.open(place / "train"), model.open(place / "val", "val")]
    bench = Bench(model.encoder, model.normalise, model.transform, *sources, predictor=model.predictor)
    kept = anticipate(bench, Foresight(tau=0.25), GRID)
    streamed = anticipate(bench, Foresight(tau=0.25), GRID, memory=0)
    assert [score.value for score in kept] == [score.value for score in streamed]
    assert streamed[0].protocol["streamed"] is True


def test_scores_stand_beside_untrained_networks_and_frames_alone(place):
    options = {"anticipation": {"epochs": 2, "lrs": (1e-3,), "tau": 0.5, "loss": "focal"}}
    scores = api.evaluate(
        "anticipation",
        model=place / "model",
        train=place / "train",
        val=place / "val",
        cache=None,
        options=options,
    )
    three = ["anticipation encoder", "anticipation encoder + predictor", "anticipation predictor"]
    names = {subject: [s.name for s in scores if s.subject == subject] for subject in {s.subject for s in scores}}
    assert names == {"trained": three, "random initialisation": three, "single frames": three[:1]}
    assert scores[0].protocol["loss"] == "focal"


def test_the_command_anticipates_scenes_without_data(place, capsys):
    words = ["evaluate", "anticipation", "--model", str(place / "model"), "--cache", "none", "--no-baselines"]
    assert main([*words, "--tau", "0.5", "--epochs", "1", "--lrs", "1e-3"]) == 0
    said = capsys.readouterr().out
    assert "anticipation encoder + predictor" in said
    assert "tau=0.5" in said


def test_what_cannot_be_anticipated_is_one_line(place, tmp_path):
    sides = {"train": place / "train", "val": place / "val", "cache": None, "baselines": False}
    strided = video_model(tmp_path / "strided", "data.clip.fps=null", "data.clip.stride=2")
    with pytest.raises(ConfigError, match="counts in seconds.*give --fps"):
        api.evaluate("anticipation", model=strided, **sides)
    pixels = video_model(
        tmp_path / "pixels",
        "method=masked_pixel",
        'predictor={"kind": "pixel", "dim": 24, "depth": 1, "heads": 2}',
        "target.kind=pixels",
        'mask={"kind": "random_tube"}',
    )
    with pytest.raises(ConfigError, match="PixelDecoder gives none"):
        api.evaluate("anticipation", model=pixels, **sides)
    (place / "model" / "predictor.safetensors").exists()
    alone = openjepa.load(place / "model")
    alone.predictor = None
    with pytest.raises(ConfigError, match="asks the predictor, and trained has none"):
        api.evaluate("anticipation", model=alone, **sides)
    for wrong in ({"tau": -1.0}, {"anchor": 2.0}, {"ahead": 0}, {"mask_token": -1}):
        with pytest.raises(ConfigError, match="anticipation: "):
            Foresight(**wrong)
    with pytest.raises(ConfigError, match="no option 'taw'"):
        api.evaluate("anticipation", model=place / "model", options={"anticipation": {"taw": 1}}, **sides)


def test_times_are_those_of_the_rate():
    source = type("S", (), {"name": "s", "classes": None, "clips": Clips(4, fps=5)})()
    times = Observed(source, Clips(4, fps=5), Foresight(tau=1)).times(10.0)
    np.testing.assert_allclose(times, [8.2, 8.4, 8.6, 8.8])
