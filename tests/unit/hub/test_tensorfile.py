"""Tensor files: ours are readable by everyone, and what people bring is read or refused in one line."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from openjepa.errors import CheckpointError
from openjepa.hub.tensorfile import read_raw, read_safetensors, read_tensors, write_safetensors


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    with path.open("wb") as file:
        write_safetensors(file.write, tensors)
    return path


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


def test_every_dtype_shape_and_stride_is_what_the_safetensors_library_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {f"x.{i}": (torch.randn(3, 5) * 4).to(dtype) for i, dtype in enumerate(DTYPES)}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "odd": torch.ones(3, dtype=torch.uint8)}
    tensors |= {"transposed": torch.randn(4, 6).T, "strided": torch.arange(20.0)[::3], "ünïcode key": torch.ones(2)}
    path = write(tmp_path / "x.safetensors", tensors)
    for found in (load_file(path), read_safetensors(path)[0]):
        assert set(found) == set(tensors)
        for key, value in tensors.items():
            assert found[key].dtype == value.dtype
            assert found[key].shape == value.shape
            assert torch.equal(found[key].float(), value.float()), key


def test_ties_are_stored_once_and_come_back_tied(tmp_path: Path) -> None:
    shared = torch.randn(100, 10)
    tensors = {"a": shared, "b": shared, "view": shared.view(10, 100), "half": shared[:50]}
    path = write(tmp_path / "x.safetensors", tensors)
    found, _ = read_safetensors(path)
    assert found["a"] is found["b"]
    assert all(torch.equal(found[key], value) for key, value in tensors.items())
    assert path.stat().st_size < 2.7 * shared.numel() * 4  # a, view and half: not b


def test_tensors_read_as_copies_outlive_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {"a": torch.ones(5000)})
    found, _ = read_safetensors(path, copy=True)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(found["a"], torch.ones(5000))


def test_a_tensor_without_data_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'a': it has no data"):
        write(tmp_path / "x", {"a": torch.empty(3, device="meta")})
    with pytest.raises(CheckpointError, match="'a': it has dtype torch.complex64"):
        write(tmp_path / "x", {"a": torch.zeros(3, dtype=torch.complex64)})


def test_nested_checkpoints_are_read_flat_or_by_section(tmp_path: Path) -> None:
    path = tmp_path / "x.pth.tar"
    one, two = torch.ones(2), torch.zeros(3)
    torch.save(
        {"encoder": {"module.a": one}, "opt": {"state": {0: {"m": two}}}, "list": [one, {"b": two}], "epoch": 3}, path
    )
    assert set(read_tensors(path)) == {"encoder.module.a", "opt.state.0.m", "list.0", "list.1.b"}
    assert list(read_tensors(path, "encoder")) == ["module.a"]
    assert read_raw(path)["epoch"] == 3
    with pytest.raises(CheckpointError, match=r"no section 'target': it holds encoder, epoch, list, opt"):
        read_tensors(path, "target")


def test_a_section_of_a_flat_file_is_its_prefix(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"encoder.a": torch.ones(2), "encoder2.a": torch.zeros(2)}, path)
    assert list(read_tensors(path, "encoder")) == ["a"]


def test_safetensors_without_its_suffix_and_old_torch_files_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "weights.bin")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensors(tmp_path / "weights.bin")["a"], read_tensors(tmp_path / "old.pt")["a"])


class Surprise:
    """Unpickling this would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code was run')",))


def saved(content: object, cut: int | None = None, **kwargs: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **kwargs)
    return buffer.getvalue()[:cut]


TENSORS = {"a": torch.ones(4000)}
REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("x.pt", lambda: b"", "is empty"),
    "web page": ("x.pt", lambda: b"\n\n<!DOCTYPE html><html>", "is a web page"),
    "web page as safetensors": ("x.safetensors", lambda: b"<html><body>404", "is a web page"),
    "lfs": ("x.safetensors", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
    "cut zip": ("x.pt", lambda: saved(TENSORS, 9000), "is truncated"),
    "cut legacy": ("x.pt", lambda: saved(TENSORS, 9000, _use_new_zipfile_serialization=False), "is truncated"),
    "cut safetensors": ("x.safetensors", lambda: (8).to_bytes(8, "little") + b"{", "truncated"),
    "noise": ("x.pt", lambda: bytes(range(256)) * 9, "truncated or no torch file"),
    "code": ("x.pt", lambda: saved({"a": Surprise()}), r"would run code \(\S*exec\)"),
    "plain pickle": ("x.pkl", lambda: pickle.dumps({"a": Surprise()}), "refused|no torch file"),
    "numpy inside": ("x.pt", lambda: saved({"a": np.ones(3)}), "would run code"),
    "a list": ("x.pt", lambda: saved([torch.ones(2)]), "holds a list, not a dict"),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_cannot_be_read_is_one_line(tmp_path: Path, what: str) -> None:
    name, make, message = REFUSED[what]
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(CheckpointError, match=message) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_tensors(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a directory"):
        read_tensors(tmp_path)
