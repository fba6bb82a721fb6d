"""Odd and damaged data: what can be used is used, what cannot is named, and no run loops for ever."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import in_child, numbers, tiny_recipe

from openjepa.config import build_recipe
from openjepa.data import open_source
from openjepa.errors import ConfigError, DataError
from openjepa.training import train


def write_images(folder: Path, count: int, size: tuple[int, int] = (20, 24)) -> None:
    dice = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = dice.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo {i:03d}.png")


def run(folder: Path, out: Path, *overrides: str) -> dict[str, str]:
    """Train on a folder; the bad files."""
    recipe = tiny_recipe("train.length=4 steps", *overrides)
    return dict(train(recipe, open_source(folder), out=out, console=False).bad)


def test_five_percent_corrupt_files_are_skipped_and_listed(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 40)
    names = ["photo 003.png", "photo 017.png"]
    (tmp_path / "data" / names[0]).write_bytes(b"not an image at all")
    whole = (tmp_path / "data" / names[1]).read_bytes()
    (tmp_path / "data" / names[1]).write_bytes(whole[: len(whole) // 2])
    bad = run(tmp_path / "data", tmp_path / "run", "train.length=10 steps", "train.batch_size=8")
    assert sorted(bad) == names
    assert all(reason and "\n" not in reason for reason in bad.values())
    assert "2 files could not be read" in (tmp_path / "run/train.log").read_text()


def test_more_corrupt_files_than_allowed_stop_the_run(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 40)
    for i in range(10):
        (tmp_path / f"data/photo {i:03d}.png").write_bytes(b"broken")
    with pytest.raises(
        DataError, match="cannot be read, more than data.max_bad_share 0.05 allows; the first: "
    ) as caught:
        run(tmp_path / "data", tmp_path / "run", "train.length=20 steps")
    assert "\n" not in str(caught.value)


def test_only_corrupt_files_do_not_loop_for_ever(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for i in range(5):
        (tmp_path / f"data/{i}.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match="none of") as caught:
        run(tmp_path / "data", tmp_path / "run", "data.max_bad_share=1.0")
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError) as caught:
        run(tmp_path / "data", tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()  # nothing is left behind


@pytest.mark.parametrize("count", [1, 2])
def test_a_folder_of_one_or_two_images_trains(tmp_path: Path, count: int) -> None:
    write_images(tmp_path / "data", count)
    assert run(tmp_path / "data", tmp_path / "run") == {}
    assert f"more than the {count} images there are" in (tmp_path / "run/train.log").read_text()
    assert [row["step"] for row in numbers(tmp_path / "run")] == [0, 3, 4]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_unreadable_files_are_skipped_and_listed(tmp_path: Path) -> None:
    """In a process without privileges: root may read everything."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:  # pytest's own folders, one more under xdist
        if parent.stat().st_uid == os.getuid() and parent.name.startswith(("pytest-", "popen-")):
            parent.chmod(0o755)
    write_images(tmp_path / "data", 40)
    run(tmp_path / "data", tmp_path / "warm", "train.length=1 steps")  # what is imported late, while Python may be read
    (tmp_path / "data/photo 005.png").chmod(0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)

    def unprivileged() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        bad = run(tmp_path / "data", tmp_path / "out/run", "train.length=10 steps")
        assert list(bad) == ["photo 005.png"], bad
        assert "permission" in bad["photo 005.png"].lower(), bad

    assert os.waitstatus_to_exitcode(os.waitpid(in_child(unprivileged), 0)[1]) == 0


def test_a_run_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    write_images(tmp_path / "data", 8)
    with pytest.raises(RuntimeError) as caught:
        run(tmp_path / "data", tmp_path / "file/run")
    assert "\n" not in str(caught.value)


def test_a_pixel_and_a_poster_train_beside_others(tmp_path: Path) -> None:
    """1 × 1 and 40 megapixels (8,000 × 5,000)."""
    write_images(tmp_path / "data", 6)
    Image.new("RGB", (1, 1), (200, 30, 30)).save(tmp_path / "data/pixel.png")
    Image.linear_gradient("L").resize((8000, 5000)).convert("RGB").save(tmp_path / "data/poster.jpg", quality=50)
    assert run(tmp_path / "data", tmp_path / "run", "train.batch_size=8") == {}


def test_a_recipe_with_six_mistakes_names_all_six() -> None:
    raw = {
        "name": "x",
        "modle": {},
        "optim": {"lr": -1, "warmup": "10 parsecs"},
        "mask": {"kind": "multiblok"},
        "train": {"batch_size": "many", "precision": "fp8"},
    }
    with pytest.raises(ConfigError) as caught:
        build_recipe(raw)
    message = str(caught.value)
    assert "\n" not in message
    assert "6 mistakes" in message
    for words in ("model", "optim.lr", "parsecs", "multiblock", "train.batch_size", "bf16"):
        assert words in message
