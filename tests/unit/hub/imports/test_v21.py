"""The four published V-JEPA 2.1 files at their true sizes, on the meta device, by names written down without our models."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from openjepa.errors import CheckpointError
from openjepa.hub.imports import Contents, import_contents, published_state, recognise
from openjepa.models import NarrowPredictor
from tests.unit.hub.imports.published import block, whole

Shapes = dict[str, tuple[int, ...]]
TEACHER, WIDTH, TOKENS = 1664, 384, 8
SIZES = {
    # name: section of the slow average, dim, depth, hidden, heads, predictor depth, levels, taps, millions of the encoder
    "vitb distilled": ("ema_encoder", 768, 12, 3072, 12, 12, 1, (2, 5, 8, 11), 86.8),
    "vitl distilled": ("ema_encoder", 1024, 24, 4096, 16, 12, 1, (5, 11, 17, 23), 304.7),
    "vitg": ("target_encoder", 1408, 40, 6144, 22, 24, 4, (9, 19, 29, 39), 1013.3),
    "vitG": ("target_encoder", 1664, 48, 8192, 26, 24, 4, (11, 23, 37, 47), 1845.2),
}


def encoder(dim: int, depth: int, hidden: int) -> Shapes:
    shapes: Shapes = {"img_mod_embed": (1, 1, dim), "video_mod_embed": (1, 1, dim)}
    shapes |= {"patch_embed.proj.weight": (dim, 3, 2, 16, 16), "patch_embed.proj.bias": (dim,)}
    shapes |= {"patch_embed_img.proj.weight": (dim, 3, 1, 16, 16), "patch_embed_img.proj.bias": (dim,)}
    for number in range(depth):
        shapes |= block(f"blocks.{number}", dim, hidden)
    return shapes | {f"norms_block.{k}.{kind}": (dim,) for k in range(4) for kind in ("weight", "bias")}


def predictor(dim: int, depth: int, levels: int) -> Shapes:
    shapes: Shapes = {"video_mod_embed": (1, 1, WIDTH), "img_mod_embed": (1, 1, WIDTH)}
    if levels == 1:
        shapes |= {"predictor_embed.weight": (WIDTH, dim), "predictor_embed.bias": (WIDTH,)}
    else:
        shapes |= {"predictor_embed.0.weight": (dim, levels * dim), "predictor_embed.0.bias": (dim,)}
        shapes |= {"predictor_embed.2.weight": (WIDTH, dim), "predictor_embed.2.bias": (WIDTH,)}
    shapes |= {f"mask_tokens.{number}": (1, 1, WIDTH) for number in range(TOKENS)}
    for number in range(depth):
        shapes |= block(f"predictor_blocks.{number}", WIDTH, 4 * WIDTH)
    shapes |= {"predictor_norm.weight": (WIDTH,), "predictor_norm.bias": (WIDTH,)}
    out = TEACHER if levels == 1 else levels * dim
    for name in ("predictor_proj", "predictor_proj_context"):
        shapes |= {f"{name}.weight": (out, WIDTH), f"{name}.bias": (out,)}
    return shapes


def published(name: str) -> dict[str, Tensor]:
    slow, dim, depth, hidden, _, deep, levels, *_ = SIZES[name]
    shapes = encoder(dim, depth, hidden)
    parts = {"encoder": shapes, "predictor": predictor(dim, deep, levels), slow: dict(shapes)}
    return whole("module.backbone.", parts)


@pytest.mark.parametrize("name", SIZES)
def test_true_sizes_import_strictly_and_go_back_to_the_published_names(name: str) -> None:
    slow, dim, depth, _, heads, deep, levels, taps, millions = SIZES[name]
    tensors = published(name)
    contents = Contents(Path("published.pt"), tensors)
    loaded = import_contents(contents)
    made, network = loaded.encoder, loaded.predictor
    assert (made.embed_dim, made.depth, made.heads, made.tap_blocks) == (dim, depth, heads, taps)
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(millions, rel=2e-3)
    assert (loaded.config.image_hw, loaded.config.frames, loaded.config.grid) == ((384, 384), 64, (32, 24, 24))
    assert (made.positions.plane, made.positions.pairing) == (16, "interleaved")
    assert isinstance(network, NarrowPredictor)
    assert (len(network.predictor_blocks), network.levels) == (deep, levels)
    assert network.predictor_proj_context is not None
    assert loaded.provenance is not None
    assert loaded.provenance.which == slow
    back = published_state(loaded, recognise(contents))
    assert {key: tuple(value.shape) for key, value in back.items()} == {k: tuple(v.shape) for k, v in tensors.items()}


def test_the_online_encoder_is_given_by_name() -> None:
    loaded = import_contents(Contents(Path("published.pt"), published("vitb distilled")), which="online")
    assert loaded.provenance is not None
    assert loaded.provenance.which == "encoder"


def test_hints_say_size_and_frames() -> None:
    hints = {"image_size": 256, "frames": 16, "fps": 8}
    loaded = import_contents(Contents(Path("published.pt"), published("vitb distilled"), hints=hints))
    assert loaded.config.grid == (8, 16, 16)
    assert loaded.config.data.clip is not None
    assert loaded.config.data.clip.fps == 8


def test_an_encoder_alone_opens_and_half_a_predictor_does_not() -> None:
    tensors = published("vitb distilled")
    alone = {key: value for key, value in tensors.items() if key.startswith("ema_encoder.")}
    assert import_contents(Contents(Path("alone.pt"), alone)).predictor is None
    half = {key: value for key, value in tensors.items() if "predictor_blocks.7" not in key}
    with pytest.raises(CheckpointError, match="does not match"):
        import_contents(Contents(Path("half.pt"), half))
    cut = {key: value for key, value in tensors.items() if "norms_block.3" not in key}
    with pytest.raises(CheckpointError, match="3 norms of tapped outputs, not 4"):
        import_contents(Contents(Path("cut.pt"), cut))


def test_a_predictor_of_no_whole_number_of_levels_is_refused() -> None:
    tensors = published("vitg")
    name = "predictor.module.backbone.predictor_embed.0.weight"
    tensors[name] = tensors[name][:, :-1]
    with pytest.raises(CheckpointError, match="no whole number of levels"):
        import_contents(Contents(Path("odd.pt"), tensors))
