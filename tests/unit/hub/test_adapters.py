"""Foreign encoders: what they give equals what their own library gives, images are prepared as it prepares them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from openjepa.data.channels import to_tensor
from openjepa.errors import CheckpointError, ConfigError, MissingExtra
from openjepa.features import extract
from openjepa.features.store import weights_hash
from openjepa.hub.adapters import is_foreign, open_encoder, parse_spec
from openjepa.types import Encoder, Ids

timm = pytest.importorskip("timm", reason="extra 'timm' is not installed")
transformers = pytest.importorskip("transformers", reason="extra 'hf' is not installed")

TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
SQUARE = {"image_size": 32, "patch_size": 8}
SMALL = "timm:vit_tiny_patch16_224@random@32px"


def picture(height: int, width: int) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / 7), np.cos(columns / 5), np.sin((rows + columns) / 9)], axis=-1)
    return Image.fromarray(np.uint8(127 + 120 * waves))


def batch(size: int = 32, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def saved(config: object, folder: Path) -> Path:
    torch.manual_seed(11)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


def configs() -> dict[str, object]:
    t = transformers
    return {
        "vit": t.ViTConfig(**TINY, **SQUARE),
        "deit": t.DeiTConfig(**TINY, **SQUARE),
        "dinov2": t.Dinov2Config(**TINY, **SQUARE),
        "registers": t.Dinov2WithRegistersConfig(**TINY, **SQUARE, num_register_tokens=4),
        "dinov3": t.DINOv3ViTConfig(**TINY, **SQUARE, num_register_tokens=4),
        "ijepa": t.IJepaConfig(**TINY, **SQUARE),
        "data2vec": t.Data2VecVisionConfig(**TINY, **SQUARE),
        "siglip": t.SiglipVisionConfig(**TINY, **SQUARE),
        "swin": t.SwinConfig(
            image_size=32, patch_size=2, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 1, 1], window_size=4
        ),
        "resnet": t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    }


def test_a_timm_transformer_gives_timms_own_tokens_without_the_class_token() -> None:
    foreign = open_encoder(SMALL)
    encoder, x = foreign.encoder, batch()
    assert isinstance(encoder, Encoder)
    with torch.no_grad():
        own = encoder.network.forward_features(x)
        assert torch.equal(encoder.forward_features(x), own[:, 1:])
        last = encoder.forward_intermediates(x, 4)
    assert (encoder.embed_dim, encoder.patch_size, encoder.grid, encoder.depth) == (192, (16, 16), (2, 2), 12)
    assert len(last) == 4
    torch.testing.assert_close(last[-1], own[:, 1:])


def test_a_norm_behind_the_pooling_is_applied_to_every_token() -> None:
    """vit models pooled by averaging have fc_norm; their forward_features are not normalised."""
    encoder = open_encoder("timm:vit_wee_patch16_reg1_gap_256@random@32px").encoder
    network = encoder.network
    assert isinstance(network.norm, nn.Identity)
    nn.init.normal_(network.fc_norm.weight)
    with torch.no_grad():
        x = batch()
        wanted = network.fc_norm(network.forward_features(x))[:, 1:]  # a register in front
        torch.testing.assert_close(encoder.forward_features(x), wanted)


def test_a_copy_uses_its_own_norm_behind_the_pooling() -> None:
    """Fine-tuning trains a copy: the norm that is applied must be the copy's, not the original's."""
    encoder = open_encoder("timm:vit_wee_patch16_reg1_gap_256@random@32px").encoder
    twin = copy.deepcopy(encoder)
    with torch.no_grad():
        twin.network.fc_norm.weight.zero_()
        assert float(twin.forward_features(batch()).abs().max()) == 0
        assert float(twin.forward_intermediates(batch(), 1)[0].abs().max()) == 0
        assert float(encoder.forward_features(batch()).abs().max()) > 0


@pytest.mark.parametrize(("name", "last"), [("resnet10t", False), ("swin_tiny_patch4_window7_224", True)])
def test_a_feature_map_of_timm_becomes_row_major_tokens(name: str, last: bool) -> None:
    encoder, x = open_encoder(f"timm:{name}@random@64px").encoder, batch(64, 1)
    with torch.no_grad():
        found, own = encoder.forward_features(x), encoder.network.forward_features(x)
    assert (encoder.grid, encoder.patch_size) == ((2, 2), (32, 32))
    assert found.shape == (1, 4, encoder.embed_dim)
    torch.testing.assert_close(found[0, 2], own[0, 1, 0] if last else own[0, :, 1, 0])
    assert not hasattr(encoder, "forward_intermediates")


def test_images_are_prepared_as_timm_prepares_them() -> None:
    foreign = open_encoder("timm:vit_tiny_patch16_224@random")
    network = timm.create_model("vit_tiny_patch16_224")
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    image = picture(300, 420)
    ours = foreign.normalise(foreign.transform(to_tensor(np.asarray(image)))[None])[0]
    wanted = theirs(image)
    assert ours.shape == wanted.shape == (3, 224, 224)
    assert float((ours - wanted).abs().mean()) < 2 / 255  # PIL and torch round differently
    assert float((ours - wanted).abs().max()) < 8 / 255 / 0.5


@pytest.mark.parametrize("kind", configs())
def test_a_hugging_face_encoder_gives_its_own_tokens(kind: str, tmp_path: Path) -> None:
    folder = saved(configs()[kind], tmp_path / kind)
    source = transformers.AutoModel.from_pretrained(folder).eval()
    foreign = open_encoder(folder)
    encoder, x = foreign.encoder, batch(foreign.transform.size[0])
    with torch.no_grad():
        own = source(x).last_hidden_state
        found = encoder.forward_features(x)
    own = own.flatten(2).transpose(1, 2) if own.ndim == 4 else own
    torch.testing.assert_close(found, own[:, own.shape[1] - found.shape[1] :])
    h, w = encoder.grid
    assert found.shape == (2, h * w, encoder.embed_dim)
    prefix = {"vit": 1, "deit": 2, "dinov2": 1, "registers": 5, "dinov3": 5, "data2vec": 1}.get(kind, 0)
    assert own.shape[1] - found.shape[1] == prefix
    plain = kind not in ("swin", "resnet")
    assert hasattr(encoder, "forward_intermediates") == plain
    if plain:
        with torch.no_grad():
            torch.testing.assert_close(encoder.forward_intermediates(x, 1)[0], found)
            assert len(encoder.forward_intermediates(x, [0, 2])) == 2


def test_blocks_of_a_hugging_face_encoder_are_its_hidden_states(tmp_path: Path) -> None:
    folder = saved(configs()["vit"], tmp_path / "vit")
    source = transformers.AutoModel.from_pretrained(folder).eval()
    encoder, x = open_encoder(folder).encoder, batch()
    with torch.no_grad():
        states = source(x, output_hidden_states=True).hidden_states  # the embedding first
        raw = encoder.forward_intermediates(x, norm="none")
        normed = encoder.forward_intermediates(x, [1])
        torch.testing.assert_close(raw[1], states[2][:, 1:])
        torch.testing.assert_close(normed[0], source.layernorm(states[2])[:, 1:])


def test_a_masked_autoencoder_sees_everything_in_order(tmp_path: Path) -> None:
    """Both shapes of a saved ViTMAE; transformers itself would hide three quarters and shuffle the rest."""
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        **TINY, **SQUARE, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2
    )
    whole = transformers.ViTMAEForPreTraining(config).eval()
    whole.vit.embeddings.position_embeddings.data.normal_()
    whole.save_pretrained(tmp_path / "mae")
    encoder, x = open_encoder(tmp_path / "mae").encoder, batch()
    with torch.no_grad():
        first = encoder.forward_features(x)
        assert torch.equal(first, encoder.forward_features(x))
        embedded = whole.vit.embeddings.patch_embeddings(x) + whole.vit.embeddings.position_embeddings[:, 1:]
        token = whole.vit.embeddings.cls_token + whole.vit.embeddings.position_embeddings[:, :1]
        states = torch.cat([token.expand(2, -1, -1), embedded], dim=1)
        for layer in whole.vit.layers:
            found = layer(states)
            states = found if isinstance(found, Tensor) else found[0]
        torch.testing.assert_close(first, whole.vit.layernorm(states)[:, 1:])
        table = open_encoder(tmp_path / "mae").fresh().network.embeddings.position_embeddings
        assert torch.equal(table, whole.vit.embeddings.position_embeddings)  # it is fixed, so a fresh one has it too
    assert first.shape == (2, 16, 32)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 32, "width": 32}, "resample": 2},
        {
            "size": {"shortest_edge": 40},
            "crop_size": {"height": 32, "width": 32},
            "do_center_crop": True,
            "resample": 3,
        },
    ],
    ids=["squash", "crop"],
)
def test_images_are_prepared_as_the_image_processor_does(settings: dict[str, object], tmp_path: Path) -> None:
    folder = saved(configs()["vit"], tmp_path / "vit")
    kind = transformers.BitImageProcessor if "crop_size" in settings else transformers.ViTImageProcessor
    processor = kind(**settings, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], do_normalize=True)
    processor.save_pretrained(folder)
    foreign, image = open_encoder(folder), picture(50, 70)
    ours = foreign.normalise(foreign.transform(to_tensor(np.asarray(image)))[None])[0]
    wanted = processor(image, return_tensors="pt")["pixel_values"][0]
    assert ours.shape == wanted.shape
    assert float((ours - wanted).abs().max()) < 4 / 255 / 0.2


def test_without_an_image_processor_the_size_is_the_models_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = open_encoder(saved(configs()["vit"], tmp_path / "vit"))
    assert foreign.transform.size == (32, 32)
    assert foreign.normalise.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert "without an image processor" in caplog.text


def test_a_smaller_input_is_taken_where_it_is_asked_for(tmp_path: Path) -> None:
    folder = saved(configs()["vit"], tmp_path / "vit")
    foreign = open_encoder(f"{folder}@16px")
    assert foreign.transform.size == (16, 16)
    assert foreign.encoder.grid == (2, 2)


@pytest.mark.parametrize("where", ["timm", "hf"])
def test_fresh_is_the_same_architecture_with_other_weights_and_leaves_the_generator_alone(
    where: str, tmp_path: Path
) -> None:
    spec = SMALL if where == "timm" else saved(configs()["vit"], tmp_path / "vit")
    foreign = open_encoder(spec)
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    fresh, again, other = foreign.fresh(), foreign.fresh(), foreign.fresh(1)
    assert torch.equal(torch.rand(1), wanted)
    assert fresh.forward_features(batch()).shape == foreign.encoder.forward_features(batch()).shape
    hashes = {weights_hash(part) for part in (foreign.encoder, fresh, other)}
    assert len(hashes) == 3
    assert weights_hash(fresh) == weights_hash(again)


def test_cached_features_are_told_apart_by_what_changes_them(tmp_path: Path) -> None:
    """Weights equal, another attention layout: other features, hence another key; the same folder twice: one key."""
    two = open_encoder(saved(transformers.ViTConfig(**TINY, **SQUARE), tmp_path / "two"))
    again = open_encoder(tmp_path / "two")
    four_heads = transformers.ViTConfig(**{**TINY, "num_attention_heads": 4}, **SQUARE)
    four = open_encoder(saved(four_heads, tmp_path / "four"))
    four.encoder.load_state_dict(two.encoder.state_dict())
    assert weights_hash(two.encoder) == weights_hash(again.encoder)
    assert weights_hash(two.encoder) != weights_hash(four.encoder)
    assert "0x" not in repr(two.transform)


def test_features_of_the_last_four_blocks_are_joined() -> None:
    foreign = open_encoder(SMALL)
    ids = torch.arange(2)
    from openjepa.types import Batch

    found = extract(
        foreign.encoder,
        [Batch({"image": torch.rand(2, 3, 32, 32)}, ids, ids)],
        normalise=foreign.normalise,
        layers="last4",
    )
    assert found.values.shape == (2, 4 * 192)


def test_masks_are_refused_in_one_line() -> None:
    encoder = open_encoder(SMALL).encoder
    with pytest.raises(ConfigError, match="sees whole images only"):
        encoder.forward_features(batch(), keep=Ids(torch.zeros(2, 1, dtype=torch.int64)))
    with pytest.raises(ConfigError, match="sees whole images only"):
        encoder.forward_intermediates(batch(), 1, keep=Ids(torch.zeros(2, 1, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:vit_tiny_patch61_224", "did you mean 'vit_tiny_patch16_224'"),
        ("timm:vit_tiny_patch16_224.agreg_in21k", "did you mean 'augreg_in21k'"),
        ("timm:", "names no model"),
        ("timm:crossvit_9_240@random", "several feature maps"),
    ],
)
def test_a_name_that_cannot_be_used_is_one_line(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        open_encoder(name)
    assert "\n" not in str(caught.value)


def test_a_failed_download_is_one_line_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("Max retries exceeded\nwith a long trace")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(CheckpointError, match=r"timm:resnet18.*network.*@random") as caught:
        open_encoder("timm:resnet18")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    with pytest.raises(CheckpointError, match=r"hf:some/where.*network") as caught:
        open_encoder("hf:some/where")
    assert "\n" not in str(caught.value)


def test_a_text_model_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ConfigError, match="'bert' model, which reads no images"):
        open_encoder(tmp_path / "bert")


def test_weights_that_are_missing_are_not_drawn_at_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved(configs()["vit"], tmp_path / "vit")
    tensors = load_file(folder / "model.safetensors")
    gone = [key for key in tensors if "layer" in key and ".2." in key]
    assert gone
    save_file({k: v for k, v in tensors.items() if k not in gone}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"no weights for {len(gone)} tensors of its encoder, first layers.2"):
        open_encoder(folder)
    assert open_encoder(f"{folder}@random").protocol["weights"] == "random"


def test_the_licence_is_read_from_the_card(tmp_path: Path) -> None:
    folder = saved(configs()["vit"], tmp_path / "vit")
    assert open_encoder(folder).licence is None
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\ntags: [x]\n---\n# A card")
    assert open_encoder(folder).licence == "cc-by-nc-4.0"


def test_a_missing_library_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"pip install 'openjepa\[timm\]'"):
        open_encoder("timm:resnet18@random")


def test_what_counts_as_foreign(tmp_path: Path) -> None:
    saved(configs()["vit"], tmp_path / "vit")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "config.json").write_text('{"format": "openjepa-model", "model_type": "x"}')
    assert is_foreign("timm:anything")
    assert is_foreign("hf:org/name")
    assert is_foreign(tmp_path / "vit")
    assert is_foreign(f"{tmp_path / 'vit'}@random")
    assert not is_foreign(tmp_path / "ours")
    assert not is_foreign(tmp_path / "nothing")


def test_names_are_taken_apart() -> None:
    spec = parse_spec("timm:vit_base_patch14_dinov2.lvd142m@224px")
    assert (spec.kind, spec.name, spec.random, spec.pixels) == ("timm", "vit_base_patch14_dinov2.lvd142m", False, 224)
    spec = parse_spec("hf:org/name@random")
    assert (spec.kind, spec.name, spec.random, spec.pixels) == ("hf", "org/name", True, None)
    assert parse_spec("/some/dir@v2").name == "/some/dir@v2"
