"""Decisions about the machine: each is made for a reason it can say, and wishes that cannot be had are one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import Generated, largest_difference, numbers, saved_state, tiny_recipe

from openjepa.config.schema import TrainConfig
from openjepa.errors import ConfigError, TrainingError
from openjepa.methods import MaskedLatent, build_method
from openjepa.training import train
from openjepa.training.engine import Engine, fast_bf16
from openjepa.training.plan import Plan
from openjepa.types import Output


@pytest.mark.parametrize(
    ("amx", "avx", "fast", "words"),
    [(True, True, True, "AMX"), (False, True, True, "AVX512-BF16"), (False, False, False, "neither AMX nor AVX512")],
)
def test_precision_auto_on_cpu(monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool, fast: bool, words: str) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    found, reason = fast_bf16(torch.device("cpu"))
    assert found is fast
    assert words in reason
    engine = Engine(TrainConfig(device="cpu"))
    assert engine.dtype == (torch.bfloat16 if fast else None)
    assert any(words in str(choice) for choice in engine.choices)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"device": "gpu"}, "none of auto, cpu, cuda"),
        ({"device": "cuda:x"}, "none of auto, cpu, cuda"),
        ({"device": "cpu", "precision": "fp16"}, "fp16 needs a CUDA device"),
        ({"device": "cpu", "strategy": "ddp"}, "needs a launcher: torchrun"),
        ({"device": "cpu", "strategy": "fsdp2"}, "needs a launcher: torchrun"),
    ],
)
def test_wishes_that_cannot_be_had(wishes: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Engine(TrainConfig(**wishes))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_cuda_without_cuda_names_the_way_out() -> None:
    with pytest.raises(ConfigError, match="finds no CUDA device: use train.device=cpu"):
        Engine(TrainConfig(device="cuda"))


def test_bf16_keeps_master_weights_and_losses_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    forward = MaskedLatent.forward

    def spy(self: MaskedLatent, *args: object) -> Output:
        output = forward(self, *args)  # type: ignore[arg-type]
        seen.append(output.loss_sum.dtype)
        return output

    monkeypatch.setattr(MaskedLatent, "forward", spy)
    train(tiny_recipe("train.precision=bf16"), Generated(), out=tmp_path / "bf16", console=False)
    assert set(seen) == {torch.float32}
    tensors = saved_state(tmp_path / "bf16")[0]
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    train(tiny_recipe(), Generated(), out=tmp_path / "fp32", console=False)
    full, half = numbers(tmp_path / "fp32"), numbers(tmp_path / "bf16")
    assert full[-1]["loss"] == pytest.approx(half[-1]["loss"], rel=0.02)
    assert full[-1]["loss"] != half[-1]["loss"]


def test_activation_checkpointing_changes_nothing(tmp_path: Path) -> None:
    train(tiny_recipe("train.length=3 steps"), Generated(), out=tmp_path / "a", console=False)
    train(
        tiny_recipe("train.length=3 steps", "train.activation_checkpointing=true"),
        Generated(),
        out=tmp_path / "b",
        console=False,
    )
    assert largest_difference(saved_state(tmp_path / "a")[0], saved_state(tmp_path / "b")[0]) < 1e-7


def test_compiling_is_decided_by_device_and_length() -> None:
    engine = Engine(TrainConfig(device="cpu"))
    engine.decide_compile(10_000)
    assert not engine.compile
    assert str(engine.choices[-1]) == "compile: no (it does not pay on cpu)"
    engine.device = torch.device("cuda")
    for total, wanted in ((100, False), (10_000, True)):
        engine.decide_compile(total)
        assert engine.compile is wanted


def test_micro_batch_is_halved_until_it_fits() -> None:
    """The CUDA search, with an attempt that runs out of memory above 5 samples."""
    recipe = tiny_recipe()
    engine = Engine(recipe.train)
    engine.prepare(build_method(recipe))
    engine.device = torch.device("cuda")
    tried: list[int] = []

    def attempt(limit: int) -> Callable[[int], None]:
        def run(size: int) -> None:
            tried.append(size)
            if size > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    assert engine.largest_micro_batch(32, attempt(5)) == (4, "tried on the device; 32 at once did not fit")
    assert tried == [32, 16, 8, 4]
    with pytest.raises(TrainingError, match="one sample alone does not fit"):
        engine.largest_micro_batch(32, attempt(0))


@pytest.mark.parametrize(
    ("override", "images", "world", "words"),
    [
        ("train.length=50 %", 40, 1, "share of itself"),
        ("train.length=0 steps", 40, 1, "no step"),
        ("train.length=5 steps", 3, 4, "3 images per step cannot be shared by 4 processes"),
    ],
)
def test_plans_that_cannot_work(override: str, images: int, world: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Plan.make(tiny_recipe(override), images, world)


def test_plan_arithmetic() -> None:
    recipe = tiny_recipe(
        "train.length=3 epochs", "log.every=50 %", "checkpoint.keep_every=1 epochs", "probe.every=16 samples"
    )
    plan = Plan.make(recipe, 43)
    assert (plan.batch, plan.steps_per_epoch, plan.total) == (8, 5, 15)
    assert (plan.log_every, plan.save_every, plan.keep_every, plan.probe_every) == (8, 4, 5, 2)
