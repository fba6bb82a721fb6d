"""V-JEPA and V-JEPA 2 a second time, deliberately plain: loops, explicit softmax, dicts with the published names.

Written from official.md §1.2–§1.8, §2.2–§2.3, §4, §6 and §7.1; shares no code with openjepa. ``make_video_golden`` writes a
golden directory in the published layout from it.
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

Weights = dict[str, Tensor]
EPS, PROBE_EPS, REG = 1e-6, 1e-5, 0.1


@dataclass(frozen=True)
class Shape:
    """A small model. Neither square nor as many tubelets as rows, so that no two axes can be mistaken for each other."""

    family: str = "V-JEPA"
    size: tuple[int, int] = (16, 32)
    frames: int = 6
    patch: int = 8
    dim: int = 32
    depth: int = 3
    heads: int = 2
    predictor_dim: int = 24
    predictor_depth: int = 2
    predictor_heads: int = 2
    uniform_power: bool = True
    mask_tokens: int = 2
    used: tuple[int, ...] = (0, 1)
    complement: bool = False

    @property
    def rotary(self) -> bool:
        return self.family == "V-JEPA 2"

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.frames // 2, self.size[0] // self.patch, self.size[1] // self.patch


def places(grid: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Time, row and column of every token id."""
    return [(t, r, c) for t in range(grid[0]) for r in range(grid[1]) for c in range(grid[2])]


