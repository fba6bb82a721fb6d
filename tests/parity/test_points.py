"""Our Point-JEPA computes what the published program computes, and the check notices when it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from points_plain import Small, make_points_golden
from safetensors.torch import load_file, save_file

from openjepa.hub import parity, parity_point_jepa
from openjepa.hub.golden import check_golden
from openjepa.models import point_predictor, points, transformer

Patch = pytest.MonkeyPatch
ALL = {"order.nearest", "order.nearest_from_minimum", "tokens", "encoder_full", "context", "target_hidden", "target"}
ALL |= {"prediction", "meta.loss_value", "grad.encoder.blocks.0.attn.qkv.weight", "grad.predictor.mask_token"}
VARIANTS = {
    "as published": Small(),
    "from the first": Small(order="nearest"),
    "another beta": Small(beta=0.5),
    "one cloud": Small(batch=1),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_points_golden(tmp_path_factory.mktemp("golden") / "points", Small(), seed=1)


@pytest.mark.parametrize("name", VARIANTS)
def test_generated_directories_pass(name: str, tmp_path: Path) -> None:
    ledger = check_golden(make_points_golden(tmp_path / "golden", VARIANTS[name]))
    assert ledger.passed, parity.render(ledger)
    assert {row.name for row in ledger.rows} >= ALL | {
        "grad.positional_encoding.2.weight",
        "grad.tokenizer.second_conv.1.bias",
        "grad.predictor.predictor.norm.weight",
    }


def test_published_numbers_pass(shared: Path) -> None:
    ledger = check_golden(shared / "golden" / "point_jepa")
    assert ledger.passed, parity.render(ledger)
    assert {row.name for row in ledger.rows} >= ALL | {"grad.tokenizer.first_conv.0.weight"}


def break_eps(patch: Patch) -> None:
    patch.setattr(points, "set_norm_eps", lambda network, eps: transformer.set_norm_eps(network, 1e-3))


def break_places(patch: Patch) -> None:
    """Positions once, at the input, as other transformers have them."""
    ours = points.PlacedBlock._parts
    first: list[object] = []

    def once(self, x, mask, last, rope):  # the first block of a network is the one its positions meet first
        known = any(rope is other for other in first)
        first.append(rope)
        return ours(self, x, mask, last, None if known else rope)

    patch.setattr(points.PlacedBlock, "_parts", once)


def break_pool(patch: Patch) -> None:
    ours = points.PointTokenizer.forward
    patch.setattr(points.PointTokenizer, "forward", lambda self, groups: ours(self, groups[:, :, 1:]))


def break_batch_norm(patch: Patch) -> None:
    """Statistics of the batch."""
    ours = points.PointTokenizer.forward

    def training(self, groups):
        self.train()
        return ours(self, groups)

    patch.setattr(points.PointTokenizer, "forward", training)


def break_order(patch: Patch) -> None:
    ours = parity_point_jepa.nearest_order
    patch.setattr(parity_point_jepa, "nearest_order", lambda centres, start: ours(centres, "first"))


def break_target_place(patch: Patch) -> None:
    """Each token has the place of another."""
    gather = point_predictor.gather_tokens
    patch.setattr(point_predictor, "gather_tokens", lambda x, index: gather(x, index.flip(1)))


def break_final_norm(patch: Patch) -> None:
    ours = points.PointTransformer.forward_intermediates
    patch.setattr(points.PointTransformer, "forward_intermediates", lambda self, x, i, norm: ours(self, x, i))


def break_target(patch: Patch) -> None:
    patch.setattr(parity_point_jepa, "transform_target", lambda x, how: x)


def break_norms(patch: Patch) -> None:
    """The spare norm is read instead of the transformer's own."""
    ours = point_predictor.PointPredictor.predict

    def swapped(self, *arguments):
        self.predictor_norm.load_state_dict(self.spare_norm.state_dict())
        return ours(self, *arguments)

    patch.setattr(point_predictor.PointPredictor, "predict", swapped)


def break_loss(patch: Patch) -> None:
    ours = parity_point_jepa.distance
    patch.setattr(parity_point_jepa, "distance", lambda c, *rest: ours(c.model_copy(update={"beta": 1.0}), *rest))


