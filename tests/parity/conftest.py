"""A golden I-JEPA directory made here, so that a public clone exercises the parity command too.

The reference below is a second, deliberately plain implementation of official.md §1.3, §1.5, §2.1, §4 and §5: loops,
explicit softmax, functional on dicts of tensors with the published names. It shares no code with openjepa.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)  # vjepa_plain.py

SHAPE = {
    "image_size": 24,
    "patch_size": 4,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "mlp_ratio": 4,
    "predictor_dim": 16,
    "predictor_depth": 2,
    "predictor_heads": 2,
    "layer_norm_eps": 1e-6,
    "batch": 2,
}
GRID = SHAPE["image_size"] // SHAPE["patch_size"]
SCHEDULE = {
    "warmup_steps": 2,
    "start_lr": 2e-4,
    "ref_lr": 1e-3,
    "final_lr": 1e-6,
    "T_max": 5,
    "ref_wd": 0.04,
    "final_wd": 0.4,
}
STEPS = 4


def axis_table(width: int, place: int) -> list[float]:
    """Sines, then cosines, of one coordinate."""
    omega = [10000 ** (-2 * i / width) for i in range(width // 2)]
    return [math.sin(place * w) for w in omega] + [math.cos(place * w) for w in omega]


def position_table(width: int) -> torch.Tensor:
    """Column first, row second."""
    rows = [
        axis_table(width // 2, column) + axis_table(width // 2, row) for row in range(GRID) for column in range(GRID)
    ]
    return torch.tensor(rows, dtype=torch.float64).float()[None]


def draw_block(prefix: str, width: int, out: dict[str, torch.Tensor]) -> None:
    hidden = width * SHAPE["mlp_ratio"]
    shapes = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (hidden, width),
        "mlp.fc2": (width, hidden),
    }
    for name, shape in shapes.items():
        out[f"{prefix}.{name}.weight"] = 0.05 * torch.randn(shape)
        out[f"{prefix}.{name}.bias"] = 0.02 * torch.randn(shape[0])
    for name in ("norm1", "norm2"):
        draw_norm(f"{prefix}.{name}", width, out)


def draw_norm(prefix: str, width: int, out: dict[str, torch.Tensor]) -> None:
    out[f"{prefix}.weight"] = 1 + 0.02 * torch.randn(width)
    out[f"{prefix}.bias"] = 0.02 * torch.randn(width)


def draw_encoder() -> dict[str, torch.Tensor]:
    width, patch = SHAPE["dim"], SHAPE["patch_size"]
    out = {"pos_embed": position_table(width)}
    out["patch_embed.proj.weight"] = 0.05 * torch.randn(width, 3, patch, patch)
    out["patch_embed.proj.bias"] = 0.02 * torch.randn(width)
    for layer in range(SHAPE["depth"]):
        draw_block(f"blocks.{layer}", width, out)
    draw_norm("norm", width, out)
    return out


def draw_predictor() -> dict[str, torch.Tensor]:
    width, narrow = SHAPE["dim"], SHAPE["predictor_dim"]
    out = {"mask_token": 0.02 * torch.randn(1, 1, narrow), "predictor_pos_embed": position_table(narrow)}
    for name, shape in {"predictor_embed": (narrow, width), "predictor_proj": (width, narrow)}.items():
        out[f"{name}.weight"], out[f"{name}.bias"] = 0.05 * torch.randn(shape), 0.02 * torch.randn(shape[0])
    for layer in range(SHAPE["predictor_depth"]):
        draw_block(f"predictor_blocks.{layer}", narrow, out)
    draw_norm("predictor_norm", narrow, out)
    return out


def norm(w: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], SHAPE["layer_norm_eps"])


def linear(w: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def block(w: dict, name: str, x: torch.Tensor, heads: int) -> torch.Tensor:
    q, k, v = linear(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1", x)).chunk(3, dim=-1)
    size = x.shape[-1] // heads
    parts = []
    for head in range(heads):
        cut = slice(head * size, (head + 1) * size)
        weights = (q[..., cut] @ k[..., cut].transpose(1, 2) / math.sqrt(size)).softmax(dim=-1)
        parts.append(weights @ v[..., cut])
    x = x + linear(w, f"{name}.attn.proj", torch.cat(parts, dim=-1))
    return x + linear(w, f"{name}.mlp.fc2", F.gelu(linear(w, f"{name}.mlp.fc1", norm(w, f"{name}.norm2", x))))


def pick(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return torch.stack([row[index] for row, index in zip(x, ids, strict=True)])


def encode(w: dict, images: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=SHAPE["patch_size"])
    x = x.flatten(2).transpose(1, 2) + w["pos_embed"]
    x = x if ids is None else pick(x, ids)
    for layer in range(SHAPE["depth"]):
        x = block(w, f"blocks.{layer}", x, SHAPE["heads"])
    return norm(w, "norm", x)


def predict(w: dict, context: torch.Tensor, seen: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    table = w["predictor_pos_embed"].expand(len(context), -1, -1)
    x = linear(w, "predictor_embed", context) + pick(table, seen)
    x = torch.cat([x, w["mask_token"] + pick(table, asked)], dim=1)
    for layer in range(SHAPE["predictor_depth"]):
        x = block(w, f"predictor_blocks.{layer}", x, SHAPE["predictor_heads"])
    return linear(w, "predictor_proj", norm(w, "predictor_norm", x)[:, seen.shape[1] :])


def draw_masks(contexts: int, targets: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    batch, tokens = SHAPE["batch"], GRID * GRID

    def draw(count: int) -> torch.Tensor:
        return torch.stack([torch.randperm(tokens)[:count].sort().values for _ in range(batch)])

    return [draw(14) for _ in range(contexts)], [draw(6) for _ in range(targets)]


def lr_at(s: int) -> float:
    c = SCHEDULE
    if s < c["warmup_steps"]:
        return c["start_lr"] + s / c["warmup_steps"] * (c["ref_lr"] - c["start_lr"])
    share = (s - c["warmup_steps"]) / (c["T_max"] - c["warmup_steps"])
    return max(c["final_lr"], c["final_lr"] + (c["ref_lr"] - c["final_lr"]) * 0.5 * (1 + math.cos(math.pi * share)))


def wd_at(s: int) -> float:
    c = SCHEDULE
    return c["final_wd"] + (c["ref_wd"] - c["final_wd"]) * 0.5 * (1 + math.cos(math.pi * s / c["T_max"]))


def make_golden(path: Path, contexts: int = 1, targets: int = 3, seed: int = 0) -> Path:
    """Write a golden directory: first-step outputs and gradients, and the weights after :data:`STEPS` updates."""
    torch.manual_seed(seed)
    parts = {"encoder": draw_encoder(), "predictor": draw_predictor()}
    parts["target_encoder"] = {
        key: value.clone() if key == "pos_embed" else value + 0.01 * torch.randn_like(value)
        for key, value in parts["encoder"].items()
    }
    checkpoint = {name: {f"module.{k}": v.clone() for k, v in part.items()} for name, part in parts.items()}
    path.mkdir(parents=True)
    torch.save({**checkpoint, "epoch": 1, "lr": 0.001}, path / "checkpoint.pt")
    named = {f"{part}.{key}": value for part in ("encoder", "predictor") for key, value in parts[part].items()}
    learnt = {name: value.requires_grad_() for name, value in named.items() if "pos_embed" not in name}
    flat = [value for name, value in learnt.items() if value.ndim == 1]
    decayed = [value for name, value in learnt.items() if value.ndim > 1]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": flat, "weight_decay": 0.0}], lr=1.0, foreach=False)
    io: dict[str, torch.Tensor] = {}
    lists: dict[str, list[float]] = {"losses": [], "lr": [], "weight_decay": [], "ema": []}
    span = STEPS * 1.25 + 0.5  # 5.5: the momentum is laid out over it, the others over its whole part
    for step in range(STEPS):
        images = torch.randn(SHAPE["batch"], 3, SHAPE["image_size"], SHAPE["image_size"])
        seen, asked = draw_masks(contexts, targets)
        io |= {f"images.{step}": images}
        io |= {f"context_mask.{step}.{i}": m for i, m in enumerate(seen)}
        io |= {f"target_mask.{step}.{j}": m for j, m in enumerate(asked)}
        with torch.no_grad():
            full = encode(parts["target_encoder"], images)
            normed = F.layer_norm(full, full.shape[-1:], eps=1e-5)
        features = [encode(parts["encoder"], images, ids) for ids in seen]
        pairs = [(j, i) for j in range(targets) for i in range(contexts)]
        prediction = torch.cat([predict(parts["predictor"], features[i], seen[i], asked[j]) for j, i in pairs])
        target = torch.cat([pick(normed, asked[j]) for j, _ in pairs])
        error = (prediction - target).abs()
        loss = torch.where(error < 1, 0.5 * error**2, error - 0.5).mean()
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            with torch.no_grad():
                outputs = {"encoder_full": encode(parts["encoder"], images), "context": torch.cat(features)}
            io |= {**outputs, "target_full": full, "target": target, "prediction": prediction.detach()}
            io |= {f"grad.{name}": value.grad.clone() for name, value in learnt.items()}
        lists["losses"].append(loss.item())
        lists["lr"].append(lr_at(step + 1))
        lists["weight_decay"].append(wd_at(step + 1))
        lists["ema"].append(0.996 + step * 0.004 / span)
        for group in optimizer.param_groups:
            group["lr"] = lists["lr"][-1]
        optimizer.param_groups[0]["weight_decay"] = lists["weight_decay"][-1]
        optimizer.step()
        with torch.no_grad():
            for name, slow in parts["target_encoder"].items():
                slow.mul_(lists["ema"][-1]).add_(parts["encoder"][name], alpha=1 - lists["ema"][-1])
    io |= {f"final.{part}.{key}": value.detach().clone() for part in parts for key, value in parts[part].items()}
    # A key bias shifts all scores of a query alike, so its gradient is 0 but for rounding, which Adam divides by
    # itself: two correct programs differ there. The published layout has no trained predictor, where it shows.
    io = {name: value for name, value in io.items() if not (name.startswith("final.predictor") and "qkv.bias" in name)}
    save_file({name: value.contiguous() for name, value in io.items()}, path / "io.safetensors")
    meta = {
        "family": "I-JEPA",
        **SHAPE,
        "context_masks": contexts,
        "target_masks": targets,
        "loss": "smooth_l1 (beta 1), mean over all elements",
        "optimizer": "AdamW betas (0.9,0.999) eps 1e-8; no decay on bias/1-d",
        "steps": STEPS,
        **lists,
        "schedule": SCHEDULE,
    }
    (path / "meta.json").write_text(json.dumps(meta))
    return path


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden directory from the plain reference above."""
    return make_golden(tmp_path_factory.mktemp("golden") / "ijepa")


@pytest.fixture(scope="session")
def two_contexts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two context masks and two target masks: every target is predicted from every context."""
    return make_golden(tmp_path_factory.mktemp("golden2") / "ijepa", contexts=2, targets=2, seed=1)


@pytest.fixture(params=["generated", "shared"])
def golden(request: pytest.FixtureRequest) -> Path:
    """A directory made here, and the published numbers where they are at hand."""
    if request.param == "generated":
        return request.getfixturevalue("generated")
    return request.getfixturevalue("shared") / "golden" / "ijepa"


@pytest.fixture(scope="session", params=["V-JEPA", "V-JEPA 2"])
def generated_video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden directory of each video family from the plain reference in ``vjepa_plain.py``."""
    from vjepa_plain import VJEPA, VJEPA2, make_video_golden

    shape = VJEPA if request.param == "V-JEPA" else VJEPA2
    return make_video_golden(tmp_path_factory.mktemp("golden") / shape.family.replace(" ", ""), shape)
