"""Published attentive probes: names and shapes of the real ones, several in one file, actions of Epic-Kitchens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.imports import import_probe
from openjepa.models.attentive import ActionClassifier, AttentiveClassifier


def names(probe: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"module.{key}": value for key, value in probe.state_dict().items()}


def test_the_probe_of_vjepa_has_the_heads_of_its_encoder(tmp_path: Path) -> None:
    probe = AttentiveClassifier(192, 3, 7, form="vjepa").eval()
    torch.save({"classifier": names(probe), "epoch": 2, "opt": {}}, tmp_path / "in1k-probe.pth.tar")
    found = import_probe(tmp_path / "in1k-probe.pth.tar", classes=[f"c{i}" for i in range(7)])
    tokens = torch.randn(2, 5, 192)
    assert torch.equal(found.classifier(tokens), probe(tokens))
    assert found.classes[3] == "c3"
    with pytest.raises(ConfigError, match="7 logits, not 2"):
        import_probe(tmp_path / "in1k-probe.pth.tar", classes=["a", "b"])


def test_one_of_several_probes_of_vjepa2(tmp_path: Path) -> None:
    probes = [AttentiveClassifier(64, 16, 5, depth=4).eval() for _ in range(3)]
    path = tmp_path / "ssv2.pt"
    torch.save({"classifiers": [names(probe) for probe in probes]}, path)
    tokens = torch.randn(2, 5, 64)
    for number in (0, 2):
        assert torch.equal(import_probe(path, number=number).classifier(tokens), probes[number](tokens))
    with pytest.raises(CheckpointError, match="has 3 probes, so no number 3"):
        import_probe(path, number=3)


def test_actions_of_epic_kitchens(tmp_path: Path) -> None:
    probe = ActionClassifier(64, 16, 4, 6, 9).eval()
    path = tmp_path / "ek100.pt"
    torch.save({"classifiers": [names(probe)]}, path)
    found = import_probe(path)
    logits = found.classifier(torch.randn(2, 5, 64))
    assert [tuple(part.shape) for part in logits] == [(2, 4), (2, 6), (2, 9)]


@pytest.mark.parametrize(
    ("dim", "classes", "depth", "form", "millions"),
    # official.md §6.2: V-JEPA L K400 13.0, H 20.2; V-JEPA 2 L SSv2 49.5, g SSv2 93.5
    [
        (1024, 400, 1, "vjepa", 13.0),
        (1280, 400, 1, "vjepa", 20.2),
        (1024, 174, 4, "vjepa2", 49.5),
        (1408, 174, 4, "vjepa2", 93.5),
    ],
)
def test_published_sizes(dim: int, classes: int, depth: int, form: str, millions: float) -> None:
    with torch.device("meta"):
        probe = AttentiveClassifier(dim, 16, classes, depth=depth, form=form)  # type: ignore[arg-type]
    assert round(sum(value.numel() for value in probe.parameters()) / 1e6, 1) == millions


def test_what_is_no_probe_is_one_line(tmp_path: Path) -> None:
    torch.save({"encoder": {"norm.weight": torch.ones(3)}}, tmp_path / "encoder.pt")
    with pytest.raises(CheckpointError, match="no attentive classifier"):
        import_probe(tmp_path / "encoder.pt")
    probe = AttentiveClassifier(48, 3, 7, form="vjepa")
    torch.save({"classifier": names(probe)}, tmp_path / "odd.pt")
    with pytest.raises(ConfigError, match="how many heads a probe 48 wide has"):
        import_probe(tmp_path / "odd.pt")