def one_axis(width: int, place: int) -> list[float]:
    omega = [10000 ** (-2 * i / width) for i in range(width // 2)]
    return [math.sin(place * w) for w in omega] + [math.cos(place * w) for w in omega]


def table(width: int, shape: Shape) -> Tensor:
    """Time, row, column; in the uniform form three equal parts, cut from the right."""
    third = 2 * math.ceil(width / 6)
    widths = [third] * 3 if shape.uniform_power else [width // 2, width // 4, width // 4]
    rows = []
    for place in places(shape.grid):
        parts = [one_axis(size, where) for size, where in zip(widths, place, strict=True)]
        rows.append((parts[0] + parts[1] + parts[2])[:width])
    return torch.tensor(rows, dtype=torch.float64).float()[None]


def turn(x: Tensor, where: Tensor) -> Tensor:
    """Published rotary positions: channels ``x (K, d)`` of tokens at ``where (K, 3)``; tiled angles, adjacent partners."""
    size = 2 * (x.shape[-1] // 3 // 2)
    half = size // 2
    out = x.clone()
    for axis in range(3):
        for channel in range(size):
            angle = where[:, axis].double() * 10000 ** (-(channel % half) / half)
            mine = axis * size + channel
            partner, sign = (mine + 1, -1) if channel % 2 == 0 else (mine - 1, 1)
            out[:, mine] = x[:, mine] * angle.cos().float() + sign * x[:, partner] * angle.sin().float()
    return out


def norm(w: Weights, name: str, x: Tensor, eps: float = EPS) -> Tensor:
    mean, spread = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(spread + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    inner = linear(w, f"{name}.fc1", x)
    return linear(w, f"{name}.fc2", inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, where: Tensor | None = None) -> Tensor:
    """One head and one sample after the other. where: ``(B, K, 3)`` rotary places."""
    size, rows = q.shape[-1] // heads, []
    for b in range(len(k)):
        parts = []
        for head in range(heads):
            cut = slice(head * size, (head + 1) * size)
            query, key = q[b, :, cut], k[b, :, cut]
            if where is not None:
                query, key = turn(query, where[b]), turn(key, where[b])
            parts.append((query @ key.T / math.sqrt(size)).softmax(dim=-1) @ v[b, :, cut])
        rows.append(torch.cat(parts, dim=-1))
    return torch.stack(rows)


def block(w: Weights, name: str, x: Tensor, heads: int, where: Tensor | None = None, eps: float = EPS) -> Tensor:
    q, k, v = linear(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1", x, eps)).chunk(3, dim=-1)
    x = x + linear(w, f"{name}.attn.proj", attend(q, k, v, heads, where))
    return x + mlp(w, f"{name}.mlp", norm(w, f"{name}.norm2", x, eps))


def pick(x: Tensor, ids: Tensor) -> Tensor:
    return torch.stack([row[index] for row, index in zip(x, ids, strict=True)])


def encode(
    shape: Shape, w: Weights, video: Tensor, ids: Tensor | None = None, layers: tuple[int, ...] = ()
) -> list[Tensor]:
    """Features after the final norm, of the last block or of ``layers``; the grid is the input's own."""
    x = F.conv3d(video, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=(2, shape.patch, shape.patch))
    where = torch.tensor(places(tuple(x.shape[2:]))).expand(len(x), -1, -1)
    x = x.flatten(2).transpose(1, 2)
    if not shape.rotary:
        x = x + w["pos_embed"]
    if ids is not None:
        x, where = pick(x, ids), pick(where, ids)
    seen = []
    for layer in range(shape.depth):
        x = block(w, f"blocks.{layer}", x, shape.heads, where if shape.rotary else None)
        seen.append(norm(w, "norm", x))
    return [seen[layer] for layer in layers] or [seen[-1]]


def predict(shape: Shape, w: Weights, context: Tensor, seen: Tensor, asked: Tensor, token: int) -> Tensor:
    x = linear(w, "predictor_embed", context)
    query = w[f"mask_tokens.{token}"].expand(len(x), asked.shape[1], -1)
    both, where = torch.cat([seen, asked], dim=1), None
    if shape.rotary:
        where = torch.tensor(places(shape.grid))[both]
        order = both.argsort(dim=1)  # the published order; undone below
        x = pick(torch.cat([x, query], dim=1), order)
        where = pick(where, order)
    else:
        x = torch.cat([x, query], dim=1) + w["predictor_pos_embed"][0][both]
    for layer in range(shape.predictor_depth):
        x = block(w, f"predictor_blocks.{layer}", x, shape.predictor_heads, where)
    x = norm(w, "predictor_norm", x)
    if shape.rotary:
        x = pick(x, order.argsort(dim=1))
    return linear(w, "predictor_proj", x[:, seen.shape[1] :])


def classify(shape: Shape, w: Weights, x: Tensor, blocks: int) -> Tensor:
    """The published attentive classifier; without an output projection, whether or not the file has one."""
    for number in range(blocks):
        x = block(w, f"pooler.blocks.{number}", x, shape.heads, eps=PROBE_EPS)
    cross = "pooler.cross_attention_block"
    query = w["pooler.query_tokens"].expand(len(x), -1, -1)
    key, value = linear(w, f"{cross}.xattn.kv", norm(w, f"{cross}.norm1", x, PROBE_EPS)).chunk(2, dim=-1)
    query = query + attend(linear(w, f"{cross}.xattn.q", query), key, value, shape.heads)
    query = query + mlp(w, f"{cross}.mlp", norm(w, f"{cross}.norm2", query, PROBE_EPS))
    return linear(w, "linear", query[:, 0])


def draw(out: Weights, name: str, *sizes: int) -> None:
    out[f"{name}.weight"], out[f"{name}.bias"] = 0.08 * torch.randn(*sizes), 0.03 * torch.randn(sizes[0])


def draw_norm(out: Weights, name: str, width: int) -> None:
    out[f"{name}.weight"], out[f"{name}.bias"] = 1 + 0.1 * torch.randn(width), 0.05 * torch.randn(width)


def draw_block(out: Weights, name: str, width: int) -> None:
    draw(out, f"{name}.attn.qkv", 3 * width, width)
    draw(out, f"{name}.attn.proj", width, width)
    draw_mlp(out, name, width)
    draw_norm(out, f"{name}.norm1", width)


def draw_mlp(out: Weights, name: str, width: int) -> None:
    draw(out, f"{name}.mlp.fc1", 4 * width, width)
    draw(out, f"{name}.mlp.fc2", width, 4 * width)
    draw_norm(out, f"{name}.norm2", width)


def draw_encoder(shape: Shape) -> Weights:
    out: Weights = {} if shape.rotary else {"pos_embed": table(shape.dim, shape)}
    draw(out, "patch_embed.proj", shape.dim, 3, 2, shape.patch, shape.patch)
    for layer in range(shape.depth):
        draw_block(out, f"blocks.{layer}", shape.dim)
    draw_norm(out, "norm", shape.dim)
    return out


def draw_predictor(shape: Shape) -> Weights:
    width = shape.predictor_dim
    out = {f"mask_tokens.{number}": 0.3 * torch.randn(1, 1, width) for number in range(shape.mask_tokens)}
    if not shape.rotary:
        out["predictor_pos_embed"] = table(width, shape)
    draw(out, "predictor_embed", width, shape.dim)
    draw(out, "predictor_proj", shape.dim, width)
    for layer in range(shape.predictor_depth):
        draw_block(out, f"predictor_blocks.{layer}", width)
    draw_norm(out, "predictor_norm", width)
    return out


def draw_probe(shape: Shape, blocks: int) -> Weights:
    cross, width = "pooler.cross_attention_block", shape.dim
    out = {"pooler.query_tokens": 0.02 * torch.randn(1, 1, width)}
    draw(out, f"{cross}.xattn.q", width, width)
    draw(out, f"{cross}.xattn.kv", 2 * width, width)
    if not shape.rotary:
        draw(out, f"{cross}.xattn.proj", width, width)
    draw_mlp(out, cross, width)
    draw_norm(out, f"{cross}.norm1", width)
    for number in range(blocks):
        draw_block(out, f"pooler.blocks.{number}", width)
    draw(out, "linear", 5, width)
    return out


def draw_masks(shape: Shape, batch: int = 2) -> tuple[list[Tensor], list[Tensor]]:
    """A context and a target per pair, of different sizes; complementary or with tokens in neither."""
    tokens = math.prod(shape.grid)
    contexts, targets = [], []
    for number in range(len(shape.used)):
        kept, asked = tokens // 2 - 3 * number, tokens // 3 + 2 * number
        asked = tokens - kept if shape.complement else asked
        orders = [torch.randperm(tokens) for _ in range(batch)]
        contexts.append(torch.stack([order[:kept].sort().values for order in orders]))
        targets.append(torch.stack([order[kept:][:asked].sort().values for order in orders]))
    return contexts, targets


def make_video_golden(path: Path, shape: Shape, seed: int = 0) -> Path:
    """Write meta.json, io.safetensors, checkpoint.pt and attentive_probe.pt as the published directories have them."""
    torch.manual_seed(seed)
    parts = {"encoder": draw_encoder(shape), "predictor": draw_predictor(shape)}
    parts["target_encoder"] = {
        k: v if k == "pos_embed" else v + 0.02 * torch.randn_like(v) for k, v in parts["encoder"].items()
    }
    wrapped = {part: {f"module.backbone.{k}": v.clone() for k, v in w.items()} for part, w in parts.items()}
    path.mkdir(parents=True)
    torch.save(
        {**wrapped, "epoch": 1, "loss": 0.1, "batch_size": 2, "world_size": 1, "lr": 0.001}, path / "checkpoint.pt"
    )
    io, meta = outputs(shape, parts)
    blocks = 2 if shape.rotary else 0
    probe = draw_probe(shape, blocks)
    io["classifier_logits"] = classify(shape, probe, io["target_full"], blocks)
    bare = {f"module.{k}": v for k, v in probe.items()}
    torch.save({"classifiers": [bare]} if shape.rotary else {"classifier": bare}, path / "attentive_probe.pt")
    save_file({name: value.detach().contiguous() for name, value in io.items()}, path / "io.safetensors")
    (path / "meta.json").write_text(json.dumps({**described(shape), **meta}))
    return path


def outputs(shape: Shape, parts: dict[str, Weights]) -> tuple[Weights, dict[str, object]]:
    """Everything io.safetensors holds but the probe, and the losses for meta.json."""
    encoder, predictor = parts["encoder"], parts["predictor"]
    learnt = {f"{p}.{k}": v for p in ("encoder", "predictor") for k, v in parts[p].items() if "pos_embed" not in k}
    for value in learnt.values():
        value.requires_grad_()
    video = torch.randn(2, 3, shape.frames, *shape.size)
    contexts, targets = draw_masks(shape)
    (full,) = encode(shape, parts["target_encoder"], video)
    normed = (full - full.mean(-1, keepdim=True)) / torch.sqrt(full.var(-1, keepdim=True, unbiased=False) + 1e-5)
    io: Weights = {"video": video, "encoder_full": encode(shape, encoder, video)[0], "target_full": full}
    losses, spreads = [], []
    for m, (seen, asked) in enumerate(zip(contexts, targets, strict=True)):
        (context,) = encode(shape, encoder, video, seen)
        prediction, target = predict(shape, predictor, context, seen, asked, shape.used[m]), pick(normed, asked)
        losses.append((prediction - target.detach()).abs().mean())
        spreads.append(torch.sqrt(prediction.var(dim=1, unbiased=True) + 1e-4))
        io |= {f"context_mask.{m}": seen, f"target_mask.{m}": asked}
        io |= {f"context.{m}": context, f"prediction.{m}": prediction, f"target.{m}": target}
    loss, spread = sum(losses) / len(losses), (1 - sum(spreads) / len(spreads)).relu().mean()
    meta: dict[str, object] = {"loss_jepa": loss.item()}
    if not shape.rotary:
        meta |= {"loss_reg": spread.item(), "regulariser": f"mean relu(1 - s) ({REG} used for the gradients here)"}
        loss = loss + REG * spread
    loss.backward()
    io |= {f"grad.{name}": value.grad for name, value in learnt.items() if value.grad is not None}
    if shape.rotary:
        meta |= {"layers": [0, 2], **other_shapes(shape, encoder, io)}
        io |= {f"layers.{n}": x for n, x in enumerate(encode(shape, encoder, video, layers=(0, 2)))}
    return io, meta


def other_shapes(shape: Shape, encoder: Weights, io: Weights) -> dict[str, object]:
    """Inputs the encoder was not built for."""
    for name, size in {"wide": (6, 16, 48), "short": (2, 16, 32), "tall": (8, 40, 16)}.items():
        io[f"video_{name}"] = torch.randn(1, 3, *size)
        (io[f"encoder_{name}"],) = encode(shape, encoder, io[f"video_{name}"])
    return {}


def described(shape: Shape) -> dict[str, object]:
    """meta.json without what was computed."""
    numbers = {"dim": shape.dim, "depth": shape.depth, "heads": shape.heads, "mlp_ratio": 4}
    narrow = {f"predictor_{k}": getattr(shape, f"predictor_{k}") for k in ("dim", "depth", "heads")}
    return {
        "family": shape.family,
        "image_size": list(shape.size),
        "frames": shape.frames,
        "patch_size": shape.patch,
        "tubelet_size": 2,
        **numbers,
        **narrow,
        **({"position": "rotary 3-D"} if shape.rotary else {"uniform_power": shape.uniform_power}),
        "mask_tokens": shape.mask_tokens,
        "layer_norm_eps": EPS,
        "masks": [{"num_blocks": 8}, {"num_blocks": 2}, {"num_blocks": 1}][: len(shape.used)],
        "loss": "mean |z-h| per mask pair, averaged over pairs",
        "mask_token_index": list(shape.used),
    }


VJEPA = Shape()
VJEPA2 = Shape("V-JEPA 2", mask_tokens=5)
VARIANTS = {
    "halves": replace(VJEPA, uniform_power=False, predictor_dim=16),
    "one pair": replace(VJEPA, used=(0,), mask_tokens=1),
    "complement": replace(VJEPA, complement=True),
    "three pairs": replace(VJEPA2, used=(3, 0, 3)),
    "complement, rotary": replace(VJEPA2, complement=True, used=(1, 4)),
    "one token": replace(VJEPA2, mask_tokens=1, used=(0, 0)),
}
