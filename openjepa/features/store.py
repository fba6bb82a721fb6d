"""Features on disk, found again by what they were computed from: weights, data, transform and protocol.

An entry is two files, ``features-<key>.safetensors`` (the tensors) and ``features-<key>.json`` (everything else, and the
checksum of the first). Both are written beside their place and renamed; the JSON comes last, so an entry exists whole
or not at all. A damaged entry is computed again with a warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import openjepa
from openjepa.features.clips import Across, describe_source
from openjepa.features.extraction import Features, Layers, OnProgress, Precision, TokenKind, extract, raw_pixels
from openjepa.types import Batch, Encoder

if TYPE_CHECKING:
    from openjepa.data import Source

log = logging.getLogger(__name__)

FORMAT = 1
MAX_BYTES = 4 * 2**30  # one entry; patch tokens of a large data set are cheaper to compute than to keep


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers, and the plain settings of every part.

    Buffers count even when they are not saved (position tables), and so do numbers, strings and flags stored on the
    modules (heads, eps): two encoders with equal weights but another head count have different features.
    """
    digest = hashlib.sha256()
    for kind in (module.named_parameters(), module.named_buffers()):
        for name, tensor in sorted(kind, key=lambda item: item[0]):
            flat = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {flat.dtype} {tuple(flat.shape)}\n".encode())
            if flat.numel():
                digest.update(flat.flatten().view(torch.uint8).numpy().data)
    for name, part in module.named_modules():
        plain = {k: v for k, v in vars(part).items() if k != "training" and not k.startswith("_") and _is_plain(v)}
        digest.update(f"{name} {type(part).__qualname__} {sorted(plain.items())}\n".encode())
    return digest.hexdigest()


def cached_extract(
    encoder: Encoder,
    source: Source,
    transform: Any,
    *,
    normalise: nn.Module,
    device: str | torch.device = "cpu",
    tokens: TokenKind = "pooled",
    layers: Layers = "last",
    precision: Precision = "fp32",
    batch_size: int = 64,
    workers: int = 0,
    cache_dir: str | Path | None = None,
    on_progress: OnProgress | None = None,
    across: Across = "attend",
) -> Features:
    """:func:`extract` over a source, or its stored result when weights, data, transform and protocol are the same.

    Args:
        transform: evaluation transform; its ``repr`` is part of the key and must therefore say all it does.
        batch_size, workers: how the data is read; they do not change the features.
        cache_dir: where entries are kept; None computes without a cache.
        Others as in :func:`extract`.

    Raises:
        DataError: no readable sample. A cache that cannot be read or written is a warning, not an error.
    """

    def compute() -> Features:
        bad: dict[str, str] = {}
        found = extract(
            encoder,
            _read(source, transform, batch_size, workers, bad),
            normalise=normalise,
            device=device,
            tokens=tokens,
            layers=layers,
            precision=precision,
            source=source,
            on_progress=on_progress,
            views=views,
            across=across,
        )
        return _with(found, source, transform, bad)

    views = int(getattr(transform, "views", 1))
    if cache_dir is None:
        return compute()
    parts = {
        **_of_clips(source, across, views),
        "weights": weights_hash(encoder) if isinstance(encoder, nn.Module) else repr(encoder),
        "normalise": weights_hash(normalise),
        "tokens": tokens,
        "layers": layers,
        "precision": precision,
        "device": torch.device(device).type,  # CUDA may multiply in TF32
    }
    return _cached(parts, source, transform, Path(cache_dir), compute)


