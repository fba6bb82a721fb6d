"""Point-JEPA a second time, deliberately plain: loops over groups and points, dicts with the published names.

Written from family.md §2; shares no code with openjepa. ``make_points_golden`` writes a golden directory from it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from vjepa_plain import Weights, attend, draw, draw_block, draw_norm, linear, mlp, norm

EPS = 1e-5


@dataclass(frozen=True)
class Small:
    """A small model. order: the sequencer in use."""

    groups: int = 10
    size: int = 5
    dim: int = 24
    depth: int = 2
    heads: int = 2
    predictor_dim: int = 12
    predictor_depth: int = 2
    predictor_heads: int = 3
    order: str = "nearest_from_minimum"
    beta: float = 2.0
    batch: int = 3


def order_of(centres: Tensor, start: str) -> list[int]:
    """One cloud ``(G, 3)``: always to the nearest not yet visited."""
    left = list(range(len(centres)))
    here = min(left, key=lambda g: float(centres[g].sum())) if start == "nearest_from_minimum" else 0
    walk = []
    while True:
        left.remove(here)
        walk.append(here)
        if not left:
            return walk
        here = min(left, key=lambda g: float((centres[g] - centres[walk[-1]]).double().square().sum()))


def batch_normed(w: Weights, name: str, x: Tensor) -> Tensor:
    spread = torch.sqrt(w[f"{name}.running_var"] + 1e-5)
    return (x - w[f"{name}.running_mean"]) / spread * w[f"{name}.weight"] + w[f"{name}.bias"]


def conv(w: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ w[f"{name}.weight"][:, :, 0].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def token(w: Weights, points: Tensor) -> Tensor:
    """One group ``(K, 3)`` → ``(D,)``."""
    one = conv(w, "first_conv.3", batch_normed(w, "first_conv.1", conv(w, "first_conv.0", points)).relu())
    both = torch.cat([one.max(dim=0).values.expand(len(one), -1), one], dim=1)
    two = conv(w, "second_conv.3", batch_normed(w, "second_conv.1", conv(w, "second_conv.0", both)).relu())
    return two.max(dim=0).values


def placed(w: Weights, centres: Tensor) -> Tensor:
    inner = linear(w, "0", centres)
    return linear(w, "2", torch.nn.functional.gelu(inner))


def block(w: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    q, k, v = linear(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1", x, EPS)).chunk(3, dim=-1)
    x = x + linear(w, f"{name}.attn.proj", attend(q, k, v, heads))
    return x + mlp(w, f"{name}.mlp", norm(w, f"{name}.norm2", x, EPS))


def encode(shape: Small, w: Weights, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """After the last block, and after the final norm too."""
    x = tokens
    for layer in range(shape.depth):
        x = block(w, f"blocks.{layer}", x + places, shape.heads)
    return x, norm(w, "norm", x, EPS)


def predict(shape: Small, w: Weights, context: Tensor, seen: Tensor, asked: Tensor) -> Tensor:
    """seen, asked: centres of what is visible and of one target block."""
    mlp_w = {k.removeprefix("positional_encoding."): v for k, v in w.items() if k.startswith("positional_encoding.")}
    x = linear(w, "predictor_embed", context) + placed(mlp_w, seen)
    x = torch.cat([x, w["mask_token"] + placed(mlp_w, asked)], dim=1)
    for layer in range(shape.predictor_depth):
        x = block(w, f"predictor.blocks.{layer}", x, shape.predictor_heads)
    return linear(w, "predictor_proj", norm(w, "predictor.norm", x, EPS)[:, context.shape[1] :])


def draw_tokenizer(shape: Small) -> Weights:
    out: Weights = {}
    for name, sizes in {"first_conv.3": (256, 128), "second_conv.3": (shape.dim, 512)}.items():
        draw(out, name, *sizes, 1)
    out["first_conv.0.weight"] = torch.randn(128, 3, 1)
    out["second_conv.0.weight"] = 0.05 * torch.randn(512, 512, 1)
    for name, width in {"first_conv.1": 128, "second_conv.1": 512}.items():
        draw_norm(out, name, width)
        out[f"{name}.running_mean"], out[f"{name}.running_var"] = 0.2 * torch.randn(width), 0.5 + torch.rand(width)
        out[f"{name}.num_batches_tracked"] = torch.tensor(7)
    return out


def draw_place(dim: int) -> Weights:
    out: Weights = {}
    draw(out, "0", 128, 3)
    draw(out, "2", dim, 128)
    return out


def draw_encoder(shape: Small) -> Weights:
    out: Weights = {}
    for layer in range(shape.depth):
        draw_block(out, f"blocks.{layer}", shape.dim)
    draw_norm(out, "norm", shape.dim)
    return out


def draw_predictor(shape: Small) -> Weights:
    width = shape.predictor_dim
    out: Weights = {"mask_token": 0.3 * torch.randn(1, 1, width)}
    draw(out, "predictor_embed", width, shape.dim)
    draw(out, "predictor_proj", shape.dim, width)
    out |= {f"positional_encoding.{k}": v for k, v in draw_place(width).items()}
    for layer in range(shape.predictor_depth):
        draw_block(out, f"predictor.blocks.{layer}", width)
    draw_norm(out, "predictor.norm", width)
    draw_norm(out, "predictor_norm", width)  # nobody reads it
    return out


PREFIXES = {
    "tokenizer": "tokenizer.pointnet.encoder.",
    "place": "positional_encoding.",
    "encoder": "student.",
    "teacher": "teacher.ema_model.",
    "predictor": "predictor.",
}
NAMES = {"tokenizer": "tokenizer.", "place": "positional_encoding.", "encoder": "encoder.", "predictor": "predictor."}


def make_points_golden(path: Path, shape: Small, seed: int = 0) -> Path:
    """Write meta.json, io.safetensors and checkpoint.pt as the published directory has them."""
    torch.manual_seed(seed)
    parts = {"tokenizer": draw_tokenizer(shape), "place": draw_place(shape.dim), "encoder": draw_encoder(shape)}
    parts["teacher"] = {k: v + 0.02 * torch.randn_like(v) for k, v in parts["encoder"].items()}
    parts["predictor"] = draw_predictor(shape)
    path.mkdir(parents=True)
    state = {f"{PREFIXES[part]}{k}": v.clone() for part, w in parts.items() for k, v in w.items()}
    torch.save({"state_dict": state, "epoch": 1}, path / "checkpoint.pt")
    io, loss = outputs(shape, parts)
    save_file({name: value.detach().contiguous() for name, value in io.items()}, path / "io.safetensors")
    (path / "meta.json").write_text(json.dumps(described(shape) | {"loss_value": loss}))
    return path


def outputs(shape: Small, parts: dict[str, Weights]) -> tuple[dict[str, Tensor], float]:
    learnt = {
        NAMES[part] + k: v
        for part in NAMES
        for k, v in parts[part].items()
        if v.is_floating_point() and "running" not in k and not k.startswith("predictor_norm")
    }
    for value in learnt.values():
        value.requires_grad_()
    groups = 0.3 * torch.randn(shape.batch, shape.groups, shape.size, 3)
    centres = torch.randn(shape.batch, shape.groups, 3)
    walks = {name: torch.tensor([order_of(c, name) for c in centres]) for name in ("nearest", "nearest_from_minimum")}
    tokens = torch.stack([torch.stack([token(parts["tokenizer"], g) for g in cloud]) for cloud in groups])
    walked, places = [], []
    for b, walk in enumerate(walks[shape.order]):
        walked.append(tokens[b, walk])
        places.append(centres[b, walk])
    ordered, at = torch.stack(walked), torch.stack(places)
    position = placed(parts["place"], at)
    seen, asked = torch.tensor([0, 3, 4]), torch.tensor([[5, 6], [8, 9], [6, 7]])
    _, full = encode(shape, parts["encoder"], ordered, position)
    _, context = encode(shape, parts["encoder"], ordered[:, seen], position[:, seen])
    with torch.no_grad():
        hidden, _ = encode(shape, parts["teacher"], ordered, position)
        spread = torch.sqrt(hidden.var(-1, keepdim=True, unbiased=False) + 1e-5)
        normed = (hidden - hidden.mean(-1, keepdim=True)) / spread
    prediction = torch.stack([predict(shape, parts["predictor"], context, at[:, seen], at[:, ids]) for ids in asked])
    target = torch.stack([normed[:, ids] for ids in asked])
    gap = (prediction - target).abs()
    loss = torch.where(gap < shape.beta, 0.5 * gap**2 / shape.beta, gap - 0.5 * shape.beta).mean()
    loss.backward()
    io = {"groups": groups, "centres": centres, "context_ids": seen, "target_ids": asked, "tokens": tokens}
    io |= {f"order.{name}": walk for name, walk in walks.items()}
    io |= {"encoder_full": full, "context": context, "target_hidden": hidden, "target": target}
    io |= {"prediction": prediction} | {f"grad.{name}": v.grad for name, v in learnt.items() if v.grad is not None}
    return io, loss.item()


def described(shape: Small) -> dict[str, object]:
    """meta.json without what was computed."""
    names = ("groups", "dim", "depth", "heads", "predictor_dim", "predictor_depth", "predictor_heads")
    return {
        "family": "Point-JEPA",
        "group_size": shape.size,
        **{name: getattr(shape, name) for name in names},
        "layer_norm_eps": EPS,
        "order": f"{shape.order}, applied to tokens and centres before ids are used",
        "loss": f"smooth L1, beta {shape.beta:g}, mean over blocks, samples, tokens, channels",
    }
