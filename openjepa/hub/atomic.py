"""Directories and files that exist whole or not at all, also after ``kill -9``, a power cut or a full disk.

A directory is written beside its destination under a name that starts with a dot, each file and then the directory is
flushed to disk, and one rename publishes it. ``manifest.json`` holds size and SHA-256 of every file. A writer holds a
lock on its scratch directory, so that another process can tell a live one from what a killed process left behind.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openjepa.errors import CheckpointError, RunError
from openjepa.hub.tensorfile import write_safetensors

try:
    import fcntl
except ImportError:  # not on Windows: there only age tells a stale scratch directory
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"
_SCRATCH, _ASIDE, _TRASH = ".new-", ".old-", ".trash-"
_STALE_AFTER = 24 * 3600.0  # seconds; only where the file system has no locks
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this process may write",
}


def write_directory(
    path: str | Path,
    files: Mapping[str, Any],
    *,
    replace: bool = False,
    about: Mapping[str, Any] | None = None,
    unlisted: tuple[str, ...] = (),
) -> Path:
    """Write ``files`` as directory ``path``, atomically, with a checksum manifest.

    files: name → content; ``*.safetensors`` a dict of tensors, ``*.json`` anything JSON can say, others bytes or text.
    about: further entries of the manifest. replace: put the new directory in the place of an old one.
    unlisted: files a person may edit later, such as a README: written, but not checked.

    Raises:
        RunError: ``path`` exists (and not ``replace``), or it cannot be written (disk full, permissions): one line
            with the free space; nothing of it stays behind and an older directory is untouched.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise RunError(f"'{path}' exists already: it is not overwritten")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch_directory(path) as scratch:
            table = {name: _write(scratch / name, content, name) for name, content in files.items()}
            listed = {name: entry for name, entry in table.items() if name not in unlisted}
            _write(scratch / MANIFEST, _seal({**(about or {}), "files": listed}), MANIFEST)
            sync_directory(scratch)
            _publish(scratch, path)
    except OSError as error:
        raise write_error(path, error) from error
    return path


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """A scratch directory to write large files into; when the block ends well it takes the place of ``path``, flushed to disk.

    Raises:
        RunError: it cannot be written (disk full, permissions): one line; nothing of it stays behind.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch_directory(path) as scratch:
            yield scratch
            for item in scratch.iterdir():
                with item.open("rb+") as file:
                    os.fsync(file.fileno())
            sync_directory(scratch)
            _publish(scratch, path)
    except OSError as error:
        raise write_error(path, error) from error


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A locked directory beside ``path`` to write and check things in, for ``with``.

    At the end what lies in it takes its place in ``path.parent`` by its own name, ``path`` itself last; after an error
    nothing does, and nothing is left. Raises RunError where it cannot be made or published.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clean_stale(path.parent)
        with _scratch_directory(path) as scratch:
            yield scratch
            for item in sorted(scratch.iterdir(), key=lambda found: found.name == path.name):
                home = path.parent / item.name
                if item.is_dir():
                    _publish(item, home)
                else:
                    os.replace(item, home)
            sync_directory(path.parent)
    except OSError as error:
        raise write_error(path, error) from error


def link_directory(source: Path, path: Path) -> Path:
    """Put the files of ``source`` at ``path`` too, atomically and in place of an older directory.

    Files are hard links where the file system has them (no second copy on disk), else copies. Raises RunError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch_directory(path) as scratch:
            for item in sorted(source.iterdir()):
                try:
                    os.link(item, scratch / item.name)
                except OSError:
                    shutil.copy2(item, scratch / item.name)
            sync_directory(scratch)
            _publish(scratch, path)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def write_file(path: str | Path, content: Any) -> Path:
    """Write one file atomically (content by suffix as in :func:`write_directory`). Raises RunError like it."""
    path = Path(path)
    scratch = path.parent / f"{_SCRATCH}{path.name}"  # one name: what a killed writer leaves is written over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(scratch, content, path.name)
        os.replace(scratch, path)
        sync_directory(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    return path


def remove_directory(path: Path) -> None:
    """Remove a directory so that no reader ever sees half of it: rename it out of sight first."""
    trash = path.parent / f"{_TRASH}{path.name}.{secrets.token_hex(4)}"
    try:
        os.rename(path, trash)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"cannot remove '{path}': {error.strerror}") from error
    shutil.rmtree(trash, ignore_errors=True)


