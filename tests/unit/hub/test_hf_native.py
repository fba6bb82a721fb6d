"""Systems of ours that transformers has too: the same weights give the same numbers there and here, both ways."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from openjepa.config.schema import (
    ClipConfig,
    DataConfig,
    ModelConfig,
    NarrowPredictorConfig,
    PixelPredictorConfig,
    RandomMask,
    RandomTubeMask,
    Recipe,
    TargetConfig,
)
from openjepa.errors import CheckpointError, ConfigError, OpenJepaError
from openjepa.hub.hf_native import NATIVE, is_native, open_hf_model, save_hf_model
from openjepa.hub.imports import import_weights, inspect_weights
from openjepa.hub.mae_hf import open_mae
from openjepa.hub.model_directory import LoadedModel, load_model, save_model, split_parts
from openjepa.hub.videomae_hf import VIDEOMAE_HF, open_videomae
from openjepa.methods import build_method
from openjepa.types import Batch, Ids, MaskGroup, Progress
from tests.unit.hub.hf_published import NAMES

transformers = pytest.importorskip("transformers", reason="extra 'hf' is not installed")

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 84,
    "image_size": 32,
    "patch_size": 8,
}
DECODER = {
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 3,
    "decoder_intermediate_size": 96,
}
CLIP = {"num_frames": 6, "use_mean_pooling": False}
ODD = {"hidden_size": 36, "num_attention_heads": 2, "intermediate_size": 90, "patch_size": 6, "image_size": 40}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "I-JEPA": ("IJepaModel", {}),
    "I-JEPA, odd numbers": ("IJepaModel", {**ODD, "num_channels": 1, "layer_norm_eps": 1e-3}),
    "I-JEPA, wide images": ("IJepaModel", {"image_size": [24, 48]}),
    "MAE": ("ViTMAEForPreTraining", {}),
    "MAE, odd numbers": ("ViTMAEForPreTraining", {**ODD, "num_channels": 2, "layer_norm_eps": 1e-3}),
    "MAE, encoder": ("ViTMAEModel", {}),
    "VideoMAE": ("VideoMAEForPreTraining", {}),
    "VideoMAE, odd numbers": (
        "VideoMAEForPreTraining",
        {**ODD, "num_frames": 9, "tubelet_size": 3, "layer_norm_eps": 1e-3},
    ),
    "VideoMAE, encoder": ("VideoMAEModel", {}),
}
KINDS = {"IJepa": "ijepa", "ViTMA": "vit_mae", "Video": "videomae"}


def theirs(kind: str, **changes: Any) -> Any:
    """A small network with weights far from any initialisation, so that no part is without effect."""
    torch.manual_seed(0)
    settings = {**SMALL, **(DECODER if "MAE" in kind else {}), **(CLIP if "Video" in kind else {}), **changes}
    network = getattr(transformers, kind)(
        getattr(transformers, f"{kind.split('For')[0].removesuffix('Model')}Config")(**settings)
    )
    if kind.startswith("ViTMAE"):
        fill_tables(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "MAE" not in kind or "pos" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return network.eval()


def fill_tables(network: Any) -> None:
    """transformers 5 leaves both tables zero until weights are loaded; its own code then fills them."""
    embeddings = getattr(network, "vit", network).embeddings
    embeddings.patch_embeddings.projection._is_hf_initialized = False
    embeddings.initialize_weights()
    if hasattr(network, "decoder"):
        network.decoder.initialize_weights(embeddings.position_embeddings.shape[1] - 1)


def pixels(config: Any, seed: int = 1) -> Tensor:
    """Images ``(2, C, H, W)`` or clips ``(2, C, T, H, W)``."""
    size = config.image_size if isinstance(config.image_size, list | tuple) else [config.image_size] * 2
    frames = [config.num_frames] if hasattr(config, "num_frames") else []
    return torch.randn(2, config.num_channels, *frames, *size, generator=torch.Generator().manual_seed(seed))


def features(network: Any, x: Tensor) -> Tensor:
    """Patch tokens as transformers gives them."""
    inner = getattr(network, network.base_model_prefix, network)
    if hasattr(inner.config, "num_frames"):
        return inner(x.transpose(1, 2).contiguous()).last_hidden_state
    if network.config.model_type == "ijepa":
        return inner(x).last_hidden_state
    inner.config.mask_ratio, count = 0.0, inner.embeddings.position_embeddings.shape[1] - 1
    return inner(x, noise=torch.arange(float(count)).expand(len(x), -1)).last_hidden_state


def tokens(loaded: LoadedModel, x: Tensor) -> Tensor:
    return loaded.encoder.forward_features(x, prefix=True)


def close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5


@pytest.mark.parametrize("name", VARIANTS)
def test_their_weights_here_and_there_again(name: str, tmp_path: Path) -> None:
    kind, changes = VARIANTS[name]
    network = theirs(kind, **changes)
    network.save_pretrained(tmp_path / "theirs")
    loaded, x = open_hf_model(tmp_path / "theirs"), pixels(network.config)
    again, info = load_back(kind, save_hf_model(tmp_path / "again", loaded))
    assert not any(info.values()), info
    with torch.no_grad():
        wanted = features(network, x)
        close(tokens(loaded, x), wanted)
        close(features(again, x), wanted)
    assert_same_tensors(tmp_path, exact=not kind.startswith("ViTMAE"))
    assert is_native(tmp_path / "again")


def load_back(kind: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    network, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    return network.eval(), info


def assert_same_tensors(root: Path, *, exact: bool) -> None:
    """Every tensor comes back under its name: the very numbers, but for tables of MAE, which are computed anew."""
    first, second = (load_file(root / folder / "model.safetensors") for folder in ("theirs", "again"))
    published = {key.replace("decoder_encoder.layer", "decoder_layers"): value for key, value in first.items()}
    assert published.keys() == second.keys()
    for key, value in published.items():
        same = torch.equal(value, second[key])
        assert same or (not exact and "pos" in key and torch.allclose(value, second[key], atol=1e-6)), key


@pytest.mark.parametrize("kind", ["IJepaModel", "ViTMAEForPreTraining", "VideoMAEForPreTraining"])
def test_written_names_are_the_published_ones(kind: str, tmp_path: Path) -> None:
    """The tables of names in hf_published.py, which the true sizes are checked with, are what transformers saves."""
    network = theirs(kind)
    network.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    shapes = {key.replace("decoder_encoder.layer", "decoder_layers"): tuple(v.shape) for key, v in saved.items()}
    assert shapes == NAMES[KINDS[kind[:5]]]({**SMALL, **DECODER})


def masked(count: int, kept: int) -> Tensor:
    """As many hidden places in every row, at random ones."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randperm(count, generator=generator) >= kept for _ in range(2)]
    return torch.stack(rows)


