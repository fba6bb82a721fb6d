"""Published architectures at their true sizes, on the meta device: names and shapes go in strictly and come out unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from openjepa.hub.hf_directory import HfDirectory
from openjepa.hub.hf_native import NATIVE, kind_for
from openjepa.hub.imports import import_contents
from openjepa.hub.imports.contents import Contents
from openjepa.hub.timm_vit import publish_timm
from tests.unit.hub.hf_published import NAMES, SIZES

TIMM = {  # width, depth, hidden, patch, pixels (timm's own names)
    "vit_huge_patch14_gap_224": (1280, 32, 5120, 14, 224),
    "vit_huge_patch16_gap_448": (1280, 32, 5120, 16, 448),
    "vit_giant_patch16_gap_224": (1408, 40, 6144, 16, 224),
}


def meta(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("name", SIZES)
def test_transformers_sizes(name: str) -> None:
    kind, config, millions = SIZES[name]
    shapes, native = NAMES[kind](config), NATIVE[kind]
    about = {**config, "model_type": kind, "use_mean_pooling": False, "layer_norm_eps": 1e-6}
    loaded = native.finish(HfDirectory(Path(name), about, meta(shapes)), "deployed")
    assert kind_for(loaded) == kind
    assert sum(value.numel() for value in loaded.encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    published = native.publish(loaded)
    assert {key: tuple(value.shape) for key, value in published.tensors.items()} == shapes
    assert published.config.items() >= {**config, "layer_norm_eps": 1e-6}.items()
    assert loaded.config.model.heads == config["num_attention_heads"]


VJEPA2: dict[str, tuple[str, dict[str, Any]]] = {
    "facebook/vjepa2-vitl-fpc64-256": ("VJEPA2Model", {}),
    "facebook/vjepa2-vith-fpc64-256": ("VJEPA2Model", {"hidden_size": 1280, "num_hidden_layers": 32}),
    "facebook/vjepa2-vitg-fpc64-384-ssv2": (
        "VJEPA2ForVideoClassification",
        {
            "hidden_size": 1408,
            "num_hidden_layers": 40,
            "num_attention_heads": 22,
            "mlp_ratio": 48 / 11,
            "crop_size": 384,
            "num_pooler_layers": 3,
            "id2label": {str(number): f"class {number}" for number in range(174)},
        },
    ),
}


@pytest.mark.parametrize("name", VJEPA2)
def test_v_jepa_2_sizes(name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="extra 'hf' is not installed")
    kind, changes = VJEPA2[name]
    with torch.device("meta"):
        network = getattr(transformers, kind)(transformers.VJEPA2Config(**changes))
    tensors, native = network.state_dict(), NATIVE["vjepa2"]
    about = {**network.config.to_dict(), "model_type": "vjepa2"}
    loaded = native.finish(HfDirectory(Path(name), about, tensors), "deployed")
    assert (loaded.probe is not None) == ("Classification" in kind)
    published = native.publish(loaded)
    assert {key: value.shape for key, value in published.tensors.items()} == {k: v.shape for k, v in tensors.items()}
    assert published.config["mlp_ratio"] == pytest.approx(changes.get("mlp_ratio", 4.0))


def timm_shapes(dim: int, depth: int, hidden: int, patch: int, size: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, (size // patch) ** 2, dim),
        "patch_embed.proj.weight": (dim, 3, patch, patch),
        "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    for number in range(depth):
        layers = {
            "attn.qkv": (3 * dim, dim),
            "attn.proj": (dim, dim),
            "mlp.fc1": (hidden, dim),
            "mlp.fc2": (dim, hidden),
        }
        for layer, shape in layers.items():
            shapes |= {f"blocks.{number}.{layer}.weight": shape, f"blocks.{number}.{layer}.bias": shape[:1]}
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{number}.{norm}.weight": (dim,), f"blocks.{number}.{norm}.bias": (dim,)}
    return shapes


@pytest.mark.parametrize("name", TIMM)
def test_timm_sizes(name: str) -> None:
    """A lone state dict: heads from the published width, the image size from the table."""
    shapes = timm_shapes(*TIMM[name])
    loaded = import_contents(Contents(Path(f"{name}.safetensors"), meta(shapes)))
    assert (loaded.config.image_hw, loaded.encoder.heads) == ((TIMM[name][4],) * 2, 16)
    published = publish_timm(loaded)
    assert {key: tuple(value.shape) for key, value in published.tensors.items()} == shapes
    assert published.config["architecture"] == name


@pytest.mark.parametrize("name", TIMM)
def test_timm_sizes_are_those_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm", reason="extra 'timm' is not installed")
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == timm_shapes(*TIMM[name])
