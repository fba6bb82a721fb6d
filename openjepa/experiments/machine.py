"""The doctor's look at the machine: devices, precision, image formats, video codecs, optional parts, speed and disk."""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from openjepa import __version__
from openjepa.data import read_image
from openjepa.training.engine import fast_bf16
from openjepa.training.environment import cpu_name

FORMATS = {"JPEG": "jpg", "PNG": "zlib", "WebP": "webp", "TIFF": "libtiff", "JPEG 2000": "jpg_2000", "AVIF": "avif"}
CODECS = {"H.264": "h264", "H.265": "hevc", "VP9": "vp9", "AV1": "libdav1d", "MPEG-4": "mpeg4"}  # FFmpeg's decoders
LOW_DISK_GB = 5.0


@dataclass(frozen=True)
class Machine:
    """What was found. extras: extra → names of missing packages. speed: GFLOP/s and images/s, None where not measured."""

    versions: dict[str, str]
    cpu: str
    cores: int
    threads: int
    devices: tuple[str, ...]
    precision: str
    formats: dict[str, bool]
    codecs: dict[str, bool]
    extras: dict[str, tuple[str, ...]]
    speed: dict[str, float]
    disk_free_gb: float
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    def sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Headings with rows of name and text, as the terminal shows them."""
        have = [name for name, missing in self.extras.items() if not missing]
        extras = [("installed", ", ".join(have) or "none")]
        extras += [
            (name, f"missing {', '.join(m)}: pip install 'openjepa[{name}]'") for name, m in self.extras.items() if m
        ]
        hardware = [("cpu", f"{self.cpu}, {self.cores} cores, {self.threads} torch threads")]
        hardware += [("device", name) for name in self.devices]
        hardware += [("precision auto", self.precision), ("disk free here", f"{self.disk_free_gb:.0f} GB")]
        formats = [(name, "yes" if there else "no") for name, there in self.formats.items()]
        speed = [(name, f"{value:,.0f}") for name, value in self.speed.items()]
        codecs = [(name, "yes" if there else "no") for name, there in self.codecs.items()]
        found = [("Versions", list(self.versions.items())), ("Hardware", hardware), ("Image formats", formats)]
        found.append(("Video codecs", codecs or [("none", "pip install 'openjepa[video]'")]))
        return [*found, *([("Speed", speed)] if speed else []), ("Optional parts", extras)]


def examine_machine(*, speed: bool = True) -> Machine:
    """Look at this machine; ``speed`` also measures matrix products and JPEG decoding for a few seconds."""
    device = torch.device(
        "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    )
    fast, why = fast_bf16(device)
    disk = shutil.disk_usage(os.getcwd()).free / 1e9
    advice = []
    if disk < LOW_DISK_GB:
        advice.append(f"only {disk:.1f} GB are free here: give --out on another disk")
    if device.type == "cpu":
        advice.append("no GPU was found: use the 'tiny' recipes, or images of at most 96 px")
    return Machine(
        versions=_versions(),
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        devices=_devices(),
        precision=f"{'bf16' if fast else 'fp32'} ({why})",
        formats=_formats(),
        codecs=_codecs(),
        extras=missing_extras(),
        speed=_measure(device, fast) if speed else {},
        disk_free_gb=disk,
        advice=tuple(advice),
    )


def missing_extras() -> dict[str, tuple[str, ...]]:
    """For every extra of this installation, the packages it still needs."""
    wanted: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("openjepa") or []:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        name = re.match(r"[\w.-]+", line)
        if extra and name:
            wanted.setdefault(extra[1], []).append(name[0])
    return {extra: tuple(name for name in names if not _installed(name)) for extra, names in wanted.items()}


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _versions() -> dict[str, str]:
    names = ("torch", "torchvision", "numpy", "pillow")
    found = {name: importlib.metadata.version(name) if _installed(name) else "missing" for name in names}
    return {"openjepa": __version__, "python": platform.python_version(), **found, "system": platform.platform()}


def _devices() -> tuple[str, ...]:
    names = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps (Apple GPU)")
    return (*names, "cpu")


def _formats() -> dict[str, bool]:
    from PIL import features

    found = {name: bool(features.check(feature)) for name, feature in FORMATS.items()}
    return {**found, "16-bit and many-channel TIFF": _installed("tifffile")}


def _codecs() -> dict[str, bool]:
    """Which codecs PyAV's FFmpeg decodes; empty without PyAV, or when it cannot be loaded."""
    try:
        available = set(importlib.import_module("av").codecs_available)
    except ImportError:
        return {}
    return {name: codec in available for name, codec in CODECS.items()}


def _measure(device: torch.device, bf16: bool) -> dict[str, float]:
    """Achieved matrix-product rate and JPEG decoding rate."""
    rates = {"fp32 matrix product, GFLOP/s": _gflops(device, torch.float32)}
    if bf16:
        rates["bf16 matrix product, GFLOP/s"] = _gflops(device, torch.bfloat16)
    return {**rates, "JPEG 224 px decoded, images/s per core": _decode_rate()}


def _gflops(device: torch.device, dtype: torch.dtype) -> float:
    rows, inner, columns = 4096, 768, 3072
    a = torch.randn(rows, inner, device=device, dtype=dtype)
    b = torch.randn(inner, columns, device=device, dtype=dtype)

    def product() -> None:
        (a @ b)[0, 0].item()

    return 2 * rows * inner * columns * _rate(product) / 1e9


def _decode_rate() -> float:
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(28, 28, 3, generator=generator).mul(255).byte().numpy()
    stream = io.BytesIO()
    Image.fromarray(noise).resize((224, 224)).save(stream, "JPEG", quality=90)
    return _rate(lambda: read_image(stream.getvalue()))


def _rate(work: Callable[[], object], seconds: float = 0.5) -> float:
    """Calls per second after one call to warm up."""
    work()
    start, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        work()
        calls += 1
    return calls / spent
