"""``openjepa embed`` and ``openjepa data convert`` as a user types them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from openjepa.cli import main
from openjepa.config import build_recipe
from openjepa.embedding import open_store
from openjepa.hub.model_directory import save_model
from openjepa.methods import build_method


@pytest.fixture
def place(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(tmp_path / "data" / f"{number}.png")
    (tmp_path / "data" / "3.png").write_bytes(b"not a picture")
    raw = {"name": "tiny", "data": {"image_size": 32}, "model": {"arch": None, "dim": 16, "depth": 1, "heads": 1}}
    recipe = build_recipe({**raw, "predictor": {"dim": 12, "depth": 1, "heads": 1}}, [])
    save_model(tmp_path / "m", build_method(recipe), recipe)
    return tmp_path


def test_embed_says_what_it_wrote_and_what_it_could_not_read(place, capsys):
    out = place / "f.npz"
    words = ["embed", str(place / "data"), "--model", str(place / "m"), "--out", str(out), "--device", "cpu"]
    assert main([*words, "--workers", "0"]) == 0
    said = capsys.readouterr()
    assert "6 rows of 16 in" in said.out
    assert "no features: 3.png: not an image of a known format" in said.err
    assert main([*words, "--workers", "1"]) == 0
    assert "nothing was computed" in capsys.readouterr().out
    assert open_store(out).ok.tolist() == [True, True, True, False, True, True]
    assert main([*words, "--tokens", "patch"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--workers", "many"]) == 2
    assert capsys.readouterr().err == "openjepa: --workers many: a number of processes, or auto\n"
    assert main([*words, "--views", "3"]) == 2
    assert "leave --views at 1" in capsys.readouterr().err


def test_convert_and_embed_the_shards(place, capsys):
    assert main(["data", "convert", str(place / "data"), str(place / "shards"), "--check"]) == 0
    said = capsys.readouterr().out
    assert "left out: 3.png" in said
    assert "5 items" in said
    out = place / "f.safetensors"
    assert main(["embed", str(place / "shards"), "-m", str(place / "m"), "-o", str(out), "--device", "cpu"]) == 0
    assert len(open_store(out)) == 5
    assert main(["data", "convert", str(place / "data"), str(place / "shards")]) == 2
    assert "holds shards of another check" in capsys.readouterr().err
