"""The decoder reads what is there and nothing else; predictions are decoded from the space they were trained in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from visualize_fakes import RECIPE

from openjepa.cli import main
from openjepa.config import build_recipe
from openjepa.data.splits import open_splits
from openjepa.errors import CheckpointError, ConfigError, DataError
from openjepa.hub.model_directory import load_model, save_model
from openjepa.methods import build_method
from openjepa.objectives import patchify, transform_target
from openjepa.types import Ids
from openjepa.visualize import decoded, inside, latent
from openjepa.visualize.decoded import Subject, TargetSpace, instrument, kept_instrument
from openjepa.visualize.decoder import FeatureDecoder, fidelity, fit_decoder


def _model(tmp_path: Path, **changes: Any) -> Path:
    recipe = build_recipe({**RECIPE, **changes})
    torch.manual_seed(0)
    method = build_method(recipe)
    for part in method.parts():
        for parameter in part.parameters():
            if parameter.ndim > 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return save_model(tmp_path / "model", method, recipe)


def test_features_that_hold_the_pixels_are_decoded_and_empty_ones_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(300, 1, 8, 8, generator=generator)
    images = torch.nn.functional.avg_pool2d(images, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)  # flat patches
    truth = patchify(images, 4)[..., :1]
    full = torch.cat([truth, truth**2, torch.randn(300, 4, 6, generator=generator)], -1)
    noise = torch.randn(300, 4, 8, generator=generator)
    found = {}
    for name, features in (("full", full), ("noise", noise)):
        decoder = fit_decoder(features[:200], images[:200], (2, 2), 4, steps=300, width=32, tokens=128)
        found[name] = fidelity(decoder, features[200:], images[200:])
    assert found["full"].r2 > 0.9
    assert found["noise"].r2 < 0.1
    assert found["full"].psnr > found["full"].mean_psnr + 8
    some = torch.zeros(100, 4, dtype=torch.bool)
    some[:, 2] = True
    assert fidelity(decoder, noise[200:], images[200:], some).r2 < 0.1


def test_place_alone_is_no_credit() -> None:
    """Patches that differ by place only are the baseline: R2 0, not 1."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(100, 1, 8, 8)
    images[..., :4, :] = 1.0
    images = (images + 0.05 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    decoder = fit_decoder(torch.randn(100, 4, 8, generator=generator), images, (2, 2), 4, steps=60, width=16)
    assert abs(fidelity(decoder, torch.zeros(100, 4, 8), images).r2) < 0.1
    assert fidelity(decoder, torch.zeros(100, 4, 8), images).mean_psnr > 20


def test_the_fit_is_repeatable_and_spares_the_global_generator() -> None:
    images, features = torch.rand(10, 3, 8, 8), torch.randn(10, 4, 8)
    torch.manual_seed(5)
    first = fit_decoder(features, images, (2, 2), 4, steps=5, width=16)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    again = fit_decoder(features, images, (2, 2), 4, steps=5, width=16)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(DataError, match="1 image"):
        fit_decoder(features[:1], images[:1], (2, 2), 4)
    with pytest.raises(DataError, match="not finite"):
        fit_decoder(features * torch.nan, images, (2, 2), 4)


def test_target_space_is_the_objective_s() -> None:
    raw = torch.randn(20, 4, 8) * 3 + 1
    for how in ("layer_norm", "none", "centred"):
        space = TargetSpace.measure(how, raw, directions=False)
        torch.testing.assert_close(space(raw), transform_target(raw, how), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(space(raw[:3]), space(raw)[:3])  # does not depend on the batch
        assert torch.equal(space.fit_length(raw), raw)
    space = TargetSpace.measure("layer_norm", raw, directions=True)
    lengths = space.fit_length(raw).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 8**0.5), atol=1e-3, rtol=1e-3)


def test_predictions_land_at_their_patches(tmp_path: Path) -> None:
    """Against the method itself, block by block and image by image."""
    loaded = load_model(_model(tmp_path))
    method = latent.rebuild(loaded)
    group = latent.draw_masks(loaded.config, 3)
    images = torch.randn(3, 3, 32, 32)
    values, where = latent.predictions(method, images, group)
    total, times = torch.zeros(3, 16, 32), torch.zeros(3, 16, 1)
    for row in range(3):
        context = group.contexts[0].rows(row, row + 1)
        if context.valid is not None:
            context = Ids(context.index[:, context.valid[0]])
        for target in group.targets:
            index = target.index[row] if target.valid is None else target.index[row][target.valid[row]]
            one = replace(group, contexts=[context], targets=[Ids(index[None])], pairs=[(0, 0)])
            with torch.no_grad():
                found = method.predict(images[row : row + 1], one)[0][0]
            total[row, index] += found
            times[row, index] += 1
    assert torch.equal(where, times[..., 0] > 0)
    torch.testing.assert_close(values, total / times.clamp_min(1), atol=1e-5, rtol=1e-4)
    assert not (where & latent.cells(group.contexts[0], 16)).any()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"target": {"kind": "self", "transform": "centred"}},
        {"target": {"kind": "none"}, "objective": {"kind": "normalised_cosine", "granularity": "block"}},
        {"predictor": {"kind": "linear"}, "target": {"layers": 2}, "model": {**RECIPE["model"], "depth": 2}},
        {"predictor": {"kind": "none"}, "mask": {"kind": "block"}},
        {"mask": {"kind": "none"}},
    ],
    ids=["ema", "self", "none", "linear", "no predictor", "nothing hidden"],
)
def test_rows_of_every_latent_method(tmp_path: Path, changes: dict[str, Any]) -> None:
    loaded = load_model(_model(tmp_path, **changes))
    splits = open_splits(loaded.config)
    tool = instrument(loaded, lambda: splits, steps=3, most=20)
    assert set(tool.scores) == {"targets", "hidden targets", "hidden predictions"}
    assert all(np.isfinite(score.r2) for score in tool.scores.values())
    images = torch.stack([splits.held_out.read(k) for k in range(2)])
    sheet = inside.decoded_sheet(Subject(loaded), tool, images, "x")
    assert sheet.width > 4 * 192
    rows, captions = inside.decoded_tiles(Subject(loaded), tool, images)
    assert [len(row) for row in rows] == [4, 4]
    assert len({tile.shape for row in rows for tile in row}) == 1
    assert "prediction" in captions[0]
    said = " ".join(inside.space_notes(Subject(loaded)))
    assert ("batch" in said) == (loaded.config.target.transform == "centred")
    assert ("directions" in said) == (loaded.config.objective.kind == "normalised_cosine")


