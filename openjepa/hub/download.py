"""Weight files from a server: streamed, resumed where they were cut, checked, and published by one rename.

They lie beside Hugging Face's own cache, under ``HF_ASSETS_CACHE`` (by default ``~/.cache/huggingface/assets``), in
``openjepa/weights/HOST/PATH``. A file that a person puts there by hand is found like a downloaded one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.atomic import sha256 as file_sha256
from openjepa.hub.atomic import write_file

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20  # bytes per read
_TIMEOUT = 30.0  # seconds without a byte
_TRIES = 5  # in a row, without any progress
_SPARE = 64 << 20  # bytes that stay free on the disk
_NO_NAME = "no network, or no such server"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CHECKSUM = re.compile(r"sha256=([0-9a-fA-F]{64})")
_UNSAFE = re.compile(r"[^\w.+=-]")


@dataclass(frozen=True)
class Fetched:
    """A file that is here: where, its bytes, and its SHA-256."""

    path: Path
    size: int
    sha256: str


class _CutError(OSError):
    """A transfer that ended early; it can be taken up again."""


def weights_root() -> Path:
    """Where files from servers lie: beside Hugging Face's cache, as its settings say."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "openjepa" / "weights"


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def split_checksum(url: str) -> tuple[str, str | None]:
    """``URL#sha256=…`` → the URL and the checksum. Raises ConfigError for any other address."""
    bare, mark, fragment = url.partition("#")
    parts = urlsplit(bare)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path in ("", "/"):
        raise ConfigError(
            f"'{url}' is no address of a file: write https://HOST/PATH, or …#sha256=HEX to have it checked"
        )
    if not mark:
        return bare, None
    found = _CHECKSUM.fullmatch(fragment)
    if found is None:
        raise ConfigError(f"'{url}': behind '#' only sha256= and 64 hexadecimal digits are understood")
    return bare, found[1].lower()


def place_of(url: str) -> Path:
    """Where the file of a URL lies, or would. Only the file's own name keeps its query, as a short digest."""
    parts = urlsplit(split_checksum(url)[0])
    host = parts.netloc.rpartition("@")[2]
    names = [_UNSAFE.sub("_", name) for name in (host, *unquote(parts.path).split("/")) if name not in ("", ".", "..")]
    if parts.query:
        names[-1] = f"{hashlib.sha256(parts.query.encode()).hexdigest()[:12]}-{names[-1]}"
    return weights_root().joinpath(*names)


def fetch_url(url: str, *, sha256: str | None = None) -> Fetched:
    """The file of a URL, downloaded once.

    Args:
        url: ``http(s)://…``; with ``#sha256=HEX`` the file is checked. sha256: the same, from a catalogue.

    Raises:
        CheckpointError: no such file, no network, no room, or another checksum. One line that says what to fetch and
            where to put it. What has arrived is kept, and the next call goes on from there.
        ConfigError: no address of a file.
    """
    url, given = split_checksum(url)
    expected, place = given or sha256, place_of(url)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place):
            if not place.is_file():
                if is_offline():
                    raise unreachable(url, place, "HF_HUB_OFFLINE is set")
                _download(url, place, expected)
            return _known(url, place, expected)
    except OSError as error:
        raise disk_error(place, error) from error


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise CheckpointError when the disk of ``folder`` has no room for ``needed`` bytes."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed + _SPARE:
        raise CheckpointError(
            f"no room for {what}: {needed / 1e6:,.0f} MB are to come and '{there}' has {free / 1e6:,.0f} MB free; make "
            "room, or set HF_HOME to a folder on another disk"
        )


def disk_error(place: Path, error: OSError) -> CheckpointError:
    """The one line for a file that cannot be written."""
    if error.errno in _FULL:
        return CheckpointError(
            f"the disk of '{place.parent}' is full: make room and run it again, what has arrived is kept; or set HF_HOME "
            "to a folder on another disk"
        )
    return CheckpointError(f"cannot write '{place}': {error.strerror or error}")


def unreachable(url: str, place: Path, why: str) -> CheckpointError:
    """The one line for a file that cannot be had from here."""
    return CheckpointError(f"cannot download ({why}): fetch {url} elsewhere and put it at '{place}'")


