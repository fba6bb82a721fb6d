"""Files from servers: whole or not at all, resumed, checked, and one line when they cannot be had."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub import download
from openjepa.hub.download import fetch_url, place_of, split_checksum
from tests.unit.hub.local_server import LocalServer, serving

CONTENT = bytes(range(256)) * 4000  # a megabyte
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "_pause", lambda _: None)


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with serving() as running:
        running.files["/models/vitl.pt"] = CONTENT
        yield running


def url(server: LocalServer) -> str:
    return f"{server.address}/models/vitl.pt"


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def test_a_file_comes_once_and_its_checksum_is_recorded(server: LocalServer) -> None:
    fetched = fetch_url(url(server))
    assert fetched.path.read_bytes() == CONTENT
    assert (fetched.size, fetched.sha256) == (len(CONTENT), DIGEST)
    assert fetched.path == place_of(url(server))
    assert leftovers(fetched.path.parent) == ["vitl.pt", "vitl.pt.json"]
    assert json.loads((fetched.path.parent / "vitl.pt.json").read_text())["sha256"] == DIGEST
    assert fetch_url(url(server)) == fetched
    assert len(server.requests) == 1


def test_a_cut_connection_is_taken_up_where_it_ended(server: LocalServer) -> None:
    server.cuts = [300_000, 100_000, 50_000]
    assert fetch_url(url(server)).sha256 == DIGEST
    assert server.sent == len(CONTENT)  # no byte twice
    assert [part for _, _, part in server.requests] == [None, "bytes=300000-", "bytes=400000-", "bytes=450000-"]


def test_a_killed_download_goes_on_in_the_next_process(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TRIES", 1)
    server.cuts = [700_000]
    with pytest.raises(
        CheckpointError, match=r"ended after 700,000 of 1,024,000 bytes.*700,000 bytes are kept"
    ) as caught:
        fetch_url(url(server))
    assert "\n" not in str(caught.value)
    assert not place_of(url(server)).exists()
    assert fetch_url(url(server)).sha256 == DIGEST
    assert server.sent == len(CONTENT)


def test_kill_9_at_any_moment_loses_nothing(server: LocalServer) -> None:
    """Killed again and again, the same call in the end has the whole file, and no byte much more often than once."""
    server.files["/models/vitl.pt"] = content = CONTENT * 8
    draw, kills = random.Random(0), 0
    while not place_of(url(server)).exists():
        server.pause = 0.004 if kills < 8 else 0.0
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                fetch_url(url(server))
            os._exit(0)
        if kills < 8:
            time.sleep(draw.uniform(0.02, 0.25))
            os.kill(child, signal.SIGKILL)
            kills += 1
        os.waitpid(child, 0)
    fetched = fetch_url(url(server))
    assert fetched.sha256 == hashlib.sha256(content).hexdigest()
    assert sum(part is not None for _, _, part in server.requests) >= 4  # taken up, not begun again
    assert leftovers(fetched.path.parent) == ["vitl.pt", "vitl.pt.json"]


def test_a_file_that_changed_meanwhile_comes_whole(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TRIES", 1)
    server.cuts = [700_000]
    with pytest.raises(CheckpointError):
        fetch_url(url(server))
    server.files["/models/vitl.pt"] = CONTENT[::-1]
    assert fetch_url(url(server)).path.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("lacks", ["ranges", "tags"])
def test_a_server_that_cannot_resume_sends_it_again(server: LocalServer, lacks: str) -> None:
    setattr(server, lacks, False)
    server.cuts = [300_000]
    assert fetch_url(url(server)).sha256 == DIGEST
    assert server.sent == len(CONTENT) + 300_000


def test_a_whole_part_needs_no_bytes_again(server: LocalServer) -> None:
    """Killed between the last byte and the rename."""
    place = place_of(url(server))
    place.parent.mkdir(parents=True)
    place.with_name("vitl.pt.part").write_bytes(CONTENT)
    place.with_name("vitl.pt.part.json").write_text(json.dumps({"total": len(CONTENT), "validator": f'"{DIGEST}"'}))
    assert fetch_url(url(server)).sha256 == DIGEST
    assert server.requests == []


def test_a_busy_server_is_asked_again(server: LocalServer) -> None:
    server.statuses = [503, 429, 500]
    assert fetch_url(url(server)).sha256 == DIGEST


def test_no_such_file_is_one_line_at_once(server: LocalServer) -> None:
    with pytest.raises(
        CheckpointError, match=r"^there is no http://.*/models/vitx.pt \(404 Not Found\): check the address$"
    ):
        fetch_url(f"{server.address}/models/vitx.pt")
    assert len(server.requests) == 1
    server.statuses = [403]
    with pytest.raises(CheckpointError, match="is not given out"):
        fetch_url(url(server))


def test_a_server_that_stays_dead_names_the_file_and_its_place(server: LocalServer) -> None:
    address = url(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(CheckpointError) as caught:
        fetch_url(address)
    assert address in str(caught.value)
    assert f"put it at '{place_of(address)}'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_offline_asks_nobody_and_takes_what_a_person_put_there(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set.*put it at"):
        fetch_url(url(server))
    place_of(url(server)).write_bytes(CONTENT)
    fetched = fetch_url(f"{url(server)}#sha256={DIGEST}")
    assert fetched.sha256 == DIGEST
    assert server.requests == []


def test_a_wrong_checksum_leaves_nothing(server: LocalServer) -> None:
    wrong = "0" * 64
    with pytest.raises(CheckpointError, match="000000000000….*nothing of it was kept"):
        fetch_url(f"{url(server)}#sha256={wrong}")
    assert leftovers(place_of(url(server)).parent) == []
    assert fetch_url(f"{url(server)}#sha256={DIGEST.upper()}").sha256 == DIGEST
    with pytest.raises(CheckpointError, match="is another file or damaged"):
        fetch_url(url(server), sha256=wrong)


def test_a_file_that_was_cut_later_is_noticed(server: LocalServer) -> None:
    path = fetch_url(url(server)).path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointError, match="has 1023999 bytes, not 1024000"):
        fetch_url(url(server))


def test_no_room_is_said_before_a_byte_comes(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(CheckpointError, match=r"no room for .*vitl.pt: 1 MB are to come and .* has 1 MB free.*HF_HOME"):
        fetch_url(url(server))
    assert leftovers(place_of(url(server)).parent) == []


def test_a_disk_that_fills_up_keeps_what_came(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = download._copy

    def full(response: object, file: object, *rest: object) -> None:
        file.write(CONTENT[:1000])  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_copy", full)
    with pytest.raises(CheckpointError, match=r"the disk of .* is full: make room and run it again"):
        fetch_url(url(server))
    monkeypatch.setattr(download, "_copy", real)
    assert fetch_url(url(server)).sha256 == DIGEST
    assert server.requests[-1][2] == "bytes=1000-"


def test_two_processes_do_not_write_one_file(server: LocalServer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch_url(url(server)), range(4)))
    assert {item.sha256 for item in found} == {DIGEST}
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "address",
    [
        "ftp://host/file.pt",
        "https://host",
        "https://host/",
        "file:///etc/passwd",
        "https://h/f#md5=1",
        "https://h/f#sha256=12",
    ],
)
def test_what_is_no_address_of_a_file_is_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        split_checksum(address)


def test_places_stay_below_the_cache_and_differ(tmp_path: Path) -> None:
    root = download.weights_root()
    names = [
        "https://h/../../etc/x.pt",
        "https://h/%2e%2e/%2e%2e/x.pt",
        "https://user:pw@h/a%2Fb.pt",
        "https://h:80/a b.pt",
    ]
    places = [place_of(name) for name in names]
    assert all(root in place.parents and ".." not in place.parts for place in places)
    assert "pw" not in str(places[2])
    assert place_of("https://h/x.pt?v=1") != place_of("https://h/x.pt?v=2")