def group_of(hidden: Tensor, grid: tuple[int, ...]) -> MaskGroup:
    seen, asked = (torch.stack([row.nonzero()[:, 0] for row in rows]) for rows in (~hidden, hidden))
    return MaskGroup([Ids(seen)], [Ids(asked)], [(0, 0)], grid)


@pytest.mark.parametrize("changes", [{}, {"num_frames": 4, "image_size": 48}, {"qv_bias": False}], ids=str)
def test_videomae_predicts_and_loses_as_there(changes: dict[str, Any], tmp_path: Path) -> None:
    network = theirs("VideoMAEForPreTraining", **changes)
    network.save_pretrained(tmp_path)
    method, x = open_videomae(tmp_path), pixels(network.config)
    grid = method.online.grid_of(x)
    hidden = masked(grid[0] * grid[1] * grid[2], 7)
    wanted = network(x.transpose(1, 2).contiguous(), bool_masked_pos=hidden)
    prediction, _ = method.predict(x, group_of(hidden, grid))
    close(prediction, wanted.logits)
    output = method(Batch({"video": x}, torch.arange(2), torch.arange(2)), [video_group(hidden, grid)], Progress(0, 1))
    loss = output.loss_sum / output.count
    assert float(abs(loss - wanted.loss).detach() / wanted.loss.detach()) < 1e-5
    loss.backward()
    wanted.loss.backward()
    stem = network.videomae.embeddings.patch_embeddings.projection.weight.grad
    close(method.online.patch_embed.proj.weight.grad, stem)
    assert float(key_bias(method.online.blocks[0].attn.qkv.bias.grad).abs().max()) < 1e-6 * float(stem.abs().max())


