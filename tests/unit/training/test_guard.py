"""A gradient that is not finite skips the update, is counted, and stops the run when it stays so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import Generated, numbers, tiny_recipe

import openjepa.training.assemble as assemble_module
from openjepa.errors import TrainingError
from openjepa.methods import MaskedLatent, build_method
from openjepa.training import train
from openjepa.training.engine import Engine
from openjepa.training.update import Updater


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the gradient of one weight NaN at the given steps (all steps when none are given)."""

    def install(*steps: int) -> None:
        def build(recipe: object) -> MaskedLatent:
            method = build_method(recipe)  # type: ignore[arg-type]
            calls = iter(range(1, 1000))

            def hook(grad: torch.Tensor) -> torch.Tensor:
                step = next(calls)
                return torch.full_like(grad, float("nan")) if not steps or step in steps else grad

            method.online.blocks[0].attn.qkv.weight.register_hook(hook)
            return method

        monkeypatch.setattr(assemble_module, "build_method", build)

    return install


def test_one_nan_is_skipped_and_counted(tmp_path: Path, poison: Callable[..., None]) -> None:
    poison(3, 7)
    result = train(tiny_recipe("log.every=1 steps"), Generated(), out=tmp_path, console=False)
    assert result.finished
    assert result.skipped_updates == 2
    rows = numbers(tmp_path)
    assert [row["skipped_updates"] for row in rows][:9] == [0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert rows[3]["grad_norm"]["encoder"] is None  # JSON has no NaN
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in rows)


def test_skipping_leaves_weights_and_target_alone(tmp_path: Path, poison: Callable[..., None]) -> None:
    poison(1)
    recipe = tiny_recipe("train.length=1 steps")
    train(recipe, Generated(), out=tmp_path, console=False)
    torch.manual_seed(recipe.seed)
    fresh = build_method(recipe).state_dict()
    from openjepa.hub.checkpoint import load_last

    saved = load_last(tmp_path / "checkpoints").tensors["model"]
    assert all(torch.equal(fresh[name], saved[name]) for name in fresh)


def test_all_nan_stops_with_one_line(tmp_path: Path, poison: Callable[..., None]) -> None:
    poison()
    with pytest.raises(TrainingError, match="4 updates in a row had gradients that are not finite") as caught:
        train(tiny_recipe("health.max_skipped=3"), Generated(), out=tmp_path, console=False)
    assert "\n" not in str(caught.value)


def test_stop_at_once_when_asked(tmp_path: Path, poison: Callable[..., None]) -> None:
    poison(2)
    with pytest.raises(TrainingError, match="health.on_nonfinite is stop"):
        train(tiny_recipe("health.on_nonfinite=stop"), Generated(), out=tmp_path, console=False)


@pytest.mark.parametrize("on_device", [False, True])
def test_the_device_guard_does_what_the_host_guard_does(on_device: bool) -> None:
    """The CUDA path (found_inf, momentum as a tensor, flag one step late) run on the CPU."""
    recipe = tiny_recipe()
    torch.manual_seed(0)
    engine = Engine(recipe.train)
    method = engine.prepare(build_method(recipe))
    updater = Updater(engine, recipe, guard_on_device=on_device)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    for poisoned in (False, True, False):
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.ones_like(parameter)
        if poisoned:
            kept = {name: value.clone() for name, value in method.state_dict().items()}
            method.online.norm.weight.grad[0] = float("inf")  # type: ignore[index]
        updater.step(lr=1e-3, weight_decay=0.0)
        updater.average(0.9)
        updater.count_skips()
        if poisoned:
            assert all(torch.equal(kept[name], value) for name, value in method.state_dict().items())
    updater.flush()
    assert updater.skips.total == 1
    assert updater.skips.in_row == 0
    after = method.state_dict()
    name = "online.blocks.0.mlp.fc1.weight"
    assert torch.allclose(after[name], before[name] - 2e-3, atol=1e-6)  # two updates of Adam on a constant gradient
    step = updater.optimizer.state[method.online.norm.weight]["step"]
    assert float(step) == 2
    target = before[name].clone()
    for k in (1, 2):
        target = 0.9 * target + 0.1 * (before[name] - k * 1e-3)
    assert torch.allclose(after[name.replace("online", "target")], target, atol=1e-6)


def test_clipping_bounds_the_update(tmp_path: Path) -> None:
    recipe = tiny_recipe("optim.clip=0.5")
    engine = Engine(recipe.train)
    method = engine.prepare(build_method(recipe))
    updater = Updater(engine, recipe)
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    updater._measure()
    updater._clip(updater.norms["total"])
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    assert float(torch.nn.utils.get_total_norm(grads)) == pytest.approx(0.5, rel=1e-4)
    assert float(updater.norms["total"]) > 1  # rows show the norm before clipping
