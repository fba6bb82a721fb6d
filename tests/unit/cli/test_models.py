"""``openjepa models``: what is published, where it is, what a file holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from openjepa.cli import main
from openjepa.hub.catalogue import published
from openjepa.hub.download import place_of
from tests.unit.hub.imports.published import encoder, predictor, three, whole


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_list_names_every_model_with_size_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    for entry in published():
        assert f"  {entry.name} " in out
    row = next(line for line in out.splitlines() if "vjepa-vith-384" in line)
    shown = "vjepa-vith-384 ViT-H/16 632 + 22 M 384 px, 16 frames CC-BY-NC-4.0 (no commercial use) official"
    assert " ".join(row.split()) == shown
    assert max(map(len, out.splitlines())) <= 120


def test_list_of_one_family_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--family", "vjepa2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["family"] for row in found} == {"V-JEPA 2"}
    assert found[0]["parameters"] == 303_885_312
    assert found[0]["sources"][0] == {"name": "hf", "load": "hf:facebook/vjepa2-vitl-fpc64-256", "encoders": []}
    assert main(["models", "list", "--family", "V-JEPA 3"]) == 2
    assert "no family 'V-JEPA 3' (did you mean 'V-JEPA" in capsys.readouterr().err


def test_show_tells_licence_sources_and_probes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", "ijepa-vith14"]) == 0
    out = capsys.readouterr().out
    assert "CC-BY-NC-4.0: not for commercial use" in out
    assert "as ijepa-vith14-1k@official" in out
    assert "mean and deviation .5" in out
    assert main(["models", "show", "vjepa-vitl"]) == 0
    out = capsys.readouterr().out
    assert "probe k400" in out
    assert "on this machine" not in out
    place = place_of("https://dl.fbaipublicfiles.com/jepa/vitl16/vitl16.pth.tar")
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x")
    assert main(["models", "show", "vjepa-vitl"]) == 0
    assert "on this machine" in capsys.readouterr().out
    assert main(["models", "show", "vjepa-vitx"]) == 2
    assert "did you mean 'vjepa-vit" in capsys.readouterr().err


def test_get_says_where_the_file_is_or_where_to_put_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "get", "vjepa-vitl"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    place = place_of("https://dl.fbaipublicfiles.com/jepa/vitl16/vitl16.pth.tar")
    assert f"put it at '{place}'" in line
    place.write_bytes(b"weights")
    assert main(["models", "get", "vjepa-vitl"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == str(place)
    assert "licence  CC-BY-NC-4.0: not for commercial use" in out
    assert main(["models", "get", "vjepa-vitl", "--probe", "k401"]) == 2
    assert "no published probe 'k401' (did you mean 'k400'?)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "hf:org/name@random"])
def test_get_of_what_is_built_when_used(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "get", name]) == 2
    assert "nothing is downloaded" in capsys.readouterr().err


def test_inspect_names_layout_architecture_and_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = three(encoder(48, 2, 192, 16, tubelet=2, tokens=None), predictor(48, 2, 32, mask_tokens=10, tokens=None))
    path = tmp_path / "vitl.pt"
    flat = whole("module.backbone.", parts, device="cpu")
    nested: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in flat.items():
        part, _, name = key.partition(".")
        nested.setdefault(part, {})[name] = value
    torch.save(nested, path)
    (tmp_path / "meta.json").write_text(json.dumps({"heads": 3}))
    assert main(["models", "inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "vjepa2-official" in out
    assert "dim 48, depth 2, heads 3" in out
    assert "encoder.module.backbone.blocks.0.attn.qkv.weight" in out
    assert "blocks.1." not in out
    assert f"{len(flat)} tensors, {len(flat)} taken" in out
    assert main(["models", "inspect", str(path), "--all"]) == 0
    assert "blocks.1." in capsys.readouterr().out
    assert main(["models", "inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["keys"]) == len(flat)
    assert found["architecture"]["model"]["dim"] == 48


def test_inspect_takes_hints_and_published_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = encoder(1024, 1, 4096, 16, tubelet=2, tokens=None)  # as wide as ViT-L, one block of it
    flat = whole("module.backbone.", {"encoder": shapes}, device="cpu")
    place = place_of("https://dl.fbaipublicfiles.com/vjepa2/vitl.pt")
    place.parent.mkdir(parents=True)
    torch.save({"encoder": {key.removeprefix("encoder."): value for key, value in flat.items()}}, place)
    assert main(["models", "inspect", "vjepa2-vitl@official"]) == 0
    out = capsys.readouterr().out
    assert "dim 1024, depth 1, heads 16" in out
    assert "image size  256×256" in out
    assert main(["models", "inspect", str(place), "--hint", "heads=8", "--hint", "image_size=[128, 192]"]) == 0
    out = capsys.readouterr().out
    assert "heads 8" in out
    assert "128×192" in out
    assert main(["models", "inspect", str(place), "--hint", "head=8"]) == 2
    assert "no hint 'head' (did you mean 'heads'?)" in capsys.readouterr().err
    assert main(["models", "inspect", str(place), "--hint", "heads"]) == 2
    assert "'heads' is no hint" in capsys.readouterr().err


def test_inspect_of_a_broken_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04 cut")
    assert main(["models", "inspect", str(tmp_path / "x.pt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