def _known(url: str, place: Path, expected: str | None) -> Fetched:
    """A file that is in its place, after a look at its size and checksum."""
    size, record = place.stat().st_size, _read_json(_record(place))
    if record and record.get("bytes") != size:
        raise CheckpointError(
            f"'{place}' has {size} bytes, not {record.get('bytes')}: it was changed; delete it and run this again"
        )
    digest = str(record.get("sha256") or file_sha256(place))
    if expected is not None and digest != expected:
        raise CheckpointError(
            f"'{place}' has the checksum {digest[:12]}…, not {expected[:12]}…: it is another file or damaged; delete it and "
            "run this again"
        )
    if not record:  # put there by hand
        write_file(_record(place), {"url": url, "bytes": size, "sha256": digest})
    return Fetched(place, size, digest)


def _download(url: str, place: Path, expected: str | None) -> None:
    """Receive the whole file, in as many pieces as it takes, and put it into its place."""
    part = place.with_name(place.name + ".part")
    _receive_all(url, place, part)
    digest = file_sha256(part)
    if expected is not None and digest != expected:
        part.unlink()
        _record(part).unlink(missing_ok=True)
        raise CheckpointError(
            f"{url} has the checksum {digest[:12]}…, not {expected[:12]}…: it was damaged on the way or is another file; "
            "nothing of it was kept"
        )
    size, known = part.stat().st_size, _read_json(_record(part))
    write_file(_record(place), {"url": url, "bytes": size, "sha256": digest, "validator": known.get("validator")})
    part.replace(place)
    _record(part).unlink(missing_ok=True)


def _receive_all(url: str, place: Path, part: Path) -> None:
    """Take a cut transfer up again, until it is whole or nothing more comes."""
    failures, most = 0, _size(part)
    while True:
        try:
            _receive(url, part)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 416, 429):
                raise CheckpointError(_refusal(url, error)) from error
            why = f"the server says {error.code} {error.reason}"
            if error.code == 416:  # what we have is no beginning of it
                part.unlink(missing_ok=True)
        except (urllib.error.URLError, _CutError, HTTPException, TimeoutError, ConnectionError) as error:
            why = _reason(error)
        failures = 1 if _size(part) > most else failures + 1  # a server may begin again: only new bytes are progress
        most = max(most, _size(part))
        if failures >= _TRIES or why == _NO_NAME:
            raise unreachable(url, place, why + (f"; {_size(part):,} bytes are kept" if _size(part) else ""))
        _log.info("%s: %s, taken up again at %d bytes", url, why, _size(part))
        _pause(min(0.5 * 2**failures, 8.0))


def _pause(seconds: float) -> None:
    """Give a busy server time."""
    time.sleep(seconds)


def _receive(url: str, part: Path) -> None:
    """One request: the file from where ``part`` ends, if it is still the same file, else from its beginning."""
    have, known = _size(part), _read_json(_record(part))
    headers = {"User-Agent": "openjepa", "Accept-Encoding": "identity"}
    if have and known.get("total") == have:
        return
    if have and known.get("validator"):
        headers |= {"Range": f"bytes={have}-", "If-Range": known["validator"]}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as response:
        start = have if response.status == 206 else 0
        if start and not str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            part.unlink()
            raise _CutError("the server sent another range than was asked for")
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        check_space(part.parent, 0 if length is None else int(length), url)
        write_file(_record(part), {"url": url, "total": total, "validator": _validator(response)})
        with part.open("ab" if start else "wb") as file:
            _copy(response, file, start, total, part.stem)
    if total is not None and _size(part) != total:
        raise _CutError(f"the connection ended after {_size(part):,} of {total:,} bytes")


def _copy(response: HTTPResponse, file: Any, start: int, total: int | None, name: str) -> None:
    """Bytes to the disk, with a bar where somebody watches."""
    from huggingface_hub.utils import tqdm

    with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=None) as bar:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))


def _validator(response: HTTPResponse) -> str | None:
    """What tells that a file is still the same: its strong ETag, else its date."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _refusal(url: str, error: urllib.error.HTTPError) -> str:
    """One line for an answer that will not change."""
    if error.code in (404, 410):
        return f"there is no {url} ({error.code} {error.reason}): check the address"
    return f"{url} is not given out ({error.code} {error.reason}): it needs an account, or another address"


def _reason(error: Exception) -> str:
    """The cause in a few words."""
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, socket.gaierror):
        return _NO_NAME  # waiting does not help
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return f"no network: {text}" if isinstance(error, urllib.error.URLError) else str(text)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One process at a time fetches a file; the others wait and find it."""
    from huggingface_hub.utils import WeakFileLock

    with WeakFileLock(place.with_name(f".{place.name}.lock")):
        yield


def _record(place: Path) -> Path:
    """The side file: what is known of a file."""
    return place.with_name(place.name + ".json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
