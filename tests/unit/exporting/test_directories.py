"""Model directories: ours, transformers' and timm's hold the same network, as their own libraries read it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import openjepa
from openjepa.errors import CheckpointError, ConfigError, RunError
from openjepa.exporting import directories, export
from openjepa.exporting.verify import relative_error
from openjepa.hub.provenance import Provenance, PublishedProbe
from openjepa.model import Model
from openjepa.models.attentive import AttentiveClassifier

Saved = Callable[[str], Path]
ORIGIN = Provenance(
    "/home/somebody/vitl.pt", "ijepa-official", "target_encoder", "CC-BY-NC-4.0", notes=("no predictor",)
)


def opened(saved: Saved, kind: str) -> Model:
    model = openjepa.load(saved(kind))
    assert isinstance(model, Model)
    return model


def front(page: Path) -> dict[str, Any]:
    found = yaml.safe_load(page.read_text(encoding="utf-8").split("---")[1])
    assert isinstance(found, dict)
    return found


def test_our_directory_keeps_everything(saved: Saved, tmp_path: Path) -> None:
    model = Model(replace(opened(saved, "tiled").loaded, provenance=ORIGIN))
    done = export(model, tmp_path / "out", "safetensors")
    again = openjepa.load(done.path)
    assert isinstance(again, Model)
    assert done.error == 0
    assert again.config == model.config
    for part in ("encoder", "target", "online", "predictor"):
        ours, theirs = (getattr(source, part).state_dict() for source in (model, again))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert again.provenance == replace(ORIGIN, source="vitl.pt")  # whose machine it was is nobody's business
    page = done.path / "README.md"
    assert front(page)["license"] == "cc-by-nc-4.0"
    assert "somebody" not in page.read_text(encoding="utf-8")
    assert "Their licence is CC-BY-NC-4.0." in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("image", "IJepaModel"), ("class token", "ViTMAEModel"), ("counted", "VideoMAEModel"), ("tiled", "VJEPA2Model")],
)
def test_transformers_reads_the_same_network(saved: Saved, tmp_path: Path, kind: str, name: str) -> None:
    pytest.importorskip("transformers", reason="extra 'hf' is not installed")
    done = export(saved(kind), tmp_path / "out", "hf")
    assert done.error < 1e-5
    assert len(done.checks) == 2
    assert name in done.notes[0]
    assert front(done.path / "README.md")["library_name"] == "transformers"
    again, model = openjepa.load(done.path), opened(saved, kind)
    x = torch.randn(1, 3, 32, 32) if model.clip is None else torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert relative_error(again.encoder.forward_features(x), model.encoder.forward_features(x)) < 1e-5


def test_the_encoder_that_was_asked_for(saved: Saved, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="extra 'hf' is not installed")
    model = opened(saved, "image")
    assert model.online is not None
    export(saved("image"), tmp_path / "out", "hf", which="online")
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        found = transformers.AutoModel.from_pretrained(tmp_path / "out")(x).last_hidden_state
        assert relative_error(found, model.online.forward_features(x)) < 1e-5
        assert relative_error(found, model.encoder.forward_features(x)) > 1e-3


def test_a_classifier_goes_along(saved: Saved, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="extra 'hf' is not installed")
    torch.manual_seed(3)
    probe = PublishedProbe(AttentiveClassifier(24, 2, 3, depth=2).eval(), ("push", "pull", "lift"), "probe.pt")
    model = Model(replace(opened(saved, "tiled").loaded, probe=probe))
    with pytest.raises(CheckpointError, match="transformers' classifier computes something else"):
        export(model, tmp_path / "out", "hf")  # it has epsilon 1e-6 in all norms, and this one 1e-5
    assert list(tmp_path.iterdir()) == []
    for module in probe.classifier.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    done = export(model, tmp_path / "out", "hf")
    assert len(done.checks) == 3  # two of features, one of logits
    network = transformers.VJEPA2ForVideoClassification.from_pretrained(tmp_path / "out").eval()
    assert network.config.id2label == {0: "push", 1: "pull", 2: "lift"}
    graph = export(model, tmp_path / "m.pt2", "pt2", output="logits", dynamic="none")
    x = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        found = torch.export.load(graph.path).module()(x)
        assert relative_error(found, network(pixel_values_videos=x.transpose(1, 2)).logits) < 1e-4
    done = export(model, tmp_path / "ours", "safetensors")
    assert "its classifier (AttentiveClassifier) is left out" in done.notes[0]


@pytest.mark.parametrize("kind", ["image", "learned", "class token"])
def test_timm_reads_the_same_network(saved: Saved, tmp_path: Path, kind: str) -> None:
    timm = pytest.importorskip("timm", reason="extra 'timm' is not installed")
    done = export(saved(kind), tmp_path / "out", "timm")
    assert done.error < 1e-5
    network = timm.create_model(f"local-dir:{done.path}", pretrained=True).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = network.forward_features(x)[:, network.num_prefix_tokens :]
        assert relative_error(found, opened(saved, kind).encoder.forward_features(x)) < 1e-5


def test_what_a_format_cannot_hold_is_one_line_and_leaves_nothing(saved: Saved, tmp_path: Path) -> None:
    cases: list[tuple[Any, str, str]] = [
        ("interleaved", "hf", "no encoder of clips with positions rope3d interleaved"),
        ("clip", "timm", "it takes images, and this encoder clips"),
    ]
    for kind, format, message in cases:
        with pytest.raises(CheckpointError, match=message) as caught:
            export(saved(kind), tmp_path / "out", format)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="safetensors keeps every encoder: leave out which=online"):
        export(saved("image"), tmp_path / "out", "safetensors", which="online")
    with pytest.raises(ConfigError, match="--with-preprocessing is for onnx and pt2: a hf directory"):
        export(saved("image"), tmp_path / "out", "hf", preprocessing=True)
    assert list(tmp_path.iterdir()) == []


def test_another_librarys_network_stays_in_its_library(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="extra 'timm' is not installed")
    with pytest.raises(ConfigError, match="is another library's network: export it as onnx or pt2"):
        export("timm:test_vit@random@32px", tmp_path / "out", "hf")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_computes_something_else_leaves_nothing(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(directories.WRITERS["safetensors"], open=lambda folder: lambda x: torch.zeros(len(x), 16, 24))
    monkeypatch.setitem(directories.WRITERS, "safetensors", broken)
    with pytest.raises(CheckpointError, match="computes something else"):
        export(saved("image"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_only_a_model_is_ever_replaced(saved: Saved, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    place = tmp_path / "out"
    export(saved("image"), place)
    with pytest.raises(RunError, match="exists already"):
        export(saved("learned"), place)
    export(saved("learned"), place, overwrite=True)
    assert opened(lambda _: place, "").config.model.positions == "learned"
    with pytest.raises(ConfigError, match="is the model itself"):
        export(place, place, overwrite=True)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("a cat")
    with pytest.raises(RunError, match="holds more than an exported model, so it is not replaced"):
        export(saved("image"), photos, overwrite=True)
    with pytest.raises(RunError, match="holds more than an exported model"):
        export(saved("image"), tmp_path, overwrite=True)
    assert (photos / "cat.jpg").read_text() == "a cat"