def video_group(hidden: Tensor, grid: tuple[int, ...]) -> MaskGroup:
    return replace(group_of(hidden, grid), group="video")


def key_bias(bias: Tensor) -> Tensor:
    return bias.chunk(3)[1]


def test_a_bias_of_the_keys_is_zero_after_reading_and_nothing_without_it(tmp_path: Path) -> None:
    theirs("VideoMAEForPreTraining").save_pretrained(tmp_path)
    loaded = open_hf_model(tmp_path)
    x, blocks = pixels(transformers.VideoMAEConfig(**{**SMALL, **CLIP})), loaded.encoder.blocks
    assert all(
        not key_bias(block.attn.qkv.bias).any() and key_bias(block.attn.qkv.bias).numel() == 32 for block in blocks
    )
    with torch.no_grad():
        before = tokens(loaded, x)
        for block in blocks:
            key_bias(block.attn.qkv.bias).fill_(2.0)
        close(tokens(loaded, x), before)
        again, _ = load_back("VideoMAEForPreTraining", save_hf_model(tmp_path / "again", loaded))
        close(features(again, x), before)


@pytest.mark.parametrize("pixel_norm", [True, False])
def test_mae_predicts_there_what_it_predicts_here(pixel_norm: bool, tmp_path: Path) -> None:
    recipe = ours("mae", transform="layer_norm" if pixel_norm else "none")
    loaded = as_loaded(tmp_path, recipe)
    network, info = load_back("ViTMAEForPreTraining", save_hf_model(tmp_path / "out", loaded))
    assert not any(info.values()), info
    assert network.config.norm_pix_loss is pixel_norm
    x, noise = pixels(network.config), torch.rand(2, 16, generator=torch.Generator().manual_seed(2))
    order = noise.argsort(dim=1)
    group = MaskGroup([Ids(order[:, :4])], [Ids(order[:, 4:])], [(0, 0)], (4, 4))
    wanted = network(x, noise=noise)
    output = open_mae(tmp_path / "out")(Batch({"image": x}, order[:, 0], order[:, 0]), [group], Progress(0, 1))
    loss = (output.loss_sum / output.count).detach()
    assert float(abs(loss - wanted.loss.detach()) / wanted.loss.detach()) < 1e-5


def ours(kind: str, *, transform: str = "layer_norm", eps: float = 1e-6, **model: Any) -> Recipe:
    """A recipe of our own: ``ijepa``, ``mae`` or ``videomae``."""
    parts: dict[str, Any] = {"arch": None, "dim": 32, "depth": 2, "heads": 4, "patch_size": 8, "norm_eps": eps}
    data = DataConfig(image_size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), eval_crop=0.8, interpolation="bicubic")
    if kind == "ijepa":
        predictor = NarrowPredictorConfig(dim=24, depth=1, heads=2)
        return Recipe(name="own", data=data, model=ModelConfig(**parts, **model), predictor=predictor)
    decoder = PixelPredictorConfig(dim=24, depth=2, heads=3)
    target = TargetConfig(kind="pixels", transform=transform)
    about = {"name": "own", "system": kind, "method": "masked_pixel", "predictor": decoder, "target": target}
    if kind == "mae":
        parts |= {"class_token": True, **model}
        return Recipe(**about, data=data, mask=RandomMask(ratio=(0.75, 0.75)), model=ModelConfig(**parts))
    parts |= {"positions": "sinusoid", **model}
    data = data.model_copy(update={"clip": ClipConfig(frames=4, stride=3)})
    return Recipe(**about, data=data, mask=RandomTubeMask(ratio=0.5), model=ModelConfig(**parts))


def as_loaded(root: Path, recipe: Recipe, **load: Any) -> LoadedModel:
    """A saved model of that recipe, its weights far from any initialisation."""
    torch.manual_seed(0)
    method = build_method(recipe)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if recipe.system == "videomae":
            method.predictor.predictor_embed.bias.zero_()
    return load_model(save_model(root / "own", split_parts(method.state_dict()), recipe), **load)