def clean_stale(parent: str | Path) -> list[Path]:
    """Remove what killed writers and removers left in ``parent``; put back a directory caught between two renames.

    Live writers are left alone. Returns the paths removed or put back.
    """
    parent = Path(parent)
    done = []
    for path in sorted(parent.glob(".*")) if parent.is_dir() else []:
        if path.name.startswith(_ASIDE):
            home = parent / path.name.removeprefix(_ASIDE).rpartition(".")[0]
            if not home.exists():
                os.rename(path, home)
                sync_directory(parent)
            else:
                shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(_TRASH):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(_SCRATCH) and _is_stale(path):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        else:
            continue
        done.append(path)
    return done


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a directory. Raises CheckpointError when there is none or it cannot be read."""
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"'{path}' has no {MANIFEST}: not written by openjepa, or only in part") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path / MANIFEST}' cannot be read ({error})") from error
    if not isinstance(manifest, dict) or _seal(manifest) != manifest:
        raise CheckpointError(f"'{path / MANIFEST}' is damaged: its own checksum differs")
    return manifest


def verify_directory(path: str | Path) -> dict[str, Any]:
    """Check size and SHA-256 of every file against the manifest, and return the manifest.

    Raises:
        CheckpointError: one line naming the first file that is missing or differs, and how.
    """
    path = Path(path)
    manifest = read_manifest(path)
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"'{path}' is damaged: {name} is missing")
        size = file.stat().st_size
        if size != entry["bytes"]:
            raise CheckpointError(f"'{path}' is damaged: {name} has {size} bytes, not {entry['bytes']}")
        if sha256(file) != entry["sha256"]:
            raise CheckpointError(f"'{path}' is damaged: the checksum of {name} differs")
    return manifest


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file. Raises CheckpointError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror}") from error


def write_error(path: Path, error: OSError) -> RunError:
    """The one line a user reads when ``path`` cannot be saved."""
    reason = _FULL.get(error.errno or 0)
    if reason is None:
        return RunError(f"cannot save '{path}': {error.strerror or error}")
    place = next(folder for folder in (path.parent, *path.parent.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e6
    return RunError(f"cannot save '{path}': {reason} ({free:.1f} MB free); what was saved before is untouched")


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to disk, where the system can."""
    with contextlib.suppress(PermissionError, NotADirectoryError):  # Windows cannot open directories
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
                raise
        finally:
            os.close(handle)


def _seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with a checksum of itself as its last entry."""
    content = {key: value for key, value in manifest.items() if key != "seal"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return {**content, "seal": hashlib.sha256(text.encode()).hexdigest()}


def _write(path: Path, content: Any, name: str) -> dict[str, Any]:
    """Write, flush to disk, and return the manifest entry; ``name`` says by its suffix how."""
    digest, size = hashlib.sha256(), 0

    with path.open("wb") as file:

        def write(chunk: Any) -> None:
            nonlocal size
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)

        if name.endswith(".safetensors"):
            write_safetensors(write, content)
        elif isinstance(content, bytes):
            write(content)
        elif not name.endswith(".json"):
            write(str(content).encode())
        else:
            write((json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


@contextlib.contextmanager
def _scratch_directory(path: Path) -> Iterator[Path]:
    """A locked directory beside ``path``; whatever is left of it at the end is removed."""
    scratch = path.parent / f"{_SCRATCH}{path.name}.{secrets.token_hex(4)}"
    scratch.mkdir()
    handle = _lock(scratch)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _lock(path: Path) -> int | None:
    """A file handle that holds the lock of ``path``, or None when it is taken or the file system has no locks."""
    if fcntl is None:
        return None
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _is_stale(path: Path) -> bool:
    """Nobody holds the lock; for single files and where there are no locks: it is a day old."""
    try:
        if path.is_dir() and fcntl is not None:
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                return False
            except OSError:
                pass
            finally:
                os.close(handle)
        return time.time() - path.stat().st_mtime > _STALE_AFTER
    except FileNotFoundError:
        return False


def _publish(scratch: Path, path: Path) -> None:
    """Rename into place; an older directory steps aside first and comes back if that fails."""
    if not path.exists():
        os.rename(scratch, path)
        sync_directory(path.parent)
        return
    aside = path.parent / f"{_ASIDE}{path.name}.{secrets.token_hex(4)}"
    os.rename(path, aside)
    try:
        os.rename(scratch, path)
    except OSError:
        os.rename(aside, path)
        raise
    sync_directory(path.parent)
    shutil.rmtree(aside, ignore_errors=True)
