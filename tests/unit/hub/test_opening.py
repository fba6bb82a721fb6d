"""``openjepa.load`` on whatever names a model: hand-fetched files, URLs, Hugging Face directories, probes, nonsense."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import openjepa
from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub import opening
from openjepa.hub.adapters import Foreign
from openjepa.hub.opening import open_any, open_own
from openjepa.model import Model
from openjepa.models.attentive import AttentiveClassifier
from tests.unit.hub.imports.test_official import nested, small

HINTS = {"heads": 3}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "www"
    folder.mkdir()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture
def wee(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue whose models are as small as the files of these tests."""
    entries = tuple(replace(entry, encoder={"dim": 48, "depth": 2, "heads": 3}) for entry in opening.published())
    monkeypatch.setattr(opening, "published", lambda: entries)


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "IN1K-vit.h.14-300e.pth.tar"
    torch.save(nested(small("ijepa")), path)
    with pytest.raises(
        CheckpointError, match="is no ijepa-vith14-1k: its encoder has dim 48, depth 2.* instead of dim 1280"
    ):
        openjepa.load(path, hints={"heads": 3, "image_size": 32})


def test_a_published_file_fetched_by_hand_is_known_by_its_name(tmp_path: Path, wee: None) -> None:
    path = tmp_path / "IN1K-vit.h.14-300e.pth.tar"
    torch.save(nested(small("ijepa")), path)
    model = openjepa.load(path, hints={"heads": 3, "image_size": 32})
    assert isinstance(model, Model)
    assert model.provenance is not None
    assert model.provenance.name == model.name == "ijepa-vith14-1k"
    assert model.provenance.licence
    assert model.embed(torch.rand(3, 50, 40)).shape == (1, 48)
    other = tmp_path / "mine.pth.tar"
    path.rename(other)
    found = openjepa.load(other, hints=HINTS)
    assert found.provenance is not None
    assert (found.provenance.name, found.provenance.licence) == (None, None)


def test_a_url_is_fetched_once_and_opened_with_its_checksum(served) -> None:
    folder, address = served
    torch.save(nested(small("vjepa2")), folder / "some.pt")
    loaded = open_any(f"{address}/some.pt", hints=HINTS)
    assert not isinstance(loaded, Foreign)
    assert loaded.provenance is not None
    assert loaded.provenance.source == f"{address}/some.pt"
    assert loaded.provenance.sha256
    (folder / "some.pt").unlink()
    assert torch.equal(
        open_any(f"{address}/some.pt", hints=HINTS).encoder.norm.weight,  # type: ignore[union-attr]
        loaded.encoder.norm.weight,
    )
    with pytest.raises(CheckpointError, match=r"other.pt .404") as caught:
        open_any(f"{address}/other.pt")
    assert "\n" not in str(caught.value)


def test_a_probe_comes_with_the_model(tmp_path: Path) -> None:
    torch.save(nested(small("vjepa")), tmp_path / "encoder.pt")
    probe = AttentiveClassifier(48, 16, 5, depth=2)
    torch.save({"classifiers": [{f"module.{k}": v for k, v in probe.state_dict().items()}]}, tmp_path / "probe.pt")
    model = openjepa.load(tmp_path / "encoder.pt", hints=HINTS, probe=tmp_path / "probe.pt")
    assert isinstance(model, Model)
    assert model.probe is not None
    tokens = model.embed(torch.rand(3, 4, 32, 32), tokens="patch")
    assert model.probe.classifier(tokens).shape == (1, 5)
    narrow = AttentiveClassifier(32, 16, 5, depth=2)
    torch.save({"classifiers": [{f"module.{k}": v for k, v in narrow.state_dict().items()}]}, tmp_path / "narrow.pt")
    with pytest.raises(CheckpointError, match="is 32 wide, the encoder 48"):
        openjepa.load(tmp_path / "encoder.pt", hints=HINTS, probe=tmp_path / "narrow.pt")
    with pytest.raises(CheckpointError, match="there is no probe 'ssv2': give a file, or a task with a published"):
        openjepa.load(tmp_path / "encoder.pt", hints=HINTS, probe="ssv2")
    with pytest.raises(ConfigError, match="published probes are for models of ours"):
        openjepa.load("timm:vit_wee_patch16_reg1_gap_256@random", probe=tmp_path / "probe.pt")


def test_what_names_nothing_is_one_line(tmp_path: Path) -> None:
    for name, words in (
        ("vjepa2-vitll-256", "did you mean 'vjepa2-vitl-256'"),
        (str(tmp_path / "none"), "there is no"),
        ("timm:no_such_model", "no_such_model"),
    ):
        with pytest.raises((CheckpointError, ConfigError), match=words) as caught:
            openjepa.load(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="the hints heads are for authors' weight files"):
        openjepa.load("timm:vit_wee_patch16_reg1_gap_256@random", hints={"heads": 3})
    with pytest.raises(ConfigError, match="an encoder alone"):
        open_own("timm:vit_wee_patch16_reg1_gap_256@random")


def test_the_licence_is_said_at_load(tmp_path: Path, wee: None, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "vith16.pth.tar"
    torch.save(nested(small("vjepa")), path)
    openjepa.load(path, hints={"heads": 3, "image_size": 32, "frames": 4})
    assert "vjepa-vith-224 (vjepa-official, target_encoder), licence of the weights: CC-BY-NC" in caplog.text