def cached_raw_pixels(
    source: Source,
    transform: Any,
    *,
    max_side: int = 32,
    centre_image: bool = True,
    differences: bool = False,
    batch_size: int = 64,
    workers: int = 0,
    cache_dir: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Features:
    """:func:`raw_pixels` over a source, through the same cache."""

    def compute() -> Features:
        bad: dict[str, str] = {}
        batches = _read(source, transform, batch_size, workers, bad)
        settings: dict[str, Any] = {"max_side": max_side, "centre_image": centre_image, "differences": differences}
        found = raw_pixels(batches, source=source, on_progress=on_progress, **settings)
        return _with(found, source, transform, bad)

    if cache_dir is None:
        return compute()
    parts = {"weights": "raw pixels", "max_side": max_side, "centre_image": centre_image}
    parts |= {"differences": True} if differences else {}
    parts |= _of_clips(source, "attend", int(getattr(transform, "views", 1)))
    return _cached(parts, source, transform, Path(cache_dir), compute)


def cache_key(parts: Mapping[str, Any], source: Source, transform: Any) -> str:
    """Content hash of one entry: its parts, the source's fingerprint, the transform and the version of the code."""
    everything = {
        **parts,
        "source": source.fingerprint(),
        "classes": None if source.classes is None else list(source.classes),  # stored with the features
        "transform": repr(transform),
        "format": FORMAT,
        "version": openjepa.__version__,
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


def save_features(features: Features, directory: Path, key: str) -> None:
    """Write one entry atomically. Raises OSError when the disk is full or the directory cannot be written."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {"values": features.values.contiguous(), "ids": features.ids}
    if features.labels is not None:
        tensors["labels"] = features.labels
    checksum = _write(directory / f"features-{key}.safetensors", lambda path: save_file(tensors, path))
    about = {
        "sha256": checksum,
        "item_ids": list(features.item_ids),
        "classes": None if features.classes is None else list(features.classes),
        "protocol": dict(features.protocol),
        "bad": dict(features.bad),
    }
    _write(directory / f"features-{key}.json", lambda path: path.write_text(json.dumps(about), encoding="utf-8"))


def load_features(directory: Path, key: str) -> Features | None:
    """Read one entry; None when there is none.

    Raises:
        ValueError, KeyError, OSError or SafetensorError: the entry is damaged.
    """
    about_file = directory / f"features-{key}.json"
    if not about_file.exists():
        return None
    about = json.loads(about_file.read_bytes())
    tensor_file = directory / f"features-{key}.safetensors"
    if _sha256(tensor_file) != about["sha256"]:
        raise ValueError("the checksum does not match")
    tensors: dict[str, Tensor] = load_file(tensor_file)
    classes = None if about["classes"] is None else tuple(about["classes"])
    items = tuple(about["item_ids"])
    return Features(
        tensors["values"], tensors["ids"], tensors.get("labels"), items, classes, about["protocol"], about["bad"]
    )


def _cached(
    parts: Mapping[str, Any], source: Source, transform: Any, directory: Path, compute: Callable[[], Features]
) -> Features:
    if " at 0x" in repr(transform) or " at 0x" in str(parts):
        log.warning("features are not cached: %r does not say what it does", transform)
        return compute()
    key = cache_key(parts, source, transform)
    try:
        found = load_features(directory, key)
    except Exception as error:  # a damaged file can raise nearly anything; it is only a cache
        log.warning("cached features %s in %s are damaged and computed again (%s)", key, directory, _line(error))
        found = None
    if found is not None:
        log.info("features of %s come from the cache (%s)", source.name, key)
        return found
    found = compute()
    if found.values.nbytes > MAX_BYTES:
        log.info("features of %s are not cached: %.1f GB is too much", source.name, found.values.nbytes / 1e9)
        return found
    try:
        save_features(found, directory, key)
    except OSError as error:
        log.warning("features of %s could not be cached in %s (%s)", source.name, directory, _line(error))
    return found


def _of_clips(source: Source, across: Across, views: int) -> dict[str, Any]:
    """What makes other features of the same videos; nothing for images, whose entries stay valid."""
    clips = describe_source(source)
    return {"clips": clips, "across": across, "views": views} if clips else {}


def _read(source: Source, transform: Any, batch_size: int, workers: int, bad: dict[str, str]) -> Iterator[Batch]:
    from openjepa.data import read_batches

    return read_batches(source, transform, batch_size=batch_size, workers=workers, bad=bad)


def _with(found: Features, source: Source, transform: Any, bad: Mapping[str, str]) -> Features:
    """Add what was read and what could not be."""
    if bad:
        first, reason = next(iter(bad.items()))
        log.warning(
            "%d of %d files of %s were skipped, first %s: %s", len(bad), len(source), source.name, first, reason
        )
    protocol = {**found.protocol, **describe_source(source), "transform": repr(transform), "source": source.name}
    return Features(found.values, found.ids, found.labels, found.item_ids, found.classes, protocol, dict(bad))


def _write(path: Path, write: Callable[[Path], object]) -> str:
    """Let ``write`` make a file beside ``path``, flush it to disk, rename it into place; its SHA-256."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write(scratch)
        with open(scratch, "rb+") as file:
            os.fsync(file.fileno())
        checksum = _sha256(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return checksum


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
