"""V-JEPA 2-AC a second time, deliberately plain: loops, a sequence cut frame by frame, dicts with the published names.

Written from official.md §2.4–§2.5; shares no code with openjepa. ``make_ac_golden`` writes a golden directory from it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from vjepa_plain import Shape, Weights, draw, draw_block, draw_encoder, draw_norm, encode, linear, mlp, norm, turn


@dataclass(frozen=True)
class Small:
    """A small model; neither square nor as many frames as rows."""

    size: tuple[int, int] = (16, 32)
    frames: int = 4
    patch: int = 8
    dim: int = 32
    depth: int = 2
    heads: int = 2
    predictor_dim: int = 48
    predictor_depth: int = 2
    predictor_heads: int = 3
    actions: int = 5
    states: int = 4
    extrinsics: bool = False
    frame_causal: bool = True
    steps: int = 3
    prefix: str = "module."

    @property
    def encoder(self) -> Shape:
        return Shape("V-JEPA 2", self.size, self.frames, self.patch, self.dim, self.depth, self.heads)

    @property
    def plane(self) -> tuple[int, int]:
        return self.size[0] // self.patch, self.size[1] // self.patch


def layer_normed(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)


def features(shape: Small, w: Weights, clip: Tensor) -> Tensor:
    """One frame after the other, each shown twice: ``(B, T, h·w, D)``."""
    seen = [encode(shape.encoder, w, torch.stack([clip[:, :, t]] * 2, dim=2))[0] for t in range(clip.shape[2])]
    return layer_normed(torch.stack(seen, dim=1))


def look(q: Tensor, k: Tensor, v: Tensor, heads: int, where: Tensor, frame: Tensor, causal: bool) -> Tensor:
    """Each token asks those it may see, one head and one token after the other. where: places, -1 where none."""
    size, out = q.shape[-1] // heads, torch.zeros_like(q)
    for b in range(len(q)):
        for head in range(heads):
            cut = slice(head * size, (head + 1) * size)
            query, key = turn(q[b, :, cut], where), turn(k[b, :, cut], where)
            for token in range(len(where)):
                may = frame <= frame[token] if causal else torch.ones_like(frame, dtype=torch.bool)
                weights = (key[may] @ query[token] / math.sqrt(size)).softmax(dim=0)
                out[b, token, cut] = weights @ v[b, may][:, cut]
    return out


def predict(shape: Small, w: Weights, seen: Tensor, actions: Tensor, states: Tensor, camera: Tensor) -> Tensor:
    """``(B, T, h·w, D)`` → the next frame at every frame, layer-normed."""
    tokens, where, frame, patches = [], [], [], []
    for t in range(seen.shape[1]):
        given = [linear(w, "action_encoder", actions[:, t]), linear(w, "state_encoder", states[:, t])]
        if shape.extrinsics:
            given.append(linear(w, "extrinsics_encoder", camera[:, t]))
        tokens += given
        where += [(t, 0, 0)] * len(given)  # rows and columns of 0 do not turn
        patches += [len(tokens) + n for n in range(seen.shape[2])]
        tokens += list(linear(w, "predictor_embed", seen[:, t]).unbind(1))
        where += [(t, r, c) for r in range(shape.plane[0]) for c in range(shape.plane[1])]
        frame += [t] * (len(given) + seen.shape[2])
    x, places, frames = torch.stack(tokens, dim=1), torch.tensor(where), torch.tensor(frame)
    for layer in range(shape.predictor_depth):
        name = f"predictor_blocks.{layer}"
        q, k, v = linear(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1", x)).chunk(3, dim=-1)
        answer = look(q, k, v, shape.predictor_heads, places, frames, shape.frame_causal)
        x = x + linear(w, f"{name}.attn.proj", answer)
        x = x + mlp(w, f"{name}.mlp", norm(w, f"{name}.norm2", x))
    out = linear(w, "predictor_proj", norm(w, "predictor_norm", x[:, patches]))
    return layer_normed(out.unflatten(1, (seen.shape[1], -1)))


def draw_predictor(shape: Small) -> Weights:
    out: Weights = {}
    width = shape.predictor_dim
    for name, size in {"action_encoder": shape.actions, "state_encoder": shape.states, "extrinsics_encoder": 6}.items():
        draw(out, name, width, size)
    draw(out, "predictor_embed", width, shape.dim)
    draw(out, "predictor_proj", shape.dim, width)
    for layer in range(shape.predictor_depth):
        draw_block(out, f"predictor_blocks.{layer}", width)
    draw_norm(out, "predictor_norm", width)
    return out


@torch.no_grad()
def make_ac_golden(path: Path, shape: Small, seed: int = 0) -> Path:
    """Write meta.json, io.safetensors and checkpoint.pt as the published directory has them."""
    torch.manual_seed(seed)
    parts = {"encoder": draw_encoder(shape.encoder), "predictor": draw_predictor(shape)}
    path.mkdir(parents=True)
    wrapped = {part: {f"{shape.prefix}{k}": v.clone() for k, v in w.items()} for part, w in parts.items()}
    torch.save({**wrapped, "epoch": 1}, path / "checkpoint.pt")
    io = {
        "clip": torch.randn(2, 3, shape.frames, *shape.size),
        "actions": torch.randn(2, shape.frames - 1, shape.actions),
        "states": torch.randn(2, shape.frames, shape.states),
        "extrinsics": torch.randn(2, shape.frames, 6),
    }
    seen = features(shape, parts["encoder"], io["clip"])
    given = io["actions"], io["states"], io["extrinsics"]
    forced = predict(shape, parts["predictor"], seen[:, :-1], *given)
    rolled = seen[:, :1]
    for _ in range(shape.steps):
        ahead = predict(shape, parts["predictor"], rolled, *given)[:, -1:]
        rolled = torch.cat([rolled, ahead], dim=1)
    rolled = rolled[:, 1:]
    io |= {"features": seen.flatten(1, 2), "teacher_forced": forced.flatten(1, 2), "rollout": rolled.flatten(1, 2)}
    save_file({name: value.contiguous() for name, value in io.items()}, path / "io.safetensors")
    names = ("frames", "dim", "depth", "heads", "predictor_dim", "predictor_depth", "predictor_heads")
    meta = {
        "family": "V-JEPA 2-AC",
        "image_size": list(shape.size),
        "patch_size": shape.patch,
        "mlp_ratio": 4,
        **{name: getattr(shape, name) for name in names},
        "extrinsics": shape.extrinsics,
        "frame_causal": shape.frame_causal,
        "rollout_steps": shape.steps,
        "loss_teacher_forced": float((forced - seen[:, 1:]).abs().mean()),
        "loss_rollout": float((rolled - seen[:, 1 : shape.steps + 1]).abs().mean()),
    }
    (path / "meta.json").write_text(json.dumps(meta))
    return path