CLASSES = {"ijepa": "IJepaModel", "mae": "ViTMAEForPreTraining", "videomae": "VideoMAEForPreTraining"}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("ijepa", {}),
        ("ijepa", {"positions": "learned", "eps": 1e-4}),
        ("ijepa", {"position_order": "row_first"}),
        ("mae", {}),
        ("mae", {"positions": "learned", "eps": 1e-12}),
        ("mae", {"position_order": "row_first"}),
        ("videomae", {"eps": 1e-9}),
    ],
    ids=str,
)
def test_our_weights_there_and_here_again(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    loaded = as_loaded(tmp_path, ours(kind, **changes))
    folder = save_hf_model(tmp_path / "out", loaded)
    network, info = load_back(CLASSES[kind], folder)
    assert not any(info.values()), info
    again, x = open_hf_model(folder), pixels(network.config)
    with torch.no_grad():
        close(features(network, x), tokens(loaded, x))
        if kind == "videomae":  # its biases of keys are left out, which softmax does not see
            close(tokens(again, x), tokens(loaded, x))
        else:
            assert torch.equal(tokens(again, x), tokens(loaded, x))
    mine, back = loaded.config, again.config
    assert (back.data.eval_crop, back.data.interpolation) == (0.8, "bicubic")
    assert back.data.mean == pytest.approx(mine.data.mean)
    assert back.data.clip == mine.data.clip
    assert back.model.positions == mine.model.positions
    assert back.model.norm_eps == pytest.approx(mine.model.norm_eps)
    if loaded.predictor is not None and again.predictor is not None:
        first, second = loaded.predictor.state_dict(), again.predictor.state_dict()
        kept = [key for key in first if kind != "videomae" or not key.endswith("qkv.bias")]
        assert all(torch.equal(first[key], second[key]) for key in kept)


@pytest.mark.parametrize("which", ["deployed", "online"])
def test_the_encoder_that_was_asked_for_is_written(which: str, tmp_path: Path) -> None:
    loaded = as_loaded(tmp_path, ours("ijepa"), which=which)
    assert not torch.equal(loaded.target.norm.weight, loaded.online.norm.weight)
    again = open_hf_model(save_hf_model(tmp_path / "out", loaded))
    assert torch.equal(again.encoder.norm.weight, loaded.encoder.norm.weight)
    assert again.predictor is None


def test_their_processor_prepares_images_as_we_do(tmp_path: Path) -> None:
    save_hf_model(tmp_path / "image", as_loaded(tmp_path / "a", ours("mae")))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "image")
    assert (processor.size["shortest_edge"], processor.crop_size["height"]) == (40, 32)
    assert list(processor.image_mean) == pytest.approx([0.1, 0.2, 0.3])
    save_hf_model(tmp_path / "clip", as_loaded(tmp_path / "b", ours("videomae")))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "clip")
    assert (processor.size["shortest_edge"], processor.crop_size["height"]) == (40, 32)


def test_an_import_is_saved_and_loaded_like_a_run(tmp_path: Path) -> None:
    """Its epsilon and positions are in the recipe, so nothing is lost."""
    for name in ("MAE, odd numbers", "VideoMAE, odd numbers", "I-JEPA, odd numbers"):
        kind, changes = VARIANTS[name]
        network = theirs(kind, **changes)
        network.save_pretrained(tmp_path / name)
        loaded = open_hf_model(tmp_path / name)
        modules = {"online": loaded.online, "target": loaded.target, "predictor": loaded.predictor}
        parts = {part: module.state_dict() for part, module in modules.items() if module is not None}
        again, x = load_model(save_model(tmp_path / f"{name} ours", parts, loaded.config)), pixels(network.config)
        with torch.no_grad():
            assert torch.equal(tokens(again, x), tokens(loaded, x))


def test_a_table_that_is_no_formula_is_kept_and_the_class_token_takes_its_place_in(tmp_path: Path) -> None:
    network = theirs("ViTMAEModel")
    with torch.no_grad():
        network.embeddings.position_embeddings.add_(0.3 * torch.randn_like(network.embeddings.position_embeddings))
    network.save_pretrained(tmp_path / "theirs")
    loaded, x = open_hf_model(tmp_path / "theirs"), pixels(network.config)
    assert loaded.config.model.positions == "learned"
    assert any("kept as learned" in note for note in loaded.provenance.notes)
    again, _ = load_back("ViTMAEModel", save_hf_model(tmp_path / "again", loaded))
    with torch.no_grad():
        close(tokens(loaded, x), features(network, x))
        close(features(again, x), features(network, x))


