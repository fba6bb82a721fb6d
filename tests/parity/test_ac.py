"""Our V-JEPA 2-AC computes what the published program computes, and the check notices when it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ac_plain import Small, make_ac_golden
from safetensors.torch import load_file, save_file

from openjepa.hub import parity, parity_ac
from openjepa.hub.golden import check_golden
from openjepa.methods import world_model
from openjepa.models import action_predictor

Patch = pytest.MonkeyPatch
ALL = {"features", "teacher_forced", "rollout", "meta.loss_teacher_forced", "meta.loss_rollout"}
VARIANTS = {
    "as published": Small(),
    "with the camera": Small(extrinsics=True),
    "seeing all frames": Small(frame_causal=False, steps=2),
    "wrapped twice": Small(prefix="module.backbone.", steps=1),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ac_golden(tmp_path_factory.mktemp("golden") / "ac", Small(), seed=1)


@pytest.mark.parametrize("name", VARIANTS)
def test_generated_directories_pass(name: str, tmp_path: Path) -> None:
    ledger = check_golden(make_ac_golden(tmp_path / "golden", VARIANTS[name]))
    assert ledger.passed, parity.render(ledger)
    assert {row.name for row in ledger.rows} == ALL


def test_published_numbers_pass(shared: Path) -> None:
    ledger = check_golden(shared / "golden" / "vjepa2_ac")
    assert ledger.passed, parity.render(ledger)
    assert {row.name for row in ledger.rows} == ALL


def break_mask(patch: Patch) -> None:
    ours = action_predictor.ActionCausalPredictor.visible
    patch.setattr(action_predictor.ActionCausalPredictor, "visible", lambda self, t, n: ours(self, t, n) | True)


def break_token_causal(patch: Patch) -> None:
    """Token by token, not frame by frame."""
    ours = action_predictor.ActionCausalPredictor.visible
    patch.setattr(action_predictor.ActionCausalPredictor, "visible", lambda self, t, n: ours(self, t, n).tril())


def break_condition_place(patch: Patch) -> None:
    """Actions and states do not turn with time."""
    ours = action_predictor.rotary3d
    patch.setattr(
        action_predictor, "rotary3d", lambda d, grid, pairing: ours(d, grid, pairing)[:, :1].expand(-1, grid[0], -1)
    )


def break_pairing(patch: Patch) -> None:
    ours = action_predictor.rotation_at
    patch.setattr(action_predictor, "rotation_at", lambda d, axes, pairing: ours(d, axes, "interleaved"))


def break_norm(patch: Patch) -> None:
    """Predictions are fed back as they come."""
    patch.setattr(world_model, "normalised", lambda x: x)


def break_actions(patch: Patch) -> None:
    ours = parity_ac.rollout
    patch.setattr(parity_ac, "rollout", lambda p, c, a, *rest, steps: ours(p, c, a.roll(1, 1), *rest, steps=steps))


def break_states(patch: Patch) -> None:
    ours = parity_ac.teacher_forced
    patch.setattr(parity_ac, "teacher_forced", lambda p, f, a, s, e: ours(p, f, a, s.roll(-1, 1), e))


def break_loss(patch: Patch) -> None:
    patch.setattr(parity_ac, "distance", lambda config, a, b: (a - b).square())


BREAKS = {
    "no mask": (break_mask, "teacher_forced"),
    "causal by tokens": (break_token_causal, "teacher_forced"),
    "conditions without a time": (break_condition_place, "teacher_forced"),
    "rotary pairing": (break_pairing, "teacher_forced"),
    "not normalised": (break_norm, "rollout"),
    "actions of another frame": (break_actions, "rollout"),
    "states of another frame": (break_states, "teacher_forced"),
    "squared error": (break_loss, "meta.loss_rollout"),
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
    assert what in {row.name for row in check_golden(shared / "golden" / "vjepa2_ac").rows if not row.ok}


def edit_meta(path: Path, **changes: object) -> None:
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({k: v for k, v in {**meta, **changes}.items() if v is not None}))


def edit_tensor(path: Path, name: str, value: torch.Tensor | None) -> None:
    tensors = load_file(path / "io.safetensors")
    tensors.pop(name, None)
    save_file(tensors if value is None else {**tensors, name: value}, path / "io.safetensors")


def edit_predictor(path: Path, name: str, value: torch.Tensor | None) -> None:
    checkpoint = torch.load(path / "checkpoint.pt")
    checkpoint["predictor"].pop(name, None)
    if value is not None:
        checkpoint["predictor"][name] = value
    torch.save(checkpoint, path / "checkpoint.pt")


MALFORMED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no rollout": (lambda p: edit_meta(p, rollout_steps=None), "meta.json has no 'rollout_steps'"),
    "a longer rollout": (lambda p: edit_meta(p, rollout_steps=9), "actions of 2 clips of 4 frames are (2, 4, 5)"),
    "other width": (lambda p: edit_meta(p, predictor_dim=96), "says predictor_dim = 96, its checkpoint 48"),
    "other frames": (lambda p: edit_meta(p, frames=8), "clip has not the 8 frames"),
    "odd heads": (lambda p: edit_meta(p, heads=5), "32 is not a multiple of its 5 heads"),
    "no clip": (lambda p: edit_tensor(p, "clip", None), "has no 'clip'"),
    "wide actions": (lambda p: edit_tensor(p, "actions", torch.ones(2, 3, 7)), "are (2, 3, 5), not (2, 3, 7)"),
    "no action layer": (lambda p: edit_predictor(p, "module.action_encoder.weight", None), "in no layout we know"),
    "a tensor is missing": (lambda p: edit_predictor(p, "module.predictor_norm.bias", None), "1 missing (predictor_norm.bias)"),
}  # fmt: skip


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
    edit_tensor(copy, "energy", torch.ones(2))
    assert parity.main([str(copy)]) == 1