def test_the_decoder_is_kept_with_the_weights_it_belongs_to(tmp_path: Path) -> None:
    path = _model(tmp_path)
    loaded = load_model(path)
    fits: list[int] = []

    def made(**options: Any) -> decoded.Instrument:
        return instrument(
            loaded, lambda: open_splits(loaded.config), most=20, on_step=lambda step, _: fits.append(step), **options
        )

    first = made(steps=3)
    assert fits == [0, 1, 2]
    load_model(path)  # the model directory still verifies
    second = made(steps=3)
    assert fits == [0, 1, 2], "kept"
    features = torch.randn(1, 16, 32)
    assert torch.equal(first.decoder.images(features), second.decoder.images(features))
    assert first.scores == second.scores
    made(steps=2)
    assert len(fits) == 5
    made(steps=2, again=True)
    assert len(fits) == 7
    kept = kept_instrument(loaded)
    assert kept is not None
    assert kept.about["steps"] == 2
    with torch.no_grad():
        next(loaded.encoder.parameters()).add_(1)
    assert kept_instrument(loaded) is None, "other weights"
    file = path / "decoder" / "decoder.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    assert kept_instrument(load_model(path)) is None, "damaged"


def test_what_cannot_predict_says_so(tmp_path: Path) -> None:
    recipe = build_recipe(RECIPE)
    lone = save_model(tmp_path / "lone", build_method(recipe).encoder, recipe)
    with pytest.raises(CheckpointError, match="no online and no predictor"):
        latent.rebuild(load_model(lone))
    views = build_recipe(
        {**RECIPE, "method": "joint_embedding", "mask": {"kind": "none"}, "predictor": {"kind": "projector"},
         "target": {"kind": "none", "transform": "none"},
         "data": {**RECIPE["data"], "views": [{"count": 2}]}}
    )  # fmt: skip
    with pytest.raises(ConfigError, match="joint_embedding predicts no features"):
        latent.rebuild(replace(load_model(lone), config=views))
    subject = Subject(replace(load_model(lone), config=views))
    tool = instrument(subject.loaded, lambda: open_splits(views), steps=2, most=12)
    assert set(tool.scores) == {"targets"}
    assert inside.decoded_sheet(subject, tool, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "x").width > 2 * 192


def test_decoder_images_are_in_range() -> None:
    decoder = FeatureDecoder(8, (2, 2), 4, width=16)
    torch.nn.init.normal_(decoder.net[-1].weight, std=5)
    shown = decoder.images(torch.randn(2, 4, 8))
    assert shown.shape == (2, 3, 8, 8)
    assert 0 <= float(shown.min()) <= float(shown.max()) <= 1


def test_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", str(_model(tmp_path))]
    out = str(tmp_path / "d.png")
    words = ["visualize", "decode", "scenes", *model, "--steps", "3", "--images", "20", "--count", "2", "-o", out]
    assert main(words) == 0
    assert "hidden predictions: R2" in capsys.readouterr().out
    assert Image.open(out).format == "PNG"
    for extra in ([], ["--part", "predictor"], ["--rollout"], ["--part", "predictor", "-p", "2,1", "--head", "all"]):
        assert main(["visualize", "attention", "scenes", *model, "--count", "2", "-o", out, *extra]) == 0
    for extra, said in (
        (["--part", "predicter"], "did you mean 'predictor'"),
        (["--part", "predictor", "--rollout"], "leave it out"),
        (["--layer", "7"], "layer 7 does not exist"),
        (["-p", "4,0"], "0,0 to 3,3"),
        (["--out", "a.jpg"], "a.png"),
    ):
        capsys.readouterr()
        assert main(["visualize", "attention", "scenes", *model, "--count", "1", *extra]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    config = json.loads((tmp_path / "model" / "decoder" / "config.json").read_text())
    assert config["about"]["steps"] == 3
