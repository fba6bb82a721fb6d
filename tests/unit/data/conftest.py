"""Folders of small generated images, and hand-made bytes no library writes for us."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def pixels(seed: int, height: int = 12, width: int = 10) -> np.ndarray:
    """Smooth RGB pixels, so that JPEG keeps them."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write PNG images under the given relative paths."""

    def build(*names: str, root: str = "data") -> Path:
        for k, name in enumerate(names):
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(k)).save(path)
        return tmp_path / root

    return build


@pytest.fixture
def png16() -> Callable[[np.ndarray], bytes]:
    """A 16-bit colour PNG of ``(H, W, 2 | 3 | 4)`` uint16, which Pillow cannot write."""

    def encode(values: np.ndarray) -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        height, width, count = values.shape
        header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[count], 0, 0, 0)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + body

    return encode


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Bytes of a Pillow image."""

    def save(image: Image.Image, kind: str, **options: object) -> bytes:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        return stream.getvalue()

    return save


@pytest.fixture(scope="session")
def odd_images(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The odd and damaged images of the shared video pack."""
    pack = shared / "data/video_decode/video_decode_dev.tar"
    if not pack.is_file():
        pytest.skip("needs ../shared/data/video_decode")
    root = tmp_path_factory.mktemp("odd")
    with tarfile.open(pack) as tar:
        tar.extractall(root, [m for m in tar.getmembers() if m.name.startswith("images_")], filter="data")
    return root
