"""V-JEPA 2 of Hugging Face: the same weights give the same features, predictions and logits there and here, both ways."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from openjepa.config import load_recipe
from openjepa.config.schema import (
    ClipConfig,
    DataConfig,
    ModelConfig,
    NarrowPredictorConfig,
    ObjectiveConfig,
    Recipe,
    TubesMask,
)
from openjepa.errors import CheckpointError, OpenJepaError
from openjepa.hub.keymaps import key_map
from openjepa.hub.model_directory import load_model, save_model
from openjepa.hub.vjepa2_hf import MASK_TOKEN, open_vjepa2, open_vjepa2_model, save_vjepa2, save_vjepa2_model
from openjepa.hub.vjepa2_hf_config import config_of
from openjepa.methods import MaskedLatent, build_method
from openjepa.models.attentive import AttentiveClassifier
from openjepa.models.transformer import gather_tokens
from openjepa.types import Ids, MaskGroup, Tokens

transformers = pytest.importorskip("transformers", reason="extra 'hf' is not installed")

SETTINGS: dict[str, Any] = {
    "patch_size": 8,
    "crop_size": 32,
    "frames_per_clip": 6,
    "hidden_size": 36,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "mlp_ratio": 2.5,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 2,
    "pred_num_mask_tokens": 3,
    "num_pooler_layers": 2,
    "id2label": {0: "push", 1: "pull", 2: "lift", 3: "drop", 4: "turn"},
    "label2id": {"push": 0, "pull": 1, "lift": 2, "drop": 3, "turn": 4},
}
TOKENS = 3 * 4 * 4
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one mask token": {"pred_num_mask_tokens": 1},
    "long tubelets": {"tubelet_size": 3},
    "one channel": {"in_chans": 1, "pred_mlp_ratio": 3.0},
    "another epsilon": {"layer_norm_eps": 1e-2},
}


def spread(network: nn.Module) -> None:
    """Weights far from any initialisation, so that no part is without effect (mask tokens begin at zero)."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def theirs(kind: str = "VJEPA2Model", **changes: Any) -> Any:
    config = transformers.VJEPA2Config(**{**SETTINGS, **changes})
    network = getattr(transformers, kind)(config).eval()
    spread(network)
    return network


def ours(**changes: Any) -> MaskedLatent:
    """A method of our own, with a target that differs from the online encoder."""
    model = {"patch_size": 8, "dim": 36, "depth": 3, "heads": 2, "mlp_ratio": 2.5, "rope_pairing": "tiled", **changes}
    recipe = Recipe(
        name="small",
        system="vjepa2",
        data=DataConfig(image_size=32, clip=ClipConfig(frames=6, fps=5.0), mean=(0.5,) * 3, std=(0.2,) * 3),
        mask=TubesMask(),
        model=ModelConfig(arch=None, positions="rope3d", **model),
        predictor=NarrowPredictorConfig(dim=24, depth=2, heads=2, mask_tokens=3),
        objective=ObjectiveConfig(kind="l1", reduction="pair"),
    )
    method = build_method(recipe).eval()
    assert isinstance(method, MaskedLatent)
    spread(method)
    return method


def clip(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 6, 32, 32, generator=torch.Generator().manual_seed(1))


def as_theirs(x: Tensor) -> Tensor:
    """transformers has frames before channels."""
    return x.transpose(1, 2).contiguous()


def ids(*counts: int, tokens: int = TOKENS) -> list[Tensor]:
    """Disjoint random ids per sample, sorted."""
    generator = torch.Generator().manual_seed(2)
    orders = [torch.randperm(tokens, generator=generator) for _ in range(2)]
    parts = [torch.stack(part) for part in zip(*(order.split(counts) for order in orders), strict=True)]
    return [part.sort(dim=1).values for part in parts]


def close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5


def predict_as_they_do(method: MaskedLatent, x: Tensor, context: Tensor, target: Tensor) -> Tensor:
    """Context picked behind the whole encoder, mask token 1."""
    whole, grid = method.online.forward_features(x), method.online.grid_of(x)
    seen = Tokens(gather_tokens(whole, context), grid, Ids(context))
    return method.predictor.predict(seen, Ids(target), mask_tokens=(MASK_TOKEN,))


