"""State dicts with the names and shapes of published files (official.md §6.2), written down without our models."""

from __future__ import annotations

import torch
from torch import Tensor


def block(prefix: str, dim: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.norm1.weight": (dim,),
        f"{prefix}.norm1.bias": (dim,),
        f"{prefix}.attn.qkv.weight": (3 * dim, dim),
        f"{prefix}.attn.qkv.bias": (3 * dim,),
        f"{prefix}.attn.proj.weight": (dim, dim),
        f"{prefix}.attn.proj.bias": (dim,),
        f"{prefix}.norm2.weight": (dim,),
        f"{prefix}.norm2.bias": (dim,),
        f"{prefix}.mlp.fc1.weight": (hidden, dim),
        f"{prefix}.mlp.fc1.bias": (hidden,),
        f"{prefix}.mlp.fc2.weight": (dim, hidden),
        f"{prefix}.mlp.fc2.bias": (dim,),
    }


def encoder(
    dim: int, depth: int, hidden: int, patch: int, *, tubelet: int | None, tokens: int | None
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {} if tokens is None else {"pos_embed": (1, tokens, dim)}
    kernel = (patch, patch) if tubelet is None else (tubelet, patch, patch)
    shapes |= {"patch_embed.proj.weight": (dim, 3, *kernel), "patch_embed.proj.bias": (dim,)}
    for number in range(depth):
        shapes |= block(f"blocks.{number}", dim, hidden)
    return shapes | {"norm.weight": (dim,), "norm.bias": (dim,)}


def predictor(
    dim: int, depth: int, width: int, *, mask_tokens: int | None, tokens: int | None
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"predictor_embed.weight": (width, dim), "predictor_embed.bias": (width,)}
    names = ["mask_token"] if mask_tokens is None else [f"mask_tokens.{number}" for number in range(mask_tokens)]
    shapes |= {name: (1, 1, width) for name in names}
    if tokens is not None:
        shapes["predictor_pos_embed"] = (1, tokens, width)
    for number in range(depth):
        shapes |= block(f"predictor_blocks.{number}", width, 4 * width)
    shapes |= {"predictor_norm.weight": (width,), "predictor_norm.bias": (width,)}
    return shapes | {"predictor_proj.weight": (dim, width), "predictor_proj.bias": (dim,)}


def whole(
    prefix: str, parts: dict[str, dict[str, tuple[int, ...]]], device: str = "meta", seed: int = 0
) -> dict[str, Tensor]:
    """Flat tensors of a published file: sections, wrappers' prefix, names."""
    draw = torch.Generator().manual_seed(seed)

    def make(shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, device="meta") if device == "meta" else torch.randn(shape, generator=draw) * 0.05

    return {f"{part}.{prefix}{key}": make(shape) for part, shapes in parts.items() for key, shape in shapes.items()}


def three(enc: dict[str, tuple[int, ...]], pred: dict[str, tuple[int, ...]]) -> dict[str, dict[str, tuple[int, ...]]]:
    return {"encoder": enc, "predictor": pred, "target_encoder": dict(enc)}
