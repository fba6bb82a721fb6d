"""Every kind of image a folder may hold becomes the right tensor, or one line of error."""

import io
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from openjepa.data.readers import MAX_PIXELS, read_image
from openjepa.errors import DataError


def gradient(height=8, width=6):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 40, y * 30, (x + y) * 15], -1).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_lossless_formats_give_back_their_pixels(kind, encode):
    options = {"lossless": True} if kind == "WEBP" else {}
    found = read_image(encode(Image.fromarray(gradient()), kind, **options))
    assert found.dtype == torch.uint8
    assert torch.equal(found, torch.from_numpy(gradient()).permute(2, 0, 1))


def test_jpeg_and_first_gif_frame(encode):
    gray = Image.new("RGB", (16, 16), (200, 60, 30))
    assert (read_image(encode(gray, "JPEG")).float().mean((1, 2)) - torch.tensor([200.0, 60, 30])).abs().max() < 3
    frames = [Image.new("P", (4, 4), k) for k in (0, 1)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 0, 255])
    animated = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_image(animated)[:, 0, 0].tolist() == [255, 0, 0]


def test_gray_is_repeated_and_colour_reduced_as_pillow_does(encode):
    gray = Image.fromarray(gradient()[..., 0])
    assert torch.equal(read_image(encode(gray, "PNG"))[1], torch.from_numpy(gradient()[..., 0]))
    luma = read_image(encode(Image.fromarray(gradient()), "PNG"), 1)
    assert torch.equal(luma[0], torch.from_numpy(np.array(Image.fromarray(gradient()).convert("L"))))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_over_white(mode, encode):
    image = Image.new(mode, (2, 1))
    image.putpixel((0, 0), (10, 255) if mode == "LA" else (10, 10, 10, 255))  # opaque
    image.putpixel((1, 0), (0, 0) if mode == "LA" else (0, 0, 0, 0))  # invisible black
    assert read_image(encode(image, "PNG"))[:, 0].tolist() == [[10, 255]] * 3
    assert read_image(encode(image, "PNG"), 1)[0, 0].tolist() == [10, 255]
    kept = read_image(encode(image, "PNG"), len(mode))  # asked for: alpha stays
    assert kept[-1, 0].tolist() == [255, 0]


def test_palettes_with_and_without_transparency(encode):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.putpixel((1, 0), 1)
    assert read_image(encode(image, "PNG"))[:, 0].T.tolist() == [[0, 0, 255], [255, 0, 0]]
    clear = encode(image, "PNG", transparency=1)
    assert read_image(clear)[:, 0].T.tolist() == [[0, 0, 255], [255, 255, 255]]


def test_one_bit_and_cmyk(encode):
    bit = Image.new("1", (2, 1))
    bit.putpixel((1, 0), 1)
    assert read_image(encode(bit, "PNG"), 1).tolist() == [[[0, 255]]]
    red = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    assert (read_image(red).float().mean((1, 2)) - torch.tensor([255.0, 0, 0])).abs().max() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_every_bit(kind, encode):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7)).astype(np.uint16)
    found = read_image(encode(Image.fromarray(deep), kind), 1)
    assert found.dtype == torch.float32
    assert np.array_equal(np.round(found[0].numpy() * 65535), deep)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_16_bit_colour_png_keeps_every_bit(count, png16):
    deep = np.random.default_rng(count).integers(0, 65536, (5, 7, count)).astype(np.uint16)
    found = read_image(png16(deep), count)
    assert np.array_equal(np.round(found.numpy().transpose(1, 2, 0) * 65535), deep)
    assert read_image(png16(deep), 3).shape == (3, 5, 7)
    with pytest.raises(DataError, match="16-bit PNG data is damaged"):
        read_image(png16(deep)[:70])