def same_model(network: Any, method: MaskedLatent) -> None:
    """Features, predictions with all tokens and with masks, intermediate layers."""
    x = clip(network.config.in_chans)
    tokens = len(method.online.rope[0])
    everything = torch.arange(tokens).expand(2, -1)
    context, target = ids(tokens // 3, tokens - tokens // 3 - 5, 5, tokens=tokens)[:2]
    with torch.no_grad():
        full = network(as_theirs(x), output_hidden_states=True)
        part = network(as_theirs(x), context_mask=[context], target_mask=[target])
        close(method.online.forward_features(x), full.last_hidden_state)
        close(predict_as_they_do(method, x, everything, everything), full.predictor_output.last_hidden_state)
        close(predict_as_they_do(method, x, context, target), part.predictor_output.last_hidden_state)
        close(gather_tokens(method.online.forward_features(x), target), part.predictor_output.target_hidden_state)


@pytest.mark.parametrize("name", VARIANTS)
def test_their_weights_here(name: str, tmp_path: Path) -> None:
    network = theirs(**VARIANTS[name])
    network.save_pretrained(tmp_path)
    opened = open_vjepa2(tmp_path)
    assert opened.probe is None
    assert opened.classes == ()
    same_model(network, opened.method)
    assert torch.equal(opened.method.target.norm.weight, opened.method.online.norm.weight)


@pytest.mark.parametrize("which", ["deployed", "target", "online"])
def test_our_weights_there(which: str, tmp_path: Path) -> None:
    method = ours()
    save_vjepa2(tmp_path / "out", method, which=which)
    network, info = transformers.VJEPA2Model.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    if which != "online":
        method.online.load_state_dict(method.target.state_dict())
    same_model(network.eval(), method)


@pytest.mark.parametrize("layers", [0, 3])
def test_their_classifier_here(layers: int, tmp_path: Path) -> None:
    network = theirs("VJEPA2ForVideoClassification", num_pooler_layers=layers)
    network.save_pretrained(tmp_path)
    opened, x = open_vjepa2(tmp_path), clip()
    assert opened.probe is not None
    assert opened.classes == ("push", "pull", "lift", "drop", "turn")
    assert len(opened.probe.pooler.blocks) == layers
    with torch.no_grad():
        close(opened.probe(opened.method.encoder.forward_features(x)), network(as_theirs(x)).logits)
    same_model(network.vjepa2, opened.method)


def probe_of(eps: float | None = 1e-6, **changes: Any) -> AttentiveClassifier:
    probe = AttentiveClassifier(36, **{"heads": 2, "classes": 4, "depth": 4, **changes}).eval()
    spread(probe)
    for module in probe.modules():
        if isinstance(module, nn.LayerNorm) and eps is not None:
            module.eps = eps
    return probe


def test_our_classifier_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    method, probe, x = ours(), probe_of(), clip()
    with caplog.at_level(logging.WARNING, logger="openjepa"):
        save_vjepa2(tmp_path / "out", method, probe, ("a", "b", "c", "d"))
    assert not caplog.records
    load = transformers.VJEPA2ForVideoClassification.from_pretrained
    network, info = load(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    assert network.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}
    with torch.no_grad():
        close(network.eval()(as_theirs(x)).logits, probe(method.encoder.forward_features(x)))


def test_a_probe_of_ours_has_another_epsilon_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    method, probe, x = ours(), probe_of(eps=None), clip()
    with caplog.at_level(logging.WARNING, logger="openjepa"):
        save_vjepa2(tmp_path / "out", method, probe)
    assert "epsilon 1e-06 instead of 1e-05" in caplog.text
    network = transformers.VJEPA2ForVideoClassification.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        wanted = probe(method.encoder.forward_features(x))
        error = float((network(as_theirs(x)).logits - wanted).abs().max() / wanted.abs().max())
    assert 0 < error < 1e-3
    assert network.config.id2label[3] == "LABEL_3"


def test_shorter_and_longer_clips_agree_and_wider_ones_do_not(tmp_path: Path) -> None:
    """transformers takes rows and columns from crop_size: the published encoder and ours from the clip itself."""
    network = theirs()
    network.save_pretrained(tmp_path)
    online = open_vjepa2(tmp_path).method.online
    with torch.no_grad():
        for frames in (2, 4, 10):
            x = torch.randn(1, 3, frames, 32, 32)
            close(online.forward_features(x), network(as_theirs(x), skip_predictor=True).last_hidden_state)
        x = torch.randn(1, 3, 6, 32, 48)
        theirs_wide = network(as_theirs(x), skip_predictor=True).last_hidden_state
        wide = online.forward_features(x)
    assert wide.shape == theirs_wide.shape
    assert float((wide - theirs_wide).abs().max() / wide.abs().max()) > 1e-3


def test_their_context_has_seen_everything(tmp_path: Path) -> None:
    """Masks behind the encoder are not the masks of training; ``MaskedLatent.predict`` encodes visible tokens alone."""
    network = theirs()
    network.save_pretrained(tmp_path)
    method, x = open_vjepa2(tmp_path).method, clip()
    context, target = ids(20, TOKENS - 20)
    group = MaskGroup([Ids(context)], [Ids(target)], [(0, 0)], (3, 4, 4), "video", (MASK_TOKEN,))
    with torch.no_grad():
        output = network(as_theirs(x), context_mask=[context], target_mask=[target])
        trained, _, _ = method.predict(x, group)
    wanted = output.predictor_output.last_hidden_state
    assert float((trained - wanted).abs().max() / wanted.abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("vjepa2-vitl16-release", {}),
        ("vjepa2-vith16-release", {"hidden_size": 1280, "num_hidden_layers": 32}),
        (
            "vjepa2-vitg16-384-release",
            {"hidden_size": 1408, "num_hidden_layers": 40, "num_attention_heads": 22, "mlp_ratio": 48 / 11},
        ),
    ],
)
def test_released_sizes_have_their_names_and_shapes(recipe: str, changes: dict[str, Any]) -> None:
    """On the meta device: nothing is computed, every name and shape is compared."""
    with torch.device("meta"):
        network = transformers.VJEPA2Model(transformers.VJEPA2Config(**changes))
        method = build_method(load_recipe(recipe))
    ours = {key: value for key, value in method.state_dict().items() if not key.startswith("target.")}
    written = key_map("vjepa2-hf").inverse().apply(ours).tensors
    assert {key: value.shape for key, value in written.items()} == {
        key: value.shape for key, value in network.state_dict().items()
    }
    config = {
        key: value
        for key, value in config_of(method.recipe, method.online).items()
        if key not in ("crop_size", "frames_per_clip")
    }
    assert config.items() >= {key: value for key, value in changes.items() if key != "mlp_ratio"}.items()
    assert config["mlp_ratio"] == pytest.approx(changes.get("mlp_ratio", 4.0))
    assert config["pred_num_mask_tokens"] == 10


