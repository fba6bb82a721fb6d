"""Published MAE weights: the same weights and the same mask give the same features and the same loss as transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from openjepa.errors import CheckpointError
from openjepa.hub.keymaps import key_map
from openjepa.hub.mae_hf import MAE_HF, open_mae
from openjepa.hub.model_directory import load_model, save_model
from openjepa.types import Batch, Ids, MaskGroup, Progress

transformers = pytest.importorskip("transformers", reason="extra 'hf' is not installed")

SETTINGS = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 3,
    "decoder_intermediate_size": 40,
    "norm_pix_loss": True,
}


def published(folder: Path, **changes: Any) -> Any:
    """A small MAE with weights far from any initialisation, so that no part of it is without effect."""
    torch.manual_seed(0)
    model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**{**SETTINGS, **changes})).eval()
    with torch.no_grad():
        # transformers 5 leaves both position tables zero until weights are loaded; its own code then fills them
        embeddings = model.vit.embeddings
        embeddings.patch_embeddings.projection._is_hf_initialized = False
        embeddings.initialize_weights()
        model.decoder.initialize_weights(16)
        for name, parameter in model.named_parameters():
            if "pos" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def same_mask(noise: Tensor, ratio: float) -> MaskGroup:
    """The patches with the smallest noise are kept, in that order, as transformers does."""
    order = noise.argsort(dim=1)
    keep = int(noise.shape[1] * (1 - ratio))
    return MaskGroup([Ids(order[:, :keep])], [Ids(order[:, keep:])], [(0, 0)], (4, 4))


@pytest.mark.parametrize(
    "changes", [{}, {"norm_pix_loss": False}, {"mask_ratio": 0.5}, {"layer_norm_eps": 1e-6}], ids=str
)
def test_the_same_weights_and_mask_give_the_same_loss_and_gradients(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs, x = published(tmp_path, **changes), images()
    noise = torch.rand(3, 16, generator=torch.Generator().manual_seed(2))
    wanted = theirs(x, noise=noise).loss
    method = open_mae(tmp_path)
    group, ids = same_mask(noise, theirs.config.mask_ratio), torch.arange(3)
    output = method(Batch({"image": x}, ids, ids), [group], Progress(0, 1))
    loss = output.loss_sum / output.count
    assert output.count == group.targets[0].count() * 192
    assert float(abs(loss - wanted) / wanted) < 1e-5
    loss.backward()
    wanted.backward()
    ours = method.online.patch_embed.proj.weight.grad
    gradient = theirs.vit.embeddings.patch_embeddings.projection.weight.grad
    assert ours is not None
    torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(method.predictor.mask_token.grad, theirs.decoder.mask_token.grad, rtol=1e-4, atol=1e-6)


def test_the_encoder_gives_the_published_features(tmp_path: Path) -> None:
    theirs, x = published(tmp_path, mask_ratio=0.0), images()
    with torch.no_grad():
        wanted = theirs.vit(x, noise=torch.arange(16.0).expand(3, -1)).last_hidden_state
        online = open_mae_with(tmp_path, mask_ratio=0.75).online
        torch.testing.assert_close(online.forward_features(x), wanted[:, 1:], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(online.forward_features(x, prefix=True), wanted, rtol=1e-5, atol=1e-5)


def open_mae_with(folder: Path, **changes: Any) -> Any:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return open_mae(folder)


def test_the_map_reads_published_and_newer_names_and_writes_the_published_ones(tmp_path: Path) -> None:
    published(tmp_path)
    method = open_mae(tmp_path)
    state = method.state_dict()
    names = MAE_HF.inverse().apply(state).tensors
    assert "decoder.decoder_layers.1.attention.attention.key.weight" in names
    assert "vit.encoder.layer.2.intermediate.dense.bias" in names
    back = MAE_HF.apply(names).tensors
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert key_map("mae-hf") is MAE_HF


def test_an_imported_mae_is_saved_and_loaded_like_a_run(tmp_path: Path) -> None:
    published(tmp_path / "theirs", layer_norm_eps=1e-6)
    method = open_mae(tmp_path / "theirs")
    loaded = load_model(save_model(tmp_path / "ours", method, method.recipe))
    x = images()
    with torch.no_grad():
        assert torch.equal(loaded.encoder.forward_features(x), method.encoder.forward_features(x))


def test_position_tables_that_are_not_sincos_are_refused(tmp_path: Path) -> None:
    model = published(tmp_path)
    with torch.no_grad():
        model.decoder.decoder_pos_embed.zero_()
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="decoder's position table is not the fixed sincos"):
        open_mae(tmp_path)


def test_what_is_no_mae_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no config.json"):
        open_mae(tmp_path)
    published(tmp_path / "mae")
    with pytest.raises(CheckpointError, match="model_type 'vit', not 'vit_mae'"):
        open_mae_with(tmp_path / "mae", model_type="vit")
    with pytest.raises(CheckpointError, match="hidden_act is 'relu'"):
        open_mae_with(tmp_path / "mae", model_type="vit_mae", hidden_act="relu")
    with pytest.raises(CheckpointError, match=r"match"):
        open_mae_with(tmp_path / "mae", hidden_act="gelu", num_hidden_layers=4)
