"""Tensors in files: our safetensors writer (streaming, hashed, ties kept) and a reader for what people bring.

The writer streams, so that saving costs no second copy of the model and a full disk is an ``OSError`` at the byte where
it happens. The format is the public safetensors layout: eight bytes of header length, a JSON header, raw data.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from openjepa.errors import CheckpointError

ALIASES = "aliases"  # header metadata entry: JSON of {tied key: key that holds the data}

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


def find_aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Tied tensors: ``{key: first key with the very same memory}``. Partly overlapping views are not ties."""
    owners: dict[tuple[object, ...], str] = {}
    aliases: dict[str, str] = {}
    for key, tensor in tensors.items():
        if tensor.numel() == 0:
            continue
        place = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        owner = owners.setdefault(place, key)
        if owner != key:
            aliases[key] = owner
    return aliases


def write_safetensors(
    write: Callable[[Any], object], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Stream ``tensors`` (any device and strides) to ``write`` in the safetensors layout; ties are stored once.

    Raises:
        CheckpointError: a dtype the format does not know, or a tensor without data (meta device).
        OSError: whatever ``write`` raises.
    """
    aliases = find_aliases(tensors)
    # Wide dtypes first: every tensor then starts at a multiple of its item size, which readers want.
    stored = sorted((key for key in tensors if key not in aliases), key=lambda k: (-tensors[k].element_size(), k))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    if aliases:
        header["__metadata__"][ALIASES] = json.dumps(aliases)
    offset = 0
    for key in stored:
        tensor = tensors[key]
        if tensor.dtype not in _DTYPES or tensor.is_meta:
            what = "no data (meta device)" if tensor.is_meta else f"dtype {tensor.dtype}"
            raise CheckpointError(f"cannot save tensor '{key}': it has {what}")
        size = tensor.numel() * tensor.element_size()
        header[key] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write(struct.pack("<Q", len(text)))
    write(text)
    for key in stored:
        data = tensors[key].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        write(data.numpy().data)


def read_safetensors(path: Path, *, copy: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: tensors (ties restored as the same object) and header metadata.

    ``copy`` detaches the tensors from the file's memory map.

    Raises:
        CheckpointError: truncated or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            # A memory map is lazy; .clone() is what makes the tensors independent of the file.
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' is truncated or no safetensors file ({_one_line(error)})") from error
    if copy:
        tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    for key, owner in json.loads(metadata.get(ALIASES, "{}")).items():
        tensors[key] = tensors[owner]
    return tensors, metadata


def read_tensors(path: str | Path, section: str | None = None) -> dict[str, Tensor]:
    """Read every tensor of a ``.safetensors`` file or a torch checkpoint, flat: nested names are joined with dots.

    A torch file is read with ``weights_only=True``: it cannot run code. ``section`` keeps one top-level entry of the
    file (``"target_encoder"``) and strips its name.

    Raises:
        CheckpointError: missing, empty, truncated, a web page, a git-lfs pointer, a pickle that needs more than
            tensors, or no such section.
    """
    path = Path(path)
    raw = read_raw(path)
    if section is None:
        return flatten(raw)
    if section in raw:
        return flatten(raw[section])
    start = f"{section}."
    found = {key.removeprefix(start): value for key, value in flatten(raw).items() if key.startswith(start)}
    if not found:
        tops = ", ".join(sorted({str(key).split(".")[0] for key in raw})[:8]) or "nothing"
        raise CheckpointError(f"'{path}' has no section '{section}': it holds {tops}")
    return found


def read_raw(path: str | Path) -> dict[Any, Any]:
    """Read a weight file as it is: a flat dict of tensors (safetensors), or the pickled dict.

    Raises:
        CheckpointError: as :func:`read_tensors`.
    """
    path = Path(path)
    head = _read_head(path)
    if _looks_like_safetensors(path, head):
        return dict(read_safetensors(path)[0])
    zipped = head.startswith(b"PK\x03\x04")
    if zipped and not zipfile.is_zipfile(path):
        raise CheckpointError(f"'{path}' is truncated: its table of contents at the end is missing")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's remarks on pickle protocols; what matters is raised
            raw = torch.load(path, map_location="cpu", weights_only=True, mmap=True if zipped else None)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, str(error))) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"'{path}' is truncated or no torch file ({_one_line(error)})") from error
    if isinstance(raw, Tensor):
        return {"tensor": raw}
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"'{path}' holds a {type(raw).__name__}, not a dict of tensors")
    return dict(raw)


def flatten(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of nested dicts, lists and tuples, keyed by their dotted path; other leaves are left out."""
    if isinstance(tree, Tensor):
        return {prefix.removesuffix("."): tree}
    items: Any = ()
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    return {name: leaf for key, value in items for name, leaf in flatten(value, f"{prefix}{key}.").items()}


def _read_head(path: Path) -> bytes:
    """First kilobyte, after refusing what cannot be a weight file."""
    if path.is_dir():
        raise CheckpointError(f"'{path}' is a directory, not a weight file")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror}") from error
    if not head:
        raise CheckpointError(f"'{path}' is empty: the download or copy failed")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"'{path}' is a git-lfs pointer, not the weights: run 'git lfs pull'")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"'{path}' is a web page, not weights: the download needs another address or a login")
    return head


def _looks_like_safetensors(path: Path, head: bytes) -> bool:
    """By suffix, or by content: a header length that is sane and a JSON object behind it."""
    if path.suffix == ".safetensors":
        return True
    return len(head) > 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 32


def _refusal(path: Path, message: str) -> str:
    """One line for a pickle that ``weights_only`` refuses."""
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found:
        return f"'{path}' is refused: it is a pickle that would run code ({found[1]}), only tensors are read"
    with path.open("rb") as file:
        pickled = file.read(1) == b"\x80"
    unread = re.search(r"unrecognized function|Unsupported (operand|class|global)", message)
    if unread and "truncated" not in message and (pickled or "operand" not in message):
        return f"'{path}' is refused: it is a pickle of more than tensors, which could run code; only tensors are read"
    return f"'{path}' is truncated or no torch file ({_one_line(message)})"


def _one_line(error: object) -> str:
    """The first line of a message, short."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