def test_deep_and_many_channel_tiff():
    tifffile = pytest.importorskip("tifffile")

    def tiff(values, **options):
        stream = io.BytesIO()
        tifffile.imwrite(stream, values, **options)
        return stream.getvalue()

    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    found = read_image(tiff(deep, photometric="rgb"))
    assert np.array_equal(np.round(found.numpy().transpose(1, 2, 0) * 65535), deep)
    planes = tiff(deep.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    assert torch.equal(read_image(planes), found)
    seven = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
    many = tiff(seven, photometric="minisblack", planarconfig="contig")
    assert torch.equal(read_image(many, 7), torch.from_numpy(seven).permute(2, 0, 1))
    with pytest.raises(DataError, match="has 7 channels and data.channels says 3"):
        read_image(many)
    stack = tiff(seven.transpose(2, 0, 1), photometric="minisblack")  # seven pages
    assert read_image(stack, 7).shape == (7, 5, 6)
    assert torch.equal(read_image(stack, 1)[0], torch.from_numpy(seven[..., 0]))  # else the first
    assert read_image(tiff(np.full((3, 4), 0.25, np.float32)), 1).unique().tolist() == [0.25]


@pytest.mark.parametrize("code", range(1, 9))
def test_exif_rotation_is_undone_as_pillow_does(code, encode):
    image = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = code
    data = encode(image, "PNG", exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(read_image(data).permute(1, 2, 0).numpy(), wanted)
    jpeg = encode(Image.new("RGB", (20, 10)), "JPEG", exif=exif)
    assert tuple(read_image(jpeg).shape[1:]) == ((20, 10) if code >= 5 else (10, 20))


class TestNpy:
    @staticmethod
    def save(values, **options):
        stream = io.BytesIO()
        np.save(stream, values, **options)
        return stream.getvalue()

    @pytest.mark.parametrize(
        ("shape", "channels", "wanted"),
        [
            ((8, 6), 3, (3, 8, 6)),
            ((8, 6, 3), 3, (3, 8, 6)),
            ((3, 8, 6), 3, (3, 8, 6)),
            ((3, 6, 3), 3, (3, 3, 6)),  # both ends fit: the last axis is channels
            ((5, 8, 6), 5, (5, 8, 6)),
            ((8, 6, 5), 5, (5, 8, 6)),
            ((1, 8, 6), 3, (3, 8, 6)),
        ],
    )
    def test_layouts(self, shape, channels, wanted):
        assert tuple(read_image(self.save(np.zeros(shape, np.uint8)), channels).shape) == wanted

    def test_ranges(self):
        assert read_image(self.save(np.full((2, 2), 65535, np.uint16)), 1).max() == 1.0
        assert read_image(self.save(np.full((2, 2), 0.5)), 1).dtype == torch.float32
        assert read_image(self.save(np.ones((2, 2), bool)), 1).unique().tolist() == [255]

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            (np.full((2, 2), 7.0), "from 7 to 7"),
            (np.full((2, 2), np.nan), "finite"),
            (np.zeros((2, 2), np.int64), "int64"),
            (np.zeros((9, 9, 9), np.uint8), r"\(9, 9, 9\)"),
            (np.zeros((2, 2, 2, 2), np.uint8), "shape"),
            (np.zeros((0, 2), np.uint8), "empty"),
            (np.zeros((8, 8, 2), np.uint8), "has 2 channels and data.channels says 3"),
        ],
    )
    def test_what_says_nothing_about_its_meaning_is_refused(self, values, reason):
        with pytest.raises(DataError, match=reason):
            read_image(self.save(values))

    def test_pickles_and_lies_are_never_loaded(self):
        with pytest.raises(DataError, match="Python objects"):
            read_image(self.save(np.array([{}], dtype=object), allow_pickle=True))
        data = self.save(np.zeros((8, 8), np.uint8))
        with pytest.raises(DataError, match="truncated"):
            read_image(data[:-5])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_truncated_file_is_one_line(kind, encode, tmp_path):
    data = encode(Image.effect_noise((64, 64), 90).convert("RGB"), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_what_is_no_image_says_so(tmp_path):
    path = tmp_path / "page.jpg"
    path.write_text("<html>404</html>")
    with pytest.raises(DataError, match="not an image of a known format"):
        read_image(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        read_image(path)
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match="is a directory"):
        read_image(tmp_path)


def test_damaged_bytes_never_raise_anything_else(encode):
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        whole = encode(Image.effect_noise((24, 24), 90).convert("RGB"), kind)
        for _ in range(40):
            broken = bytearray(whole)
            for at in rng.integers(0, len(broken), 6):
                broken[at] = rng.integers(256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert read_image(bytes(broken)).shape[0] == 3
                except DataError as error:
                    assert "\n" not in str(error)


def test_a_single_pixel(encode):
    assert read_image(encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).flatten().tolist() == [1, 2, 3]


def test_40_megapixels_load_and_a_small_wish_makes_it_fast(encode):
    data = encode(Image.effect_noise((500, 500), 60).resize((7303, 5477)).convert("RGB"), "JPEG")
    started = time.process_time()
    assert tuple(read_image(data).shape) == (3, 5477, 7303)
    whole, started = time.process_time() - started, time.process_time()
    small = read_image(data, at_least=480)
    assert tuple(small.shape) == (3, 685, 913)  # 1/8
    assert time.process_time() - started < whole / 2
    assert min(read_image(data, at_least=700).shape[1:]) >= 700  # 1/4


def test_more_than_the_limit_is_refused_before_decoding(encode):
    side = int(MAX_PIXELS**0.5) + 200
    data = encode(Image.new("1", (side, side)), "PNG")
    with pytest.raises(DataError, match="more than"):
        read_image(data)


def test_every_odd_or_damaged_shared_image_loads_or_says_why(odd_images):
    outcomes = {}
    for path in sorted(odd_images.glob("images_*/*")):
        for channels in (1, 3):
            try:
                image = read_image(path, channels)
                assert image.shape[0] == channels
                outcomes[path.name] = "loads"
            except DataError as error:
                assert "\n" not in str(error)
                outcomes[path.name] = "bad"
    assert len(outcomes) == 13
    assert {n for n, o in outcomes.items() if o == "bad"} == {
        "corrupt.jpg",
        "corrupt34_2.jpg",
        "corrupt34_3.jpg",
        "corrupt34_4.jpg",
    }
