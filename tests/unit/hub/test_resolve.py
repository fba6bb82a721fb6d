"""Names become files: the catalogue, ``hf:``, URLs; Hugging Face's cache, mirror, offline switch and login are its own."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, try_to_load_from_cache

from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub import download, download_hf, resolve
from openjepa.hub.catalogue import lookup
from openjepa.hub.download import place_of
from openjepa.hub.resolve import is_download, is_here, resolve_probe
from tests.unit.hub.local_server import LocalServer, serving

VITL = "facebook/vjepa2-vitl-fpc64-256"
CARD = b"---\nlicense: mit\ntags: [video]\n---\n# A model\n"
FILES = {
    "config.json": b'{"model_type": "vjepa2"}',
    "video_preprocessor_config.json": b"{}",
    "README.md": CARD,
    "model.safetensors": os.urandom(200_000),
    "pytorch_model.bin": b"the same again",
    "onnx/model.onnx": b"not this",
    "model.fp16.safetensors": b"nor this",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    """A hub on this machine, and an empty cache."""
    with serving() as server:
        server.repositories[VITL] = dict(FILES)
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(download, "_pause", lambda _: None)
        yield server


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's client waits between its tries."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


def fetched(server: LocalServer) -> set[str]:
    return {path.rpartition("/")[2] for verb, path, _ in server.requests if verb == "GET" and "/resolve/" in path}


def test_a_published_name_is_downloaded_into_the_shared_cache(hub: LocalServer) -> None:
    found = resolve.resolve("vjepa2-vitl")
    assert sorted(path.name for path in found.path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "video_preprocessor_config.json",
    ]
    assert (found.path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert try_to_load_from_cache(VITL, "model.safetensors", constants.HF_HUB_CACHE) == str(
        found.path / "model.safetensors"
    )
    assert (found.name, found.source, found.licence) == ("vjepa2-vitl-256", f"hf:{VITL}", "mit")
    assert any("online" in note for note in found.notes)
    assert not any("licence" in note for note in found.notes)
    assert found.hints == {}  # its config.json says all
    before = len(hub.requests)
    assert resolve.resolve(f"hf:{VITL}") == found
    assert resolve.resolve(f"{hub.address}/{VITL}") == found
    assert resolve.resolve(f"https://huggingface.co/{VITL}/tree/main") == found
    assert all(verb == "HEAD" or "/api/" in path for verb, path, _ in hub.requests[before:])


def test_one_file_of_a_repository_at_a_commit(hub: LocalServer) -> None:
    found = resolve.resolve(f"hf:{VITL}/model.fp16.safetensors@{'a' * 40}")
    assert found.path.read_bytes() == b"nor this"
    assert fetched(hub) == {"model.fp16.safetensors"}
    with pytest.raises(CheckpointError, match=r"has no file 'x.pt': it has config.json"):
        resolve.resolve(f"hf:{VITL}/x.pt")


def test_pickled_weights_only_where_there_are_no_safetensors(hub: LocalServer) -> None:
    hub.repositories["org/old"] = {"config.json": b"{}", "pytorch_model.bin": b"weights"}
    assert (resolve.resolve("hf:org/old").path / "pytorch_model.bin").read_bytes() == b"weights"
    hub.repositories["org/none"] = {"config.json": b"{}", "tf_model.h5": b"weights"}
    with pytest.raises(ConfigError, match=r"no model.safetensors or pytorch_model.bin: name one file"):
        resolve.resolve("hf:org/none")


def test_weights_in_parts_come_with_their_index(hub: LocalServer) -> None:
    index = json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    )
    parts = {f"model-0000{n}-of-00002.safetensors": bytes([n]) for n in (1, 2)}
    hub.repositories["org/big"] = {"config.json": b"{}", "model.safetensors.index.json": index.encode(), **parts}
    folder = resolve.resolve("hf:org/big").path
    assert len(list(folder.glob("model*"))) == 3
    assert download_hf.is_cached("org/big")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert not download_hf.is_cached("org/big")


def test_a_damaged_download_is_noticed_and_fetched_again(hub: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve.resolve(f"hf:{VITL}").path
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(FILES["model.safetensors"][::-1])  # as long, other bytes
    shutil.rmtree(Path(constants.HF_ASSETS_CACHE) / "openjepa" / "checked")
    with pytest.raises(CheckpointError, match=r"'model.safetensors' of .* was damaged on the way"):
        resolve.resolve(f"hf:{VITL}")
    assert (resolve.resolve(f"hf:{VITL}").path / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_checksum_is_computed_once(hub: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve.resolve(f"hf:{VITL}")
    monkeypatch.setattr(download_hf, "sha256", lambda _: pytest.fail("computed again"))
    resolve.resolve(f"hf:{VITL}")


def test_no_network_takes_the_copy_from_before_with_a_warning(
    hub: LocalServer, caplog: pytest.LogCaptureFixture
) -> None:
    found = resolve.resolve("vjepa2-vitl")
    hub.dead = True
    assert resolve.resolve("vjepa2-vitl").path == found.path
    assert "cannot be reached" in caplog.text


def test_no_network_and_no_copy_is_one_line_with_file_and_place(hub: LocalServer) -> None:
    hub.dead = True
    with pytest.raises(CheckpointError) as caught:
        resolve.resolve("vjepa2-vitl")
    line = str(caught.value)
    assert "\n" not in line
    assert (
        "fetch the .json files and model.safetensors of https://huggingface.co/facebook/vjepa2-vitl-fpc64-256" in line
    )
    place = download_hf.by_hand(VITL)
    assert f"put them into '{place}'" in line
    place.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (place / name).write_bytes(FILES[name])
    assert resolve.resolve("vjepa2-vitl").path == place


def test_offline_touches_no_network(hub: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        resolve.resolve("vjepa2-vitl")
    assert hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    found = resolve.resolve("vjepa2-vitl")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert resolve.resolve("vjepa2-vitl") == found
    assert len(hub.requests) == before


def test_what_the_hub_refuses_is_one_line(hub: LocalServer) -> None:
    with pytest.raises(
        CheckpointError, match=r"^there is no model 'org/nobody' at http.*, or it is private \(then: hf auth"
    ):
        resolve.resolve("hf:org/nobody")
    with pytest.raises(CheckpointError, match="has no revision 'v9'"):
        resolve.resolve(f"hf:{VITL}@v9")
    hub.gated.add(VITL)
    with pytest.raises(CheckpointError, match=f"'{VITL}' is gated: accept its licence at"):
        resolve.resolve(f"hf:{VITL}")
    with pytest.raises(ConfigError, match="is no name of a Hugging Face model"):
        resolve.resolve("hf:org/na me--x")
    with pytest.raises(ConfigError, match="names no model"):
        resolve.resolve("hf:")


def test_no_room_is_said_before_anything_comes(hub: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(CheckpointError, match=rf"no room for '{VITL}'.*HF_HOME"):
        resolve.resolve("vjepa2-vitl")
    assert fetched(hub) == set()


def test_a_cut_connection_to_the_hub_is_taken_up(hub: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # its client keeps whole pieces, of ten megabytes
    hub.cuts = [70_000, 70_000]
    found = resolve.resolve("vjepa2-vitl")
    assert (found.path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    parts = [part for verb, path, part in hub.requests if verb == "GET" and path.endswith("/model.safetensors")]
    assert parts == [None, "bytes=70000-", "bytes=140000-"]


def test_a_disk_that_fills_up_is_one_line(hub: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(CheckpointError, match=r"^the disk of .* is full: make room and run it again"):
        resolve.resolve("vjepa2-vitl")


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_one_that_is_not_reached(hub: LocalServer, status: int) -> None:
    hub.statuses = [status] * 20
    with pytest.raises(CheckpointError, match=rf"cannot be reached: .*{status}.*put them into"):
        resolve.resolve("vjepa2-vitl")


def test_the_official_file_is_another_source(hub: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    official = lookup("vjepa2-vitg-384").sources[1]
    place = place_of(official.where)
    assert place.parts[-3:] == ("dl.fbaipublicfiles.com", "vjepa2", "vitg-384.pt")
    with pytest.raises(CheckpointError, match="fetch https://dl.fbaipublicfiles.com/vjepa2/vitg-384.pt elsewhere"):
        resolve.resolve("vjepa2-vitg-384@official")
    place.write_bytes(b"weights")
    assert is_here(official)
    found = resolve.resolve("vjepa2-vitg-384@official")
    assert found.path == place
    assert found.hints == {"family": "V-JEPA 2", "image_size": 384, "frames": 64}
    assert found.licence == "MIT"
    assert resolve.resolve(official.where) == found  # the address alone says as much


def test_a_url_nobody_knows_has_no_licence(hub: LocalServer) -> None:
    hub.files["/some/model.safetensors"] = b"weights"
    with serving() as other:
        other.files["/some/model.safetensors"] = b"weights"
        found = resolve.resolve(f"{other.address}/some/model.safetensors")
    assert (found.licence, found.entry, found.name) == (None, None, None)
    assert found.path.read_bytes() == b"weights"


def test_where_card_and_catalogue_differ_both_are_told(hub: LocalServer) -> None:
    hub.repositories[VITL]["README.md"] = b"---\nlicense: apache-2.0\n---\n"
    found = resolve.resolve("vjepa2-vitl")
    assert found.licence == "apache-2.0"
    assert any("card says apache-2.0" in note and "MIT" in note for note in found.notes)
    hub.repositories["facebook/vit-mae-base"] = {**FILES, "README.md": b"no front matter"}
    assert resolve.resolve("mae-vitb").licence is None  # unknown, not a guess


def test_probes_by_task(hub: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"no published probe 'ssv1' \(did you mean 'ssv2'\?\): there is ssv2, diving48"
    ):
        resolve_probe("vjepa2-vitl", "ssv1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"fetch https://dl.fbaipublicfiles.com/vjepa2/evals/ssv2-vitl-16x2x3.pt"):
        resolve_probe("vjepa2-vitl-256", "SSv2")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("vjepa2-vitl-256", True),
        ("vjepa2-vitl@official", True),
        ("hf:org/name", True),
        ("hf:org/name@main", True),
        ("hf:org/name@random", False),
        ("hf:org/name@random@96px", False),
        ("hf:org/name@96px", False),
        ("https://h/x.pt", True),
        ("timm:vit_tiny", False),
        ("runs/x", False),
        ("", False),
    ],
)
def test_what_is_downloaded(text: str, answer: bool) -> None:
    assert is_download(text) is answer


def test_a_wrong_name_has_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no published model 'vjepa2-vitk' \(did you mean 'vjepa2-vit.'\?\)"):
        resolve.resolve("vjepa2-vitk")
    with pytest.raises(ConfigError, match=r"'vjepa-vitl-224' has no source 'hf': there is official"):
        resolve.resolve("vjepa-vitl@hf")


def test_mirror_and_cache_are_those_of_the_environment(hub: LocalServer, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME: as a user sets them, through the command line."""
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ASSETS_CACHE", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "openjepa", "models", "get", "vjepa2-vitl"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[0])
    assert tmp_path / "home" / "hub" in folder.parents
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert "licence  mit" in done.stdout
