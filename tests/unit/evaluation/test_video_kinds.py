"""Encoders of images on videos and the other way round, other clips than those of training, and the measures beside probes."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import openjepa
from openjepa import api
from openjepa.cli import main
from openjepa.errors import ConfigError, DataError
from openjepa.features import ClipOptions
from openjepa.model import FrameModel, ImageModel
from tests.tiny_video import coloured_videos, video_model
from tests.video_files import write_video

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


def test_an_encoder_of_images_judges_videos_frame_by_frame(place):
    pytest.importorskip("timm", reason="extra 'timm' is not installed")
    name = "timm:vit_tiny_patch16_224@random@32px"
    plain = openjepa.load(name)
    loaded = plain.seen(ClipOptions(frames=3, fps=8))
    assert isinstance(loaded, FrameModel)
    path = place / "val" / "red" / "00.mp4"
    clip = loaded.embed(path)
    frames = loaded.open(place / "val").read(4)  # blue has 4 videos, this is the first red one
    torch.testing.assert_close(clip[0], plain.embed(list(frames)).mean(0), rtol=1e-4, atol=1e-4)
    found = judge("linear", name, place, clips=ClipOptions(frames=3, fps=8))
    assert {subject for subject, _ in found} == {name, "random initialisation", "raw pixels", "frame differences"}
    with pytest.raises(ConfigError, match="in one view: use --views 1"):
        judge("linear", name, place, clips=ClipOptions(frames=3, views=3))
    with pytest.raises(ConfigError, match="takes images: give --frames"):
        judge("linear", name, place, clips=ClipOptions(segments=2))


def test_other_clips_than_those_of_training_can_be_asked_for(model, place):
    longer = model.seen(ClipOptions(frames=8, stride=1))
    assert longer.embed(place / "val" / "red" / "00.mp4", tokens="patch").shape == (1, 16, 24)
    assert model.embed(place / "val" / "red" / "00.mp4", tokens="patch").shape == (1, 8, 24)
    protocol = judge("knn", model, place, clips=ClipOptions(frames=8, stride=1))["trained", "knn"].protocol
    assert (protocol["frames"], protocol["stride"]) == (8, 1)


def test_an_encoder_of_video_sees_images_only_when_asked(model, place):
    images = {"train": place / "images" / "train", "val": place / "images" / "val"}
    found = judge("linear", model, place, clips=ClipOptions(as_images=True), **images)
    assert found["trained", "linear"].value == 1
    assert isinstance(model.seen(ClipOptions(as_images=True)), ImageModel)
    with pytest.raises(DataError, match="images and no videos") as error:
        judge("linear", model, place, **images)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="one image at a time"):
        judge("linear", model, place, clips=ClipOptions(as_images=True, views=3), **images)


def test_masks_and_cka_take_clips(model, place):
    found = judge(["masks", "knn"], model, place, options={"masks": {"keep": 0.5}})
    assert {subject for subject, name in found if name == "masks"} == {"trained", "random initialisation"}
    assert ("single frames", "knn") in found  # which sees whole frames, so that nothing of them can be hidden
    assert 0 <= found["trained", "masks"].value <= 1
    drawn = judge("masks", model, place, baselines=False, options={"masks": {"views": "recipe"}})
    assert drawn["trained", "masks"].protocol["views"] == "the recipe's own masks"
    same = api.cka(model=model, other=model, data=place / "val", cache=None, baselines=False, per_layer=True)
    assert same.scores[0].value == pytest.approx(1)
    assert same.matrix[2][2] == pytest.approx(1)


@pytest.mark.parametrize("what", ["masks", "motion", "temporal-order", "anticipation"])
def test_measures_of_one_clip_refuse_more(what, model, place):
    for look in (ClipOptions(segments=2), ClipOptions(views=3)):
        with pytest.raises(ConfigError, match=f"{what} sees one clip of each video"):
            judge(what, model, place, clips=look)


def test_a_measure_of_images_sees_an_encoder_of_video_as_one_of_images(place, capsys):
    words = ["evaluate", "scenes", "--model", str(place / "model"), "--images", "40", "--cache", "none"]
    assert main([*words, "--no-baselines"]) == 2
    assert "takes clips: give --as-images" in capsys.readouterr().err
    assert main([*words, "--no-baselines", "--as-images"]) == 0


def test_fine_tuning_takes_clips(model, place):
    options = {"finetune": {"epochs": 2, "lrs": (1e-3,), "batch_size": 8}}
    found = judge("finetune", model, place, options=options, baselines=False, clips=ClipOptions(views=3))
    assert 0 <= found["trained", "finetune"].value <= 1
    with pytest.raises(ConfigError, match="one clip per video"):
        judge("finetune", model, place, options=options, baselines=False, clips=ClipOptions(segments=2))


def test_a_folder_of_videos_for_an_encoder_of_images_is_one_line(tmp_path, place, capsys):
    from openjepa.config import build_recipe
    from openjepa.hub.model_directory import save_model
    from openjepa.methods import build_method

    raw = {"name": "image", "data": {"image_size": 32}, "model": {"arch": None, "dim": 16, "depth": 1, "heads": 1}}
    recipe = build_recipe({**raw, "predictor": {"dim": 12, "depth": 1, "heads": 1}}, [])
    save_model(tmp_path / "m", build_method(recipe), recipe)
    words = ["evaluate", "knn", "--model", str(tmp_path / "m"), "--train", str(place / "train"), "--val"]
    assert main([*words, str(place / "val")]) == 2
    said = capsys.readouterr().err
    assert "videos and no images" in said
    assert len(said.strip().splitlines()) == 1
    film = write_video(tmp_path / "film.mp4", 8, fps=8)
    with pytest.raises(DataError, match="is a video, and trained takes images"):
        openjepa.load(tmp_path / "m").embed(film)


def test_an_encoder_of_video_from_hugging_face_is_judged_in_clips_of_its_own(place, tmp_path):
    transformers = pytest.importorskip("transformers", reason="extra 'hf' is not installed")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 1, "crop_size": 32, "patch_size": 16}
    narrow = {"pred_hidden_size": 24, "pred_num_attention_heads": 1, "pred_num_hidden_layers": 1}
    config = transformers.VJEPA2Config(**sizes, **narrow, frames_per_clip=4)
    transformers.VJEPA2Model(config).save_pretrained(tmp_path / "hf")
    loaded = openjepa.load(tmp_path / "hf")
    assert loaded.clip.frames == 4
    assert loaded.embed(place / "val" / "red" / "00.mp4", tokens="patch").shape == (1, 8, 24)
    found = judge("knn", loaded, place, clips=ClipOptions(segments=2, views=3))
    assert found[loaded.name, "knn"].value > 0.7
    assert ("single frames", "knn") in found
    assert loaded.seen(ClipOptions(frames=6)).embed(place / "val" / "red" / "00.mp4", tokens="patch").shape[1] == 12
