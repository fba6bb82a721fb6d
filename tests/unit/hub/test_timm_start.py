"""Plain vision transformers of timm as weights to start from: the features are timm's own."""

from __future__ import annotations

import pytest
import torch

from openjepa.errors import CheckpointError
from openjepa.hub.adapters import open_encoder
from openjepa.hub.fit import fit_encoder
from openjepa.hub.timm_start import encoder_weights
from openjepa.models import VisionTransformer
from openjepa.models.positions import Positions

pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "patch", "token"),
    [
        ("timm:vit_tiny_patch16_224@random@64px", 16, True),
        ("timm:vit_small_patch14_dinov2@random@56px", 14, True),
    ],
)
def test_features_are_those_of_timm(name: str, patch: int, token: bool) -> None:
    torch.manual_seed(0)
    foreign = open_encoder(name)
    network = foreign.encoder.network
    with torch.no_grad():
        for key, value in network.named_parameters():
            if "gamma" in key or "norm" in key or "bias" in key:
                value.add_(0.3 * torch.randn_like(value))
    weights = encoder_weights(foreign)
    mine = VisionTransformer(
        image_size=foreign.transform.size,
        patch_size=patch,
        dim=network.embed_dim,
        depth=12,
        heads=weights.heads,
        positions=Positions("learned"),
        class_token=token,
    ).eval()
    fit_encoder(mine, weights).load_into(mine)
    x = torch.randn(2, 3, *foreign.transform.size)
    with torch.no_grad():
        theirs = foreign.encoder.forward_features(x)
        ours = mine(x)
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))


def test_what_is_no_plain_vision_transformer_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no plain vision transformer"):
        encoder_weights(open_encoder("timm:resnet18@random"))
    registers = encoder_weights(open_encoder("timm:vit_small_patch14_reg4_dinov2@random@56px"))
    mine = VisionTransformer(
        image_size=(56, 56), patch_size=14, dim=384, depth=12, heads=6, positions=Positions("learned")
    )
    with pytest.raises(CheckpointError, match="reg_token"):
        fit_encoder(mine, registers)
