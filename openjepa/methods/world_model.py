"""A latent world model in use: features of single frames, and what a predictor says comes next, given actions.

V-JEPA 2-AC (2506.09985 §3; official.md §2.5): the encoder stays as it is and sees each frame alone, repeated to fill a
tubelet; features are layer-normed without affine, and so are predictions before anything is compared or fed back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openjepa.errors import ConfigError
from openjepa.models.action_predictor import ActionCausalPredictor
from openjepa.models.vit import VisionTransformer
from openjepa.objectives.targets import transform_target
from openjepa.types import Tokens


def normalised(features: Tensor) -> Tensor:
    """Layer norm over channels without affine, ``(B, N, D)`` → ``(B, N, D)`` float32."""
    return transform_target(features, "layer_norm")


@torch.no_grad()
def encode_frames(encoder: VisionTransformer, clip: Tensor) -> Tokens:
    """Normalised features of every frame, encoded by itself.

    Args:
        clip: ``(B, C, T, H, W)`` pixels as the encoder takes them, normalised by its data set's statistics.

    Returns:
        Values ``(B, T·h·w, D)`` on the grid ``(T, h, w)``.

    Raises:
        ConfigError: not a clip.
    """
    if clip.ndim != 5:
        raise ConfigError(f"frames come as clips (B, C, T, H, W), not {tuple(clip.shape)}")
    batch, _, count = clip.shape[:3]
    images = clip.transpose(1, 2).flatten(0, 1)  # (B·T, C, H, W): an image is a clip of one tubelet
    height, width = encoder.grid_of(images)[-2:]
    features = normalised(encoder.forward_features(images))  # (B·T, h·w, D)
    return Tokens(features.unflatten(0, (batch, count)).flatten(1, 2), (count, height, width))


def teacher_forced(
    predictor: ActionCausalPredictor,
    frames: Tokens,
    actions: Tensor,
    states: Tensor,
    extrinsics: Tensor | None = None,
) -> Tokens:
    """Each next frame from the true frames before it.

    Args:
        frames: features of T frames (:func:`encode_frames`). actions: ``(B, T − 1, A)``, or one more, which is not read:
            action t leads from frame t to frame t + 1. states: ``(B, T, S)``; the last is not read, nor need it be there.
            extrinsics: ``(B, T, 6)`` likewise, for a predictor that uses them.

    Returns:
        Normalised predictions of frames 1 … T − 1, ``(B, (T−1)·h·w, D)`` on the grid ``(T − 1, h, w)``.

    Raises:
        ConfigError: a single frame, or shapes that do not fit.
    """
    count = frames.grid[0] - 1
    if count < 1:
        raise ConfigError("teacher forcing compares each frame with the next: it needs at least 2 frames")
    seen = _first(frames, count)
    values = predictor.predict(seen, *_until(count, actions, states, extrinsics))
    return Tokens(normalised(values), seen.grid)


def rollout(
    predictor: ActionCausalPredictor,
    context: Tokens,
    actions: Tensor,
    states: Tensor,
    extrinsics: Tensor | None = None,
    *,
    steps: int,
) -> Tokens:
    """``steps`` frames after the ``context``, each predicted from the context and the predictions before it.

    Gradients flow through all of it. States are those given: nothing integrates them.

    Args:
        context: features of c ≥ 1 true frames. actions, states, extrinsics: ``(B, c + steps − 1, ·)`` or longer; number t
            belongs to frame t, predicted or not.

    Returns:
        Normalised predictions ``(B, steps·h·w, D)`` on the grid ``(steps, h, w)``.

    Raises:
        ConfigError: no step, too few actions or states, or shapes that do not fit.
    """
    if steps < 1:
        raise ConfigError(f"a rollout has at least 1 step, not {steps}")
    given, plane = context.grid[0], context.grid[1:]
    patches = plane[0] * plane[1]
    values, made = context.values, []
    for count in range(given, given + steps):
        sequence = Tokens(values, (count, *plane))
        ahead = predictor.predict(sequence, *_until(count, actions, states, extrinsics))[:, -patches:]
        made.append(normalised(ahead))
        values = torch.cat([values, made[-1].to(values.dtype)], dim=1)
    return Tokens(torch.cat(made, dim=1), (steps, *plane))


def _first(frames: Tokens, count: int) -> Tokens:
    """The first ``count`` frames."""
    _, height, width = frames.grid
    return Tokens(frames.values[:, : count * height * width], (count, height, width))


def _until(
    count: int, actions: Tensor, states: Tensor, extrinsics: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What the first ``count`` frames are conditioned on."""
    return actions[:, :count], states[:, :count], None if extrinsics is None else extrinsics[:, :count]