BREAKS = {
    "layer norm eps": (break_eps, "encoder_full"),
    "positions once": (break_places, "encoder_full"),
    "a point is lost": (break_pool, "tokens"),
    "batch statistics": (break_batch_norm, "tokens"),
    "another order": (break_order, "order.nearest_from_minimum"),
    "places of other groups": (break_target_place, "prediction"),
    "target behind the final norm": (break_final_norm, "target_hidden"),
    "targets not normalised": (break_target, "target"),
    "beta": (break_loss, "meta.loss_value"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_noticed(made: Path, name: str, monkeypatch: Patch) -> None:
    apply, what = BREAKS[name]
    apply(monkeypatch)
    assert what in {row.name for row in check_golden(made).rows if not row.ok}


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_noticed_by_the_published_numbers(shared: Path, name: str, monkeypatch: Patch) -> None:
    apply, what = BREAKS[name]
    apply(monkeypatch)
    assert what in {row.name for row in check_golden(shared / "golden" / "point_jepa").rows if not row.ok}


def test_the_wrong_norm_of_the_predictor_is_noticed(made: Path, monkeypatch: Patch) -> None:
    break_norms(monkeypatch)
    assert "prediction" in {row.name for row in check_golden(made).rows if not row.ok}


def edit_meta(path: Path, **changes: object) -> None:
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({k: v for k, v in {**meta, **changes}.items() if v is not None}))


def edit_tensor(path: Path, name: str, value: torch.Tensor | None) -> None:
    tensors = load_file(path / "io.safetensors")
    tensors.pop(name, None)
    save_file(tensors if value is None else {**tensors, name: value}, path / "io.safetensors")


def edit_state(path: Path, name: str, value: torch.Tensor | None) -> None:
    checkpoint = torch.load(path / "checkpoint.pt")
    checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith(name)}
    if value is not None:
        checkpoint["state_dict"][name] = value
    torch.save(checkpoint, path / "checkpoint.pt")


MALFORMED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no loss": (lambda p: edit_meta(p, loss=None), "meta.json has no 'loss'"),
    "unknown loss": (lambda p: edit_meta(p, loss="l2"), "unknown loss 'l2'"),
    "unknown order": (lambda p: edit_meta(p, order="morton, applied"), "unknown order 'morton'"),
    "other width": (lambda p: edit_meta(p, dim=48), "says dim = 48, its tensors 24"),
    "other eps": (lambda p: edit_meta(p, layer_norm_eps=1e-6), "says layer_norm_eps = 1e-06, its tensors 1e-05"),
    "other groups": (lambda p: edit_meta(p, groups=64), "says groups = 64, its tensors 10"),
    "odd heads": (lambda p: edit_meta(p, heads=5), "24 is not a multiple of its 5 heads"),
    "no centres": (lambda p: edit_tensor(p, "centres", None), "has no 'centres'"),
    "flat groups": (lambda p: edit_tensor(p, "groups", torch.ones(3, 10, 5)), "groups (B, G, K, 3) and centres"),
    "ids of nothing": (lambda p: edit_tensor(p, "target_ids", torch.full((2, 2), 10)), "no list of ids below 10"),
    "no teacher": (lambda p: edit_state(p, "teacher", None), "not both a student and a teacher"),
    "no predictor": (lambda p: edit_state(p, "predictor", None), "has no predictor of points"),
    "a tensor is missing": (lambda p: edit_state(p, "student.norm.bias", None), "1 missing (norm.bias)"),
    "a tensor too many": (lambda p: edit_state(p, "student.gain", torch.ones(2)), "1 unexpected (gain)"),
}


@pytest.mark.parametrize("how", MALFORMED)
def test_a_malformed_directory_is_one_line(
    made: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    damage, words = MALFORMED[how]
    damage(copy)
    assert parity.main([str(copy)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert words in shown


def test_a_tensor_nobody_checked_fails(made: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    edit_tensor(copy, "order.morton", torch.ones(2))
    assert parity.main([str(copy)]) == 1


def test_another_seed_and_size_pass(tmp_path: Path) -> None:
    shape = replace(Small(), groups=13, size=3, dim=32, heads=4, depth=3)
    assert check_golden(make_points_golden(tmp_path / "golden", shape, seed=5)).passed
