"""``openjepa.load`` over a network: a published name, ``hf:``, an authors' file at a URL; and what can be wrong with each."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import openjepa
from openjepa.errors import CheckpointError
from openjepa.hub import download, opening
from openjepa.hub.download import place_of
from openjepa.hub.hf_native import save_hf_model
from openjepa.model import Model
from tests.unit.hub.imports.published import encoder, predictor, three, whole
from tests.unit.hub.local_server import LocalServer, serving

REPO = "facebook/vjepa2-vitl-fpc64-256"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    with serving() as server:
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(download, "_pause", lambda _: None)
        monkeypatch.setattr(opening, "_check_size", lambda *_: None)  # files here are narrower than their names say
        yield server


@pytest.fixture(scope="module")
def official() -> bytes:
    """A V-JEPA 2 file of a narrow model, with the published names."""
    parts = three(encoder(48, 2, 192, 16, tubelet=2, tokens=None), predictor(48, 2, 32, mask_tokens=10, tokens=None))
    nested: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in whole("module.backbone.", parts, device="cpu").items():
        part, _, name = key.partition(".")
        nested.setdefault(part, {})[name] = value
    target = io.BytesIO()
    torch.save({**nested, "epoch": 3}, target)
    return target.getvalue()


HINTS = {"heads": 3, "image_size": 32, "frames": 4}


def test_a_file_at_an_address_becomes_a_model_with_its_origin(hub: LocalServer, official: bytes) -> None:
    hub.files["/some/vitl.pt"] = official
    with serving() as other:
        other.files["/some/vitl.pt"] = official
        url = f"{other.address}/some/vitl.pt"
        model = openjepa.load(f"{url}#sha256={hashlib.sha256(official).hexdigest()}", hints=HINTS)
        assert isinstance(model, Model)
        assert model.provenance is not None
        assert (model.provenance.source, model.provenance.which) == (url, "target_encoder")
        assert model.provenance.licence is None
        assert model.provenance.sha256 == hashlib.sha256(official).hexdigest()
        online = openjepa.load(url, which="online", hints=HINTS)
        assert online.provenance.which == "encoder"  # type: ignore[union-attr]


def test_the_authors_file_put_in_its_place_loads_by_name(hub: LocalServer, official: bytes) -> None:
    place = place_of("https://dl.fbaipublicfiles.com/vjepa2/vitl.pt")
    place.parent.mkdir(parents=True)
    place.write_bytes(official)
    model = openjepa.load("vjepa2-vitl-256@official", hints=HINTS)
    assert model.provenance is not None
    assert (model.provenance.name, model.provenance.licence) == ("vjepa2-vitl-256", "MIT")
    assert model.config.image_hw == (32, 32)  # a hint of the caller comes before the catalogue's


def test_a_published_name_and_its_repository_are_one_model(hub: LocalServer, official: bytes, tmp_path: Path) -> None:
    (tmp_path / "vitl.pt").write_bytes(official)
    source = openjepa.load(tmp_path / "vitl.pt", hints=HINTS)
    assert isinstance(source, Model)
    folder = save_hf_model(tmp_path / "saved", source.loaded)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repositories[REPO] = {**files, "README.md": b"---\nlicense: mit\n---\n"}
    model = openjepa.load("vjepa2-vitl-256")
    again = openjepa.load(f"hf:{REPO}@main")
    assert model.provenance is not None
    assert (model.provenance.name, model.provenance.licence) == ("vjepa2-vitl-256", "mit")
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.inference_mode():
        tokens = [m.encoder.forward_features(clip) for m in (source, model, again)]
    assert torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens[1], tokens[2])


class _Bad:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('executed')",))


@pytest.mark.parametrize("kind", ["cut", "code", "page"])
def test_what_is_no_model_is_one_line(hub: LocalServer, official: bytes, kind: str) -> None:
    page = b"<html>Please log in</html>"
    hub.files["/x.pt"] = {"cut": official[: len(official) // 2], "code": pickle.dumps(_Bad()), "page": page}[kind]
    with serving() as other:
        other.files["/x.pt"] = hub.files["/x.pt"]
        with pytest.raises(CheckpointError) as caught:
            openjepa.load(f"{other.address}/x.pt", hints=HINTS)
    assert "\n" not in str(caught.value)


def test_a_repository_of_another_model_says_what_it_is(hub: LocalServer) -> None:
    config = json.dumps({"model_type": "bert", "hidden_size": 8}).encode()
    hub.repositories["org/text"] = {"config.json": config, "model.safetensors": b"x"}
    with pytest.raises(openjepa.errors.OpenJepaError) as caught:
        openjepa.load("hf:org/text")
    assert "\n" not in str(caught.value)
