"""Hugging Face's V-JEPA 2 as a foreign encoder: its own tokens, clips in our layout, its own preprocessing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from openjepa.errors import ConfigError
from openjepa.hub.adapters import is_foreign, open_encoder
from openjepa.hub.vjepa2_hf import open_vjepa2
from openjepa.types import Encoder, Ids

transformers = pytest.importorskip("transformers", reason="extra 'hf' is not installed")

SETTINGS: dict[str, Any] = {
    "patch_size": 8,
    "crop_size": 32,
    "frames_per_clip": 6,
    "hidden_size": 36,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "mlp_ratio": 2.0,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
}


def saved(folder: Path, kind: str = "VJEPA2Model", processor: bool = True, **changes: Any) -> Any:
    torch.manual_seed(0)
    network = getattr(transformers, kind)(transformers.VJEPA2Config(**{**SETTINGS, **changes})).eval()
    network.save_pretrained(folder)
    if processor:
        size = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
        transformers.VJEPA2VideoProcessor(**size, image_mean=[0.4, 0.5, 0.6]).save_pretrained(folder)
    return network


def clip(frames: int = 6, side: int = 32) -> Tensor:
    return torch.randn(2, 3, frames, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["VJEPA2Model", "VJEPA2ForVideoClassification"])
def test_tokens_are_theirs_and_ours(kind: str, tmp_path: Path) -> None:
    """Of a classifier too, the encoder is taken; our encoder with the same weights agrees, layer by layer."""
    network = saved(tmp_path, kind)
    network = getattr(network, "vjepa2", network)
    assert is_foreign(tmp_path)
    encoder, mine = open_encoder(tmp_path).encoder, open_vjepa2(tmp_path).method.encoder
    assert isinstance(encoder, Encoder)
    assert (encoder.grid, encoder.patch_size, encoder.tubelet_size, encoder.embed_dim) == ((3, 4, 4), (8, 8), 2, 36)
    with torch.no_grad():
        for x in (clip(), clip(2), clip(8)):
            wanted = network(x.transpose(1, 2), skip_predictor=True).last_hidden_state
            assert encoder.grid_of(x) == mine.grid_of(x) == (x.shape[2] // 2, 4, 4)
            torch.testing.assert_close(encoder.forward_features(x), wanted)
            torch.testing.assert_close(mine.forward_features(x), wanted, rtol=1e-5, atol=1e-5)
        for norm in ("final", "none"):
            layers = encoder.forward_intermediates(clip(), [0, -1], norm=norm)
            for found, wanted in zip(layers, mine.forward_intermediates(clip(), [0, -1], norm=norm), strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        assert len(encoder.forward_intermediates(clip())) == len(encoder.blocks) == 3


def test_an_image_is_one_tubelet(tmp_path: Path) -> None:
    saved(tmp_path)
    encoder, image = open_encoder(tmp_path).encoder, clip()[:, :, 0]
    with torch.no_grad():
        found = encoder.forward_features(image)
        repeated = encoder.forward_features(image[:, :, None].expand(-1, -1, 2, -1, -1))
    assert found.shape == (2, 16, 36)
    assert torch.equal(found, repeated)


def test_frames_are_prepared_as_the_video_processor_does(tmp_path: Path) -> None:
    saved(tmp_path)
    foreign = open_encoder(tmp_path)
    assert foreign.data is not None
    assert (foreign.data.clip.frames, foreign.data.clip.fps, foreign.data.image_size) == (6, 4.0, 32)
    rows, columns = torch.meshgrid(torch.arange(60.0), torch.arange(90.0), indexing="ij")
    waves = torch.stack([(rows / 7 + t).sin() + (columns / 9).cos() for t in range(6)])
    frames = (127 + 60 * waves).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)  # (T, C, h, w)
    ours = foreign.normalise(foreign.transform(frames)[None])[0]
    processor = transformers.AutoVideoProcessor.from_pretrained(tmp_path)
    theirs = processor(list(frames), return_tensors="pt")["pixel_values_videos"][0].transpose(0, 1)
    assert ours.shape == theirs.shape == (3, 6, 32, 32)
    assert float((ours - theirs).abs().max()) < 2 / 255 / 0.22


def test_without_a_video_processor_the_usual_one_is_taken_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, processor=False)
    with caplog.at_level(logging.WARNING, logger="openjepa"):
        foreign = open_encoder(tmp_path)
    assert "without a video processor" in caplog.text
    assert foreign.data.eval_crop == pytest.approx(224 / 256)
    assert float(foreign.normalise.mean.flatten()[0]) == pytest.approx(0.485)


def test_another_size_moves_the_rotary_places_along(tmp_path: Path) -> None:
    saved(tmp_path)
    foreign, mine = open_encoder(f"{tmp_path}@48px"), open_vjepa2(tmp_path).method.encoder
    with torch.no_grad():
        torch.testing.assert_close(
            foreign.encoder.forward_features(clip(side=48)), mine.forward_features(clip(side=48)), rtol=1e-5, atol=1e-5
        )
        with pytest.raises(ConfigError, match=r"rotary places for 48×48 px, not 32×32: write .*@NNpx"):
            foreign.encoder.forward_features(clip())
    assert foreign.transform.size == (48, 48)


def test_random_weights_differ_and_leave_the_generator_alone(tmp_path: Path) -> None:
    saved(tmp_path)
    state = torch.get_rng_state()
    foreign = open_encoder(f"{tmp_path}@random")
    fresh = foreign.fresh(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert foreign.protocol["weights"] == "random"
    assert not torch.equal(fresh.forward_features(clip()), open_encoder(tmp_path).encoder.forward_features(clip()))


def test_what_it_cannot_do_is_one_line(tmp_path: Path) -> None:
    saved(tmp_path)
    encoder = open_encoder(tmp_path).encoder
    with pytest.raises(ConfigError, match="sees whole clips only"):
        encoder.forward_features(clip(), keep=Ids(torch.zeros(2, 3, dtype=torch.int64)))
    with pytest.raises(ConfigError, match="shorter than one tubelet of 2"):
        encoder.forward_features(clip(1))
