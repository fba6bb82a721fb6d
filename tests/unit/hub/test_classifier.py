"""Fine-tuned classifiers on disk: saved, loaded, damaged, and of networks that are not ours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import openjepa
import openjepa.model
from openjepa.config import build_recipe
from openjepa.config.schema import Recipe
from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.adapters import open_encoder
from openjepa.hub.classifier import CLASSIFIER
from openjepa.hub.foreign_directory import save_foreign
from openjepa.hub.model_directory import load_model, save_model
from openjepa.hub.provenance import PublishedProbe
from openjepa.models import build_encoder
from openjepa.models.attentive import AttentiveClassifier
from openjepa.models.linear_head import LinearHead

NAMES = ("ant", "bee", "cat")


def recipe(**model: object) -> Recipe:
    free = {"arch": None, "dim": 16, "depth": 2, "heads": 2, "patch_size": 4, **model}
    return build_recipe({"name": "tiny", "data": {"image_size": 16}, "model": free, "predictor": {"dim": 12}}, ())


def probe(width: int = 16, pooling: str = "mean") -> PublishedProbe:
    torch.manual_seed(1)
    head = LinearHead(width, 3, pooling)  # type: ignore[arg-type]
    with torch.no_grad():
        head.weight.normal_()
    return PublishedProbe(head, NAMES, "test")


def seen(model: openjepa.model.AnyModel, images: torch.Tensor) -> torch.Tensor:
    """What the encoder is shown."""
    return model.normalise(torch.stack([model.transform(image) for image in images]))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    made = recipe()
    encoder = build_encoder(made.model, made.image_hw)
    return save_model(tmp_path / "model", encoder, made, probe=probe(), about={"finetuned": {"from": "x"}})


def test_a_classifier_is_saved_loaded_and_classifies(saved: Path) -> None:
    loaded = load_model(saved)
    assert loaded.probe is not None
    assert loaded.probe.classes == NAMES
    assert loaded.info["finetuned"] == {"from": "x"}
    model = openjepa.load(saved)
    images = torch.randint(0, 255, (5, 3, 16, 16), dtype=torch.uint8)
    labels, shares = model.classify(images, batch_size=2)
    assert shares.shape == (5, 3)
    head = probe().classifier
    with torch.no_grad():
        expected = head(model.encoder(seen(model, images))).softmax(-1)
    assert torch.allclose(shares, expected, atol=1e-6)
    assert labels == [NAMES[i] for i in expected.argmax(1).tolist()]
    assert model.embed(images).shape == (5, 16)
    assert "classifier.safetensors" in (saved / "README.md").read_text()


def test_the_class_token(tmp_path: Path) -> None:
    made = recipe(class_token=True)
    encoder = build_encoder(made.model, made.image_hw).eval()
    head = probe(pooling="class")
    model = openjepa.load(save_model(tmp_path / "model", encoder, made, probe=head))
    images = torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        token = encoder.forward_features(seen(model, images), prefix=True)[:, :1]
        expected = head.classifier(token).softmax(-1)
    assert torch.allclose(model.classify(images)[1], expected, atol=1e-6)


def test_an_attentive_probe_classifies_too(saved: Path) -> None:
    model = openjepa.load(saved)
    classifier = AttentiveClassifier(dim=16, heads=2, classes=3)
    model.probe = PublishedProbe(classifier, (), "probe.pt")
    labels, shares = model.classify(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    assert labels == [str(int(shares.argmax()))]
    assert float(shares.sum()) == pytest.approx(1)


def test_models_without_a_classifier_say_so(tmp_path: Path) -> None:
    made = recipe()
    model = openjepa.load(save_model(tmp_path / "model", build_encoder(made.model, made.image_hw), made))
    with pytest.raises(ConfigError, match="has no classifier"):
        model.classify(torch.zeros(1, 3, 16, 16))
    assert model.probe is None


def test_damage_is_one_line(saved: Path) -> None:
    (saved / "manifest.json").unlink()
    head = (saved / CLASSIFIER).read_bytes()
    (saved / CLASSIFIER).unlink()
    with pytest.raises(CheckpointError, match="classifier.safetensors is missing"):
        load_model(saved)
    (saved / CLASSIFIER).write_bytes(head[:50])
    with pytest.raises(CheckpointError, match="does not match its description"):
        load_model(saved)
    (saved / CLASSIFIER).write_bytes(head)
    config = json.loads((saved / "config.json").read_text())
    config["classifier"]["classes"].append("dog")
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not match its description"):
        load_model(saved)
    config["classifier"]["pooling"] = "max"
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="no classifier this version knows") as caught:
        load_model(saved)
    assert "\n" not in str(caught.value)


def test_a_tuned_network_of_timm_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    foreign = dataclasses.replace(open_encoder("timm:vit_tiny_patch16_224@random@32px"), licence="mit")
    with torch.no_grad():
        for value in foreign.encoder.parameters():
            value.add_(0.01 * torch.randn_like(value))
    folder = save_foreign(tmp_path / "run" / "model", foreign, foreign.encoder, probe(192), {"finetuned": {}})
    for place in (folder, tmp_path / "run"):
        model = openjepa.load(place)
        images = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
        with torch.no_grad():
            tokens = foreign.encoder.forward_features(seen(model, images))
            expected = probe(192).classifier(tokens).softmax(-1)
        assert torch.allclose(model.classify(images)[1], expected, atol=1e-5)
        assert model.foreign.licence == "mit"
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="damaged|match"):
        openjepa.load(folder)
