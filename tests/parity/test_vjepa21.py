"""Our V-JEPA 2.1 computes what the published program computes, and the check notices when it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vjepa21_plain import OFFICIAL, STUDENT, draw_mask, encode, make_golden21, make_student, predict

from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub import parity, parity_vjepa21
from openjepa.hub.golden import check_golden, relative_error
from openjepa.hub.imports import import_weights
from openjepa.methods import MaskedLatent, masked_latent
from openjepa.models import NarrowPredictor, VisionTransformer, levels, positions, predictor, vit
from openjepa.types import Ids, Tokens

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_golden21(tmp_path_factory.mktemp("golden") / "vjepa21")


@pytest.fixture(params=["made", "shared"])
def golden(request: pytest.FixtureRequest) -> Path:
    """A directory made here, and the published numbers where they are at hand."""
    if request.param == "made":
        return request.getfixturevalue("made")
    return request.getfixturevalue("shared") / "golden" / "vjepa2_1"


def failing(path: Path) -> set[str]:
    ledger = check_golden(path)
    assert not ledger.unchecked
    return {row.name for row in ledger.rows if not row.ok}


def test_everything_agrees(golden: Path) -> None:
    ledger = check_golden(golden)
    assert ledger.passed, parity.render(ledger)
    names = {row.name for row in ledger.rows}
    for kind in ("video", "image"):
        wanted = {"encoder", "target_taps", "context.0", "prediction.0", "context_prediction.0", "sqrt_distance.0"}
        wanted |= {"grad.encoder.blocks.0.attn.qkv.weight", "grad.predictor.predictor_proj_context.weight"}
        assert names >= {f"{kind}.{name}" for name in wanted}
        assert names >= {f"meta.{kind}.loss_prediction", f"meta.{kind}.loss_context"}
    assert "image_wide.encoder" in names


def test_every_parameter_of_the_generated_directory_has_a_gradient_to_compare(made: Path) -> None:
    compared = {row.name for row in check_golden(made).rows}
    for name in ("norms_block.0.weight", "patch_embed.proj.weight", "video_mod_embed"):
        assert f"video.grad.encoder.{name}" in compared
    for name in ("patch_embed_img.proj.weight", "img_mod_embed"):
        assert f"image.grad.encoder.{name}" in compared
        assert f"video.grad.encoder.{name}" not in compared
    assert "video.grad.predictor.predictor_embed.2.bias" in compared


# One break each, and a comparison that has to notice it.


def break_grid(patch: Patch) -> None:
    """Whole patches, as V-JEPA 2."""
    ours = positions.rotary3d
    patch.setattr(positions, "rotary3d", lambda dim, grid, pairing, plane: ours(dim, grid, pairing))


def break_pairing(patch: Patch) -> None:
    ours = positions.rotary3d
    patch.setattr(positions, "rotary3d", lambda dim, grid, _, plane: ours(dim, grid, "tiled", plane))


def break_stem(patch: Patch) -> None:
    """The stem of images is a little off."""
    ours = vit.PatchEmbed.forward

    def repeat(self, x, keep=None):
        return ours(self, x * 1.001 if self.tubelet_size == 1 else x, keep)

    patch.setattr(vit.PatchEmbed, "forward", repeat)


def break_taps(patch: Patch) -> None:
    """All taps through the last norm."""
    patch.setattr(vit.VisionTransformer, "_norm_of", lambda self, block: self.norms_block[-1])


def break_blocks(patch: Patch) -> None:
    ours = levels.choose_taps
    patch.setattr(vit, "choose_taps", lambda *arguments: (0, *ours(*arguments)[1:]))
    patch.setattr(parity_vjepa21, "_agree", lambda *arguments: None)


def break_modality(patch: Patch) -> None:
    """The predictor takes everything for a clip."""
    ours = predictor.NarrowPredictor._with_modality
    patch.setattr(predictor.NarrowPredictor, "_with_modality", lambda self, x, grid, image: ours(self, x, grid, False))


def break_heads(patch: Patch) -> None:
    """Visible tokens through the head of the hidden ones."""
    ours = predictor.NarrowPredictor.predict_all

    def one_head(self, *arguments, **options):
        kept, self.predictor_proj_context = self.predictor_proj_context, self.predictor_proj
        try:
            return ours(self, *arguments, **options)
        finally:
            self.predictor_proj_context = kept

    patch.setattr(predictor.NarrowPredictor, "predict_all", one_head)


def break_distance(patch: Patch) -> None:
    ours = parity_vjepa21.context_weights
    patch.setattr(parity_vjepa21, "context_weights", lambda seen, hidden, grid: ours(seen, hidden, grid).square())


def break_plane(patch: Patch) -> None:
    """Distances within a frame only."""
    ours = parity_vjepa21.context_weights
    flat = lambda seen, hidden, grid: ours(seen, hidden, (1, 1, grid[0] * grid[1] * grid[2]))  # noqa: E731
    patch.setattr(parity_vjepa21, "context_weights", flat)


def break_normalisation(patch: Patch) -> None:
    """All levels are normalised as one."""
    ours = masked_latent.transform_target
    whole = lambda x, how: ours(x.flatten(2), how).view_as(x)  # noqa: E731
    patch.setattr(masked_latent, "transform_target", whole)


BREAKS = {
    "whole patches": (break_grid, "image_wide.encoder"),
    "rotary pairing": (break_pairing, "video.encoder"),
    "stem of images": (break_stem, "image.encoder"),
    "one norm for all taps": (break_taps, "video.target_taps"),
    "other taps": (break_blocks, "video.context.0"),
    "modality in the predictor": (break_modality, "image.prediction.0"),
    "one head": (break_heads, "video.context_prediction.0"),
    "distance, not its root": (break_distance, "video.sqrt_distance.0"),
    "distance along the ids": (break_plane, "meta.video.loss_context"),
    "levels normalised as one": (break_normalisation, "video.target_taps_normed"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_noticed(golden: Path, name: str, monkeypatch: Patch) -> None:
    apply, where = BREAKS[name]
    apply(monkeypatch)
    assert where in failing(golden)


def test_a_missing_gradient_is_noticed(made: Path, monkeypatch: Patch) -> None:
    ours = parity_vjepa21._method

    def without(loaded):
        method = ours(loaded)
        method.get_parameter("predictor.predictor_embed.0.weight").register_hook(torch.zeros_like)
        return method

    monkeypatch.setattr(parity_vjepa21, "_method", without)
    assert failing(made) == {f"{kind}.grad.predictor.predictor_embed.0.weight" for kind in ("image", "video")}


# Directories that are not what they should be.


def edit(path: Path, **changes: object) -> None:
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, **changes}))


def drop(path: Path, name: str) -> None:
    tensors = load_file(path / "io.safetensors")
    del tensors[name]
    save_file(tensors, path / "io.safetensors")


MALFORMED: dict[str, tuple[Callable[[Path], None], str]] = {
    "other depth": (lambda p: edit(p, depth=7), "says depth = 7, its checkpoint 8"),
    "other taps": (lambda p: edit(p, taps=[0, 1, 2, 7]), r"we tap \[1, 3, 5, 7\]"),
    "other eps": (lambda p: edit(p, layer_norm_eps=1e-5), "says layer_norm_eps = 1e-05"),
    "no mask": (lambda p: drop(p, "image.target_mask.0"), "has no image.target_mask.0"),
    "no loss": (lambda p: edit(p, video={"context_weight": 0.5, "mask_token_index": 0}), "has no 'video.loss_pred"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_directory_is_said_in_one_line(made: Path, tmp_path: Path, name: str) -> None:
    apply, words = MALFORMED[name]
    folder = shutil.copytree(made, tmp_path / "golden")
    apply(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        check_golden(folder)
    assert "\n" not in str(caught.value)


# Students distilled from another encoder.


def test_a_distilled_file_gives_its_features_and_its_teachers_width(tmp_path: Path) -> None:
    path, parts = make_student(tmp_path / "student.pt")
    hints = {"heads": STUDENT.heads, "predictor_heads": 2, "image_size": [32, 64], "frames": STUDENT.frames}
    loaded = import_weights(path, hints=hints)
    assert loaded.provenance is not None
    assert (loaded.provenance.layout, loaded.provenance.which) == ("vjepa2_1-distilled", "ema_encoder")
    assert any("teacher" in note for note in loaded.provenance.notes)
    network = loaded.predictor
    assert isinstance(network, NarrowPredictor)
    for frames, grid in ((STUDENT.frames, (3, 2, 4)), (1, (1, 2, 4))):
        x = torch.randn(2, 3, frames, *STUDENT.size)
        seen, asked = draw_mask(8 * grid[0], 0)
        with torch.no_grad():
            whole = loaded.encoder.forward_features(x)
            values = loaded.encoder.forward_levels(x, Ids(seen), network.levels)
            found = network.predict_all(Tokens(values, grid, Ids(seen)), Ids(asked), (STUDENT.token,))
        assert relative_error(whole, encode(STUDENT, parts["ema_encoder"], x)[-1]) < 1e-5
        wanted = predict(STUDENT, parts["predictor"], encode(STUDENT, parts["ema_encoder"], x, seen), seen, asked, grid)
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine.shape[-1] == STUDENT.out_dim
            assert relative_error(mine, theirs) < 1e-5


def test_a_students_predictions_are_never_compared_with_its_own_features(tmp_path: Path) -> None:
    path, _ = make_student(tmp_path / "student.pt")
    loaded = import_weights(path, hints={"heads": 2, "predictor_heads": 2})
    with pytest.raises(ConfigError, match="out_dim 40 is another encoder's width"):
        MaskedLatent(loaded.config)


def test_one_call_imports_the_golden_directory_either_encoder(golden: Path) -> None:
    slow, fast = import_weights(golden), import_weights(golden, which="online")
    assert slow.config.system == "vjepa2_1"
    assert slow.provenance is not None
    assert fast.provenance is not None
    assert (slow.provenance.which, fast.provenance.which) == ("target_encoder", "encoder")
    assert isinstance(slow.encoder, VisionTransformer)
    assert not torch.equal(slow.encoder.norms_block[3].weight, fast.encoder.norms_block[3].weight)
    assert slow.config.predictor.kind == "narrow"
    assert slow.config.predictor.levels == len(OFFICIAL.taps) == slow.config.model.taps
