"""Our I-JEPA computes what the published program computes, and the check notices when it does not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openjepa.hub import parity, parity_ijepa
from openjepa.hub.golden import check_golden, relative_error
from openjepa.methods import masked_latent
from openjepa.models import build, transformer, vit
from openjepa.optim import Schedule, groups
from openjepa.types import Ids

Patch = pytest.MonkeyPatch


def failing(path: Path) -> set[str]:
    """Names of the comparisons that fail."""
    ledger = check_golden(path)
    assert not ledger.unchecked
    return {row.name for row in ledger.rows if not row.ok}


def test_golden_passes(golden: Path) -> None:
    ledger = check_golden(golden)
    assert ledger.passed, parity.render(ledger)
    names = {row.name for row in ledger.rows}
    assert {"encoder_full", "context", "target_full", "target", "prediction", "meta.losses", "meta.lr"} <= names
    assert {"final.encoder.norm.weight", "final.target_encoder.norm.weight", "grad.predictor.mask_token"} <= names
    assert not set(ledger.inputs) & names


def test_several_contexts_pass(two_contexts: Path) -> None:
    assert failing(two_contexts) == set()


# One break each. The value: what it does, and a comparison that has to notice (a prefix).


def break_eps(patch: Patch) -> None:
    ours = transformer.set_norm_eps
    for module in (vit, build):
        patch.setattr(module, "set_norm_eps", lambda network, _: ours(network, 1e-5))


def break_encoder_positions(patch: Patch) -> None:
    ours = vit.positions_of
    patch.setattr(vit, "positions_of", lambda model: replace(ours(model), order="row_first"))


def break_predictor_positions(patch: Patch) -> None:
    ours = build.positions_of
    patch.setattr(build, "positions_of", lambda model: replace(ours(model), order="row_first"))


def break_target_mask_order(patch: Patch) -> None:
    ours = masked_latent.stack_targets

    def sample_major(group):
        query, batch = ours(group), len(group.targets[0].index)
        return Ids(query.index.unflatten(0, (-1, batch)).transpose(0, 1).flatten(0, 1), query.valid)

    patch.setattr(masked_latent, "stack_targets", sample_major)


def break_token_order_in_masks(patch: Patch) -> None:
    ours = parity_ijepa.read_ids
    patch.setattr(parity_ijepa, "read_ids", lambda *arguments: Ids(ours(*arguments).index.flip(1)))


def break_ema_order(patch: Patch) -> None:
    """The target moves before the optimizer's update instead of after it."""
    ours = parity_ijepa.build_optimizer

    def ordered(method, config):
        optimizer = ours(method, config)
        schedule = {"step": 0}
        update, patch_done = type(method).after_step, []

        def before(*_):
            momentum = EMA["list"][schedule["step"]]
            schedule["step"] += 1
            update(method, momentum)
            patch_done.append(momentum)

        optimizer.register_step_pre_hook(before)
        method.after_step = lambda momentum: None
        return optimizer

    patch.setattr(parity_ijepa, "build_optimizer", ordered)


EMA: dict[str, list[float]] = {}


def break_gradient(of: str) -> Callable[[Patch], None]:
    """One gradient is zero."""

    def apply(patch: Patch) -> None:
        ours = parity_ijepa.MaskedLatent

        def broken(recipe):
            method = ours(recipe)
            method.get_parameter(of).register_hook(torch.zeros_like)
            return method

        patch.setattr(parity_ijepa, "MaskedLatent", broken)

    return apply


def break_lr(patch: Patch) -> None:
    ours = Schedule.lr
    patch.setattr(Schedule, "lr", lambda self, step: ours(self, step - 1))


def break_weight_decay(patch: Patch) -> None:
    ours = Schedule.weight_decay
    patch.setattr(Schedule, "weight_decay", lambda self, step: ours(self, step - 1))


def break_momentum(patch: Patch) -> None:
    ours = Schedule.momentum
    patch.setattr(Schedule, "momentum", lambda self, step: ours(self, step + 1))


def break_bias_decay(patch: Patch) -> None:
    patch.setattr(groups, "decays", lambda name, parameter, decay_mask_tokens=False: True)


def break_target_transform(patch: Patch) -> None:
    patch.setattr(masked_latent, "transform_target", lambda features, how: features)


