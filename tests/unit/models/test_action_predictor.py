"""The action-conditioned predictor: who sees whom, other planes than the native one, shapes that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openjepa.config.schema import (
    ActionPredictorConfig,
    ClipConfig,
    DataConfig,
    ModelConfig,
    NoMask,
    Recipe,
    TargetConfig,
)
from openjepa.errors import ConfigError
from openjepa.methods import build_method
from openjepa.models import ActionCausalPredictor, build_encoder, build_predictor
from openjepa.types import Tokens

PLANE = (2, 3)


def make(**more: object) -> ActionCausalPredictor:
    torch.manual_seed(0)
    given = {"embed_dim": 20, "plane": PLANE, "dim": 24, "depth": 2, "heads": 2, "action_dim": 4, "state_dim": 3}
    return ActionCausalPredictor(**{**given, **more}).eval()  # type: ignore[arg-type]


def inputs(frames: int = 4, plane: tuple[int, int] = PLANE) -> tuple[Tokens, Tensor, Tensor]:
    torch.manual_seed(1)
    values = torch.randn(2, frames * plane[0] * plane[1], 20)
    return Tokens(values, (frames, *plane)), torch.randn(2, frames, 4), torch.randn(2, frames, 3)


def influence(model: ActionCausalPredictor, of: str, frame: int) -> list[bool]:
    """Which frames' predictions change when something of one frame does."""
    frames, actions, states = inputs()
    before = model.predict(frames, actions, states)
    values = frames.values.clone()
    {"patches": values.unflatten(1, (4, 6)), "actions": actions, "states": states}[of][:, frame] += 1.0
    after = model.predict(Tokens(values, frames.grid), actions, states)
    return [not torch.equal(a, b) for a, b in zip(before.chunk(4, 1), after.chunk(4, 1), strict=True)]


@pytest.mark.parametrize("of", ["patches", "actions", "states"])
def test_a_frame_is_seen_by_itself_and_those_after_it(of: str) -> None:
    assert influence(make(), of, 1) == [False, True, True, True]
    assert influence(make(), of, 3) == [False, False, False, True]
    assert influence(make(frame_causal=False), of, 3) == [True] * 4


def test_the_first_frames_of_a_clip_are_predicted_as_if_it_ended_there() -> None:
    model, (frames, actions, states) = make(), inputs()
    whole = model.predict(frames, actions, states)
    short = model.predict(Tokens(frames.values[:, :12], (2, *PLANE)), actions[:, :2], states[:, :2])
    torch.testing.assert_close(whole[:, :12], short)


def test_the_mask_is_that_of_the_clip_at_hand() -> None:
    """Two frames of two conditions and four patches: blocks of six by six, lower triangular (official.md, suggested tests)."""
    seen = make().visible(2, 4)[0, 0]
    assert seen.shape == (12, 12)
    blocks = seen.unflatten(0, (2, 6)).unflatten(2, (2, 6)).permute(0, 2, 1, 3)
    assert blocks.flatten(2).all(-1).tolist() == [[True, False], [True, True]]
    assert not blocks[0, 1].any()
    model = make()
    assert all("mask" not in name for name, _ in model.named_buffers())
    assert not list(model.buffers())


def test_conditions_turn_by_time_alone_and_patches_by_their_place() -> None:
    table = make().rotation(3, PLANE).unflatten(1, (3, 8))  # (2, T, 2 conditions + 6 patches, 12)
    cosine, sine = table
    for condition in (0, 1):
        assert torch.equal(cosine[:, condition, 4:], torch.ones(3, 8))
        assert torch.equal(sine[:, condition, 4:], torch.zeros(3, 8))
        assert torch.equal(cosine[:, condition, :4], cosine[:, 2, :4])  # the time of the frame's patches
    assert not torch.equal(cosine[0, 2], cosine[0, 3])


def test_another_plane_is_stretched_over_the_native_one() -> None:
    model = make()
    fine = model.rotation(1, (4, 6))[:, 2:].unflatten(1, (4, 6))
    native = model.rotation(1, PLANE)[:, 2:].unflatten(1, PLANE)
    torch.testing.assert_close(fine[:, ::2, ::2], native)  # row 2r of 4 stands where row r of 2 does
    frames, actions, states = inputs(plane=(4, 6))
    assert model.predict(frames, actions, states).shape == frames.values.shape


def test_the_camera_counts_only_where_it_is_used() -> None:
    (frames, actions, states), camera = inputs(), torch.randn(2, 4, 6)
    plain, using = make(), make(extrinsics=True)
    assert plain.state_dict().keys() == using.state_dict().keys()
    assert torch.equal(plain.predict(frames, actions, states, camera), plain.predict(frames, actions, states))
    turned = using.predict(frames, actions, states, camera + 1)
    assert not torch.equal(using.predict(frames, actions, states, camera), turned)
    with pytest.raises(ConfigError, match="conditioned on the camera"):
        using.predict(frames, actions, states)


def test_checkpointing_changes_no_gradient() -> None:
    frames, actions, states = inputs()
    gradients = []
    for enable in (False, True):
        model = make().train()
        model.set_grad_checkpointing(enable)
        model.predict(frames, actions, states).square().mean().backward()
        gradients.append(model.action_encoder.weight.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f, a, s: (Tokens(f.values, (4, 6)), a, s), r"on a grid \(T, h, w\), not on \(4, 6\)"),
        (lambda f, a, s: (Tokens(f.values, (5, *PLANE)), a, s), r"5×2×3 tokens are \(2, 30, 20\), not \(2, 24, 20\)"),
        (lambda f, a, s: (Tokens(f.values[..., :8], f.grid), a, s), r"not \(2, 24, 8\)"),
        (lambda f, a, s: (f, a[:, :3], s), r"actions of 2 clips of 4 frames are \(2, 4, 4\), not \(2, 3, 4\)"),
        (lambda f, a, s: (f, a, s[..., :1]), r"states of 2 clips of 4 frames are \(2, 4, 3\), not \(2, 4, 1\)"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(change, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make().predict(*change(*inputs()))


def test_widths_that_cannot_turn_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"predictor.dim 24 in 6 heads gives 4 channels a head"):
        make(heads=6)


def recipe(**more: object) -> Recipe:
    given = {
        "name": "world",
        "method": "world_model",
        "data": DataConfig(image_size=(16, 24), clip=ClipConfig(frames=4)),
        "mask": NoMask(),
        "model": ModelConfig(arch=None, dim=24, depth=1, heads=2, patch_size=8, positions="rope3d"),
        "predictor": ActionPredictorConfig(dim=24, depth=1, heads=None, action_dim=2),
        "target": TargetConfig(kind="frozen"),
    }
    return Recipe(**{**given, **more})  # type: ignore[arg-type]


def test_a_recipe_builds_it_and_pretraining_refuses_it() -> None:
    config = recipe()
    encoder = build_encoder(config.model, config.image_hw, 3, config.frames)
    model = build_predictor(config.predictor, encoder, config.model)
    assert isinstance(model, ActionCausalPredictor)
    assert (model.plane, model.head_dim, model.pairing) == ((2, 3), 12, "interleaved")
    with pytest.raises(ConfigError, match="not trained here"):
        build_method(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": DataConfig(image_size=24), "model": ModelConfig()}, "set data.clip.frames"),
        ({"mask": {"kind": "tubes"}}, "set mask.kind=none, not tubes"),
        ({"target": TargetConfig()}, "target.kind ema does not go with method world_model: frozen"),
        ({"method": "masked_latent", "target": TargetConfig()}, "predictor.kind action_causal does not go with method"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recipe(**change)