def test_a_linear_classifier_comes_along(tmp_path: Path) -> None:
    network = theirs("IJepaForImageClassification", id2label={0: "cat", 1: "dog", 2: "owl"})
    network.save_pretrained(tmp_path)
    loaded, x = open_hf_model(tmp_path), pixels(network.config)
    with torch.no_grad():
        close(tokens(loaded, x), features(network, x))
        close(loaded.probe.classifier(tokens(loaded, x)), network(x).logits)
    assert loaded.probe.classes == ("cat", "dog", "owl")
    rows = {row.theirs: row for row in inspect_weights(tmp_path).keys}
    assert rows["classifier.weight"].ours == "probe.weight"
    assert rows["ijepa.layernorm.bias"].ours == "online.norm.bias"


def processor_file(folder: Path, **settings: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def test_the_processor_nobody_trained_with_is_not_followed_and_the_model_says_so(tmp_path: Path) -> None:
    theirs("IJepaModel").save_pretrained(tmp_path)
    processor_file(
        tmp_path, image_mean=[0.5] * 3, image_std=[0.5] * 3, size={"height": 32, "width": 32}, do_resize=True
    )
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# I-JEPA\n")
    loaded = import_weights(tmp_path)
    assert (loaded.config.data.mean, loaded.config.data.std) == (None, None)  # ImageNet's
    said = [note for note in loaded.provenance.notes if note.startswith("preprocessing")]
    assert "mean = deviation = .5" in said[0]
    assert "squashes the whole image to 32×32" in said[1]
    assert (loaded.provenance.licence, loaded.provenance.layout) == ("cc-by-nc-4.0", "ijepa-hf")
    processor_file(tmp_path, image_mean=[0.1] * 3, image_std=[0.3] * 3, size={"shortest_edge": 40}, resample=3)
    loaded = open_hf_model(tmp_path)
    data = loaded.config.data
    assert (data.mean, data.std, data.eval_crop, data.interpolation) == ((0.1,) * 3, (0.3,) * 3, 0.8, "bicubic")
    assert "the processor's, not ImageNet's" in loaded.provenance.notes[0]


def test_weights_of_older_kinds_and_in_several_files_are_read(tmp_path: Path) -> None:
    network = theirs("IJepaModel")
    network.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    network.save_pretrained(tmp_path / "pickle")
    torch.save(load_file(tmp_path / "pickle/model.safetensors"), tmp_path / "pickle/pytorch_model.bin")
    (tmp_path / "pickle/model.safetensors").unlink()
    x = pixels(network.config)
    with torch.no_grad():
        for name in ("parts", "pickle"):
            close(tokens(open_hf_model(tmp_path / name), x), features(network, x))


@pytest.mark.parametrize("kind", ["IJepaModel", "ViTMAEForPreTraining", "VideoMAEForPreTraining"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weights_of_half_precision_are_widened_and_their_tables_known(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    loaded = as_loaded(tmp_path, ours({"IJepaModel": "ijepa", "ViTMAEForPreTraining": "mae"}.get(kind, "videomae")))
    network, _ = load_back(kind, save_hf_model(tmp_path / "full", loaded))
    network.to(dtype).save_pretrained(tmp_path / "half")
    half = open_hf_model(tmp_path / "half")
    assert half.config.model.positions == loaded.config.model.positions
    assert {value.dtype for value in half.encoder.parameters()} == {torch.float32}
    with torch.no_grad():
        x = pixels(network.config)
        found, wanted = tokens(half, x), tokens(loaded, x)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 0.1


@pytest.mark.parametrize("kind", ["ijepa", "mae"])
def test_images_of_another_size_have_the_places_transformers_gives_them(kind: str, tmp_path: Path) -> None:
    loaded = as_loaded(tmp_path, ours(kind))
    network, _ = load_back(CLASSES[kind], save_hf_model(tmp_path / "out", loaded))
    x = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(1))
    inner, options = getattr(network, "vit", network), {"interpolate_pos_encoding": True}
    if kind == "mae":
        inner.config.mask_ratio = 0.0
        options["noise"] = torch.arange(30.0).expand(2, -1)
    with torch.no_grad():
        close(tokens(loaded, x), inner(x, **options).last_hidden_state)


def changed(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def without(folder: Path, *names: str) -> Path:
    tensors = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in tensors.items() if key not in names}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("IJepaModel", {"model_type": "vit"}, "model_type 'vit', and ours are ijepa, videomae, vit_mae, vjepa2"),
        ("IJepaModel", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("IJepaModel", {"image_size": 40}, "is not that of 5×5 patches"),
        ("IJepaModel", {"patch_size": [8, 4]}, "patches of 8×4 pixels; ours are square"),
        ("IJepaModel", {"num_hidden_layers": 2}, "unexpected"),
        ("IJepaModel", {"num_attention_heads": 5}, "5 heads"),
        ("IJepaModel", {"hidden_size": "wide"}, "describes no I-JEPA"),
        ("ViTMAEForPreTraining", {"decoder_num_hidden_layers": 3}, "12 missing"),
        ("VideoMAEForPreTraining", {"tubelet_size": 3}, "mis-shaped"),
        ("VideoMAEForVideoClassification", {}, "fine-tuned VideoMAE .*take the weights it was tuned from"),
    ],
)
def test_what_does_not_fit_is_one_line(kind: str, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    network = theirs(kind, use_mean_pooling=True) if "Classification" in kind else theirs(kind)
    network.save_pretrained(tmp_path)
    with pytest.raises(OpenJepaError, match=words) as error:
        open_hf_model(changed(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_a_damaged_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_hf_model(tmp_path)
    theirs("VideoMAEForPreTraining").save_pretrained(tmp_path / "a")
    query = "videomae.encoder.layer.1.attention.attention"
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.qkv\.bias.* query alone"):
        open_hf_model(without(tmp_path / "a", f"{query}.v_bias"))
    theirs("ViTMAEForPreTraining").save_pretrained(tmp_path / "b")
    with pytest.raises(CheckpointError, match="no class token"):
        open_hf_model(without(tmp_path / "b", "vit.embeddings.cls_token"))
    theirs("ViTMAEForPreTraining").save_pretrained(tmp_path / "c")
    with pytest.raises(ConfigError, match="has no target encoder"):
        open_hf_model(tmp_path / "c", "target")
    (tmp_path / "c/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        open_hf_model(tmp_path / "c")


def test_what_transformers_cannot_hold_is_not_written(tmp_path: Path) -> None:
    clips = as_loaded(tmp_path, ours("videomae", positions="sincos3d"))
    with pytest.raises(CheckpointError, match="no encoder of clips with positions sincos3d"):
        save_hf_model(tmp_path / "out", clips)
    with pytest.raises(CheckpointError, match="takes images, and this encoder clips"):
        NATIVE["ijepa"].publish(clips)
    with pytest.raises(CheckpointError, match="it has a class token"):
        NATIVE["vit_mae"].publish(as_loaded(tmp_path / "i", ours("ijepa")))
    assert not (tmp_path / "out").exists()


def test_a_decoder_that_videomae_cannot_hold_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = as_loaded(tmp_path, ours("videomae"))
    with torch.no_grad():
        loaded.predictor.predictor_embed.bias.fill_(0.1)
    with caplog.at_level(logging.WARNING, logger="openjepa"):
        folder = save_hf_model(tmp_path / "out", loaded)
    assert "only the encoder is written" in caplog.text
    network, info = load_back("VideoMAEModel", folder)
    assert not any(info.values())
    with torch.no_grad():
        x = pixels(network.config)
        close(features(network, x), tokens(loaded, x))
    with pytest.raises(
        CheckpointError, match=r"predictor_embed\.bias' is not zero, and 'encoder_to_decoder' has no bias"
    ):
        VIDEOMAE_HF.inverse().apply({"predictor.predictor_embed.bias": torch.ones(2)})
