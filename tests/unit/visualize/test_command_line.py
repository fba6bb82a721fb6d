"""``openjepa visualize``: files appear, mistakes are one line, and help loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from openjepa.cli import main
from openjepa.cli.visualize import parse_patch
from openjepa.errors import ConfigError


def test_help_loads_neither_torch_nor_matplotlib() -> None:
    heavy = ("torch", "matplotlib", "jinja2", "PIL", "numpy")
    code = f"import sys, openjepa.cli.visualize; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a b" / "masks.png"
    words = [
        "visualize",
        "masks",
        "scenes",
        "--recipe",
        "ijepa-tiny",
        "--out",
        str(out),
        "--count",
        "2",
        "mask.kind=multiblock",
        "mask.min_keep=2",
        "mask.targets=2",
    ]
    assert main(words) == 0
    assert str(out) in capsys.readouterr().out.replace("\n", "")
    assert Image.open(out).size[0] > 3 * 150


def test_pca_similarity_and_curves_of_a_run(run: Path, tmp_path: Path) -> None:
    model = ["--model", str(run)]
    assert (
        main(["visualize", "pca", "scenes", *model, "--count", "3", "--foreground", "--out", str(tmp_path / "p.png")])
        == 0
    )
    assert (
        main(
            [
                "visualize",
                "pca",
                "scenes",
                *model,
                "--count",
                "2",
                "--remove-position",
                "--out",
                str(tmp_path / "q.png"),
            ]
        )
        == 0
    )
    words = [
        "visualize",
        "similarity",
        "scenes",
        *model,
        "--patch",
        "1,2",
        "--count",
        "2",
        "--out",
        str(tmp_path / "s.png"),
    ]
    assert main(words) == 0
    assert main(["visualize", "curves", str(run), "--out", str(tmp_path / "c.png")]) == 0
    for name in "pqsc":
        assert Image.open(tmp_path / f"{name}.png").format == "PNG"


def test_one_image_is_enough_for_similarity(run: Path, tmp_path: Path) -> None:
    Image.new("L", (50, 41), 90).save(tmp_path / "one photo.png")
    words = [
        "visualize",
        "similarity",
        str(tmp_path / "one photo.png"),
        "--model",
        str(run),
        "-p",
        "0,3",
        "-o",
        str(tmp_path / "s.png"),
    ]
    assert main(words) == 0
    assert (tmp_path / "s.png").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["masks", "scenes", "--recipe", "ijepa-tini"], "ijepa-tiny"),
        (["masks", "scenes", "mask.ratoi=[0.5, 0.5]"], "mask.ratio"),
        (["masks", "/nowhere"], "/nowhere"),
        (["masks", "scenes", "--out", "masks.jpg"], "masks.png"),
        (["similarity", "scenes", "--model", "RUN", "--patch", "1;2"], "ROW,COLUMN"),
        (["similarity", "scenes", "--model", "RUN", "--patch", "9,9", "--count", "1"], "0,0 to 3,3"),
        (["pca", "scenes", "--model", "/nowhere"], "/nowhere"),
        (["curves", "/nowhere"], "metrics.jsonl"),
        (["report", "/nowhere"], "not a run directory"),
    ],
)
def test_mistakes_are_one_line(
    run: Path,
    tmp_path: Path,
    words: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["visualize", *(str(run) if word == "RUN" else word for word in words)]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert not list(tmp_path.glob("*.png"))


def test_patch_words() -> None:
    assert parse_patch("3, 5") == (3, 5)
    for wrong in ("3", "a,b", "1,2,3", ""):
        with pytest.raises(ConfigError, match="ROW,COLUMN"):
            parse_patch(wrong)


def test_foreign_encoders_are_drawn_like_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    out = ["--count", "2", "-o", str(tmp_path / "t.png")]
    model = ["--model", "timm:vit_tiny_patch16_224@random@64px"]
    assert main(["visualize", "attention", "scenes", *model, *out, "--rollout"]) == 0
    assert main(["visualize", "attention", "scenes", *model, *out, "-p", "1,1", "--head", "all", "--layer", "0"]) == 0
    assert main(["visualize", "pca", "scenes", *model, *out]) == 0
    assert main(["visualize", "similarity", "scenes", *model, *out, "-p", "1,1"]) == 0
    capsys.readouterr()
    assert main(["visualize", "attention", "scenes", *model, *out, "--part", "predictor"]) == 2
    assert "without a predictor" in capsys.readouterr().err
    for name in ("resnet10t@random", "swin_tiny_patch4_window7_224@random"):  # no attention; attention with a bias
        assert main(["visualize", "attention", "scenes", "--model", f"timm:{name}", "--count", "1", *out[2:]]) == 2
        said = capsys.readouterr().err
        assert "qkv" in said or "more than softmax" in said, said
        assert said.count("\n") == 1
