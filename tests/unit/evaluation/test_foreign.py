"""A timm and a Hugging Face encoder are judged by the same commands as ours, baselines and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import openjepa
from openjepa import api
from openjepa.cli import main
from openjepa.errors import ConfigError
from openjepa.model import ForeignModel

transformers = pytest.importorskip("transformers", reason="extra 'hf' is not installed")
pytest.importorskip("timm", reason="extra 'timm' is not installed")

TIMM = "timm:vit_tiny_patch16_224@random@32px"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, told apart by their hue, as train/ and val/."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for side, count in (("train", 24), ("val", 8)):
        for number, name in enumerate(("red", "blue")):
            (root / side / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                pixels[..., 2 * number] += 120
                Image.fromarray(pixels).save(root / side / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "vit"
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["timm", "hf"])
def test_the_same_verb_judges_a_foreign_encoder_beside_its_baselines(kind: str, hf: Path, folders: Path) -> None:
    model = TIMM if kind == "timm" else str(hf)
    scores = api.evaluate(["knn", "linear"], model=model, train=folders / "train", val=folders / "val", cache=None)
    found = {(score.subject, score.name): score for score in scores}
    for name in ("knn", "linear"):
        assert {subject for subject, what in found if what == name} == {model, "random initialisation", "raw pixels"}
        assert found[model, name].value > 0.8  # hue is plain to see, even for random weights
        assert (found[model, name].n_train, found[model, name].n_val) == (48, 16)


def test_the_same_command_does(hf: Path, folders: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["evaluate", "knn", "--model", str(hf), "--train", str(folders / "train"), "--val", str(folders / "val")]
    assert main([*words, "--cache", str(tmp_path)]) == 0
    assert "random initialisation" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.safetensors"))) == 6  # three subjects, two sides
    assert main([*words, "--cache", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*.safetensors"))) == 6
    assert main([*words, "--layers", "last4", "--cache", str(tmp_path), "--no-baselines"]) == 0


def test_embed_gives_what_the_encoder_gives(hf: Path, folders: Path) -> None:
    model = openjepa.load(hf)
    assert isinstance(model, ForeignModel)
    assert model.config is None
    files = sorted((folders / "val" / "red").iterdir())[:3]
    patches = model.embed(files, tokens="patch")
    pixels = torch.stack([torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1) for file in files])
    source = transformers.ViTModel.from_pretrained(hf).eval()
    with torch.no_grad():
        wanted = source((pixels / 255 - 0.5) / 0.5).last_hidden_state[:, 1:]
    torch.testing.assert_close(patches, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.embed(files), wanted.mean(1), rtol=1e-4, atol=1e-5)
    assert str(hf) in repr(model)


def test_four_layers_of_a_network_without_blocks_are_refused(folders: Path) -> None:
    words = {"model": "timm:resnet10t@random@32px", "train": folders / "train", "val": folders / "val"}
    with pytest.raises(ConfigError, match="forward_intermediates"):
        api.evaluate("knn", layers="last4", cache=None, **words)  # type: ignore[arg-type]
