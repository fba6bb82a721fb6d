"""Push: verified first, uploaded with a card; what the Hub refuses is one line. The Hub is an object of ours."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import openjepa
from openjepa.cli import main
from openjepa.errors import CheckpointError, ConfigError, RunError
from openjepa.exporting import directories, publish, push
from openjepa.hub.download_hf import _wanted
from openjepa.model import Model

Saved = Callable[[str], Path]


@dataclass
class Hub:
    """What ``huggingface_hub.HfApi`` does, in a folder."""

    root: Path
    fails: Exception | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)

    def create_repo(self, repo_id: str, **options: Any) -> str:
        if self.fails is not None:
            raise self.fails
        self.calls.append({"create": repo_id, **options})
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://huggingface.co/{repo_id}"

    def file_exists(self, repo_id: str, filename: str) -> bool:
        return (self.root / repo_id / filename).exists()

    def upload_folder(
        self, *, repo_id: str, folder_path: str, ignore_patterns: list[str] | None, **options: Any
    ) -> None:
        self.calls.append({"upload": repo_id, **options})
        ignored = shutil.ignore_patterns(*ignore_patterns) if ignore_patterns else None
        shutil.copytree(folder_path, self.root / repo_id, ignore=ignored, dirs_exist_ok=True)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path / "hub")


def test_a_model_directory_with_its_card(saved: Saved, hub: Hub) -> None:
    done = push(saved("image"), "lab/leaves", private=True, licence="MIT", api=hub)
    assert done.url == "https://huggingface.co/lab/leaves"
    assert done.exported.error == 0
    assert hub.calls[0] == {"create": "lab/leaves", "repo_type": "model", "private": True, "exist_ok": True}
    place = hub.root / "lab" / "leaves"
    assert sorted(item.name for item in place.iterdir()) == sorted(done.files)
    page = (place / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(page.split("---")[1])["license"] == "mit"
    assert 'openjepa.load("hf:lab/leaves")' in page
    assert set(_wanted(done.files)) == set(done.files)  # what load("hf:lab/leaves") fetches
    again = openjepa.load(place)
    assert isinstance(again, Model)
    assert again.predictor is not None


@pytest.mark.parametrize(
    ("licence", "entries"),
    [
        ("CC-BY-NC-4.0", {"license": "cc-by-nc-4.0"}),
        ("DINOv3 License (custom, gated)", {"license": "other", "license_name": "dinov3-license-custom-gated"}),
    ],
)
def test_licences_are_written_as_the_hub_wants_them(
    saved: Saved, hub: Hub, licence: str, entries: dict[str, str]
) -> None:
    for format in ("safetensors", "pt2"):
        push(saved("image"), f"lab/{format}", format, licence=licence, api=hub)  # type: ignore[arg-type]
        found = yaml.safe_load((hub.root / "lab" / format / "README.md").read_text(encoding="utf-8").split("---")[1])
        assert {name: value for name, value in found.items() if name.startswith("license")} == entries


def test_a_graph_with_its_card_and_a_readme_that_is_kept(saved: Saved, hub: Hub) -> None:
    done = openjepa.push(saved("tiled"), "lab/clips", "pt2", output="pooled", dynamic="batch", api=hub)
    place = hub.root / "lab" / "clips"
    assert sorted(done.files) == ["README.md", "model.pt2"]
    page = (place / "README.md").read_text(encoding="utf-8")
    assert "clips (batch, 3, 4, 32, 32) float32" in page
    assert 'torch.export.load("model.pt2")' in page
    (place / "README.md").write_text("by hand")
    done = openjepa.push(saved("tiled"), "lab/clips", "pt2", dynamic="batch", api=hub)
    assert (place / "README.md").read_text() == "by hand"
    assert "README.md was there already" in str(done)


def test_nothing_is_uploaded_before_it_is_verified(saved: Saved, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "_check", lambda *_: (_ for _ in ()).throw(CheckpointError("differs")))
    with pytest.raises(CheckpointError, match="differs"):
        push(saved("image"), "lab/leaves", api=hub)
    assert hub.calls == []


class _Refusal(Exception):
    response = type("Response", (), {"status_code": 403})()


def test_what_the_hub_refuses_is_one_line(saved: Saved, hub: Hub) -> None:
    hub.fails = _Refusal("403 Forbidden\nrequest id 7")
    with pytest.raises(
        RunError, match=r"does not let you write to 'lab/leaves': log in with 'hf auth login'"
    ) as caught:
        push(saved("image"), "lab/leaves", api=hub)
    assert "\n" not in str(caught.value)
    hub.fails = ConnectionError("no route\nto host")
    with pytest.raises(RunError, match=r"could not be pushed \(ConnectionError: no route\)"):
        push(saved("image"), "lab/leaves", api=hub)
    for name in ("leaves", "a/b/c", "../x/y", "lab/"):
        with pytest.raises(ConfigError, match="is no name on the Hub: write ORG/NAME"):
            push(saved("image"), name, api=hub)


def test_the_command(
    saved: Saved, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: hub)
    monkeypatch.chdir(tmp_path)
    model = str(saved("image"))
    assert main(["export", "-m", model, "--push", "lab/leaves", "--licence", "apache-2.0"]) == 0
    assert "to https://huggingface.co/lab/leaves" in capsys.readouterr().out
    assert main(["export", "-m", model, "-f", "pt2", "--size", "24x40", "--dynamic", "none"]) == 0
    assert "images (1, 3, 24, 40)" in capsys.readouterr().out
    assert (tmp_path / "image.pt2").is_file()
    for words, message in (
        (["--push", "lab/x", "--out", "y"], "it takes no --out"),
        (["--licence", "mit"], "--licence is for --push"),
        (["--size", "big"], "--size big is neither pixels such as 224"),
        (["--format", "pt2"], "'image.pt2' exists already: --overwrite replaces it"),
    ):
        assert main(["export", "-m", model, *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert publish.push is openjepa.push
