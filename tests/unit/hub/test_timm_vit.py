"""timm's vision transformers: the same weights give the same patch tokens there and here, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from openjepa.config.schema import DataConfig, ModelConfig, NarrowPredictorConfig, Recipe
from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.imports import import_weights, inspect_weights
from openjepa.hub.model_directory import LoadedModel, load_model, save_model, split_parts
from openjepa.hub.opening import open_own
from openjepa.hub.timm_vit import open_timm_model, save_timm_model
from openjepa.methods import build_method
from openjepa.models.positions import sincos2d

timm = pytest.importorskip("timm", reason="extra 'timm' is not installed")

GAP = {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 28, "mlp_ratio": 2.7}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "I-JEPA": ("vit_huge_patch14_gap_224", GAP),
    "class token": ("vit_base_patch16_224", {**GAP, "img_size": [32, 48], "num_classes": 5}),
    "class token without a place": ("vit_base_patch16_224", {**GAP, "img_size": 32, "no_embed_class": True}),
    "one channel": ("vit_giant_patch16_gap_224", {**GAP, "img_size": 48, "in_chans": 1}),
}


def theirs(folder: Path, name: str, sincos: bool = False, **arguments: Any) -> Any:
    torch.manual_seed(0)
    network = timm.create_model(name, **arguments).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        if sincos:
            grid = network.patch_embed.grid_size
            network.pos_embed.copy_(sincos2d(network.embed_dim, grid)[None])
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    cfg = {"mean": [0.4] * 3, "std": [0.2] * 3, "crop_pct": 0.9, "interpolation": "bicubic"}
    about = {"architecture": name, "model_args": arguments, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(about))
    return network


def patches(network: Any, x: Tensor) -> Tensor:
    return network.forward_features(x)[:, network.num_prefix_tokens :]


def pixels(loaded: LoadedModel) -> Tensor:
    high, wide = loaded.encoder.image_size
    return torch.randn(2, loaded.encoder.channels, high, wide, generator=torch.Generator().manual_seed(1))


def close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("name", "sincos"),
    [(name, sincos) for name in VARIANTS for sincos in (False, True) if not (sincos and name == "class token")],
)
def test_their_weights_here_and_there_again(name: str, sincos: bool, tmp_path: Path) -> None:
    kind, arguments = VARIANTS[name]
    network = theirs(tmp_path / "theirs", kind, sincos, **arguments)
    loaded = open_timm_model(tmp_path / "theirs")
    assert loaded.config.model.positions == ("sincos2d" if sincos else "learned")
    assert loaded.config.data.eval_crop == 0.9
    folder, x = save_timm_model(tmp_path / "again", loaded), pixels(loaded)
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        close(loaded.encoder.forward_features(x), patches(network, x))
        close(patches(again, x), patches(network, x))
        if loaded.probe is not None:
            close(
                loaded.probe.classifier(loaded.encoder.forward_features(x, prefix=loaded.probe.classifier.prefix)),
                network(x),
            )
    assert (loaded.probe is not None) == (network.num_classes > 0)
    first, second = load_file(tmp_path / "theirs/model.safetensors"), load_file(folder / "model.safetensors")
    if not network.num_prefix_tokens:
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    "changes", [{}, {"class_token": True}, {"positions": "learned"}, {"position_order": "row_first"}]
)
def test_our_weights_there(changes: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe(
        name="own",
        data=DataConfig(image_size=(24, 40), mean=(0.1,) * 3, std=(0.3,) * 3),
        model=ModelConfig(arch=None, dim=32, depth=2, heads=4, patch_size=8, **changes),
        predictor=NarrowPredictorConfig(dim=16, depth=1, heads=2),
    )
    method = build_method(recipe)
    loaded = load_model(save_model(tmp_path / "own", split_parts(method.state_dict()), recipe))
    folder = save_timm_model(tmp_path / "out", loaded)
    network, x = timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), pixels(loaded)
    assert tuple(network.pretrained_cfg["mean"]) == pytest.approx((0.1,) * 3)
    with torch.no_grad():
        close(patches(network, x), loaded.encoder.forward_features(x))
        again = open_own(folder)
        assert torch.equal(again.encoder.forward_features(x), loaded.encoder.forward_features(x))
    assert again.config.data.mean == pytest.approx((0.1,) * 3)


def test_a_lone_file_asks_for_what_it_does_not_tell(tmp_path: Path) -> None:
    network = theirs(tmp_path / "theirs", "vit_huge_patch14_gap_224", **GAP)
    weights = tmp_path / "theirs/model.safetensors"
    with pytest.raises(ConfigError, match=r"how many attention heads 32 channels have: give hints=\{'heads': …\}"):
        import_weights(weights)
    loaded = import_weights(weights, hints={"heads": 4})
    assert loaded.provenance.layout == "timm-vit"
    with torch.no_grad():
        x = pixels(loaded)
        close(loaded.encoder.forward_features(x), patches(network, x))
    rows = {row.theirs: row.ours for row in inspect_weights(weights, {"heads": 4}).keys}
    assert rows["blocks.1.attn.qkv.weight"] == "online.blocks.1.attn.qkv.weight"


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("vit_base_patch16_clip_quickgelu_224", {}, "no quickgelu"),
        ("vit_base_patch16_224", {"init_values": 1e-5}, "no init_values"),
        ("vit_base_patch16_224", {"qkv_bias": False}, "missing"),
        ("vit_base_patch16_224", {"global_pool": "avg", "fc_norm": True}, r"has other names|missing.*norm\.weight"),
    ],
)
def test_what_our_encoder_has_not_is_one_line(name: str, arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    theirs(tmp_path / "theirs", name, **{**GAP, "img_size": 32, **arguments})
    with pytest.raises(CheckpointError, match=words) as error:
        open_timm_model(tmp_path / "theirs")
    assert "\n" not in str(error.value)