def break_loss(patch: Patch) -> None:
    ours = masked_latent.distance
    patch.setattr(masked_latent, "distance", lambda c, *rest: ours(c.model_copy(update={"beta": 0.5}), *rest))


def break_gelu(patch: Patch) -> None:
    patch.setattr(transformer.F, "gelu", lambda x: torch._C._nn.gelu(x, approximate="tanh"))


BREAKS = {
    "layer norm eps": (break_eps, "encoder_full"),
    "encoder position order": (break_encoder_positions, "encoder_full"),
    "encoder position table": (break_encoder_positions, "checkpoint.online.pos_embed"),
    "predictor position order": (break_predictor_positions, "prediction"),
    "target mask order": (break_target_mask_order, "prediction"),
    "token order in a mask": (break_token_order_in_masks, "context"),
    "EMA before the update": (break_ema_order, "final.target_encoder."),
    "zero gradient, listed": (break_gradient("predictor.mask_token"), "grad.predictor.mask_token"),
    "zero gradient, tiny": (break_gradient("online.blocks.0.attn.qkv.weight"), "grad.encoder.blocks.0.attn.qkv.weight"),
    "zero gradient, encoder": (break_gradient("online.blocks.1.mlp.fc2.bias"), "final.encoder.blocks.1.mlp.fc2.bias"),
    "zero gradient, predictor": (break_gradient("predictor.predictor_proj.weight"), "meta.losses"),
    "learning rate one step late": (break_lr, "final.encoder."),
    "learning rate list": (break_lr, "meta.lr"),
    "weight decay one step late": (break_weight_decay, "final.encoder."),
    "momentum one step early": (break_momentum, "meta.ema"),
    "weight decay on biases": (break_bias_decay, "final.encoder.blocks.0.attn.qkv.bias"),
    "targets not normalised": (break_target_transform, "target"),
    "smooth-L1 threshold": (break_loss, "meta.losses"),
    "approximate GELU": (break_gelu, "encoder_full"),
}


@pytest.mark.parametrize("name", list(BREAKS))
def test_a_break_is_noticed(golden: Path, name: str, monkeypatch: Patch) -> None:
    apply, notices = BREAKS[name]
    EMA["list"] = json.loads((golden / "meta.json").read_text())["ema"]
    apply(monkeypatch)
    found = failing(golden)
    assert any(row.startswith(notices) for row in found), sorted(found)


def test_ema_break_changes_the_target_only_through_its_order(golden: Path, monkeypatch: Patch) -> None:
    """The broken order keeps losses' first value, schedules and first gradients: only the target's history is off."""
    EMA["list"] = json.loads((golden / "meta.json").read_text())["ema"]
    break_ema_order(monkeypatch)
    found = failing(golden)
    assert found
    assert all(row.startswith(("final.", "meta.losses")) for row in found)


# The command.


@pytest.fixture
def copy(generated: Path, tmp_path: Path) -> Path:
    """A directory a test may damage."""
    return Path(shutil.copytree(generated, tmp_path / "copy"))


def edit_tensors(path: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(path / "io.safetensors")
    for name, value in changes.items():
        name = name.replace("__", ".")
        tensors.pop(name) if value is None else tensors.update({name: value})
    save_file(tensors, path / "io.safetensors")


def edit_meta(path: Path, **changes: object) -> None:
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({k: v for k, v in {**meta, **changes}.items() if v is not None}))