def test_both_maps_write_what_they_read() -> None:
    network = theirs("VJEPA2ForVideoClassification")
    state = {key.removeprefix("vjepa2."): value for key, value in network.state_dict().items()}
    for name, mine in {"vjepa2-probe-hf": ("pooler.", "classifier."), "vjepa2-hf": ("encoder.", "predictor.")}.items():
        part = {key: value for key, value in state.items() if key.startswith(mine)}
        back = key_map(name).inverse().apply(key_map(name).apply(part).tensors).tensors
        assert back.keys() == part.keys()
        assert all(torch.equal(back[key], part[key]) for key in part)


def test_an_imported_model_is_saved_and_loaded_like_a_run(tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path / "theirs")
    method = open_vjepa2(tmp_path / "theirs").method
    loaded = load_model(save_model(tmp_path / "ours", method, method.recipe))
    with torch.no_grad():
        assert torch.equal(loaded.encoder.forward_features(clip()), method.encoder.forward_features(clip()))


def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    network = theirs()
    network.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    same_model(network, open_vjepa2(tmp_path).method)


def test_preprocessing_goes_both_ways(tmp_path: Path) -> None:
    save_vjepa2(tmp_path / "out", ours())
    processor = transformers.AutoVideoProcessor.from_pretrained(tmp_path / "out")
    assert tuple(processor.image_mean) == (0.5,) * 3
    assert (processor.size["shortest_edge"], processor.crop_size["height"]) == (36, 32)
    data = open_vjepa2(tmp_path / "out").method.recipe.data
    assert data.mean == (0.5,) * 3
    assert data.eval_crop == pytest.approx(32 / 36)
    assert (data.clip.frames, data.clip.fps) == (6, 5.0)


