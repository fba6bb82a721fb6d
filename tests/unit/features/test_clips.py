"""Features of clips: segments and views, what a cache entry is of, frames alone, pixels and differences."""

from __future__ import annotations

import pytest
import torch

from openjepa.config.schema import ClipConfig, DataConfig
from openjepa.data import EvalTransform, Normalise, eval_transform, open_source
from openjepa.data.clips import Clips
from openjepa.errors import ConfigError, DataError
from openjepa.features import ClipOptions, EachFrame, cached_extract, extract, frame_by_frame, raw_pixels
from openjepa.features.clips import frame_differences, frame_pixels
from openjepa.models import VisionTransformer
from openjepa.models.positions import Positions
from openjepa.types import Batch
from tests.tiny_video import coloured_videos

NORMALISE = Normalise((0.5,) * 3, (0.5,) * 3)


def encoder(frames: int | None = 4, seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    kind = "sincos2d" if frames is None else "rope3d"
    return VisionTransformer(
        image_size=(16, 16), patch_size=8, frames=frames, dim=24, depth=4, heads=2, positions=Positions(kind)
    ).eval()


def batch_of(x: torch.Tensor) -> Batch:
    return Batch({"image" if x.ndim == 4 else "video": x}, torch.arange(len(x)), torch.arange(len(x)))


def values(network: torch.nn.Module, x: torch.Tensor, **options: object) -> torch.Tensor:
    return extract(network, [batch_of(x)], normalise=NORMALISE, **options).values


def clips(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_pooled_features_of_views_are_averages() -> None:
    network, x = encoder(), clips(2, 6, 3, 4, 16, 16)
    apart = torch.stack([values(network, x[:, v]) for v in range(6)]).mean(0)
    torch.testing.assert_close(values(network, x, views=3), apart)
    wide = values(network, x, views=3, layers="last4")
    assert wide.shape == (2, 96)
    torch.testing.assert_close(wide[:, -24:], apart)


def test_tokens_of_segments_are_joined_in_time_per_spatial_view_or_stand_apart() -> None:
    network, x = encoder(), clips(2, 6, 3, 4, 16, 16)  # 2 segments x 3 views, 8 tokens each
    one = [values(network, x[:, v], tokens="patch") for v in range(6)]
    joined = values(network, x, tokens="patch", views=3, across="attend")
    assert joined.shape == (2, 3, 16, 24)
    for view in range(3):
        torch.testing.assert_close(joined[:, view], torch.cat([one[view], one[3 + view]], dim=1))
    apart = values(network, x, tokens="patch", views=3, across="average")
    torch.testing.assert_close(apart, torch.stack(one, dim=1))
    assert values(network, x, tokens="patch", views=1, across="attend").shape == (2, 48, 24)
    assert values(network, x[:, 0], tokens="patch").shape == (2, 8, 24)


def test_the_protocol_says_what_clips_were_seen() -> None:
    found = extract(encoder(), [batch_of(clips(2, 6, 3, 4, 16, 16))], normalise=NORMALISE, tokens="patch", views=3)
    said = {key: found.protocol[key] for key in ("frames", "segments", "views", "across")}
    assert said == {"frames": 4, "segments": 2, "views": 3, "across": "attend"}
    assert "frames" not in extract(encoder(None), [batch_of(clips(2, 3, 16, 16))], normalise=NORMALISE).protocol


def test_views_that_do_not_divide_the_clips_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="5 clips per video are no whole number of segments with 3"):
        values(encoder(), clips(1, 5, 3, 4, 16, 16), tokens="patch", views=3)
    with pytest.raises(ConfigError, match="did you mean 'average'"):
        values(encoder(), clips(1, 3, 4, 16, 16), across="avrage")
    with pytest.raises(DataError, match="'image' or 'video', not sound"):
        extract(encoder(), [Batch({"sound": torch.zeros(1)}, torch.zeros(1), torch.zeros(1))], normalise=NORMALISE)


def test_options_of_clips_are_checked() -> None:
    for wrong, message in (
        ({"fps": 8, "stride": 2}, "exclude"),
        ({"views": 2}, "1 \\(the centre\\) or 3"),
        ({"segments": 0}, "segments of a clip must be above 0"),
        ({"across": "atend"}, "did you mean 'attend'"),
    ):
        with pytest.raises(ConfigError, match=message):
            ClipOptions(**wrong)


def test_an_entry_of_the_cache_belongs_to_one_way_of_looking(tmp_path) -> None:
    coloured_videos(tmp_path / "videos", 2)
    data = DataConfig(image_size=16, clip=ClipConfig(frames=4, fps=8))
    network = encoder()

    def look(clip: Clips, **options: object) -> torch.Tensor:
        views = int(options.pop("views", 1))
        source = open_source(tmp_path / "videos", clip=clip)
        chosen = data.model_copy(update={"clip": ClipConfig(frames=clip.frames, fps=clip.fps)})
        found = cached_extract(
            network,
            source,
            eval_transform(chosen, views),
            normalise=NORMALISE,
            tokens="patch",
            cache_dir=tmp_path / "cache",
            **options,
        )
        return found.values

    base = Clips(4, fps=8, where="uniform")
    looks = [
        (base, {}),
        (Clips(4, fps=4, where="uniform"), {}),
        (Clips(2, fps=8, where="uniform"), {}),
        (Clips(4, fps=8, where="uniform", count=2), {}),
        (Clips(4, fps=8, where="uniform", count=2), {"across": "average"}),
        (base, {"views": 3}),
    ]
    first = [look(clip, **dict(options)) for clip, options in looks]
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == len(looks)
    again = [look(clip, **dict(options)) for clip, options in looks]
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == len(looks)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_frame_by_frame_averages_what_the_encoder_says_of_each_frame() -> None:
    x = clips(2, 3, 5, 16, 16)
    for network in (encoder(None), encoder()):  # of images; of video, a frame is then one tubelet
        frames = [values(network, x[:, :, t], tokens="patch") for t in range(5)]
        alone = frame_by_frame(network)
        torch.testing.assert_close(values(alone, x, tokens="patch"), torch.cat(frames, dim=1))
        torch.testing.assert_close(values(alone, x), torch.stack([f.mean(1) for f in frames]).mean(0))
        assert values(alone, x, layers="last4").shape == (2, 96)
        backwards = values(alone, x.flip(2))
        torch.testing.assert_close(backwards, values(alone, x))
    assert not torch.allclose(values(encoder(), x.flip(2)), values(encoder(), x), atol=1e-3)


def test_each_frame_goes_through_the_transform_of_images() -> None:
    image = EvalTransform(DataConfig(image_size=16))
    frames = clips(8, 3, 20, 30)
    two = EachFrame(image, 4)(frames)
    assert two.shape == (2, 3, 4, 16, 16)
    torch.testing.assert_close(two[1, :, 2], image(frames[6]))
    assert EachFrame(image, 8)(frames).shape == (3, 8, 16, 16)


def test_pixels_of_a_clip_are_a_few_small_frames_without_their_mean() -> None:
    x = clips(2, 3, 9, 40, 20).float() / 255
    found = frame_pixels(x)
    assert found.shape == (2, 3 * 4 * 16 * 8)
    torch.testing.assert_close(found.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(frame_pixels(x + 0.1), found, atol=1e-5, rtol=1e-4)
    assert raw_pixels([batch_of(clips(2, 6, 3, 4, 16, 16))]).values.shape == (2, 3 * 4 * 16 * 16)


def test_frame_differences_see_change_only() -> None:
    still = clips(1, 3, 1, 16, 16).expand(-1, -1, 6, -1, -1)
    batch = batch_of(still)
    assert float(raw_pixels([batch], differences=True).values.abs().max()) == 0
    x = clips(1, 3, 6, 16, 16).float() / 255
    found = frame_differences(x)
    assert found.shape == (1, 5 * 3 * 16 * 16)
    first = found[:, : 4 * 3 * 256].view(1, 3, 4, 16, 16)
    torch.testing.assert_close(first.sum(2), x[:, :, -1] - x[:, :, 0], atol=1e-5, rtol=1e-4)
    with pytest.raises(DataError, match="at least two frames"):
        frame_differences(x[:, :, :1])
    with pytest.raises(DataError, match="differences are of clips"):
        raw_pixels([batch_of(clips(1, 3, 16, 16))], differences=True)
