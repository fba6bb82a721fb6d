"""V-JEPA 2.1 a second time, deliberately plain: loops, explicit softmax, dicts with the published names.

Written from family.md §1.1–§1.6 and official.md §13; shares no code with openjepa. ``make_golden21`` writes a golden directory
in the published layout from it, ``make_student`` a file distilled from another encoder.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from vjepa_plain import EPS, Weights, draw, draw_block, draw_norm, linear, mlp, norm, pick, places

TRAINED = 256  # pixels whose grid every rotary position is scaled to


@dataclass(frozen=True)
class Shape21:
    """A small model. Neither square nor as many tubelets as rows; levels are every second block."""

    size: tuple[int, int] = (32, 64)
    frames: int = 6
    patch: int = 16
    dim: int = 32
    depth: int = 8
    heads: int = 2
    taps: tuple[int, ...] = (1, 3, 5, 7)
    predictor_dim: int = 24
    predictor_depth: int = 2
    predictor_heads: int = 2
    mask_tokens: int = 3
    token: int = 1
    levels: int = 4
    out_dim: int = 32
    pairs: int = 2


OFFICIAL = Shape21()
STUDENT = replace(OFFICIAL, levels=1, out_dim=40)


def scaled(shape: Shape21, grid: tuple[int, int, int]) -> Tensor:
    """Time, row and column of every token, rows and columns spread over the grid of 256 pixels."""
    last = TRAINED // shape.patch - 1
    factors = [1.0, *(last / (side - 1) if side > 1 else 0.0 for side in grid[1:])]
    rows = [[where * factor for where, factor in zip(place, factors, strict=True)] for place in places(grid)]
    return torch.tensor(rows, dtype=torch.float64)


def turn(x: Tensor, where: Tensor) -> Tensor:
    """A rotation of every pair (0,1), (2,3), … of an axis' channels: ``x (K, d)`` at ``where (K, 3)``."""
    size = 2 * (x.shape[-1] // 3 // 2)
    out = x.clone()
    for axis in range(3):
        for pair in range(size // 2):
            angle = where[:, axis] * 10000 ** (-pair / (size // 2))
            first, second = axis * size + 2 * pair, axis * size + 2 * pair + 1
            cos, sin = angle.cos().float(), angle.sin().float()
            out[:, first] = x[:, first] * cos - x[:, second] * sin
            out[:, second] = x[:, second] * cos + x[:, first] * sin
    return out


def block(w: Weights, name: str, x: Tensor, heads: int, where: Tensor) -> Tensor:
    """where: ``(B, K, 3)``."""
    q, k, v = linear(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1", x)).chunk(3, dim=-1)
    size, rows = q.shape[-1] // heads, []
    for b in range(len(x)):
        parts = []
        for head in range(heads):
            cut = slice(head * size, (head + 1) * size)
            query, key = turn(q[b, :, cut], where[b]), turn(k[b, :, cut], where[b])
            parts.append((query @ key.T / math.sqrt(size)).softmax(dim=-1) @ v[b, :, cut])
        rows.append(torch.cat(parts, dim=-1))
    x = x + linear(w, f"{name}.attn.proj", torch.stack(rows))
    return x + mlp(w, f"{name}.mlp", norm(w, f"{name}.norm2", x))


def encode(shape: Shape21, w: Weights, x: Tensor, ids: Tensor | None = None) -> list[Tensor]:
    """The tapped outputs, each through its own norm. One frame is an image."""
    image = x.shape[2] == 1
    stem, modality = ("patch_embed_img", "img_mod_embed") if image else ("patch_embed", "video_mod_embed")
    stride = (1 if image else 2, shape.patch, shape.patch)
    x = F.conv3d(x, w[f"{stem}.proj.weight"], w[f"{stem}.proj.bias"], stride=stride)
    where = scaled(shape, tuple(x.shape[2:])).expand(len(x), -1, -1)
    x = x.flatten(2).transpose(1, 2) + w[modality]
    if ids is not None:
        x, where = pick(x, ids), pick(where, ids)
    levels = []
    for layer in range(shape.depth):
        x = block(w, f"blocks.{layer}", x, shape.heads, where)
        if layer in shape.taps:
            levels.append(norm(w, f"norms_block.{len(levels)}", x))
    return levels


def predict(
    shape: Shape21, w: Weights, levels: list[Tensor], seen: Tensor, asked: Tensor, grid: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Predictions of the hidden and of the visible tokens."""
    if shape.levels > 1:
        x = linear(w, "predictor_embed.0", torch.cat(levels, dim=-1))
        x = linear(w, "predictor_embed.2", x * 0.5 * (1 + torch.erf(x / math.sqrt(2))))
    else:
        x = linear(w, "predictor_embed", levels[-1])
    x = torch.cat([x, w[f"mask_tokens.{shape.token}"].expand(len(x), asked.shape[1], -1)], dim=1)
    both = torch.cat([seen, asked], dim=1)
    order = both.argsort(dim=1)
    x = pick(x, order) + w["img_mod_embed" if grid[0] == 1 else "video_mod_embed"]
    where = scaled(shape, grid)[both.gather(1, order)]
    for layer in range(shape.predictor_depth):
        x = block(w, f"predictor_blocks.{layer}", x, shape.predictor_heads, where)
    x = pick(norm(w, "predictor_norm", x), order.argsort(dim=1))
    count = seen.shape[1]
    return linear(w, "predictor_proj", x[:, count:]), linear(w, "predictor_proj_context", x[:, :count])


def root_distances(seen: Tensor, asked: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """√ of the distance of every visible token to the nearest hidden one, one token after the other."""
    where = places(grid)
    rows = [
        [min(math.dist(where[i], where[j]) for j in hidden) ** 0.5 for i in row]
        for row, hidden in zip(seen.tolist(), asked.tolist(), strict=True)
    ]
    return torch.tensor(rows)


def draw_encoder(shape: Shape21) -> Weights:
    out: Weights = {f"{kind}_mod_embed": 0.3 * torch.randn(1, 1, shape.dim) for kind in ("img", "video")}
    draw(out, "patch_embed.proj", shape.dim, 3, 2, shape.patch, shape.patch)
    draw(out, "patch_embed_img.proj", shape.dim, 3, 1, shape.patch, shape.patch)
    for layer in range(shape.depth):
        draw_block(out, f"blocks.{layer}", shape.dim)
    for number in range(len(shape.taps)):
        draw_norm(out, f"norms_block.{number}", shape.dim)
    return out


def draw_predictor(shape: Shape21) -> Weights:
    width = shape.predictor_dim
    out = {f"{kind}_mod_embed": 0.3 * torch.randn(1, 1, width) for kind in ("video", "img")}
    out |= {f"mask_tokens.{number}": 0.3 * torch.randn(1, 1, width) for number in range(shape.mask_tokens)}
    if shape.levels > 1:
        draw(out, "predictor_embed.0", shape.dim, shape.levels * shape.dim)
        draw(out, "predictor_embed.2", width, shape.dim)
    else:
        draw(out, "predictor_embed", width, shape.dim)
    for layer in range(shape.predictor_depth):
        draw_block(out, f"predictor_blocks.{layer}", width)
    draw_norm(out, "predictor_norm", width)
    for name in ("predictor_proj", "predictor_proj_context"):
        draw(out, name, shape.levels * shape.out_dim, width)
    return out


def draw_mask(tokens: int, number: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Visible and hidden tokens; some are neither."""
    kept, asked = tokens // 2 - number, tokens // 3 + number
    orders = [torch.randperm(tokens) for _ in range(batch)]
    seen = torch.stack([order[:kept].sort().values for order in orders])
    return seen, torch.stack([order[kept : kept + asked].sort().values for order in orders])


def wrapped(parts: dict[str, Weights]) -> dict[str, object]:
    """A published file."""
    sections = {part: {f"module.backbone.{k}": v.detach().clone() for k, v in w.items()} for part, w in parts.items()}
    return {**sections, "opt": None, "epoch": 1, "loss": 0.1, "batch_size": 2, "world_size": 1, "lr": 0.001}


def make_golden21(path: Path, shape: Shape21 = OFFICIAL, seed: int = 0) -> Path:
    """Write meta.json, io.safetensors and checkpoint.pt as the published directory has them."""
    torch.manual_seed(seed)
    parts = {"encoder": draw_encoder(shape), "predictor": draw_predictor(shape)}
    parts["target_encoder"] = {k: v + 0.02 * torch.randn_like(v) for k, v in parts["encoder"].items()}
    path.mkdir(parents=True)
    torch.save(wrapped(parts), path / "checkpoint.pt")
    io: Weights = {"image_wide.input": torch.randn(1, 3, 1, 32, 96)}
    io["image_wide.encoder"] = encode(shape, parts["encoder"], io["image_wide.input"])[-1]
    meta = {kind: outputs(shape, parts, kind, io) for kind in ("video", "image")}
    save_file({name: value.detach().contiguous() for name, value in io.items()}, path / "io.safetensors")
    (path / "meta.json").write_text(json.dumps({**described(shape), **meta}))
    return path


def outputs(shape: Shape21, parts: dict[str, Weights], kind: str, io: Weights) -> dict[str, object]:
    """Everything of clips or of images; returns their entry in meta.json."""
    weight, pairs, frames = (0.5, shape.pairs, shape.frames) if kind == "video" else (0.7, 1, 1)
    learnt = {f"{p}.{k}": v.detach().requires_grad_() for p in ("encoder", "predictor") for k, v in parts[p].items()}
    encoder, predictor = (
        {k.removeprefix(f"{p}."): v for k, v in learnt.items() if k.startswith(f"{p}.")}
        for p in ("encoder", "predictor")
    )
    x = torch.randn(2, 3, frames, *shape.size)
    grid = (max(frames // 2, 1), shape.size[0] // shape.patch, shape.size[1] // shape.patch)
    taps = encode(shape, parts["target_encoder"], x)
    normed = [(t - t.mean(-1, keepdim=True)) / torch.sqrt(t.var(-1, keepdim=True, unbiased=False) + 1e-5) for t in taps]
    target = torch.cat(normed, dim=-1)
    mine = {"input": x, "encoder": encode(shape, encoder, x)[-1], "target_taps": torch.cat(taps, dim=-1)}
    mine["target_taps_normed"] = target
    hidden, visible = [], []
    for number in range(pairs):
        seen, asked = draw_mask(math.prod(grid), number)
        levels = encode(shape, encoder, x, seen)
        prediction, again = predict(shape, predictor, levels, seen, asked, grid)
        apart = root_distances(seen, asked, grid)
        hidden.append((prediction - pick(target, asked)).abs().mean())
        visible.append(((again - pick(target, seen)).abs() / apart[..., None]).mean())
        found = {"context_mask": seen, "target_mask": asked, "context": torch.cat(levels, dim=-1)}
        found |= {"prediction": prediction, "context_prediction": again, "sqrt_distance": apart}
        mine |= {f"{name}.{number}": value for name, value in found.items()}
    losses = sum(hidden) / pairs, sum(visible) / pairs
    (losses[0] + weight * losses[1]).backward()
    mine |= {f"grad.{name}": value.grad for name, value in learnt.items() if value.grad is not None}
    io |= {f"{kind}.{name}": value for name, value in mine.items()}
    scores = {"loss_prediction": losses[0].item(), "loss_context": losses[1].item()}
    return {**scores, "context_weight": weight, "mask_token_index": shape.token}


def described(shape: Shape21) -> dict[str, object]:
    """meta.json without what was computed."""
    numbers = {"dim": shape.dim, "depth": shape.depth, "heads": shape.heads, "mlp_ratio": 4, "taps": list(shape.taps)}
    narrow = {f"predictor_{k}": getattr(shape, f"predictor_{k}") for k in ("dim", "depth", "heads")}
    return {
        "family": "V-JEPA 2.1",
        "image_size": list(shape.size),
        "frames": shape.frames,
        "patch_size": shape.patch,
        "tubelet_size": 2,
        **numbers,
        **narrow,
        "mask_tokens": shape.mask_tokens,
        "layer_norm_eps": EPS,
    }


def make_student(path: Path, seed: int = 0) -> tuple[Path, dict[str, Weights]]:
    """A file of a distilled student, ``ema_encoder`` and all, and its weights."""
    torch.manual_seed(seed)
    parts = {"encoder": draw_encoder(STUDENT), "predictor": draw_predictor(STUDENT)}
    parts["ema_encoder"] = {k: v + 0.02 * torch.randn_like(v) for k, v in parts["encoder"].items()}
    torch.save(wrapped(parts), path)
    return path, parts