def damaged(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "vit"}, "model_type 'vit', not 'vjepa2'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"num_hidden_layers": 4}, "12 missing"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"hidden_size": "wide"}, "describes no V-JEPA 2"),
    ],
)
def test_what_is_no_v_jepa_2_is_refused_in_one_line(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path)
    with pytest.raises(OpenJepaError, match=words) as error:
        open_vjepa2(damaged(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no config.json"):
        open_vjepa2(tmp_path)


def test_what_transformers_cannot_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="rope_pairing tiled"):
        save_vjepa2(tmp_path / "a", ours(rope_pairing="interleaved"))
    for newer in ({"rope_grid": 16}, {"taps": 3}):
        with pytest.raises(CheckpointError, match=r"no model.taps, no model.rope_grid"):
            save_vjepa2(tmp_path / "a", ours(**newer))
    with pytest.raises(CheckpointError, match="as many heads as the encoder, 2, not 4"):
        save_vjepa2(tmp_path / "a", ours(), probe_of(heads=4))
    with pytest.raises(CheckpointError, match="3 classes are named for 4 logits"):
        save_vjepa2(tmp_path / "a", ours(), probe_of(), ("a", "b", "c"))
    with pytest.raises(CheckpointError, match="one query and the form vjepa2"):
        save_vjepa2(tmp_path / "a", ours(), probe_of(form="vjepa"))
    with pytest.raises(CheckpointError, match="complete block"):
        save_vjepa2(tmp_path / "a", ours(), probe_of(depth=1, complete_block=False))
    assert not (tmp_path / "a").exists()


def test_a_loaded_model_goes_both_ways_with_its_classifier(tmp_path: Path) -> None:
    """As every import: encoder, predictor, classifier and where they are from, in one LoadedModel."""
    network = theirs("VJEPA2ForVideoClassification")
    network.save_pretrained(tmp_path / "theirs")
    loaded, x = open_vjepa2_model(tmp_path / "theirs"), clip()
    assert (loaded.which, loaded.provenance.layout) == ("target", "vjepa2-hf")
    assert any("16 heads and 1e-5" in note for note in loaded.provenance.notes)
    again = open_vjepa2_model(save_vjepa2_model(tmp_path / "again", loaded), "online")
    there = transformers.VJEPA2ForVideoClassification.from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        for model in (loaded, again):
            close(model.probe.classifier(model.encoder.forward_features(x)), network(as_theirs(x)).logits)
        close(there(as_theirs(x)).logits, network(as_theirs(x)).logits)
    assert again.probe.classes == loaded.probe.classes == ("push", "pull", "lift", "drop", "turn")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(CheckpointError, match="it has a predictor, and this model none"):
        save_vjepa2_model(tmp_path / "a", replace(loaded, predictor=None))


def test_what_the_layout_has_no_place_for_is_not_lost(tmp_path: Path) -> None:
    """A V-JEPA 2.1 with tiled positions would otherwise be written without its modality embeddings."""
    method = ours(modality_embeddings=True)
    with pytest.raises(CheckpointError, match=r"vjepa2 has no place for .* tensors of this model \(online\."):
        save_vjepa2(tmp_path / "a", method)
