"""Our V-JEPA and V-JEPA 2 compute what the published programs compute, and the check notices when they do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vjepa_plain import VARIANTS, make_video_golden

from openjepa.hub import parity, parity_probe, parity_vjepa
from openjepa.hub.golden import check_golden
from openjepa.methods import masked_latent
from openjepa.models import attentive, build, positions, predictor, transformer, vit
from openjepa.types import Ids

Patch = pytest.MonkeyPatch
OUTPUTS = {
    "encoder_full",
    "target_full",
    "context.1",
    "prediction.1",
    "target.1",
    "meta.loss_jepa",
    "classifier_logits",
}
ONLY = {
    "V-JEPA": {"meta.loss_reg", "grad.predictor.mask_tokens.1", "checkpoint.predictor.predictor_pos_embed"},
    "V-JEPA 2": {"encoder_wide", "encoder_short", "layers.0", "layers.1"},
}


def failing(path: Path) -> set[str]:
    """Names of the comparisons that fail."""
    ledger = check_golden(path)
    assert not ledger.unchecked
    return {row.name for row in ledger.rows if not row.ok}


def family(path: Path) -> str:
    return json.loads((path / "meta.json").read_text())["family"]


def passes(path: Path) -> None:
    ledger = check_golden(path)
    assert ledger.passed, parity.render(ledger)
    names = {row.name for row in ledger.rows}
    assert names >= OUTPUTS | ONLY[family(path)] | {"grad.encoder.blocks.0.attn.qkv.weight"}
    assert not set(ledger.inputs) & names


def test_generated_directories_pass(generated_video: Path) -> None:
    passes(generated_video)


@pytest.mark.parametrize("name", ["vjepa", "vjepa2"])
def test_published_numbers_pass(shared: Path, name: str) -> None:
    passes(shared / "golden" / name)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_pass(name: str, tmp_path: Path) -> None:
    """Half the channels for time, one pair or three, one mask token, tokens that are hidden and not asked for or none."""
    assert failing(make_video_golden(tmp_path / "golden", VARIANTS[name], seed=3)) == set()


# One break each: what it does, the families it can show in, and a comparison that has to notice (a prefix).


def break_eps(patch: Patch) -> None:
    ours = transformer.set_norm_eps
    for module in (vit, build):
        patch.setattr(module, "set_norm_eps", lambda network, _: ours(network, 1e-4))


def break_probe_eps(patch: Patch) -> None:
    patch.setattr(attentive, "PROBE_EPS", 1e-6)


def break_power(patch: Patch) -> None:
    ours = positions.sincos3d
    patch.setattr(positions, "sincos3d", lambda dim, grid, uniform=True, **k: ours(dim, grid, not uniform, **k))


def break_pairing(patch: Patch) -> None:
    ours = positions.rotary3d
    patch.setattr(positions, "rotary3d", lambda dim, grid, _, *rest: ours(dim, grid, "interleaved", *rest))


def break_grid(patch: Patch) -> None:
    """Rows and columns change places."""
    ours = positions.Positions.rotation
    swap = lambda self, dim, grid: ours(self, dim, (grid[0], grid[2], grid[1]))  # noqa: E731
    patch.setattr(positions.Positions, "rotation", swap)


def break_native_grid(patch: Patch) -> None:
    """Rotary places of the native width, whatever the input's: what transformers does."""
    ours = positions.Positions.rotation
    narrow = lambda self, dim, grid: ours(self, dim, (grid[0] * grid[2], grid[1], 4))[:, : grid[0] * grid[1] * grid[2]]  # noqa: E731
    patch.setattr(positions.Positions, "rotation", narrow)


def break_predictor_positions(patch: Patch) -> None:
    ours = predictor.NarrowPredictor._places

    def shifted(self, grid):
        table, rope = ours(self, grid)
        return None if table is None else table.roll(1, 0), None if rope is None else rope.roll(1, 1)

    patch.setattr(predictor.NarrowPredictor, "_places", shifted)


def break_mask_token(patch: Patch) -> None:
    ours = predictor.NarrowPredictor._token_rows
    patch.setattr(predictor.NarrowPredictor, "_token_rows", lambda self, numbers, rows: ours(self, numbers[::-1], rows))


def break_pair_weights(patch: Patch) -> None:
    patch.setattr(masked_latent, "weigh_pairs", lambda elements, group: elements)


def break_pair_order(patch: Patch) -> None:
    ours = masked_latent.paired_targets
    patch.setattr(masked_latent, "paired_targets", lambda group: ours(group)[::-1])


