"""What learns in a fine-tuning, LoRA against peft, and state that survives a kill."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from openjepa.data import open_source
from openjepa.errors import ConfigError, RunError
from openjepa.evaluation.finetune import FineTune, finetune
from openjepa.evaluation.lora import LoraLinear, add_lora, merge_lora
from openjepa.evaluation.request import Bench
from openjepa.evaluation.tuning import Keeping, Tuned, choose_what_learns
from openjepa.hub.checkpoint import list_checkpoints
from openjepa.models import VisionTransformer
from openjepa.models.positions import Positions

NAMES = ("blue", "green", "red")
QUICK: dict[str, Any] = {"lrs": (3e-3,), "epochs": 6, "batch_size": 20, "precision": "fp32"}


def vit(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    options: dict[str, Any] = {"image_size": (16, 16), "patch_size": 8, "dim": 16, "depth": 3, "heads": 2}
    return VisionTransformer(**{**options, "positions": Positions("learned"), **changes})


@pytest.fixture(autouse=True)
def save_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openjepa.evaluation.tuning.COST", 0.0)


@pytest.fixture
def bench(tmp_path, write, normalise, transform):
    train = open_source(write(tmp_path / "train", NAMES, 20, seed=0))
    val = open_source(write(tmp_path / "val", NAMES, 8, seed=1))
    return Bench(vit(), normalise, transform, train, val)


def test_lora_is_peft_s() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4))
    ours, theirs = copy.deepcopy(plain), copy.deepcopy(plain)
    assert add_lora([ours], rank=3, alpha=6) == 2
    theirs = peft.inject_adapter_in_model(
        peft.LoraConfig(r=3, lora_alpha=6, target_modules=["0", "2"], init_lora_weights=False), theirs
    )
    with torch.no_grad():
        for name in ("0", "2"):
            mine, other = ours.get_submodule(name), theirs.get_submodule(name)
            mine.down.copy_(other.lora_A["default"].weight)
            mine.up.copy_(other.lora_B["default"].weight)
    x = torch.randn(7, 6)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    assert not torch.allclose(ours(x), plain(x), atol=1e-2)
    expected = ours(x)
    assert merge_lora(ours) == 2
    assert not any(isinstance(part, LoraLinear) for part in ours.modules())
    assert torch.allclose(ours(x), expected, atol=1e-6)


def test_lora_starts_at_the_encoder_and_learns_little() -> None:
    encoder = vit()
    x = torch.randn(2, 3, 16, 16)
    before = encoder(x)
    model = Tuned(encoder, 3, "mean").requires_grad_(True)
    choose_what_learns(model, FineTune(tune="lora", lora_rank=2))
    assert torch.equal(model.encoder(x), before)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("head.") or name.endswith((".up", ".down")) for name in learning)
    assert len(learning) == 2 + 2 * 4 * 3  # the head, and two matrices for each of four layers in three blocks
    model(x).sum().backward()
    assert model.encoder.blocks[0].attn.qkv.base.weight.grad is None
    assert model.encoder.blocks[0].attn.qkv.up.grad is not None


def test_the_last_blocks_and_what_follows_learn() -> None:
    model = Tuned(vit(), 3, "mean").requires_grad_(True)
    choose_what_learns(model, FineTune(tune="last-n", blocks=2, drop_path=0.3))
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in learning if name.startswith("encoder.")} == {"blocks", "norm"}
    assert {name.split(".")[2] for name in learning if "blocks" in name} == {"1", "2"}
    assert [block.drop_path for block in model.encoder.blocks] == [0.0, 0.15, 0.3]
    with pytest.raises(ConfigError, match="--blocks 4 is more than the encoder's 3 blocks"):
        choose_what_learns(model, FineTune(tune="last-n", blocks=4))


@pytest.mark.parametrize("tune", ["full", "last-n", "lora"])
def test_each_way_learns_and_only_what_it_may(bench: Bench, tune: Any, tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    keep = Keeping(tmp_path / "state", lambda *a: found.update(zip(("subject", "model", "classes", "score"), a)))
    lr = 1e-2 if tune == "lora" else 5e-3
    score = finetune(bench, FineTune(**{**QUICK, "lrs": (lr,), "tune": tune, "blocks": 1, "keep": keep}))
    assert score.value > 0.75
    assert found["classes"] == NAMES
    assert found["score"] == score
    assert bench.encoder is not None
    first, tuned = bench.encoder.state_dict(), found["model"].encoder.state_dict()
    assert first.keys() == tuned.keys()
    changed = {key for key in first if not torch.equal(first[key], tuned[key])}
    if tune == "full":
        assert changed == set(first)
    elif tune == "last-n":
        assert {key.split(".")[0] + key.split(".")[1] for key in changed} == {"blocks2", "normweight", "normbias"}
    else:
        assert changed == {key for key in first if key.startswith("blocks") and "norm" not in key and "weight" in key}


def kept(place: Path, bench: Bench, **changes: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    keep = Keeping(place, lambda _subject, model, _classes, _score: found.update(model.state_dict()))
    finetune(bench, FineTune(**{**QUICK, "drop_path": 0.2, **changes, "keep": keep}))
    return found


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_killed_and_continued_is_uninterrupted(bench: Bench, tmp_path: Path, tune: Any) -> None:
    whole = kept(tmp_path / "whole", bench, tune=tune)
    child = os.fork()
    if child == 0:
        try:
            epochs = []

            def die(done: int, total: int) -> None:
                epochs.append(done)
                if done == 3:
                    os.kill(os.getpid(), signal.SIGKILL)

            keep = Keeping(tmp_path / "cut", lambda *a: None)
            finetune(bench, FineTune(**{**QUICK, "drop_path": 0.2, "tune": tune, "keep": keep}), on_epoch=die)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    state = tmp_path / "cut" / "encoder" / "lr-0.003"
    assert [path.name for path in list_checkpoints(state)] == ["step-00000009"]
    again = kept(tmp_path / "cut", bench, tune=tune)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_other_settings_are_not_mixed_in(bench: Bench, tmp_path: Path) -> None:
    kept(tmp_path, bench, epochs=1)
    with pytest.raises(RunError, match="was begun with epochs 1, now it is 2") as caught:
        kept(tmp_path, bench, epochs=2)
    assert "\n" not in str(caught.value)
    assert bench.encoder is not None
    with torch.no_grad():
        bench.encoder.norm.bias.add_(1)
    with pytest.raises(RunError, match="was begun with encoder"):
        kept(tmp_path, bench, epochs=1)


def test_mistakes_in_one_line() -> None:
    for options, words in (
        ({"tune": "half"}, "tune cannot be 'half'"),
        ({"blocks": 0}, "blocks cannot be 0"),
        ({"lora_rank": 0}, "lora_rank cannot be 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            FineTune(**options)


def test_timm_s_blocks_take_lora(normalise, transform) -> None:
    pytest.importorskip("timm")
    from openjepa.hub.adapters import open_encoder

    encoder = open_encoder("timm:vit_tiny_patch16_224@random@32px").encoder
    x = torch.randn(2, 3, 32, 32)
    before = encoder.forward_features(x)
    model = Tuned(copy.deepcopy(encoder), 3, "mean").requires_grad_(True)
    choose_what_learns(model, FineTune(tune="lora"))
    assert torch.allclose(model.encoder.eval().forward_features(x), before, atol=1e-5)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, LoraLinear):
                part.up.normal_(std=0.1)
    changed = model.encoder.forward_features(x)
    assert not torch.allclose(changed, before, atol=1e-2)
    merge_lora(model)
    assert torch.allclose(model.encoder.forward_features(x), changed, atol=1e-4)
