"""A world model in use: frames encoded alone, teacher forcing against a rollout, gradients, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openjepa.errors import ConfigError
from openjepa.methods.world_model import encode_frames, normalised, rollout, teacher_forced
from openjepa.models import ActionCausalPredictor, VisionTransformer
from openjepa.models.positions import Positions
from openjepa.types import Tokens

PLANE = (2, 3)


def encoder() -> VisionTransformer:
    torch.manual_seed(0)
    positions = Positions("rope3d", pairing="tiled")
    return VisionTransformer(
        image_size=(16, 24), patch_size=8, frames=4, dim=24, depth=1, heads=2, positions=positions
    ).eval()


def predictor() -> ActionCausalPredictor:
    torch.manual_seed(1)
    return ActionCausalPredictor(embed_dim=24, plane=PLANE, dim=24, depth=1, heads=2, action_dim=4, state_dim=3).eval()


def given(frames: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(2, frames, 4), torch.randn(2, frames, 3)


def first(frames: Tokens, count: int) -> Tokens:
    return Tokens(frames.values[:, : count * 6], (count, *PLANE))


def test_each_frame_is_encoded_by_itself() -> None:
    clip = torch.randn(2, 3, 4, 16, 24)
    frames = encode_frames(encoder(), clip)
    assert frames.grid == (4, *PLANE)
    alone = encode_frames(encoder(), clip[:, :, 2:3])
    torch.testing.assert_close(frames.values[:, 12:18], alone.values)
    spread = frames.values.var(-1, unbiased=False)
    torch.testing.assert_close(spread, torch.ones_like(spread), atol=1e-2, rtol=0)
    assert not frames.values.requires_grad
    with pytest.raises(ConfigError, match="frames come as clips"):
        encode_frames(encoder(), clip[0])


def test_a_rollout_of_one_step_is_teacher_forcing() -> None:
    """Whatever the context's length: the last of its frames then foretells the next."""
    frames, model = encode_frames(encoder(), torch.randn(2, 3, 4, 16, 24)), predictor()
    actions, states = given(4)
    forced = teacher_forced(model, frames, actions, states)
    assert forced.grid == (3, *PLANE)
    for count in (1, 2, 3):
        rolled = rollout(model, first(frames, count), actions, states, steps=1)
        torch.testing.assert_close(rolled.values, forced.values[:, (count - 1) * 6 : count * 6])


def test_a_rollout_feeds_its_normalised_predictions_back() -> None:
    frames, model = encode_frames(encoder(), torch.randn(2, 3, 2, 16, 24)), predictor()
    actions, states = given(4)
    rolled = rollout(model, frames, actions, states, steps=3)
    values = frames.values
    for count in (2, 3, 4):
        ahead = model.predict(Tokens(values, (count, *PLANE)), actions[:, :count], states[:, :count])[:, -6:]
        values = torch.cat([values, normalised(ahead)], dim=1)
    torch.testing.assert_close(rolled.values, values[:, 12:])
    assert rolled.grid == (3, *PLANE)


def test_the_last_action_and_state_are_not_read_by_teacher_forcing() -> None:
    frames, model = encode_frames(encoder(), torch.randn(2, 3, 4, 16, 24)), predictor()
    actions, states = given(4)
    whole = teacher_forced(model, frames, actions, states)
    assert torch.equal(whole.values, teacher_forced(model, frames, actions[:, :3], states[:, :3]).values)


def test_gradients_reach_the_actions_of_every_step() -> None:
    frames, model = encode_frames(encoder(), torch.randn(2, 3, 1, 16, 24)), predictor()
    actions, states = given(3)
    actions.requires_grad_()
    rollout(model, frames, actions, states, steps=3).values[:, -6:].square().sum().backward()
    assert actions.grad is not None
    assert (actions.grad.abs().sum(dim=(0, 2)) > 0).all()


def test_what_cannot_be_is_one_line() -> None:
    frames, model = encode_frames(encoder(), torch.randn(2, 3, 2, 16, 24)), predictor()
    actions, states = given(2)
    with pytest.raises(ConfigError, match="at least 2 frames"):
        teacher_forced(model, first(frames, 1), actions, states)
    with pytest.raises(ConfigError, match="at least 1 step, not 0"):
        rollout(model, frames, actions, states, steps=0)
    with pytest.raises(ConfigError, match=r"actions of 2 clips of 3 frames are \(2, 3, 4\)"):
        rollout(model, frames, actions, states, steps=2)
