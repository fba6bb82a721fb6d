"""Directories exist whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from openjepa.errors import CheckpointError, RunError
from openjepa.hub import atomic
from openjepa.hub.atomic import clean_stale, read_manifest, verify_directory, write_directory, write_file

FILES = {"weights.safetensors": {"w": torch.arange(1000.0)}, "state.json": {"a": [1, 2]}, "note.txt": "héllo"}


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_written_files_are_verified_and_described(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "deep" / "step", FILES, about={"step": 7})
    manifest = verify_directory(path)
    assert manifest["step"] == 7
    assert set(manifest["files"]) == set(FILES)
    assert names(path) == ["manifest.json", "note.txt", "state.json", "weights.safetensors"]
    assert names(path.parent) == ["step"]
    assert (path / "note.txt").read_text(encoding="utf-8") == "héllo"


def test_an_existing_directory_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "x", {"a.json": 1})
    with pytest.raises(RunError, match="exists already"):
        write_directory(path, {"a.json": 2})
    write_directory(path, {"b.json": 2}, replace=True)
    assert names(path) == ["b.json", "manifest.json"]
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "grow"])
def test_any_damage_is_found(tmp_path: Path, name: str, damage: str) -> None:
    path = write_directory(tmp_path / "x", FILES)
    file = path / name
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1 if damage == "flip" else 0
        data = data[:-3] if damage == "cut" else data + b"  x" * (damage == "grow")
        file.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        verify_directory(path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_an_unlisted_file_may_be_edited(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "x", {"README.md": "a", "b.json": 1}, unlisted=("README.md",))
    (path / "README.md").write_text("edited by hand")
    verify_directory(path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not written by openjepa"):
        read_manifest(tmp_path)


class Full:
    """Stands in for an open file on a disk that is full after some bytes."""

    def __init__(self, file: object, room: int, code: int) -> None:
        self.file, self.room, self.code = file, room, code

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(self.code, os.strerror(self.code))
        return self.file.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@pytest.mark.parametrize("room", [0, 100, 4000])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_leaves_nothing_and_keeps_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, code: int
) -> None:
    path = write_directory(tmp_path / "x", {"a.json": 1})
    ours = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, mode="r", **k: Full(ours(self, mode, **k), room, code) if "w" in mode else ours(self, mode, **k),
    )
    with pytest.raises(RunError) as caught:
        write_directory(path, FILES, replace=True)
    monkeypatch.undo()
    message = str(caught.value)
    assert "\n" not in message
    assert "MB free" in message
    assert ("full" if code == errno.ENOSPC else "quota") in message
    assert names(tmp_path) == ["x"]
    verify_directory(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode
    ):
        pytest.skip("mounting a small tmpfs needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_really_is_full(small_disk: Path) -> None:
    path = write_directory(small_disk / "x", {"a.json": 1})
    with pytest.raises(RunError, match=r"the disk is full \(\d+\.\d MB free\)"):
        write_directory(small_disk / "y", {"big.safetensors": {"w": torch.zeros(1_000_000)}})
    assert names(small_disk) == ["x"]
    verify_directory(path)
    write_directory(small_disk / "z", FILES)  # the room is free again


def test_a_file_size_limit(tmp_path: Path, forked: Callable[[Callable[[], str]], str]) -> None:
    def child() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            write_directory(tmp_path / "x", {"big.safetensors": {"w": torch.zeros(100_000)}})
        except RunError as error:
            return str(error)
        return "nothing was raised"

    assert "larger than this process may write" in forked(child)
    assert names(tmp_path) == []


def test_a_folder_one_may_not_write_to(tmp_path: Path, forked: Callable[[Callable[[], str]], str]) -> None:
    tmp_path.chmod(0o555)
    for parent in list(tmp_path.parents)[:3]:
        with contextlib.suppress(PermissionError):
            parent.chmod(parent.stat().st_mode | 0o055)

    def child() -> str:
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            write_directory(tmp_path / "x", {"a.json": 1})
        except RunError as error:
            return str(error)
        return "nothing was raised"

    assert forked(child) == f"cannot save '{tmp_path / 'x'}': Permission denied"
    tmp_path.chmod(0o755)


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "write_safetensors", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_directory(tmp_path / "x", FILES)
    assert names(tmp_path) == []


def test_what_killed_writers_left_is_removed_and_live_ones_are_spared(tmp_path: Path) -> None:
    dead, live = tmp_path / ".new-step.aa", tmp_path / ".new-step.bb"
    dead.mkdir()
    (dead / "part").write_text("x")
    live.mkdir()
    (tmp_path / ".trash-step.cc").mkdir()
    (tmp_path / ".hidden").mkdir()
    handle = atomic._lock(live)
    assert handle is not None
    clean_stale(tmp_path)
    assert names(tmp_path) == [".hidden", ".new-step.bb"]
    os.close(handle)
    clean_stale(tmp_path)
    assert names(tmp_path) == [".hidden"]


def test_a_replacement_killed_between_its_two_renames_is_put_back(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "x", {"a.json": 1})
    os.rename(path, tmp_path / ".old-x.1234")
    clean_stale(tmp_path)
    verify_directory(path)
    assert names(tmp_path) == ["x"]


def test_a_single_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_file(tmp_path / "last.json", {"step": 1})

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match="full"):
        write_file(file, {"step": 2})
    monkeypatch.undo()
    assert '"step": 1' in file.read_text()
    assert names(tmp_path) == ["last.json"]