def test_command_passes_and_lists_every_tensor(generated: Path) -> None:
    command = [sys.executable, "-m", "openjepa.hub.parity", str(generated)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in load_file(generated / "io.safetensors"):
        assert name in done.stdout
    assert "passed" in done.stdout
    assert "0 not checked" in done.stdout


def test_command_fails_on_a_wrong_tensor(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = load_file(copy / "io.safetensors")["prediction"]
    wrong[0, 0, 0] += 2e-5 * wrong.abs().max()
    edit_tensors(copy, prediction=wrong)
    assert parity.main([str(copy)]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["prediction"])
    assert "2.0e-05" in line
    assert "FAILED" in line


def test_command_fails_on_nan(copy: Path) -> None:
    edit_tensors(copy, context=load_file(copy / "io.safetensors")["context"] * float("nan"))
    assert parity.main([str(copy)]) == 1


def test_command_fails_on_another_shape(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_tensors(copy, target=load_file(copy / "io.safetensors")["target"][:1])
    assert parity.main([str(copy)]) == 1
    assert "instead of (1," in capsys.readouterr().out


@pytest.mark.parametrize("name", ["attention.3", "images.9", "context_mask.7.0"])
def test_command_fails_on_a_tensor_nobody_checked(copy: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    edit_tensors(copy, **{name.replace(".", "__"): torch.ones(2)})
    assert parity.main([str(copy)]) == 1
    output = capsys.readouterr().out
    assert "1 not checked" in output
    assert any(name in line and "NOT CHECKED" in line for line in output.splitlines())


def test_command_fails_on_a_gradient_we_do_not_have(copy: Path) -> None:
    edit_tensors(copy, grad__encoder__blocks__9__norm1__weight=torch.ones(32))
    assert parity.main([str(copy)]) == 1


def keep_tensors(path: Path, *starts: str) -> None:
    tensors = load_file(path / "io.safetensors")
    save_file({name: value for name, value in tensors.items() if name.startswith(starts)}, path / "io.safetensors")
    edit_meta(path, steps=None)


FIRST_INPUTS = ("images.0", "context_mask.0", "target_mask.0")


def test_a_directory_with_a_forward_pass_only_is_fine(copy: Path) -> None:
    keep_tensors(copy, *FIRST_INPUTS, "prediction", "target_full")
    assert parity.main([str(copy)]) == 0


MALFORMED: dict[str, Callable[[Path], object]] = {
    "no meta": lambda p: (p / "meta.json").unlink(),
    "meta no json": lambda p: (p / "meta.json").write_text("{"),
    "meta a list": lambda p: (p / "meta.json").write_text("[1]"),
    "no family": lambda p: edit_meta(p, family=None),
    "unknown family": lambda p: edit_meta(p, family="I-JEPQ"),
    "no depth": lambda p: edit_meta(p, depth=None),
    "odd depth": lambda p: edit_meta(p, depth="three"),
    "odd heads": lambda p: edit_meta(p, heads=5),
    "other depth": lambda p: edit_meta(p, depth=3),
    "unknown loss": lambda p: edit_meta(p, loss="huber"),
    "other eps": lambda p: edit_meta(p, layer_norm_eps=1e-5),
    "short ema": lambda p: edit_meta(p, ema=[0.996]),
    "odd losses": lambda p: edit_meta(p, losses=["a"]),
    "no schedule": lambda p: edit_meta(p, schedule=None),
    "more steps": lambda p: edit_meta(p, steps=7),
    "no images": lambda p: edit_tensors(p, images__0=None),
    "flat images": lambda p: edit_tensors(p, images__0=torch.ones(3)),
    "wrong ids": lambda p: edit_tensors(p, context_mask__0__0=torch.full((2, 3), 99)),
    "no mask": lambda p: edit_tensors(p, target_mask__0__1=None),
    "no outputs": lambda p: keep_tensors(p, *FIRST_INPUTS),
    "no checkpoint": lambda p: (p / "checkpoint.pt").unlink(),
    "cut checkpoint": lambda p: (p / "checkpoint.pt").write_bytes((p / "checkpoint.pt").read_bytes()[:5000]),
    "cut tensors": lambda p: (p / "io.safetensors").write_bytes((p / "io.safetensors").read_bytes()[:5000]),
}


@pytest.mark.parametrize("how", list(MALFORMED))
def test_a_malformed_directory_is_one_line(copy: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    MALFORMED[how](copy)
    assert parity.main([str(copy)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert str(copy) in shown.err or how in ("other depth", "odd heads")
    assert "Error:" not in shown.err, "an exception nobody thought of"


def test_the_worst_of_several_directories_counts(generated: Path, tmp_path: Path) -> None:
    assert parity.main([str(generated), str(tmp_path / "none")]) == 2


def test_relative_error() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert relative_error(zero, zero) == 0
    assert relative_error(one, zero) == float("inf")
    assert relative_error(zero, one) == 1  # a missing gradient cannot pass
    assert relative_error(torch.tensor([100.0, 1.0]), torch.tensor([100.0, 0.0])) == pytest.approx(0.01)