def break_token_order(patch: Patch) -> None:
    ours = parity_vjepa.read_ids
    patch.setattr(parity_vjepa, "read_ids", lambda *arguments: Ids(ours(*arguments).index.flip(1)))


def break_target_network(patch: Patch) -> None:
    """The online encoder gives the targets."""
    ours = parity_vjepa.load_strict

    def load(method, tensors):
        report = ours(method, tensors)
        method.target.load_state_dict(method.online.state_dict())
        return report

    patch.setattr(parity_vjepa, "load_strict", load)


def break_target_transform(patch: Patch) -> None:
    patch.setattr(masked_latent, "transform_target", lambda features, how: features)


def break_distance(patch: Patch) -> None:
    ours = masked_latent.distance
    patch.setattr(masked_latent, "distance", lambda c, *rest: ours(c.model_copy(update={"kind": "l2"}), *rest))


def break_variance(patch: Patch) -> None:
    ours = masked_latent.token_variance
    patch.setattr(masked_latent, "token_variance", lambda p, valid, pairs: ours(p, valid, pairs) * 1.01)


def break_padding(patch: Patch) -> None:
    """Pairs of unequal sizes: padded tokens are seen."""
    patch.setattr(predictor, "key_mask", lambda valid: None)


def break_layers(patch: Patch) -> None:
    ours = vit.VisionTransformer.forward_intermediates
    patch.setattr(
        vit.VisionTransformer, "forward_intermediates", lambda self, x, i, norm: ours(self, x, i, norm="none")
    )


def break_gradient(of: str) -> Callable[[Patch], None]:
    """One gradient is zero."""

    def apply(patch: Patch) -> None:
        ours = parity_vjepa.MaskedLatent

        def build(recipe):
            method = ours(recipe)
            method.get_parameter(of).register_hook(torch.zeros_like)
            return method

        patch.setattr(parity_vjepa, "MaskedLatent", build)

    return apply


def break_heads(patch: Patch) -> None:
    """The probe has twice the heads."""
    ours = parity_probe.read_probe
    patch.setattr(parity_probe, "read_probe", lambda path, heads: ours(path, 2 * heads))


BREAKS = {
    "layer norm eps": (break_eps, "", "prediction.0"),
    "layer norm eps of the probe": (break_probe_eps, "", "classifier_logits"),
    "channels for time": (break_power, "V-JEPA", "checkpoint.online.pos_embed"),
    "channels for time, features": (break_power, "V-JEPA", "encoder_full"),
    "rotary pairing": (break_pairing, "V-JEPA 2", "encoder_full"),
    "rows for columns": (break_grid, "V-JEPA 2", "encoder_wide"),
    "width of the native grid": (break_native_grid, "V-JEPA 2", "encoder_wide"),
    "predictor positions": (break_predictor_positions, "", "prediction.0"),
    "another mask token": (break_mask_token, "", "prediction.1"),
    "pairs weighed by size": (break_pair_weights, "", "meta.loss_jepa"),
    "pair order": (break_pair_order, "", "prediction.0"),
    "token order in a mask": (break_token_order, "", "context.1"),
    "targets of the online encoder": (break_target_network, "", "target.0"),
    "targets not normalised": (break_target_transform, "", "target.1"),
    "squared error": (break_distance, "", "meta.loss_jepa"),
    "variance term": (break_variance, "V-JEPA", "meta.loss_reg"),
    "padding is seen": (break_padding, "", "prediction."),
    "layers without the final norm": (break_layers, "V-JEPA 2", "layers.0"),
    "zero gradient of the encoder": (
        break_gradient("online.blocks.0.attn.qkv.weight"),
        "",
        "grad.encoder.blocks.0.attn.qkv.weight",
    ),
    "zero gradient of a mask token": (
        break_gradient("predictor.mask_tokens.1"),
        "V-JEPA",
        "grad.predictor.mask_tokens.1",
    ),
    "heads of the probe": (break_heads, "", "classifier_logits"),
}


def notices(path: Path, name: str, patch: Patch) -> None:
    apply, where, what = BREAKS[name]
    if where and where != family(path):
        pytest.skip(f"nothing of {where}")
    apply(patch)
    found = failing(path)
    assert any(row.startswith(what) for row in found), sorted(found)


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_noticed(generated_video: Path, name: str, monkeypatch: Patch) -> None:
    notices(generated_video, name, monkeypatch)


@pytest.mark.parametrize("folder", ["vjepa", "vjepa2"])
@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_noticed_by_the_published_numbers(shared: Path, folder: str, name: str, monkeypatch: Patch) -> None:
    if name in ("heads of the probe",):
        pytest.skip("three heads cannot be doubled")
    notices(shared / "golden" / folder, name, monkeypatch)


# Directories that are not what they should be.


def edit_meta(path: Path, **changes: object) -> None:
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({k: v for k, v in {**meta, **changes}.items() if v is not None}))


def edit_tensor(path: Path, name: str, value: torch.Tensor | None) -> None:
    tensors = load_file(path / "io.safetensors")
    tensors.pop(name, None)
    save_file(tensors if value is None else {**tensors, name: value}, path / "io.safetensors")


def edit_checkpoint(path: Path, part: str, name: str, value: torch.Tensor | None) -> None:
    checkpoint = torch.load(path / "checkpoint.pt")
    checkpoint[part].pop(name, None)
    if value is not None:
        checkpoint[part][name] = value
    torch.save(checkpoint, path / "checkpoint.pt")


MALFORMED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no frames": (lambda p: edit_meta(p, frames=None), "meta.json has no 'frames'"),
    "other frames": (lambda p: edit_meta(p, frames=8), "not (B, C, 8, H, W)"),
    "other size": (lambda p: edit_meta(p, image_size=64), "is not of image_size"),
    "odd heads": (lambda p: edit_meta(p, heads=5), "not a multiple of its 5 heads"),
    "other eps": (lambda p: edit_meta(p, layer_norm_eps=1e-5), "which is 1e-06"),
    "unknown loss": (lambda p: edit_meta(p, loss="smooth_l1"), "unknown loss 'smooth_l1'"),
    "no masks": (lambda p: edit_meta(p, masks=[]), "masks lists no mask"),
    "a mask too many": (lambda p: edit_meta(p, masks=[{}] * 3), "context_mask.2"),
    "no such mask token": (lambda p: edit_meta(p, mask_token_index=[0, 7]), "is not one of"),
    "one mask token number": (lambda p: edit_meta(p, mask_token_index=[0]), "for each mask"),
    "no loss": (lambda p: edit_meta(p, loss_jepa=None), "has no 'loss_jepa'"),
    "wrong ids": (lambda p: edit_tensor(p, "target_mask.1", torch.full((2, 3), 99)), "(B, K) ids below 24"),
    "no video": (lambda p: edit_tensor(p, "video", None), "has no 'video'"),
    "an image": (lambda p: edit_tensor(p, "video", torch.ones(2, 3, 16, 32)), "not (B, C, 6, H, W)"),
    "no probe": (lambda p: (p / "attentive_probe.pt").unlink(), "no attentive_probe.pt"),
    "a tensor is missing": (
        lambda p: edit_checkpoint(p, "encoder", "module.backbone.norm.bias", None),
        "1 missing (online.norm.bias)",
    ),
    "a tensor too many": (
        lambda p: edit_checkpoint(p, "predictor", "module.backbone.mask_tokens.9", torch.ones(1, 1, 24)),
        "1 unexpected (predictor.mask_tokens.9)",
    ),
}


@pytest.mark.parametrize("how", MALFORMED)
def test_a_malformed_directory_is_one_line(
    generated_video: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(generated_video, tmp_path / "copy"))
    damage, words = MALFORMED[how]
    damage(copy)
    assert parity.main([str(copy)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert words in shown
    assert "Error:" not in shown, "an exception nobody thought of"


def test_the_weight_of_the_variance_term_must_be_told(tmp_path: Path) -> None:
    path = make_video_golden(tmp_path / "golden", VARIANTS["halves"])
    edit_meta(path, regulariser="coefficient 0 in the released recipes")
    assert parity.main([str(path)]) == 2


@pytest.mark.parametrize("layers", [[0, 3], ["last"], 2])
def test_layers_must_be_blocks(tmp_path: Path, layers: object, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_video_golden(tmp_path / "golden", VARIANTS["one token"])
    edit_meta(path, layers=layers)
    assert parity.main([str(path)]) == 2
    assert "are not blocks of 3" in capsys.readouterr().err


def test_a_position_table_that_is_not_ours_is_noticed(tmp_path: Path) -> None:
    path = make_video_golden(tmp_path / "golden", VARIANTS["halves"])
    edit_checkpoint(path, "target_encoder", "module.backbone.pos_embed", torch.zeros(1, 24, 32))
    assert failing(path) == {"checkpoint.target.pos_embed"}


@pytest.mark.parametrize("name", ["encoder_odd", "context.7", "attention.0"])
def test_a_tensor_nobody_checked_fails(generated_video: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(generated_video, tmp_path / "copy"))
    edit_tensor(copy, name, torch.ones(2))
    assert parity.main([str(copy)]) == 1
